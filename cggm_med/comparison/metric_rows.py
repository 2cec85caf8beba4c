"""The rows of a comparison in one metric: mean, spread and interval of each strategy, and its test."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cggm_med.comparison.design import Design, Differences, Values
from cggm_med.comparison.max_t import MaxT, max_t
from cggm_med.comparison.statistics import bootstrap_interval, detectable, ranks, seed_matrix, seed_scores
from cggm_med.results.aggregate import sd
from cggm_med.runs.finished_run import FinishedRun


@dataclass(frozen=True)
class ComparisonRow:
    """One strategy by one metric.

    Attributes:
        name: of the strategy with its settings.
        score: name of the metric.
        runs: how many.
        mean: over seeds.
        sd: over seeds; None for one.
        interval: 95 %, of the mean.
        rank: of the mean, 1 for the best.
        paired: runs with a partner among the baseline's runs.
        difference: mean over the pairs; None for the baseline and without pairs.
        difference_interval: 95 %; of other patients, or of other runs, see ``Design``.
        p: that there is no difference, from the same distribution as the interval; None where there is no test.
        p_max_t: corrected for the number of exploratory comparisons; None for the primary one and A/A rows.
        detectable: smallest true difference that this comparison would find; None where nothing can be found.
        seeds_interval: of the difference on these same patients, for other seeds; None where it is over runs.
        seeds_p: in the same way.
    """

    name: str
    score: str
    runs: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    rank: float
    paired: int = 0
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    p_max_t: float | None = None
    detectable: float | None = None
    seeds_interval: tuple[float, float] | None = None
    seeds_p: float | None = None


class MetricRows:
    """The rows of one metric.

    Args:
        metric: its name.
        lower: whether lower is better.
        by_name: runs of each strategy.
        values: of each run, by ``id``.
        by_case: of each run, what its cases add; None if the metric is no mean over cases.
        design: how the runs share patients.
        baselines: what each strategy is compared with, by name.
    """

    def __init__(
        self,
        metric: str,
        lower: bool,
        by_name: Mapping[str, Sequence[FinishedRun]],
        values: Mapping[int, float],
        by_case: Mapping[int, Values] | None,
        design: Design,
        baselines: Mapping[str, str | None],
    ) -> None:
        self.metric, self.lower, self.by_name, self.values, self.by_case = metric, lower, by_name, values, by_case
        self.design = design
        self.differences: dict[str, Differences] = {}
        self.paired: dict[str, int] = {}
        self.family: list[str] = []
        self.corrected = MaxT(np.empty(0), None, 1.0)
        for name, runs in by_name.items():
            if (baseline := baselines[name]) in (None, name):
                continue
            partner = {run.pair: run for run in by_name.get(str(baseline), ())}
            pairs = [(run, partner[run.pair]) for run in runs if run.pair in partner]
            pairs.sort(key=lambda pair: (pair[0].seed, sorted(pair[0].tested)))
            if pairs:
                of_pairs = [((run, other), values[id(run)] - values[id(other)]) for run, other in pairs]
                self.differences[name] = design.differences(of_pairs, by_case)
                self.paired[name] = len(pairs)

    def rows(self, alone: Collection[str]) -> list[ComparisonRow]:
        """One row per strategy.

        Args:
            alone: the primary comparison and A/A rows, which are not corrected for the others nor these for them.
        """
        self.family = [name for name in self.differences if name not in alone]
        if self.family:
            self.corrected = self._corrected([self.differences[name] for name in self.family])
        places = ranks({name: self._mean(runs) for name, runs in self.by_name.items()}, self.lower)
        return [self._row(name, places[name]) for name in self.by_name]

    def _corrected(self, family: Sequence[Differences]) -> MaxT:
        units = sorted({unit for of in family for unit in of.units})
        sums, counts = np.full((2, len(units), len(family)), np.nan)
        for column, of in enumerate(family):
            rows = [units.index(unit) for unit in of.units]
            sums[rows, column], counts[rows, column] = of.sums, of.counts
        return max_t(sums, counts, self.design.test_share)

    def _scores(self, runs: Sequence[FinishedRun]) -> list[float]:
        """Of each seed, over all of its folds."""
        if self.by_case is not None:
            matrix = seed_matrix([(run.seed, self.by_case[id(run)]) for run in runs], {})
            return [float(score) for score in seed_scores(*matrix)]
        by_seed: dict[int, list[float]] = {}
        for run in runs:
            by_seed.setdefault(run.seed, []).append(self.values[id(run)])
        return [statistics.fmean(folds) for folds in by_seed.values()]

    def _mean(self, runs: Sequence[FinishedRun]) -> float:
        return statistics.fmean(self._scores(runs))

    def _row(self, name: str, rank: float) -> ComparisonRow:
        runs = self.by_name[name]
        scores = self._scores(runs)
        interval = None
        if self.by_case is not None:
            matrix = seed_matrix([(run.seed, self.by_case[id(run)]) for run in runs], self.design.groups)
            interval = bootstrap_interval(*matrix)
        row = ComparisonRow(name, self.metric, len(runs), statistics.fmean(scores), sd(scores), interval, rank)
        if (of := self.differences.get(name)) is None:
            return row
        row = replace(row, paired=self.paired[name], difference=float(of.sums.sum() / of.counts.sum()))
        if of.over_seeds is not None:
            row = replace(row, seeds_interval=of.over_seeds.interval(), seeds_p=of.over_seeds.p)
        if (estimate := of.estimate) is None:
            return row
        row = replace(row, difference_interval=estimate.interval(), p=estimate.p)
        if name not in self.family:
            return replace(row, detectable=detectable(estimate.error, estimate.freedom))
        p, critical = float(self.corrected.p[self.family.index(name)]), self.corrected.critical
        least = None if critical is None else detectable(estimate.error, estimate.freedom, critical)
        return replace(row, p_max_t=None if np.isnan(p) else p, detectable=least)
