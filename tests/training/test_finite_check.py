"""Stopping on losses and gradients that are not finite."""

import math

import pytest
import torch

from cggm_med.errors import NonFiniteLoss
from cggm_med.testing.problems import small_batch
from cggm_med.training.finite_check import FiniteCheck
from cggm_med.training.monitor import Monitor


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_step_and_cases(value, tmp_path):
    def check(*losses):
        finite = FiniteCheck(Monitor(3), tmp_path / "last.pt")
        for step, loss in enumerate(losses, start=4):
            finite.add(step, small_batch(), {"task": torch.tensor(loss), "flair": torch.tensor(1.0)})
        return finite.loss()

    assert check(1.0, 2.0) == 3.0
    with pytest.raises(NonFiniteLoss, match=r"at step 6 \(cases case0, case1\); no checkpoint was written yet"):
        check(1.0, value)
    (tmp_path / "last.pt").touch()
    with pytest.raises(NonFiniteLoss, match="last good checkpoint is .*last.pt"):
        check(1.0, value)


def test_skipped_steps_are_counted_from_where_the_run_stands(tmp_path):
    """With a record every 3 steps, 3 skipped steps in a row are an error; those before a resume are not counted."""
    monitor = Monitor(3)
    monitor.skipped_steps += 5
    finite = FiniteCheck(monitor, tmp_path / "last.pt")
    finite.gradients(3, log_every=3)
    monitor.skipped_steps += 2
    finite.gradients(6, log_every=3)
    monitor.skipped_steps += 3
    with pytest.raises(NonFiniteLoss, match="not finite in any of the 3 steps up to 9"):
        finite.gradients(9, log_every=3)
