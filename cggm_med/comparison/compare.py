"""Compares finished runs: mean, spread, intervals and paired tests of each strategy against a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.comparison.statistics import bootstrap_interval, holm, paired_p_value, ranks, seed_scores
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.results.aggregate import sd
from cggm_med.runs.finished import Excluded, FinishedRun


@dataclass(frozen=True)
class Row:
    """One strategy by one score.

    Attributes:
        name: of the strategy with its settings.
        score: what is compared.
        runs: how many.
        mean: over seeds.
        sd: over seeds; None for one.
        interval: 95 %, of the mean.
        rank: of the mean, 1 for the best.
        paired: runs that have a partner among the baseline's.
        difference: mean over the pairs; None for the baseline and without pairs.
        difference_interval: 95 %.
        p: of the paired test; None where there is none.
        p_holm: corrected.
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
    """What the finished runs say together.

    Attributes:
        task: registered name.
        baseline: name of what the others are compared with.
        chosen_by: the score that comes first.
        lower_is_better: whether a lower value of that score is better.
        rows: of each strategy and score.
        runs: that took part.
        excluded: those that did not.
    """

    task: str
    baseline: str
    chosen_by: str
    lower_is_better: bool
    rows: tuple[Row, ...]
    runs: tuple[FinishedRun, ...]
    excluded: tuple[Excluded, ...]

    def of_score(self, score: str) -> list[Row]:
        """Rows of one score, in the order in which the strategies were given."""
        return [row for row in self.rows if row.score == score]

    @property
    def names(self) -> list[str]:
        """Of the strategies."""
        return list(dict.fromkeys(row.name for row in self.rows))

    @property
    def scores(self) -> list[str]:
        """Names of the scores."""
        return list(dict.fromkeys(row.score for row in self.rows))


def compare(runs: Sequence[FinishedRun], excluded: Sequence[Excluded], baseline: str) -> Comparison:
    """Compare runs of one task.

    Args:
        runs: see ``comparable_runs``.
        excluded: runs that take no part.
        baseline: name of what the others are compared with.

    Raises:
        ConfigError: if there is no run.
        UnknownName: if no run has the name of the baseline.
    """
    if not runs:
        why = "".join(f"\n  {x.run}: {x.reason}" for x in excluded)
        raise ConfigError(f"no run can be compared; train some first{why}")
    names = list(dict.fromkeys(run.name for run in runs))
    if baseline not in names:
        raise UnknownName("strategy among these runs", baseline, names, "Name another with --baseline")
    task = runs[0].task_class
    decomposable = [score for score in runs[0].values if all(score in run.values for run in runs)]
    others = [score for score in runs[0].report.scores.headline if score not in decomposable]
    first = [score for score in (*decomposable, *others) if score == task.chosen_by]
    rows: list[Row] = []
    for score in dict.fromkeys([*first, *decomposable, *others]):
        mine = {name: [run for run in runs if run.name == name] for name in names}
        if score in decomposable:
            tables = {name: _matrix(mine[name], score) for name in names}
            rows += _rows(score, mine, tables, {id(r): mean_value(r.values[score]) for r in runs}, baseline, task)
        else:
            plain = {id(run): run.report.scores.headline.get(score) for run in runs}
            known = {run: value for run, value in plain.items() if value is not None}
            if len(known) == len(runs):
                rows += _rows(score, mine, {}, known, baseline, task)
    return Comparison(
        runs[0].task,
        baseline,
        task.chosen_by,
        task.lower_is_better,
        tuple(rows),
        tuple(runs),
        tuple(excluded),
    )


Matrix = tuple[list[int], list[str], NDArray[np.float64], NDArray[np.float64]]


def _matrix(runs: Sequence[FinishedRun], score: str) -> Matrix:
    """Seeds, cases, and sums and counts ``(seed, case)``; the folds of a seed stand in one row."""
    seeds = sorted({run.seed for run in runs})
    cases = sorted({case for run in runs for case in run.values[score]})
    column = {case: i for i, case in enumerate(cases)}
    sums, counts = np.zeros((len(seeds), len(cases))), np.zeros((len(seeds), len(cases)))
    for run in runs:
        row = seeds.index(run.seed)
        for case, (value, count) in run.values[score].items():
            sums[row, column[case]] += value
            counts[row, column[case]] += count
    return seeds, cases, sums, counts


def mean_value(values: Mapping[str, tuple[float, float]]) -> float:
    """A score from what each case adds to it."""
    return sum(value for value, _ in values.values()) / sum(count for _, count in values.values())


def _rows(
    score: str,
    runs: Mapping[str, Sequence[FinishedRun]],
    tables: Mapping[str, Matrix],
    of_run: Mapping[int, float],
    baseline: str,
    task: Any,
) -> list[Row]:
    """One row a strategy."""
    partner = {run.pair: run for run in runs[baseline]}
    means: dict[str, float] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, mine in runs.items():
        by_seed: dict[int, list[float]] = {}
        for run in mine:
            by_seed.setdefault(run.seed, []).append(of_run[id(run)])
        scores = [statistics.fmean(found) for found in by_seed.values()]
        row: dict[str, Any] = {"interval": None}
        if name in tables:
            _, _, sums, counts = tables[name]
            scores = seed_scores(sums, counts).tolist()
            row["interval"] = bootstrap_interval(sums, counts)
        means[name] = statistics.fmean(scores)
        row |= {"mean": means[name], "sd": sd(scores), "runs": len(mine)}
        pairs = [(run, partner[run.pair]) for run in mine if run.pair in partner]
        if name != baseline and pairs:
            differences = [of_run[id(run)] - of_run[id(other)] for run, other in pairs]
            row |= {"paired": len(pairs), "difference": statistics.fmean(differences)}
            row["p"] = paired_p_value(differences, _test_share([run for run, _ in pairs]))
            if name in tables:
                row |= _paired(tables[name], tables[baseline], pairs)
        rows[name] = row
    holms = holm({name: row.get("p") for name, row in rows.items() if name != baseline})
    lower = score.endswith(LOWER_IS_BETTER) or (task.lower_is_better and score.startswith(task.chosen_by))
    places = ranks(means, lower)
    return [Row(name, score, rank=places[name], p_holm=holms.get(name), **row) for name, row in rows.items()]


def _paired(mine: Matrix, other: Matrix, pairs: Sequence[tuple[FinishedRun, FinishedRun]]) -> dict[str, Any]:
    """Difference and its interval over the seeds and cases of the pairs, from the same table as the means."""
    kept = {(run.seed, case) for run, _ in pairs for case in run.tested}
    seeds, cases, sums, counts = mine
    chosen = np.array([[(seed, case) in kept for case in cases] for seed in seeds])
    other_seeds, other_cases, other_sums, _ = other
    row, column = {s: i for i, s in enumerate(other_seeds)}, {c: i for i, c in enumerate(other_cases)}
    aligned = np.array(
        [[other_sums[row[s], column[c]] if (s, c) in kept else 0.0 for c in cases] for s in seeds], dtype=float
    )
    difference, count = np.where(chosen, sums - aligned, 0), np.where(chosen, counts, 0)
    used = count.sum(1) > 0
    difference, count = difference[used], count[used]
    mean = float(seed_scores(difference, count).mean())
    return {"difference": mean, "difference_interval": bootstrap_interval(difference, count)}


def _test_share(runs: Sequence[FinishedRun]) -> float:
    """Test over training cases if the runs differ in their split, else 0."""
    if len({run.tested for run in runs}) == 1:
        return 0.0
    return statistics.fmean(len(run.tested) / len(run.splits.train) for run in runs)
