"""The question of an external validation: scores, agreement of volumes and strata, over patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cggm_med.errors import ConfigError, counted
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.external.figure import bland_altman_figure
from cggm_med.evaluation.external.strata import read_strata
from cggm_med.evaluation.external.validation import RULES, Validation, validate
from cggm_med.files import write_text
from cggm_med.results.results import Report
from cggm_med.results.tables import csv_text
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.base import Task
from cggm_med.training import validation


class ExternalQuestion(Question):
    """How a run does on patients of others: the scores of a plain evaluation, intervals, agreement and strata.

    Args:
        strata: CSV file with a column ``case``, see ``read_strata``; None: only by true volume.
    """

    folder = "external"
    written = "results.json, results.csv, agreement.csv, strata.csv and bland_altman.png"

    def __init__(self, strata: Path | None) -> None:
        self.strata = strata

    def check(self, task: Task, folder: Path) -> None:
        """Refuse runs that do not segment."""
        if task.volumes() is None:
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}', which measures no volumes; leave out --external"
            )

    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """All metrics of all cases, and what follows from them."""
        strata = {} if self.strata is None else read_strata(self.strata, run.cases)
        say(f"scoring {counted(len(run.cases), 'case')} ({run.split})")
        results = validation.evaluate_cases(
            run.task, run.model, run.strategy, run.cases, run.config, device=run.device, full=True
        )
        scores = run.task.summarise(results)
        patients = {case.id: case.patient for case in run.volumes.found.cases}
        self.validation = validate(scores.cases, patients, strata)
        of_file = {} if self.strata is None else {"strata": self.strata.name}
        return Answer(
            replace(scores, tables=(*scores.tables, *self.validation.tables)), {**run.task.rules(), **RULES}, of_file
        )

    def draw(self, folder: Path, report: Report) -> None:
        """Tables as CSV and a Bland-Altman plot."""
        write_validation(folder, report, self.validation)


def write_validation(folder: Path, report: Report, found: Validation) -> None:
    """Write ``agreement.csv``, ``strata.csv`` and ``bland_altman.png``."""
    write_text(folder / "agreement.csv", csv_text(found.agreement))
    write_text(folder / "strata.csv", csv_text(found.strata))
    bland_altman_figure(folder / "bland_altman.png", report.title, found.volumes, found.found)
