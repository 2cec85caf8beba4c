"""Gradients of a network in float16: none vanishes, and strategies see them as they are."""

import pytest
import torch
from helpers.at_work import AT_WORK
from helpers.toy_task import ToyTask, built, found, toy
from torch import nn

from cggm_med import registry
from cggm_med.config import OptimConfig
from cggm_med.device import number_format, precision
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.joint import Joint
from cggm_med.testing.problems import CPU, SEGMENTATION, make, one_step, set_up
from cggm_med.training import checkpoint, gradient_scale
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.loop import train
from cggm_med.training.monitor import Monitor


@pytest.mark.filterwarnings("ignore:cggm_(paper|released) mode=")
@pytest.mark.parametrize("name", sorted(set(registry.names(registry.STRATEGIES)) - {"unimodal_ensemble"}))
def test_a_power_of_two_changes_no_bit_where_nothing_is_rounded(name):
    """In float32, so whatever a strategy reads of gradients and writes to them is the same with the scale."""

    def trained(number):
        model, strategy = SEGMENTATION.model(), make(name, **AT_WORK.get(name, {}))
        set_up(strategy, model)
        scale = GradientScale(number, model, strategy)
        optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
        for step in range(2):
            one_step(model, strategy, optimizer, SEGMENTATION.batch(step), step, scale=scale)
        return {**model.state_dict(), **{f"strategy {key}": value for key, value in strategy.state_dict().items()}}

    scaled, plain = trained(torch.float16), trained(torch.float32)
    assert all(torch.equal(scaled[key], value) for key, value in plain.items())


def test_a_gradient_that_float16_cannot_hold_arrives():
    """The smallest number of float16 is 2^-24; the gradient of the weight is 2^-30 times an input of 1."""
    arrived = []
    for number in (torch.float32, torch.float16):
        layer = nn.Linear(1, 1, bias=False)
        scale = GradientScale(number, layer)
        with torch.autocast("cpu", torch.float16):
            answer = layer(torch.ones(1, 1))
        assert answer.dtype == torch.float16
        scale.backward(Joint(Joint.Config("joint")), {"task": answer.float().sum() * 2.0**-30}, layer)
        arrived.append(layer.weight.grad.item())
    assert arrived == [0, 2.0**-30]


def test_the_scale_is_halved_by_infinity_and_doubled_by_patience(monkeypatch):
    monkeypatch.setattr(gradient_scale, "PATIENCE", 3)
    scale, infinite, finite = GradientScale(torch.float16), torch.tensor(False), torch.tensor(True)
    followed = []
    for norm in (infinite, finite, finite, infinite, finite, finite, finite, finite):
        scale.follow(norm)
        followed.append(scale.scale.item() / gradient_scale.START)
    assert followed == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    for _ in range(100):
        scale.follow(finite)
    assert scale.scale.item() == gradient_scale.LARGEST
    for _ in range(40):
        scale.follow(infinite)
    assert (scale.scale.item(), scale.searching) == (1, False)


def test_a_step_whose_gradient_is_too_large_is_skipped_and_the_next_is_taken(monkeypatch):
    monkeypatch.setattr(gradient_scale, "START", 2.0**60)
    model, strategy = SEGMENTATION.model(), Joint(Joint.Config("joint"))
    set_up(strategy, model)
    scale, monitor = GradientScale(torch.float16, model, strategy), Monitor(len(model.modalities))
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    before = {name: p.clone() for name, p in model.named_parameters()}
    moved = []
    for number in range(60):
        one_step(
            model,
            strategy,
            optimizer,
            SEGMENTATION.batch(),
            number,
            autocast=precision("float16", CPU),
            scale=scale,
            monitor=monitor,
        )
        moved.append(not all(torch.equal(p, before[name]) for name, p in model.named_parameters()))
        assert moved[-1] == (monitor.skipped_steps.item() < number + 1)
        if moved[-1]:
            break
    assert moved[0] is False
    assert moved[-1] is True
    assert scale.scale.item() == 2.0 ** (60 - monitor.skipped_steps.item())


def test_resumed_with_the_scale_of_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_scale, "PATIENCE", 2)
    monkeypatch.setattr(gradient_scale, "START", 16.0)

    def run(folder, epochs, resume=None):
        task = found(toy(ToyTask, epochs=4, steps_per_epoch=1, checkpoint_every=1, precision="float16"), tmp_path)
        model, strategy = built(task)
        real = task.batches
        task.batches = lambda first, pin: (b for _, b in zip(range(first, epochs), real(first, pin), strict=False))
        train(task, model, strategy, task.config, folder, device=CPU, log=lambda record: None, resume=resume)
        return checkpoint.load(folder / "last.pt", CPU)

    whole, half = run(tmp_path / "whole", 4), run(tmp_path / "half", 3)
    assert half.gradient_scale["scale"].item() == 2 * gradient_scale.START
    again = run(tmp_path / "half", 4, half)
    assert again.gradient_scale == whole.gradient_scale == {"scale": 4 * gradient_scale.START, "finite": 0}
    assert all(torch.equal(again.model[name], value) for name, value in whole.model.items())


def test_float16_is_for_gpus_that_only_emulate_bfloat16(monkeypatch):
    cuda = torch.device("cuda")
    for native, number in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, native=native: native)
        assert number_format("auto", cuda) == number
        assert number_format("bfloat16", cuda) == torch.bfloat16
    assert number_format("auto", torch.device("mps")) == number_format("auto", CPU) == torch.float32
