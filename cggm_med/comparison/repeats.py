"""A/A rows: strategies that are the baseline again, from other initial weights, and so differ by chance alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from cggm_med.comparison.selection import IRRELEVANT
from cggm_med.config import flat
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.settings import completed

WEIGHTS = "train.init_seed"


def repeats(by_name: Mapping[str, Sequence[FinishedRun]], baselines: Mapping[str, str | None]) -> tuple[str, ...]:
    """Names of strategies that differ from their baseline in ``train.init_seed`` alone."""
    return tuple(
        name
        for name, baseline in baselines.items()
        if baseline not in (None, name) and _differing(by_name[name][0], by_name[str(baseline)][0]) == {WEIGHTS}
    )


def _differing(run: FinishedRun, other: FinishedRun) -> set[str]:
    one, two = flat(completed(run.settings)), flat(completed(other.settings))
    differing = {key for key in {*one, *two} - IRRELEVANT if one.get(key) != two.get(key)}
    return differing if run.strategy == other.strategy else {"strategy.name", *differing}


def typical_gap(pairs: Sequence[tuple[float, float]]) -> float:
    """Mean absolute difference of two runs that differ in their initial weights alone: what a single run may be off by.

    Example:
        >>> typical_gap([(0.5, 0.25), (0.25, 0.5)])
        0.25
    """
    return statistics.fmean(abs(one - other) for one, other in pairs)
