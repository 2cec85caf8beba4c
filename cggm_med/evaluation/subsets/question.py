"""The question how a run scores on subsets of its modalities (``evaluate --subsets``)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cggm_med.errors import counted
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.subsets.figure import subset_figure
from cggm_med.evaluation.subsets.table import (
    MEAN,
    WORST,
    Subset,
    SubsetTable,
    order_rows,
    shapley_rows,
    shown_subsets,
    subset_name,
    subset_report,
    subset_rows,
    wanted_subsets,
)
from cggm_med.files import write_text
from cggm_med.results.order import CLEARLY, ORDER, OrderViolations, metrics_in_order, order_violations
from cggm_med.results.results import Report
from cggm_med.results.tables import csv_text
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.base import CaseResult, Task

SECONDS_BETWEEN_LINES = 20


class SubsetQuestion(Question):
    """How well a run does when modalities are missing.

    Also writes ``subsets.csv`` and ``subsets.png``; where some subsets are parts of others, ``order.csv``; when all
    subsets are scored, ``shapley.csv``; and ``left_out.png`` of the first case, if its task can draw it.

    Args:
        wanted: see ``wanted_subsets``.
    """

    folder = "subsets"
    written = "results.json, tables as CSV, and pictures"

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def check(self, task: Task, folder: Path) -> None:
        """Refuse modalities that the run does not have, and too many subsets."""
        self.subsets = wanted_subsets(self.wanted, task.modalities)

    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """The scores of each subset and, when all are scored, the Shapley value of each modality."""
        task, subsets = run.task, self.subsets
        of, each = counted(len(subsets), "subset"), counted(len(run.cases), "case")
        say(f"{of} of {len(task.modalities)} modalities, {each} ({run.split})")
        self.drawing: Callable[[Path], None] | None = None
        results = self._score(run, subsets, say)
        by_subset = {s: [CaseResult(r.case, r.findings[subset_name(s)]) for r in results] for s in subsets}
        scores = {subset: task.summarise(results) for subset, results in by_subset.items()}
        self.table = SubsetTable(
            task.modalities,
            {subset: s.headline for subset, s in scores.items()},
            {task.chosen_by} if task.lower_is_better else (),
        )
        complete = self.table.complete()
        self.shapley = self.table.shapley(task.chance(by_subset[subsets[0]])) if complete else None
        values = {subset_name(subset): task.case_values(of.cases) for subset, of in scores.items()}
        self.orders: dict[str, OrderViolations] = {}
        for metric in metrics_in_order(next(iter(values.values())), task.chosen_by):
            order = order_violations({subset: of[metric] for subset, of in values.items()}, task.lower_is_better)
            self.orders |= {} if order is None else {metric: order}
        report = subset_report(scores, self.table, self.shapley, self.orders)
        return Answer(report, _rules(task, self.table, bool(self.orders)))

    def draw(self, folder: Path, report: Report) -> None:
        """The whole tables as CSV, and the subsets as a heat map."""
        write_text(folder / "subsets.csv", csv_text(subset_rows(self.table)))
        if self.shapley is not None:
            write_text(folder / "shapley.csv", csv_text(shapley_rows(self.shapley)))
        if self.orders:
            write_text(folder / "order.csv", csv_text(order_rows(self.orders)))
        draw_table(folder / "subsets.png", report.title, self.table)
        if self.drawing is not None:
            self.drawing(folder / "left_out.png")

    def _score(self, run: LoadedRun, subsets: Sequence[Subset], say: Say) -> list[CaseResult]:
        """The task's findings of each case by subset, on every process; the processes share the cases."""
        run.model.eval()
        findings: dict[str, Any] = {}
        started = reported = time.monotonic()
        for result in run.task.evaluate_subsets(
            run.model, subsets, run.share, device=run.device, autocast=run.autocast
        ):
            findings[result.case] = dict(result.findings)
            self.drawing = self.drawing or result.draw
            now = time.monotonic()
            if now - reported >= SECONDS_BETWEEN_LINES:
                reported, left = now, (now - started) / len(findings) * (len(run.share) - len(findings))
                say(f"case {len(findings)} of {len(run.share)}: about {datetime.timedelta(seconds=round(left))} left")
        return [CaseResult(case, of_case) for case, of_case in zip(run.cases, run.gathered(findings), strict=True)]


def draw_table(path: Path, title: str, table: SubsetTable) -> None:
    """Draw the table as a heat map or, where it has too many rows to read, a part of it that says so.

    Args:
        path: PNG file to write.
        title: above it.
        table: scores to draw.
    """
    shown = shown_subsets(table.subsets, table.modalities)
    note = ""
    if len(shown) < len(table.subsets):
        note = (
            f"{len(table.subsets)} subsets are too many to draw: here are each modality alone, all but one, and all;\n"
            "mean and worst are of all subsets, which stand in subsets.csv"
        )
    rows = {subset: table.values[subset] for subset in shown}
    subset_figure(
        path,
        f"{title}\nfrom the modalities with a dark dot",
        table.modalities,
        rows,
        table.closing(),
        lower_is_better=table.lower_is_better,
        note=note,
    )


def _rules(task: Task, table: SubsetTable, ordered: bool) -> dict[str, str]:
    rules = {
        **task.subset_rules(),
        "subsets": "the other modalities are left out as if they had never been there; nothing stands for them",
        MEAN: f"of the {len(table.subsets)} rows above it, each counts the same",
        WORST: "of these rows, column by column",
    }
    if ordered:
        rules[ORDER] = (
            "share of all cases and nested pairs of subsets (one is a proper part of the other) in which the smaller "
            f"one scores higher in that case, and by more than {CLEARLY:g}; worst subset: by the mean over the cases"
        )
    if table.complete():
        rules["Shapley value"] = (
            "what a modality adds to the score, on average over all orders in which modalities are added one by one "
            f"(Shapley 1953), exact, from the scores of all subsets; without any modality: {task.chance_rule}. The "
            "values of a column sum to the score of all modalities minus that of none; the share is of the sum of the "
            "values without their signs"
        )
    return rules
