"""Comparing finished runs: mean, spread, interval and paired test of each strategy against a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cggm_med.comparison.controls import absent_controls
from cggm_med.comparison.statistics import (
    SeedMatrix,
    bootstrap_interval,
    holm,
    paired_p_value,
    ranks,
    seed_matrix,
    seed_scores,
)
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
        difference_interval: 95 %.
        p: of the paired test; None where there is none.
        p_holm: corrected for the number of tests.
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
    p_holm: float | None = None


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
    """

    task: str
    baseline: str
    chosen_by: str
    lower_is_better: bool
    rows: tuple[ComparisonRow, ...]
    runs: tuple[FinishedRun, ...]
    excluded: tuple[Excluded, ...]
    absent_controls: Mapping[str, tuple[str, ...]]

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


def compare(runs: Sequence[FinishedRun], excluded: Sequence[Excluded], baseline: str) -> Comparison:
    """Compare runs of one task.

    Args:
        runs: see ``comparable_runs``.
        excluded: runs that were left out.
        baseline: name of the strategy that the others are compared with.

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
    others = [metric for metric in runs[0].report.scores.headline if metric not in decomposable]
    first = [metric for metric in (*decomposable, *others) if metric == task.chosen_by]
    by_name = {name: [run for run in runs if run.name == name] for name in names}
    rows: list[ComparisonRow] = []
    for metric in dict.fromkeys([*first, *decomposable, *others]):
        if metric in decomposable:
            matrices = {name: _matrix(group, metric) for name, group in by_name.items()}
            values = {id(run): mean_value(run.values[metric]) for run in runs}
            rows += _rows(metric, by_name, matrices, values, baseline, task)
        else:
            plain = {id(run): run.report.scores.headline.get(metric) for run in runs}
            known = {run: value for run, value in plain.items() if value is not None}
            if len(known) == len(runs):
                rows += _rows(metric, by_name, {}, known, baseline, task)
    return Comparison(
        runs[0].task,
        baseline,
        task.chosen_by,
        task.lower_is_better,
        tuple(rows),
        tuple(runs),
        tuple(excluded),
        absent_controls(runs),
    )


def _matrix(runs: Sequence[FinishedRun], metric: str) -> SeedMatrix:
    return seed_matrix([(run.seed, run.values[metric]) for run in runs])


def mean_value(values: Mapping[str, tuple[float, float]]) -> float:
    """A metric's mean from each case's sum and count."""
    return sum(value for value, _ in values.values()) / sum(count for _, count in values.values())


def _rows(
    metric: str,
    by_name: Mapping[str, Sequence[FinishedRun]],
    matrices: Mapping[str, SeedMatrix],
    values: Mapping[int, float],
    baseline: str,
    task: Any,
) -> list[ComparisonRow]:
    """One row per strategy; ``values`` are by the ``id`` of a run."""
    partner = {run.pair: run for run in by_name[baseline]}
    means: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, runs in by_name.items():
        by_seed: dict[int, list[float]] = {}
        for run in runs:
            by_seed.setdefault(run.seed, []).append(values[id(run)])
        scores = [statistics.fmean(folds) for folds in by_seed.values()]
        row: dict[str, Any] = {"interval": None}
        if name in matrices:
            _, _, sums, counts = matrices[name]
            scores = seed_scores(sums, counts).tolist()
            row["interval"] = bootstrap_interval(sums, counts)
        means[name] = statistics.fmean(scores)
        row |= {"mean": means[name], "sd": sd(scores), "runs": len(runs)}
        pairs = [(run, partner[run.pair]) for run in runs if run.pair in partner]
        if name != baseline and pairs:
            differences = [values[id(run)] - values[id(other)] for run, other in pairs]
            row |= {"paired": len(pairs), "difference": statistics.fmean(differences)}
            row["p"] = paired_p_value(differences, _test_share([run for run, _ in pairs]))
            if name in matrices:
                row |= _paired(matrices[name], matrices[baseline], pairs)
        rows[name] = row
    holms = holm({name: row.get("p") for name, row in rows.items() if name != baseline})
    lower = metric.endswith(LOWER_IS_BETTER) or (task.lower_is_better and metric.startswith(task.chosen_by))
    places = ranks(means, lower)
    return [ComparisonRow(name, metric, rank=places[name], p_holm=holms.get(name), **row) for name, row in rows.items()]


def _paired(
    matrix: SeedMatrix, baseline: SeedMatrix, pairs: Sequence[tuple[FinishedRun, FinishedRun]]
) -> dict[str, Any]:
    """Difference and its interval over the seeds and cases of the pairs, from the same matrices as the means."""
    kept = {(run.seed, case) for run, _ in pairs for case in run.tested}
    seeds, cases, sums, counts = matrix
    chosen = np.array([[(seed, case) in kept for case in cases] for seed in seeds])
    baseline_seeds, baseline_cases, baseline_sums, _ = baseline
    row = {seed: i for i, seed in enumerate(baseline_seeds)}
    column = {case: i for i, case in enumerate(baseline_cases)}
    aligned = np.array(
        [[baseline_sums[row[s], column[c]] if (s, c) in kept else 0.0 for c in cases] for s in seeds], dtype=float
    )
    difference, count = np.where(chosen, sums - aligned, 0), np.where(chosen, counts, 0)
    used = count.sum(1) > 0
    difference, count = difference[used], count[used]
    mean = float(seed_scores(difference, count).mean())
    return {"difference": mean, "difference_interval": bootstrap_interval(difference, count)}


def _test_share(runs: Sequence[FinishedRun]) -> float:
    """Number of test cases over training cases if the runs divide the same cases in different ways, else 0.

    It is 0 as well for runs that have no case in common: their differences are independent of one another.
    """
    cases = [id for run in runs for _, ids in run.splits.items() for id in ids]
    if len({run.tested for run in runs}) == 1 or len(set(cases)) == len(cases):
        return 0.0
    return statistics.fmean(len(run.tested) / len(run.splits.train) for run in runs)
