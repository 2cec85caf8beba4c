"""Validation that no longer improves: for how long, when that is told, and when it ends the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cggm_med.config import TrainConfig

MIN_STALLED = 5  # validations that say more than that a score goes up and down


def stalled(settings: TrainConfig, best_step: float, step: int) -> int:
    """Validations in a row, up to a step, of which none was better than the best.

    It follows from the steps alone, so a resumed training needs no counter.

    Args:
        settings: how often it validates.
        best_step: after which the best validation was made.
        step: number of steps done.

    Example:
        >>> stalled(TrainConfig(steps_per_epoch=10, validate_every=2), best_step=40, step=105)
        3
    """
    return step // settings.validation_interval - int(best_step) // settings.validation_interval


def ends(settings: TrainConfig, best: Mapping[str, float] | None, step: int) -> bool:
    """Whether validation ends a training after this step, by the patience ``train.stop_after``.

    Early stopping as in Goodfellow, Bengio and Courville 2016, Algorithm 7.1, with the score of the best checkpoint.

    Args:
        settings: of the training.
        best: score and step of the best validation so far, if any.
        step: number of steps done.

    Example:
        >>> settings = TrainConfig(steps_per_epoch=10, validate_every=2, stop_after=3)
        >>> [ends(settings, {"score": 0.8, "step": 40}, step) for step in (80, 100)]
        [False, True]
    """
    wanted = settings.stop_after
    return wanted is not None and best is not None and stalled(settings, best["step"], step) >= wanted


def reason(settings: TrainConfig, chosen_by: str) -> str:
    """Why validation ended a training, in words.

    Example:
        >>> reason(TrainConfig(stop_after=1), "Dice mean"), reason(TrainConfig(stop_after=6), "Dice mean")[:22]
        ('the last validation did not improve Dice mean (train.stop_after)', 'none of the last 6 val')
    """
    if settings.stop_after == 1:
        return f"the last validation did not improve {chosen_by} (train.stop_after)"
    return f"none of the last {settings.stop_after} validations improved {chosen_by} (train.stop_after)"


def told_after(settings: TrainConfig) -> int:
    """Validations without improvement of which a word is said: a fifth of all of them, and at least five.

    Example:
        >>> [told_after(TrainConfig(epochs=epochs, validate_every=5)) for epochs in (50, 100, 300)]
        [5, 5, 12]
    """
    return max(MIN_STALLED, math.ceil(settings.steps / settings.validation_interval / 5))


def word(settings: TrainConfig, record: Mapping[str, Any], chosen_by: str) -> str:
    """What to say after a validation, once for every stall; else empty. It changes nothing.

    Args:
        settings: of the training.
        record: of the validation, as it is logged.
        chosen_by: the metric that says which is the best.

    Example:
        >>> record = {"step": 5000, "best": {"score": 0.8125, "step": 2500}}
        >>> print(word(TrainConfig(), record, "Dice mean"))
        validation has stalled: none of the last 5 was better than Dice mean 0.812 at step 2500, whose weights are kept
        >>> word(TrainConfig(), {**record, "step": 5500}, "Dice mean")
        ''
    """
    best, count = record["best"], told_after(settings)
    # What is not due by the interval is the validation at the end.
    at_end = record["step"] == settings.steps or record["step"] % settings.validation_interval
    if at_end or stalled(settings, best["step"], record["step"]) != count:
        return ""
    said = (
        f"validation has stalled: none of the last {count} was better than {chosen_by} {best['score']:.3f} at step "
        f"{best['step']}, whose weights are kept"
    )
    if settings.stop_after is None or settings.stop_after <= count:
        return said if settings.stop_after is None else ""
    return f"{said}; {settings.stop_after - count} more without an improvement end the training (train.stop_after)"
