"""Ask a finished run a question: load it, check that its task fits, compute, write and print the answer."""

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
from cggm_med.errors import ConfigError
from cggm_med.files import atomic_folder, require_unused, unused, write_json, write_text
from cggm_med.results.results import Report, Scores, print_results
from cggm_med.results.tables import csv_text
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.loaded_run import LoadedRun, Say, load_run
from cggm_med.runs.progress import speaker
from cggm_med.runs.scoring import score_run
from cggm_med.task.base import Task


@dataclass(frozen=True)
class Answer:
    """The results of a question.

    Attributes:
        scores: numbers and tables.
        rules: how they are defined.
        provenance: entries added to the usual provenance.
    """

    scores: Scores
    rules: Mapping[str, str]
    provenance: Mapping[str, str] = field(default_factory=dict)


class Question(ABC):
    """A question to a finished run. Each object is asked once.

    Attributes:
        folder: name of the folder for the results, inside the run's folder.
        written: the files written besides ``results.md``, in words.
    """

    folder: ClassVar[str]
    written: str

    @abstractmethod
    def check(self, task: Task, folder: Path) -> None:
        """Refuse a task that this question does not fit, before its data are read, which may take long.

        Args:
            task: the run's task.
            folder: the run's folder, for messages.

        Raises:
            ConfigError: names the task and what the question needs.
        """

    @abstractmethod
    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """The answer, the same in all processes, which share the cases.

        Args:
            run: the run and its cases.
            say: receives lines of progress.
        """

    @abstractmethod
    def draw(self, folder: Path, report: Report) -> None:
        """Write pictures and further tables of the answer to a folder."""


def ask(
    question: Question, folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None
) -> Report:
    """Ask a finished run a question about its held-out cases or about other data.

    Writes ``results.json``, ``results.csv``, ``results.md`` and what the question draws, all or nothing.

    Args:
        question: what to ask.
        folder: the run's folder.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        split: see ``load_run``.
        out: new or empty folder; default: a new one inside the run folder.

    Raises:
        CheckpointError: if the folder is not a run or its weights do not fit.
        ConfigError: if the question does not fit the run's task.
        DataError: if a case was trained on and ``split`` was not given.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    with _processes(folder, overrides):
        if out is not None:
            require_unused(out)
        say = speaker(console)
        run = load_run(folder, overrides, say, split=split, check=lambda task: question.check(task, folder))
        answer = question.answer(run, say)
        report = run.make_report(answer.scores, answer.rules, answer.provenance)
        target = out or _new_folder(folder / question.folder / run.name, run.device)
        if distributed.rank() == 0:
            with atomic_folder(target) as temporary:
                write_json(temporary / "results.json", report.to_json())
                write_text(temporary / "results.csv", csv_text(report.scores.cases))
                write_text(temporary / "results.md", report.to_markdown())
                write_json(temporary / "findings.json", run.task.findings())
                question.draw(temporary, report)
            print_results(report, console)
            console.print(f"written: {target / 'results.md'}, {question.written}")
    return report


def evaluate_run(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Score a finished run the way training does at its end; arguments and errors as for ``ask``."""
    with _processes(folder, overrides):
        if out is not None:
            require_unused(out)
        run = load_run(folder, overrides, speaker(console), split=split)
        return score_run(run, out or _new_folder(folder / "evaluations" / run.name, run.device), console)


def _processes(folder: Path, overrides: Tree) -> AbstractContextManager[None]:
    """All processes that torchrun started, on the device of the overrides or else of the run."""
    return distributed.processes(select_device(RunFolder(folder).device_setting(overrides)))


def _new_folder(path: Path, device: torch.device) -> Path:
    """A folder that holds no results yet, the same for all processes: ``path``, or ``path-2`` and so on.

    Raises:
        ConfigError: if the run lies in the cache of the Hugging Face Hub, where nobody looks for results.
    """
    if path.parts[0] == "hf:":
        raise ConfigError("results of a run of the Hub have no folder yet; say where to write them with --out")
    return Path(distributed.gather_json(str(unused(path)), device)[0])
