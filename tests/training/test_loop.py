"""The engine: optimizer groups, schedule, the step, and stopping on a loss that is not finite."""

import contextlib
import itertools
import math

import pytest
import torch
from helpers.problems import CPU, MODALITIES, one_step, set_up, small_batch, small_model, trained
from helpers.toy_task import ToyValueTask, built, found, toy

from cggm_med.config import OptimConfig
from cggm_med.device import precision
from cggm_med.errors import ConfigError, NonFiniteLoss
from cggm_med.objectives.losses import RegionLoss
from cggm_med.results.results import Scores
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.strategies.joint import Joint
from cggm_med.training import checkpoint
from cggm_med.training import loop as engine
from cggm_med.training.monitor import Monitor


def joint():
    return Joint(Joint.Config("joint"))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_parameter_stands_in_exactly_one_group(name):
    model, strategy = small_model(deep_supervision=True), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    optimizer = engine.make_optimizer(model, strategy, OptimConfig(name=name), CPU)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for module in (model, strategy) for p in module.parameters())
    by_modality = {g["modality"]: g["params"] for g in optimizer.param_groups if g["modality"]}
    assert list(by_modality) == list(MODALITIES)
    for modality, parameters in by_modality.items():
        assert {id(p) for p in parameters} == {id(p) for p in model.modality_parameters(modality)}


def test_a_joint_step_is_what_plain_torch_does():
    """Independent authority: the same step written out with autograd and torch's own optimizer."""
    config = OptimConfig(clip_norm=0.5)
    model = trained(joint(), steps=2, optim=config)
    other = small_model()
    optimizer = torch.optim.AdamW(other.parameters(), config.lr, weight_decay=config.weight_decay)
    for step in range(2):
        batch = small_batch(step)
        loss = RegionLoss()(other(batch.inputs), batch.target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), config.clip_norm)
        optimizer.step()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, msg=name)


def test_adamw_is_not_fused_on_the_cpu():
    """Fused on the CPU, torch 2.13 scrambles updates whose gradient has another memory layout than its parameter."""
    model = small_model()
    optimizer = engine.make_optimizer(model, joint(), OptimConfig(), CPU)
    assert not optimizer.defaults["fused"]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
        if p.ndim == 5:
            p.grad = p.grad.to(memory_format=torch.channels_last_3d)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):  # a first step of Adam is lr in every direction
        torch.testing.assert_close(p.detach(), old * (1 - 1e-3 * 1e-2) - 1e-3, rtol=1e-4, atol=1e-6)


def test_training_lowers_the_loss():
    model, strategy = small_model(), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    optimizer = engine.make_optimizer(model, strategy, OptimConfig(lr=1e-2), CPU)
    losses = [one_step(model, strategy, optimizer, small_batch(), number)["task"].item() for number in range(30)]
    assert losses[-1] < 0.8 * losses[0]


def test_gradients_are_clipped_before_the_factor_and_without_the_heads():
    model, strategy = small_model(), CGGM(CGGMConfig("cggm", unimodal_weight=0))
    set_up(strategy, model)
    seen = []
    strategy.modulate = lambda model, optimizer, step: seen.append(
        torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    )
    optimizer = engine.make_optimizer(model, strategy, OptimConfig(), CPU)
    one_step(model, strategy, optimizer, small_batch(), clip_norm=0.01)
    assert seen == [pytest.approx(0.01, rel=1e-3)]


def test_the_schedule_rises_then_falls_and_depends_on_the_step_alone():
    config = OptimConfig(lr=0.1, warmup_fraction=0.1, final_lr_fraction=0.01)
    rates = [engine.learning_rate(config, step, 200) for step in range(200)]
    assert rates[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))  # half-way down the cosine
    assert engine.learning_rate(config, 200, 200) == pytest.approx(0.001)


def test_no_warm_up_starts_at_the_top():
    assert engine.learning_rate(OptimConfig(lr=0.1, warmup_fraction=0), 0, 10) == 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_cases(value, tmp_path):
    pending = [(4, small_batch(), torch.tensor(1.0)), (5, small_batch(), torch.tensor(value))]
    with pytest.raises(NonFiniteLoss, match=r"at step 6 \(cases case0, case1\); no checkpoint was written yet"):
        engine._require_finite(pending, tmp_path / "last.pt")
    (tmp_path / "last.pt").touch()
    with pytest.raises(NonFiniteLoss, match="last good checkpoint is .*last.pt"):
        engine._require_finite(pending, tmp_path / "last.pt")


