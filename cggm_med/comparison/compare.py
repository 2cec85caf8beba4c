"""Comparing finished runs: mean, spread, interval and paired test of each strategy against a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cggm_med.comparison.controls import absent_controls
from cggm_med.comparison.design import Design, Differences, Values, design_of
from cggm_med.comparison.max_t import MaxT, max_t
from cggm_med.comparison.primary import Declaration
from cggm_med.comparison.statistics import bootstrap_interval, detectable, ranks, seed_matrix, seed_scores
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.results.aggregate import sd
from cggm_med.runs.finished_run import Excluded, FinishedRun


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
        p_max_t: corrected for the number of exploratory comparisons; None for the primary one, which is tested alone.
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


@dataclass(frozen=True)
class Primary:
    """The comparison that was declared, by the first metric.

    Attributes:
        declaration: what was declared, and when.
        replaced: names of what was declared before it.
        metric: by which it is tested.
        row: of the strategy; None if it has no runs that are paired.
        p: of what was declared; None where there is no test. With a margin it is one-sided: that the strategy is worse
            by the margin or more.
        shown: whether it is better or, with a margin, not worse than by the margin.
        better: whether it is better, whatever was declared.
    """

    declaration: Declaration
    replaced: tuple[str, ...]
    metric: str
    row: ComparisonRow | None = None
    p: float | None = None
    shown: bool = False
    better: bool = False


@dataclass(frozen=True)
class Comparison:
    """The comparison of finished runs of one task.

    Attributes:
        task: registered name.
        baseline: name of the strategy that the others are compared with.
        chosen_by: the metric that comes first.
        lower_is_better: whether a lower value of that metric is better.
        rows: one per strategy and metric.
        runs: those compared.
        excluded: those left out.
        absent_controls: controls that no run has, and which strategies need each, see ``controls.absent_controls``.
        design: how the runs share patients.
        smallest_p: the smallest corrected p that the first metric can have; None without exploratory comparisons.
        primary: the declared comparison, if there is one.
    """

    task: str
    baseline: str
    chosen_by: str
    lower_is_better: bool
    rows: tuple[ComparisonRow, ...]
    runs: tuple[FinishedRun, ...]
    excluded: tuple[Excluded, ...]
    absent_controls: Mapping[str, tuple[str, ...]]
    design: Design
    smallest_p: float | None
    primary: Primary | None = None

    def of_metric(self, metric: str) -> list[ComparisonRow]:
        """Rows of one metric, in the order in which the strategies were given."""
        return [row for row in self.rows if row.score == metric]

    @property
    def names(self) -> list[str]:
        """Names of the strategies."""
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(dict.fromkeys(row.score for row in self.rows))


def compare(
    runs: Sequence[FinishedRun],
    excluded: Sequence[Excluded],
    baseline: str,
    declared: Sequence[Declaration] = (),
) -> Comparison:
    """Compare runs of one task.

    Args:
        runs: see ``comparable_runs``.
        excluded: runs that were left out.
        baseline: name of the strategy that the others are compared with.
        declared: primary comparisons, of which the last one counts.

    Raises:
        ConfigError: if there is no run.
        UnknownName: if no run has the name of the baseline.
    """
    if not runs:
        why = "".join(f"\n  {run.run}: {run.reason}" for run in excluded)
        raise ConfigError(f"no run can be compared; train some first{why}")
    names = list(dict.fromkeys(run.name for run in runs))
    if baseline not in names:
        raise UnknownName("strategy among these runs", baseline, names, "Name another with --baseline")
    task = runs[0].task_class
    decomposable = [metric for metric in runs[0].values if all(metric in run.values for run in runs)]
    others = [metric for metric in runs[0].headline if metric not in decomposable]
    first = [metric for metric in (*decomposable, *others) if metric == task.chosen_by]
    by_name = {name: [run for run in runs if run.name == name] for name in names}
    design = design_of(runs)
    primary = Primary(declared[-1], tuple(d.name for d in declared[:-1]), task.chosen_by) if declared else None
    rows: list[ComparisonRow] = []
    smallest = None
    for metric in dict.fromkeys([*first, *decomposable, *others]):
        values, by_case = _values(runs, metric, decomposable)
        if values is None:
            continue
        lower = metric.endswith(LOWER_IS_BETTER) or (task.lower_is_better and metric.startswith(task.chosen_by))
        table = _Metric(metric, lower, by_name, values, by_case, design, baseline)
        alone = primary.declaration.name if primary and primary.declaration.baseline == baseline else None
        rows += table.rows(alone if metric == task.chosen_by else None)
        if metric == task.chosen_by:
            smallest = table.corrected.smallest if table.family else None
            if primary and alone in table.differences:
                primary = _tested(primary, table, next(row for row in rows if row.name == alone))
    return Comparison(
        runs[0].task,
        baseline,
        task.chosen_by,
        task.lower_is_better,
        tuple(rows),
        tuple(runs),
        tuple(excluded),
        absent_controls(runs),
        design,
        smallest,
        primary,
    )


def _values(
    runs: Sequence[FinishedRun], metric: str, decomposable: Sequence[str]
) -> tuple[dict[int, float] | None, dict[int, Values] | None]:
    """A metric of each run, and of each of its cases where it is a mean over them, by the ``id`` of the run."""
    if metric in decomposable:
        return {id(run): mean_value(run.values[metric]) for run in runs}, {id(run): run.values[metric] for run in runs}
    plain = {id(run): run.headline.get(metric) for run in runs}
    known = {run: value for run, value in plain.items() if value is not None}
    return (known if len(known) == len(runs) else None), None


def mean_value(values: Values) -> float:
    """A metric's mean from each case's sum and count."""
    return sum(value for value, _ in values.values()) / sum(count for _, count in values.values())


class _Metric:
    """The rows of one metric.

    Args:
        metric: its name.
        lower: whether lower is better.
        by_name: runs of each strategy.
        values: of each run, by ``id``.
        by_case: of each run, what its cases add; None if the metric is no mean over cases.
        design: how the runs share patients.
        baseline: that all are compared with.
    """

    def __init__(
        self,
        metric: str,
        lower: bool,
        by_name: Mapping[str, Sequence[FinishedRun]],
        values: Mapping[int, float],
        by_case: Mapping[int, Values] | None,
        design: Design,
        baseline: str,
    ) -> None:
        self.metric, self.lower, self.by_name, self.values, self.by_case = metric, lower, by_name, values, by_case
        self.design = design
        self.differences: dict[str, Differences] = {}
        self.paired: dict[str, int] = {}
        self.family: list[str] = []
        self.corrected = MaxT(np.empty(0), None, 1.0)
        partner = {run.pair: run for run in by_name[baseline]}
        for name, runs in by_name.items():
            pairs = [(run, partner[run.pair]) for run in runs if run.pair in partner]
            pairs.sort(key=lambda pair: (pair[0].seed, sorted(pair[0].tested)))
            if name != baseline and pairs:
                of_pairs = [((run, other), values[id(run)] - values[id(other)]) for run, other in pairs]
                self.differences[name] = design.differences(of_pairs, by_case)
                self.paired[name] = len(pairs)

    def rows(self, alone: str | None) -> list[ComparisonRow]:
        """One row per strategy.

        Args:
            alone: the primary comparison, which is not corrected for the others nor they for it.
        """
        self.family = [name for name in self.differences if name != alone]
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


def _tested(primary: Primary, table: _Metric, row: ComparisonRow) -> Primary:
    """The declared comparison with its test: of a gain, whatever the direction of the metric is."""
    primary, estimate = replace(primary, row=row), table.differences[row.name].estimate
    if estimate is None:
        return primary
    low, high = estimate.interval()
    worst = -high if table.lower else low
    margin = primary.declaration.margin
    if margin is None:
        return replace(primary, p=estimate.p, shown=worst > 0, better=worst > 0)
    if estimate.error == 0:
        return replace(primary, p=0.0, shown=True)
    p = 1 - estimate.p_at_most(margin) if table.lower else estimate.p_at_most(-margin)
    return replace(primary, p=p, shown=worst > -margin, better=worst > 0)
