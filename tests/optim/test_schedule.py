"""The learning-rate schedule, by its ends and its middle."""

import itertools

import pytest
import torch

from cggm_med.config import OptimConfig
from cggm_med.optim.schedule import Plateau, learning_rate, set_learning_rate


def test_the_schedule_rises_then_falls_and_depends_on_the_step_alone():
    config = OptimConfig(lr=0.1, warmup_fraction=0.1, final_lr_fraction=0.01)
    rates = [learning_rate(config, step, 200, 20) for step in range(200)]
    assert rates[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))  # half-way down the cosine
    assert learning_rate(config, 200, 200, 20) == pytest.approx(0.001)


def test_no_warm_up_starts_at_the_top():
    assert learning_rate(OptimConfig(lr=0.1, warmup_fraction=0), 0, 10, 5) == 0.1


def test_steps_fall_with_the_epochs_and_after_the_warm_up():
    """As torch's StepLR, which is stepped once an epoch."""
    config = OptimConfig(lr=1.0, warmup_fraction=0.05, schedule="step", decay_epochs=3, decay_factor=0.5)
    rates = [learning_rate(config, step, 100, 10) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    for epoch in range(10):
        assert rates[10 * epoch + 5 : 10 * epoch + 10] == pytest.approx([scheduler.get_last_lr()[0]] * 5)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_plateau_lowers_the_rate_after_its_patience(sign):
    """By hand: the best is seen in the second validation, then two pass in patience, and the third lowers the rate.

    What improves by less than a ten-thousandth counts as standing still.
    """
    config = OptimConfig(lr=0.1, schedule="plateau", patience=2)
    plateau = Plateau(config, lower_is_better=sign > 0)
    factors = []
    for value in (3.0, 2.0, 2.0, 2.0 - sign * 1e-5, 2.0, 2.0, 2.0, 2.0, 2.0 - sign):
        plateau.watch(value)
        factors.append(plateau.factor)
    if sign < 0:  # higher is better: 3 stays the best until the end
        assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    else:
        assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
    assert factors[0] == 1  # to the bit: nothing is multiplied before


def test_a_plateau_continues_from_its_state_alike():
    config = OptimConfig(lr=0.1, schedule="plateau", patience=1)
    values = (2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0)
    whole = Plateau(config, lower_is_better=True)
    for cut in range(len(values)):
        first, second = Plateau(config, lower_is_better=True), Plateau(config, lower_is_better=True)
        for value in values[:cut]:
            first.watch(value)
        second.load_state_dict(first.state_dict())
        for value in values[cut:]:
            second.watch(value)
        if cut == 0:
            whole = second
        assert (second.factor, second.state_dict()) == (whole.factor, whole.state_dict())
    assert whole.factor == pytest.approx(0.01)


def test_a_plateau_leaves_other_schedules_alone():
    plateau = Plateau(OptimConfig(patience=0), lower_is_better=True)
    for _ in range(5):
        plateau.watch(1.0)
    assert (plateau.factor, plateau.state_dict()) == (1, {})


def test_the_heads_have_a_rate_of_their_own_that_no_schedule_lowers():
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "heads": True}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_learning_rate(optimizer, 0.1, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    set_learning_rate(optimizer, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
