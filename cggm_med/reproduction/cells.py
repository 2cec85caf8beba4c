"""The figures of this package for the cells of a paper's table, from finished runs: mean, spread and interval."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cggm_med.comparison.statistics import bootstrap_interval, seed_matrix, seed_scores
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.reproduction.paper_table import ADDED_MEGABYTES, Column, PaperTable, Row
from cggm_med.results.aggregate import sd
from cggm_med.results.tables import rounded
from cggm_med.runs.finished_run import FinishedRun

RULES = {
    "mean ± sd": "over seeds; the value of a seed is the mean over its cases, in all folds",
    "[interval]": "95 %, bootstrap over seeds and patients (Owen 2007); none for metrics that are no mean over cases",
    ADDED_MEGABYTES: "what a training step takes more than one of the baseline with the same seed: weights, gradients, "
    "optimizer and activations at their most",
}

RunsOf = Mapping[str, Sequence[FinishedRun]]


@dataclass(frozen=True)
class Cell:
    """A figure of this package, in the paper's unit.

    Attributes:
        row, column: by name.
        runs: how many.
        mean: over seeds; None without a run, and where the metric is not defined.
        sd: over seeds; None for one.
        interval: 95 %, of the mean; None where there is none.
        published: figure of the paper, or why there is none.
    """

    row: str
    column: str
    runs: int
    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    published: str

    def text(self, digits: int) -> str:
        """The figure as text.

        Example:
            >>> Cell("CGGM", "Acc", 3, 61.25, 0.5, (60.0, 62.5), "75.38").text(1)
            '61.2 ± 0.5 [60.0, 62.5]'
        """
        if self.mean is None:
            return "not defined" if self.runs else "no run"
        spread = "" if self.sd is None else f" ± {rounded(self.sd, digits)}"
        ends = "" if self.interval is None else f" [{', '.join(rounded(end, digits) for end in self.interval)}]"
        return rounded(self.mean, digits) + spread + ends


def cells(table: PaperTable, runs: RunsOf) -> list[Cell]:
    """Every cell of a table, row by row.

    Args:
        table: of the paper.
        runs: finished ones, by the words of their variant.
    """
    return [_cell(table, row, column, runs) for row in table.rows for column in table.columns]


def _cell(table: PaperTable, row: Row, column: Column, by_variant: RunsOf) -> Cell:
    runs = by_variant.get(row.variant_in(column), ())
    of, scale = row.predictor_in(column), column.scale
    interval = None
    if column.metric == ADDED_MEGABYTES:
        scores = _added_megabytes(runs, by_variant.get(table.baseline, ()))
    elif by_case := _by_case(runs, column.metric, of):
        sums, counts = seed_matrix(by_case, {case: group for run in runs for case, group in run.groups.items()})
        scores = seed_scores(sums, counts).tolist()
        low, high = bootstrap_interval(sums, counts)
        interval = (scale * low, scale * high)
    else:
        scores = _whole(runs, column.metric, of)
    known = [scale * score for score in scores or ()]
    mean = statistics.fmean(known) if known else None
    return Cell(row.name, column.name, len(runs), mean, sd(known), interval, table.published_in(row, column))


def _rows(run: FinishedRun, of: str) -> list[Mapping[str, object]]:
    scores = run.report.scores
    return list(scores.cases) if of == FUSED else [row for row in scores.heads if row["modality"] == of]


def _by_case(
    runs: Sequence[FinishedRun], metric: str, of: str
) -> Sequence[tuple[int, Mapping[str, tuple[float, float]]]]:
    """Of each run, its seed and what each case adds to a mean over cases; empty unless every run has such values."""
    values = [(run.seed, run.task_class.case_values(_rows(run, of)).get(metric, {})) for run in runs]
    return values if all(by_case for _, by_case in values) else []


def _whole(runs: Sequence[FinishedRun], metric: str, of: str) -> list[float] | None:
    """A metric of all cases of a run together, the mean over the folds of each seed; None where it is not defined."""
    by_seed: dict[int, list[float]] = {}
    for run in runs:
        scores = run.report.scores
        named = [row for row in scores.summary if row.get("predicted_by") == of]
        value = scores.headline.get(metric) if of == FUSED else named[0].get(metric) if named else None
        if value is None:
            return None
        by_seed.setdefault(run.seed, []).append(value)
    return [statistics.fmean(folds) for folds in by_seed.values()]


def _added_megabytes(runs: Sequence[FinishedRun], baseline: Sequence[FinishedRun]) -> list[float] | None:
    """Of each run, over the baseline's run with the same seed and cases; None where one was interrupted."""
    taken = {run.pair: run.cost.get("step_memory_bytes") for run in baseline}
    pairs = [(run.cost.get("step_memory_bytes"), taken.get(run.pair)) for run in runs]
    return [(own - other) / 1e6 for own, other in pairs if own and other] if all(map(all, pairs)) else None
