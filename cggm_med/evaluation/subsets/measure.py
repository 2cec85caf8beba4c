"""``evaluate --subsets``: a finished run scored on subsets of its modalities, each modality encoded once."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.device import precision
from cggm_med.evaluation.results_folder import write_results
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
from cggm_med.files import require_unused, write_text
from cggm_med.results.results import Report, print_report
from cggm_med.results.tables import csv_text
from cggm_med.runs.train import FinishedRun, checkpoint_rule, new_folder, open_finished, provenance, speaker
from cggm_med.task.base import CaseResult, Task
from cggm_med.task.segmentation import SegmentationTask

SECONDS_BETWEEN_LINES = 20


def evaluate(
    folder: Path, overrides: Tree, console: Console, *, wanted: str, split: str | None, out: Path | None
) -> Report:
    """Score a finished run on its own held-out cases or on other data, from subsets of the modalities.

    Writes ``results.json``, ``results.md``, ``results.csv`` (cases), ``subsets.csv`` and ``subsets.png`` (the table),
    and with all subsets ``shapley.csv``: all or nothing.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        wanted: see ``wanted_subsets``.
        split: see ``run.open_finished``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        UnknownName: for a modality that the run does not have.
        ConfigError: if the subsets are too many, or the task cannot score any.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    if out is not None:
        require_unused(out)

    def check(task: Task) -> tuple[Subset, ...]:
        return wanted_subsets(wanted, task.modalities)

    say = speaker(console)
    x = open_finished(folder, overrides, say, split=split, check=check)
    todo = check(x.task)
    say(f"{len(todo)} subsets of {len(x.task.modalities)} modalities, {len(x.cases)} cases ({x.split})")
    results = measure(x, todo, say)
    by_subset = {s: [CaseResult(r.case, r.findings[subset_name(s)]) for r in results] for s in todo}
    scores = {subset: x.task.summarise(mine) for subset, mine in by_subset.items()}
    table = SubsetTable(
        x.task.modalities,
        {subset: of.headline for subset, of in scores.items()},
        {x.task.chosen_by} if x.task.lower_is_better else (),
    )
    shapley = table.shapley(x.task.chance(by_subset[todo[0]])) if table.complete() else None
    rules = {**_rules(x.task, table), "checkpoint": checkpoint_rule(x.folder, x.task, x.weights, x.split)}
    report = Report(
        task=x.config.task.name,
        strategy=x.config.strategy.name,
        split=x.split,
        scores=subset_report(scores, table, shapley),
        rules=rules,
        provenance=provenance(x.config, x.device),
    )
    target = out or new_folder(folder / "subsets" / x.name, x.device)
    if distributed.rank() == 0:

        def more(folder: Path) -> None:
            write_text(folder / "subsets.csv", csv_text(subset_rows(table)))
            if shapley is not None:
                write_text(folder / "shapley.csv", csv_text(shapley_rows(shapley)))
            draw_table(folder / "subsets.png", report.title, table)

        write_results(target, report, more)
        print_report(report, console)
        console.print(f"written: {target / 'results.md'}, results.json, tables as CSV, and subsets.png")
    return report


def measure(x: FinishedRun, todo: Sequence[Subset], say: Callable[[str], Any]) -> list[CaseResult]:
    """The task's findings of each case by subset; the processes share the cases.

    Args:
        x: the run.
        todo: the subsets.
        say: told now and then how far it is.

    Returns:
        The results of all processes, in the order of the run's cases, on each of them.
    """
    x.model.eval()
    mine = list(x.cases)[distributed.rank() :: distributed.world_size()]
    autocast = precision(x.config.train.precision, x.device)
    found: dict[str, Any] = {}
    started = said = time.monotonic()
    for result in x.task.evaluate_subsets(x.model, todo, mine, device=x.device, autocast=autocast):
        found[result.case] = dict(result.findings)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES:
            said, left = now, (now - started) / len(found) * (len(mine) - len(found))
            say(f"case {len(found)} of {len(mine)}: about {datetime.timedelta(seconds=round(left))} left")
    everything = {case: f for part in distributed.gather_json(found, x.device) for case, f in part.items()}
    return [CaseResult(case, everything[case]) for case in x.cases]


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
    scores = task.dice_rules() if isinstance(task, SegmentationTask) else task.rules()
    rules = {
        **scores,
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
