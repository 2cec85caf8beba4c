"""``evaluate --subsets``: a finished run scored on subsets of its modalities, each modality encoded once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.subsets.figure import subset_figure
from cggm_med.evaluation.subsets.table import (
    MEAN,
    WORST,
    Subset,
    SubsetTable,
    shapley_rows,
    shown_subsets,
    subset_name,
    subset_report,
    subset_rows,
    wanted_subsets,
)
from cggm_med.files import write_text
from cggm_med.results.results import Report
from cggm_med.results.tables import csv_text
from cggm_med.runs.loaded import LoadedRun, Say
from cggm_med.task.base import CaseResult, Task

SECONDS_BETWEEN_LINES = 20


class SubsetQuestion(Question):
    """What is left when modalities are missing.

    Beside the usual files stand ``subsets.csv`` and ``subsets.png``, and with all subsets ``shapley.csv``.

    Args:
        wanted: see ``wanted_subsets``.
    """

    folder = "subsets"
    written = "results.json, tables as CSV, and subsets.png"

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted

    def check(self, task: Task, folder: Path) -> None:
        """Refuse modalities that the run does not have, and too many subsets."""
        self.subsets = wanted_subsets(self.wanted, task.modalities)

    def measure(self, x: LoadedRun, say: Say) -> Answer:
        """The scores of each subset, and with all of them what each modality adds."""
        task, subsets = x.task, self.subsets
        say(f"{len(subsets)} subsets of {len(task.modalities)} modalities, {len(x.cases)} cases ({x.split})")
        results = measure(x, subsets, say)
        by_subset = {s: [CaseResult(r.case, r.findings[subset_name(s)]) for r in results] for s in subsets}
        scores = {subset: task.summarise(mine) for subset, mine in by_subset.items()}
        self.table = SubsetTable(
            task.modalities,
            {subset: of.headline for subset, of in scores.items()},
            {task.chosen_by} if task.lower_is_better else (),
        )
        complete = self.table.complete()
        self.shapley = self.table.shapley(task.chance(by_subset[subsets[0]])) if complete else None
        return Answer(subset_report(scores, self.table, self.shapley), _rules(task, self.table))

    def draw(self, folder: Path, report: Report) -> None:
        """The whole tables as CSV, and the subsets as a heat map."""
        write_text(folder / "subsets.csv", csv_text(subset_rows(self.table)))
        if self.shapley is not None:
            write_text(folder / "shapley.csv", csv_text(shapley_rows(self.shapley)))
        draw_table(folder / "subsets.png", report.title, self.table)


def measure(x: LoadedRun, subsets: Sequence[Subset], say: Say) -> list[CaseResult]:
    """The task's findings of each case by subset; the processes share the cases.

    Args:
        x: the run.
        subsets: to score.
        say: told now and then how far it is.

    Returns:
        The results of all processes, in the order of the run's cases, on each of them.
    """
    x.model.eval()
    found: dict[str, Any] = {}
    started = said = time.monotonic()
    for result in x.task.evaluate_subsets(x.model, subsets, x.share, device=x.device, autocast=x.autocast):
        found[result.case] = dict(result.findings)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said, left = now, (now - started) / len(found) * (len(x.share) - len(found))
            say(f"case {len(found)} of {len(x.share)}: about {datetime.timedelta(seconds=round(left))} left")
    return [CaseResult(case, findings) for case, findings in zip(x.cases, x.gathered(found), strict=True)]


def draw_table(path: Path, title: str, table: SubsetTable) -> None:
    """The table as a heat map, or where it has too many rows to look at, a part of it that says so.

    Args:
        path: PNG file to write.
        title: above it.
        table: what to draw.
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


def _rules(task: Task, table: SubsetTable) -> dict[str, str]:
    rules = {
        **task.subset_rules(),
        "subsets": "the other modalities are left out as if they had never been there; nothing stands for them",
        MEAN: f"of the {len(table.subsets)} rows above it, each counts the same",
        WORST: "of these rows, column by column",
    }
    if table.complete():
        rules["Shapley value"] = (
            "what a modality adds to the score, on average over all orders in which modalities are added one by one "
            f"(Shapley 1953), exact, from the scores of all subsets; without any modality: {task.chance_rule}. The "
            "values of a column sum to the score of all modalities minus that of none; the share is of the sum of the "
            "values without their signs"
        )
    return rules
