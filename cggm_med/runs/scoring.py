"""Scoring a run's cases in full: ``results.json``, ``results.md`` and pictures, as at the end of training."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cggm_med import distributed
from cggm_med.files import write_json, write_text
from cggm_med.results.results import Report, print_results
from cggm_med.runs.loaded import LoadedRun
from cggm_med.runs.progress import speaker
from cggm_med.training import validation

DRAWN_CASES = 4  # the first ones
DRAWN_WORST = 3


def score(x: LoadedRun, folder: Path, console: Console) -> Report:
    """Score the cases of a run, shared among the processes; write and print the results.

    Args:
        x: the run and its cases.
        folder: to write to.
        console: for the table.
    """
    speaker(console)(f"scoring {len(x.cases)} cases ({x.split})")
    pictures = validation.Drawings(folder / "figures", x.cases[:DRAWN_CASES], DRAWN_WORST)
    results = validation.evaluate(
        x.task, x.model, x.strategy, x.cases, x.config, device=x.device, full=True, draw=pictures
    )
    report = x.report(x.task.summarise(results), x.task.rules())
    if distributed.rank() == 0:
        write_json(folder / "results.json", report.to_json())
        write_text(folder / "results.md", report.to_markdown())
        x.task.draw(results, folder / "figures")
        print_results(report, console)
        console.print(f"written: {folder / 'results.md'} and pictures in {folder / 'figures'}")
    return report
