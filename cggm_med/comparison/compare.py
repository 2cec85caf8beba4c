"""Comparing finished runs: mean, spread, interval and paired test of each strategy against a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cggm_med.comparison.budgets import baselines
from cggm_med.comparison.controls import absent_controls
from cggm_med.comparison.design import Design, Values, design_of
from cggm_med.comparison.metric_rows import ComparisonRow, MetricRows
from cggm_med.comparison.primary import Declaration
from cggm_med.comparison.repeats import repeats
from cggm_med.comparison.subset_scores import SubsetScore, subset_scores, subsets_of
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.results.aggregate import mean_of
from cggm_med.runs.finished_run import OF_SUBSETS, Excluded, FinishedRun


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
        baseline: name of the strategy that the others are compared with, without its budget if it has several.
        baselines: what each strategy is compared with, by name, see ``budgets.baselines``.
        repeats: strategies that are their baseline again, from other initial weights.
        chosen_by: the metric that comes first.
        lower_is_better: whether a lower value of that metric is better.
        rows: one per strategy and metric.
        runs: those compared.
        excluded: those left out.
        absent_controls: controls that no run has, and which strategies need each, see ``controls.absent_controls``.
        design: how the runs share patients.
        subset_scores: of the first metric; empty where subsets of the modalities were not scored.
        smallest_p: the smallest corrected p that the first metric can have; None without exploratory comparisons.
        primary: the declared comparison, if there is one.
    """

    task: str
    baseline: str
    baselines: Mapping[str, str | None]
    repeats: tuple[str, ...]
    chosen_by: str
    lower_is_better: bool
    rows: tuple[ComparisonRow, ...]
    runs: tuple[FinishedRun, ...]
    excluded: tuple[Excluded, ...]
    absent_controls: Mapping[str, tuple[str, ...]]
    design: Design
    subset_scores: tuple[SubsetScore, ...]
    smallest_p: float | None
    primary: Primary | None = None

    def of_metric(self, metric: str) -> list[ComparisonRow]:
        """Rows of one metric, in the order in which the strategies were given."""
        return [row for row in self.rows if row.score == metric]

    @property
    def by_budget(self) -> bool:
        """Whether each strategy is compared with the baseline that was trained as long as itself."""
        return len({*self.baselines.values()} - {None}) > 1 or None in self.baselines.values()

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
    against: Mapping[str, str | None] | None = None,
) -> Comparison:
    """Compare runs of one task.

    Args:
        runs: see ``comparable_runs``.
        excluded: runs that were left out.
        baseline: name of the strategy that the others are compared with, see ``budgets.baselines``.
        declared: primary comparisons, of which the last one counts.
        against: what each strategy is compared with, by name; default: as ``baseline`` says.

    Raises:
        ConfigError: if there is no run.
        UnknownName: if no run has the name of the baseline.
    """
    if not runs:
        why = "".join(f"\n  {run.run}: {run.reason}" for run in excluded)
        raise ConfigError(f"no run can be compared; train some first{why}")
    names = list(dict.fromkeys(run.name for run in runs))
    if against is None:
        against = baselines(names, baseline)
    against = {name: other if (other := against.get(name)) in names else None for name in names}
    if not any(against.values()):
        raise UnknownName("strategy among these runs", baseline, names, "Name another with --baseline")
    task = runs[0].task_class
    by_name = {name: [run for run in runs if run.name == name] for name in names}
    design, again = design_of(runs), repeats(by_name, against)
    primary = Primary(declared[-1], tuple(d.name for d in declared[:-1]), task.chosen_by) if declared else None
    rows: list[ComparisonRow] = []
    smallest = None
    for metric in _metrics(runs):
        values, by_case = _values(runs, metric)
        of_metric = {name: group for name, group in by_name.items() if all(id(run) in values for run in group)}
        if not of_metric:
            continue
        lower = metric.endswith(LOWER_IS_BETTER) or (task.lower_is_better and metric.startswith(task.chosen_by))
        table = MetricRows(metric, lower, of_metric, values, by_case, design, against)
        declaration = primary.declaration if primary and metric == task.chosen_by else None
        alone = declaration.name if declaration and against.get(declaration.name) == declaration.baseline else None
        rows += table.rows({*again, *([alone] if alone else [])})
        if metric == task.chosen_by:
            smallest = table.corrected.smallest if table.family else None
            if primary and alone is not None and alone in table.differences:
                primary = _tested(primary, table, next(row for row in rows if row.name == alone))
    return Comparison(
        runs[0].task,
        baseline,
        against,
        again,
        task.chosen_by,
        task.lower_is_better,
        tuple(rows),
        tuple(runs),
        tuple(excluded),
        absent_controls(runs),
        design,
        tuple(subset_scores(by_name, task.chosen_by, design.groups)),
        smallest,
        primary,
    )


def _metrics(runs: Sequence[FinishedRun]) -> list[str]:
    """Every metric of any run: the first one, then means over cases, then others."""
    decomposable = dict.fromkeys(metric for run in runs for metric in run.values)
    others = dict.fromkeys(metric for run in runs for metric in run.headline)
    first = [metric for metric in (*decomposable, *others) if metric == runs[0].task_class.chosen_by]
    return list(dict.fromkeys([*first, *decomposable, *others]))


def _values(runs: Sequence[FinishedRun], metric: str) -> tuple[dict[int, float], dict[int, Values] | None]:
    """A metric of each run that has it, and of its cases where it is a mean over them, by the ``id`` of the run.

    Of what is about subsets of the modalities, only runs have it that were scored on all of the subsets: the mean over
    the one subset of a network of one modality compares with nothing.
    """
    subsets = subsets_of(runs)
    whole = [run for run in runs if not metric.endswith(OF_SUBSETS) or set(run.subset_values) == set(subsets)]
    if any(metric in run.values for run in runs):
        by_case: dict[int, Values] = {id(run): run.values[metric] for run in whole if metric in run.values}
        return {run: mean_of(values) for run, values in by_case.items()}, by_case
    plain = {id(run): run.headline.get(metric) for run in whole}
    return {run: value for run, value in plain.items() if value is not None}, None


def _tested(primary: Primary, table: MetricRows, row: ComparisonRow) -> Primary:
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
