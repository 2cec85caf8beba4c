"""Score a run's cases in full and write ``results.json``, ``results.md`` and pictures."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from cggm_med import distributed
from cggm_med.errors import counted
from cggm_med.files import write_json, write_text
from cggm_med.results.results import Report, print_results
from cggm_med.runs.loaded_run import LoadedRun
from cggm_med.runs.progress import speaker
from cggm_med.training import validation

DRAWN_CASES = 4  # of the cases in their order
DRAWN_WORST = 3


def score_run(run: LoadedRun, folder: Path, console: Console) -> Report:
    """Score the cases of a run, shared among the processes; write and print the results.

    Args:
        run: the run and its cases.
        folder: for the results.
        console: for the table.
    """
    speaker(console)(f"scoring {counted(len(run.cases), 'case')} ({run.split})")
    pictures = validation.Drawings(folder / "figures", run.cases[:DRAWN_CASES], DRAWN_WORST)
    results = validation.evaluate_cases(
        run.task, run.model, run.strategy, run.cases, run.config, device=run.device, full=True, draw=pictures
    )
    report = run.make_report(run.task.summarise(results), run.task.rules())
    if distributed.rank() == 0:
        write_json(folder / "results.json", report.to_json())
        write_text(folder / "results.md", report.to_markdown())
        write_json(folder / "findings.json", run.task.findings())
        run.task.draw(results, folder / "figures")
        print_results(report, console)
        console.print(f"written: {folder / 'results.md'} and pictures in {folder / 'figures'}")
    return report