def test_devices_are_checked():
    assert engine.select_device("cpu") == CPU
    for wrong in ("tpu", "cpu:x", "cuda:"):
        with pytest.raises(ConfigError, match=rf"train\.device is {wrong}, expected auto, cpu, cuda"):
            engine.select_device(wrong)
    if not torch.cuda.is_available():
        assert engine.select_device("auto") == CPU
        with pytest.raises(ConfigError, match="torch sees 0 CUDA devices"):
            engine.select_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_step_in_bfloat16_applies_the_factor():
    device = engine.select_device("cuda")
    model, strategy = small_model().to(device), CGGM(CGGMConfig("cggm", warmup_steps=0))
    set_up(strategy, model)
    strategy.to(device)
    optimizer = engine.make_optimizer(model, strategy, OptimConfig(), device)
    autocast = precision("auto", device)
    for step in range(3):
        monitor = Monitor(3).to(device)
        losses = one_step(model, strategy, optimizer, small_batch(step), step, autocast=autocast, monitor=monitor)
    assert all(torch.isfinite(x) for x in losses.values())
    assert strategy.factor.mean().item() == pytest.approx(1, abs=1e-5)


def test_autocast_is_bfloat16_only_where_asked_for():
    with precision("bfloat16", CPU)():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    with precision("auto", CPU)():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32


def test_every_strategy_starts_with_the_same_model(phantom, cache):
    from cggm_med.registry import STRATEGIES, names
    from cggm_med.runs.settings import make_config
    from cggm_med.runs.train import _make

    states = []
    for name in names(STRATEGIES):
        task, strategy = _make(make_config("brats2021", [], strategy=name))
        states.append(engine.build(task, strategy, task.config, CPU).state_dict())
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in state)


@pytest.mark.parametrize(("lower", "best"), [(True, 3), (False, 2)])
def test_the_best_checkpoint_has_the_best_score_and_survives_resuming(lower, best, tmp_path, monkeypatch):
    """Validation scores 2, 4, 1, 1: the lowest first stands after epoch 3, the highest after epoch 2."""
    values = (2.0, 4.0, 1.0, 1.0)

    def run(folder, epochs, resume=None):
        task = found(toy(ToyValueTask, epochs=4, steps_per_epoch=1, checkpoint_every=1), tmp_path)
        task.lower_is_better = lower
        model, strategy = built(task)
        epoch = iter(range(resume.step if resume else 0, epochs))

        def summarise(results):
            assert tuple(result.case for result in results) == task.splits.validation
            number = next(epoch, None)
            if number is None:
                raise KeyboardInterrupt
            return Scores({"MAE": values[number], "Corr": None}, (), (), (), ())

        task.summarise = summarise
        records = []
        settings = {"device": CPU, "log": records.append, "resume": resume}
        with contextlib.suppress(KeyboardInterrupt):
            engine.train(task, model, strategy, task.config, folder, **settings)
        return [record["scores"] for record in records if record["kind"] == "validation"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 4) == [{"MAE": value, "Corr": None} for value in values]
    chosen = checkpoint.load(whole / "best.pt", CPU)
    assert (chosen.step, chosen.best["score"]) == (best, values[best - 1])
    assert checkpoint.load(whole / "last.pt", CPU).best == {"score": values[best - 1], "epoch": best - 1, "step": best}
    run(killed, 2)  # ends within the third validation, before its checkpoint
    run(killed, 4, checkpoint.load(killed / "last.pt", CPU))
    again = checkpoint.load(killed / "best.pt", CPU)
    assert again.best == chosen.best
    assert all(torch.equal(again.model[name], x) for name, x in chosen.model.items())


def test_heads_are_scored_without_dropout_and_learn_with_it(tmp_path):
    """Scored twice, a head says the same; the next step of training drops again."""
    task = found(toy(model={"dropout_output": 0.5, "dropout_residual": 0.5}), tmp_path)
    model, strategy = built(task)
    scored = [
        engine.evaluate(task, model, strategy, task.splits.train, task.config, device=CPU, full=True) for _ in range(2)
    ]
    assert [result.findings for result in scored[0]] == [result.findings for result in scored[1]]
    modes = []
    unimodal = strategy.unimodal
    strategy.unimodal = lambda features: modes.append((model.training, strategy.heads.training)) or unimodal(features)
    engine.train(task, model, strategy, task.config, tmp_path, device=CPU, log=lambda record: None)
    assert set(modes) == {(True, True)}
