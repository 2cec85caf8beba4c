"""G-Blending: weights by hand, and in a run that is resumed."""

from dataclasses import replace

import pytest
import torch
from helpers.toy_task import CPU, found, toy

from cggm_med import ConfigError
from cggm_med.config import OptimConfig
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.gblending import GBlending, GBlendingConfig, blending_weights
from cggm_med.testing.problems import CLASSIFICATION, make, one_step, same_bits, set_up
from cggm_med.training import checkpoint
from cggm_med.training.build import build
from cggm_med.training.loop import train

NAMES = ("task", "flair", "t1", "t1ce")


def pair(before, after):
    return torch.stack([torch.tensor(before), torch.tensor(after)])


def blended(*measurements, **settings):
    """A strategy for which these (train, validation) losses were measured, one pair at the start of each epoch."""
    settings = {"floor": 0.0} | settings
    model = CLASSIFICATION.model()
    strategy = set_up(make("gblending", super_epoch=1, **settings), model, problem=CLASSIFICATION)
    for epoch, (on_train, on_validation) in enumerate(measurements):
        splits = {"train": on_train, "validation": on_validation}
        given = {
            split: {name: torch.tensor(value) for name, value in zip(NAMES, values, strict=True) if value is not None}
            for split, values in splits.items()
        }
        strategy.start_epoch(model, epoch, given.__getitem__)
    return strategy


def test_weights_by_hand():
    """G = .3, .2, .1 and O = .2, .1, .1: G / O^2 = 7.5, 20, 10, of 37.5."""
    weights = blending_weights(pair([1.0, 1.0, 1.0], [0.5, 0.7, 0.8]), pair([1.0, 1.0, 1.0], [0.7, 0.8, 0.9]))
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.53333, 0.26667]), rtol=1e-4, atol=1e-4)


def test_a_loss_that_rose_on_validation_cases_has_no_weight():
    weights = blending_weights(pair([1.0, 1.0], [0.5, 0.5]), pair([1.0, 1.0], [1.2, 0.9]))
    assert weights.tolist() == [0, 1]
    assert blending_weights(pair([1.0, 1.0], [0.5, 0.5]), pair([1.0, 1.0], [1.2, 1.0])).tolist() == [0, 0]


def test_no_overfitting_at_all_is_finite():
    weights = blending_weights(pair([1.0, 1.0], [0.5, 0.5]), pair([1.0, 1.0], [0.5, 0.6]))
    assert torch.isfinite(weights).all()
    assert weights[0] > weights[1]


def test_all_weigh_the_same_until_there_are_two_measurements():
    same = [0.25] * 4
    assert blended().weight.tolist() == same
    assert blended(([1.0] * 4, [1.0] * 4)).weight.tolist() == same
    changed = blended(([1.0] * 4, [1.0] * 4), ([0.5, 0.7, 0.8, 0.8], [0.7, 0.8, 0.9, 1.1]))
    assert changed.weight.tolist() == pytest.approx([0.2, 0.53333, 0.26667, 0], abs=1e-4)
    assert changed.weight.sum().item() == pytest.approx(1)


def test_each_loss_keeps_a_share_of_an_equal_weight():
    """A tenth of a quarter, and nine tenths of what was measured."""
    strategy = blended(([1.0] * 4, [1.0] * 4), ([0.5, 0.7, 0.8, 0.8], [0.7, 0.8, 0.9, 1.1]), floor=0.1)
    expected = [0.9 * w + 0.025 for w in (0.2, 0.53333, 0.26667, 0)]
    assert strategy.weight.tolist() == pytest.approx(expected, abs=1e-4)


def test_where_no_loss_fell_the_weights_stay():
    first, second = ([1.0] * 4, [1.0] * 4), ([0.5, 0.7, 0.8, 0.8], [0.7, 0.8, 0.9, 0.9])
    kept = blended(first, second, ([0.1] * 4, [2.0] * 4))
    assert torch.equal(kept.weight, blended(first, second).weight)


def test_a_modality_that_no_measured_case_has_keeps_its_weight():
    strategy = blended(([1.0, 1, 1, None], [1.0, 1, 1, None]), ([0.5, 0.7, 0.8, 0.8], [0.7, 0.8, 0.9, 0.9]))
    assert strategy.weight[3].item() == 0.25
    assert strategy.weight.tolist()[:3] == pytest.approx([0.75 * x for x in (0.2, 0.53333, 0.26667)], abs=1e-4)


def test_losses_that_are_not_finite_change_nothing():
    first = ([1.0] * 4, [1.0] * 4)
    strategy = blended(first, ([float("nan")] * 4, [0.5] * 4))
    assert strategy.weight.tolist() == [0.25] * 4
    assert torch.equal(strategy.train_loss, torch.ones(4))


def test_gradients_are_those_of_the_weighted_sum():
    model = CLASSIFICATION.model()
    strategy = set_up(make("gblending"), model, problem=CLASSIFICATION)
    strategy.weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    batch = CLASSIFICATION.batch()
    own = strategy.unimodal(model.encode(batch.inputs))
    losses = [model(batch.inputs), *(own[m].logits for m in model.modalities)]
    total = sum(
        w * CLASSIFICATION.criterion(x, batch.target) for w, x in zip((0.1, 0.2, 0.3, 0.4), losses, strict=True)
    )
    expected = torch.autograd.grad(total, [*model.parameters(), *strategy.parameters()])
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=1e-30), CPU)
    found_losses = one_step(model, strategy, optimizer, batch, 1, CLASSIFICATION, clip_norm=1e9)
    assert found_losses["task"].item() == pytest.approx(CLASSIFICATION.criterion(losses[0], batch.target).item())
    for parameter, gradient in zip([*model.parameters(), *strategy.parameters()], expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_measures_and_weighs_the_same_bits(tmp_path):
    task = found(toy(epochs=4, steps_per_epoch=3, checkpoint_every=1, validate_every=9), tmp_path)
    task.settle(strategy=GBlendingConfig("gblending", super_epoch=1))
    records = []

    def run(folder, steps=None, resume=None):
        strategy = GBlending(task.config.strategy)
        model = build(task, strategy, task.config, CPU)
        log = records.append if steps is None else stop_after(steps)
        try:
            train(task, model, strategy, task.config, folder, device=CPU, log=log, resume=resume)
        except KeyboardInterrupt:
            return model, strategy
        return model, strategy

    def stop_after(steps):
        def log(record):
            if record["step"] > steps:
                raise KeyboardInterrupt

        return log

    model, strategy = run(tmp_path / "whole")
    assert len({r["fused_weight"] for r in records if r["kind"] == "train"}) > 2
    assert strategy.weight.sum().item() == pytest.approx(1)
    for steps in (6, 7):  # at the end of an epoch, and within one
        run(tmp_path / f"killed{steps}", steps)
        last = checkpoint.load(tmp_path / f"killed{steps}" / "last.pt", CPU)
        assert last.step == steps
        again, resumed = run(tmp_path / f"killed{steps}", resume=last)
        assert same_bits(again, model)
        assert same_bits(resumed, strategy)


def test_an_impossible_super_epoch_is_named():
    with pytest.raises(ConfigError, match=r"strategy\.super_epoch is 0"):
        replace(GBlendingConfig("gblending"), super_epoch=0)
