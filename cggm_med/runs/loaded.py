"""A finished run with its weights, and the cases that it is asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from cggm_med import distributed
from cggm_med.config import RunConfig, Tree
from cggm_med.data.splits import Splits
from cggm_med.device import precision, select_device
from cggm_med.errors import DataError, UnknownName, first_of
from cggm_med.models.base import MultimodalModel
from cggm_med.results.results import Report, Scores
from cggm_med.runs.finished import FinishedRun, held_out
from cggm_med.runs.provenance import checkpoint_rule, provenance
from cggm_med.runs.settings import instantiate
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.task.capabilities import Volumes
from cggm_med.training.build import build

Say = Callable[[str], Any]
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedRun:
    """A finished run with its weights, and the cases that it is asked about.

    Attributes:
        run: its files.
        overrides: settings over the run's.
        task: prepared.
        model, strategy: with the run's weights.
        cases: ids of what to score.
        split: what they are called.
        best: score and step of the validation that chose the weights; None if they are those of the last step.
        device: where to compute.
        name: of these cases, for a folder of results.
    """

    run: FinishedRun
    overrides: Tree
    task: Task
    model: MultimodalModel
    strategy: BalancingStrategy
    cases: tuple[str, ...]
    split: str
    best: Mapping[str, float] | None
    device: torch.device
    name: str

    @property
    def config(self) -> RunConfig:
        """The run's settings, with what is said now."""
        return self.task.config

    @property
    def volumes(self) -> Volumes:
        """What the task offers, of a run that was found to segment."""
        volumes = self.task.volumes()
        assert volumes is not None  # noqa: S101 - a question is asked only of tasks that passed its check
        return volumes

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Context for the network's computations."""
        return precision(self.config.train.precision, self.device)

    @property
    def share(self) -> tuple[str, ...]:
        """Those of the cases that are this process's to do."""
        return self.cases[distributed.rank() :: distributed.world_size()]

    def gathered(self, found: Mapping[str, T]) -> list[T]:
        """What the processes found of each of their cases, in the order of all cases; the same for every process."""
        everything = {case: x for part in distributed.gather_json(found, self.device) for case, x in part.items()}
        return [everything[case] for case in self.cases]

    def make_report(self, scores: Scores, rules: Mapping[str, str], more: Mapping[str, str] | None = None) -> Report:
        """Scores of these cases with their rules and where they come from, to which ``more`` is added."""
        return Report(
            task=self.config.task.name,
            strategy=self.config.strategy.name,
            split=self.split,
            scores=scores,
            rules={**rules, "checkpoint": checkpoint_rule(self.task, self.best, self.split)},
            provenance={**provenance(self.config, self.device), **(more or {})},
        )

    @property
    def other_data(self) -> bool:
        """Whether the cases may be others than the run's own."""
        return _names_data(self.overrides)

    def own(self, split: str, say: Say) -> LoadedRun:
        """The same run with cases of its own splits, whatever other data are scored.

        Args:
            split: ``train``, ``validation`` or ``test``.
            say: told what is done.

        Raises:
            DataError: if the split is empty or its cases are no longer there.
        """
        overrides = self.overrides
        if self.other_data:
            about_data = {"data": ("path",), "task": ("labels",)}
            overrides = {
                section: {key: value for key, value in keys.items() if key not in about_data.get(section, ())}
                for section, keys in overrides.items()
            }
        return load_run(self.run.path, overrides, say, split=split)

    def validation(self, say: Say) -> tuple[LoadedRun | None, str]:
        """The run's own validation cases, to choose or fit something by, unless they are what is scored.

        Returns:
            Them, or None and why not.

        Raises:
            DataError: if the run's own data are what is scored, and these cases are no longer there.
        """
        own = self.run.splits.validation
        if not own:
            return None, "the run has no validation split"
        if self.other_data:
            known = self.run.folder.digests(own)
            scored = any(not known.isdisjoint(files.values()) for files in self.task.contents().values())
        else:
            scored = not set(own).isdisjoint(self.cases)
        if scored:
            return None, "cases of the validation split are scored here"
        try:
            return self.own("validation", say), ""
        except DataError as error:
            if not self.other_data:
                raise
            return None, f"the run's own validation cases cannot be read ({str(error).splitlines()[0]})"


def load_run(
    folder: Path,
    overrides: Tree,
    say: Say,
    *,
    split: str | None,
    check: Callable[[Task], object] = lambda task: None,
) -> LoadedRun:
    """Load a finished run and the cases that it is to be asked about.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path`` and ``task.labels``.
        say: told what is done.
        split: ``train``, ``validation`` or ``test`` of the run, or ``all``; default: the run's held-out cases, or with
            other data all cases, provided that none was trained on.
        check: may refuse the task before its data are read, which may take long.

    Raises:
        CheckpointError: if the folder is no run or its weights do not fit.
        DataError: if a case was trained on and ``split`` was not given.
        UnknownName: if there is no such split.
    """
    run = FinishedRun(folder)
    task, strategy = instantiate(run.folder.settings_with(overrides))
    check(task)
    other_data = _names_data(overrides)
    found, own = task.find(say), run.splits
    known = {"all": found, **dict(own.items())}
    chosen = split or ("all" if other_data else held_out(own))
    if chosen is None:
        raise DataError(f"{folder} held no case out; name other scans with --data, or cases of the run with --split")
    if chosen not in known:
        raise UnknownName("split", chosen, known)
    available = set(found)
    cases = tuple(case for case in known[chosen] if case in available)
    if not cases:
        raise DataError(f"split '{chosen}' of {folder} has no case in these data; choose another with --split")
    task.prepare(Splits(train=(), validation=(), test=cases), say)
    if split is None and other_data:
        _require_unseen(run, task, cases)
    device = select_device(task.config.train.device)
    model = build(task, strategy, task.config, device)
    best = run.restore(model, strategy, device)
    name = Path(task.config.data.path).stem if other_data else chosen
    return LoadedRun(run, overrides, task, model, strategy, cases, chosen, best, device, name)


def _names_data(overrides: Tree) -> bool:
    return "path" in overrides.get("data", {})


def _require_unseen(run: FinishedRun, task: Task, cases: tuple[str, ...]) -> None:
    """Refuse to score cases that were used in training, whatever they are called now, unless a split is named."""
    seen = run.folder.digests((*run.splits.train, *run.splits.validation))
    familiar = [id for id, files in task.contents().items() if not seen.isdisjoint(files.values())]
    if familiar:
        names = first_of(familiar)
        raise DataError(
            f"{len(familiar)} of {len(cases)} cases were used to train this run ({names}): "
            "--split test scores its held-out cases, --split all scores everything, seen or not"
        )
