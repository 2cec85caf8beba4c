"""The learning-rate schedule, by its ends and its middle."""

import itertools

import pytest

from cggm_med.config import OptimConfig
from cggm_med.optim.schedule import learning_rate


def test_the_schedule_rises_then_falls_and_depends_on_the_step_alone():
    config = OptimConfig(lr=0.1, warmup_fraction=0.1, final_lr_fraction=0.01)
    rates = [learning_rate(config, step, 200) for step in range(200)]
    assert rates[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert all(a >= b for a, b in itertools.pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))  # half-way down the cosine
    assert learning_rate(config, 200, 200) == pytest.approx(0.001)


def test_no_warm_up_starts_at_the_top():
    assert learning_rate(OptimConfig(lr=0.1, warmup_fraction=0), 0, 10) == 0.1
