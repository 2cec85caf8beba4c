"""The way to ask a finished run anything: open it, check the task, measure, write and print what was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.device import select_device
from cggm_med.files import atomic_folder, require_unused, unused, write_json, write_text
from cggm_med.results.results import Report, Scores, print_results
from cggm_med.results.tables import csv_text
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.loaded import LoadedRun, Say, load_run
from cggm_med.runs.progress import speaker
from cggm_med.runs.scoring import score
from cggm_med.task.base import Task


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        scores: numbers and tables.
        rules: how they are defined.
        provenance: what is to be said of their making besides the usual.
    """

    scores: Scores
    rules: Mapping[str, str]
    provenance: Mapping[str, str] = field(default_factory=dict)


class Question(ABC):
    """A question to a finished run. It is asked once.

    Attributes:
        folder: inside the run's folder, for the results.
        written: files besides ``results.md``, in words.
    """

    folder: ClassVar[str]
    written: str

    @abstractmethod
    def check(self, task: Task, folder: Path) -> None:
        """Refuse a task that cannot be asked this, before its data are read, which may take long.

        Args:
            task: of the run.
            folder: of the run, for messages.

        Raises:
            ConfigError: names the task and what it would need.
        """

    @abstractmethod
    def measure(self, x: LoadedRun, say: Say) -> Answer:
        """The answer, the same in all processes, which share the cases.

        Args:
            x: the run and its cases.
            say: told how far it is.
        """

    @abstractmethod
    def draw(self, folder: Path, report: Report) -> None:
        """Write pictures and further tables of what was measured into a folder."""


def ask(
    question: Question, folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None
) -> Report:
    """Ask a finished run about its own held-out cases or about other data.

    Writes ``results.json``, ``results.csv``, ``results.md`` and what the question draws, all or nothing.

    Args:
        question: to ask.
        folder: of the run.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        split: see ``load_run``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        CheckpointError: if the folder is no run or its weights do not fit.
        ConfigError: if the run cannot be asked this.
        DataError: if a case was trained on and ``split`` was not given.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    with _processes(folder, overrides):
        if out is not None:
            require_unused(out)
        say = speaker(console)
        x = load_run(folder, overrides, say, split=split, check=lambda task: question.check(task, folder))
        answer = question.measure(x, say)
        report = x.report(answer.scores, answer.rules, answer.provenance)
        target = out or _new_folder(folder / question.folder / x.name, x.device)
        if distributed.rank() == 0:
            with atomic_folder(target) as temporary:
                write_json(temporary / "results.json", report.to_json())
                write_text(temporary / "results.csv", csv_text(report.scores.cases))
                write_text(temporary / "results.md", report.to_markdown())
                question.draw(temporary, report)
            print_results(report, console)
            console.print(f"written: {target / 'results.md'}, {question.written}")
    return report


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Score a finished run as at the end of its training; arguments and errors as for ``ask``."""
    with _processes(folder, overrides):
        if out is not None:
            require_unused(out)
        x = load_run(folder, overrides, speaker(console), split=split)
        return score(x, out or _new_folder(folder / "evaluations" / x.name, x.device), console)


def _processes(folder: Path, overrides: Tree) -> AbstractContextManager[None]:
    """All processes that torchrun started, on the run's device if nothing else is said."""
    return distributed.processes(select_device(RunFolder(folder).device_setting(overrides)))


def _new_folder(path: Path, device: torch.device) -> Path:
    """A folder that holds no results yet, the same for all processes: ``path``, or ``path-2`` and so on."""
    return Path(distributed.gather_json(str(unused(path)), device)[0])
