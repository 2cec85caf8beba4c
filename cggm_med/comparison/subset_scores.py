"""The first metric of each strategy of a comparison on each subset of the modalities, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cggm_med.comparison.statistics import bootstrap_interval, seed_matrix, seed_scores
from cggm_med.runs.finished_run import FinishedRun


@dataclass(frozen=True)
class SubsetScore:
    """The first metric of one strategy on one subset of the modalities.

    Attributes:
        name: of the strategy.
        subset: modalities, joined by ``+``.
        mean: over seeds.
        low, high: ends of its 95 % interval.
    """

    name: str
    subset: str
    mean: float
    low: float
    high: float


def subset_scores(
    by_name: Mapping[str, Sequence[FinishedRun]], metric: str, groups: Mapping[str, str]
) -> list[SubsetScore]:
    """Strategy by strategy; without those subsets that not all runs of a strategy were scored on.

    Args:
        by_name: runs of each strategy.
        metric: a mean over cases.
        groups: the patient of each case.
    """
    scores = []
    for name, runs in by_name.items():
        for subset in subsets_of(runs):
            if all(metric in run.subset_values.get(subset, {}) for run in runs):
                matrix = seed_matrix([(run.seed, run.subset_values[subset][metric]) for run in runs], groups)
                low, high = bootstrap_interval(*matrix)
                scores.append(SubsetScore(name, subset, float(seed_scores(*matrix).mean()), low, high))
    return scores


def subsets_of(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """Every subset that a run was scored on."""
    return tuple(dict.fromkeys(subset for run in runs for subset in run.subset_values))
