"""The only reader of finished runs: their files without weights, or loaded and ready to be asked about cases."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree
from cggm_med.data.splits import Splits
from cggm_med.device import precision, select_device
from cggm_med.errors import CheckpointError, DataError, UnknownName, first_of
from cggm_med.files import digest_of
from cggm_med.models.base import MultimodalModel
from cggm_med.results.results import CaseValues, Record, Report, Scores
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.provenance import checkpoint_rule, provenance
from cggm_med.runs.settings import instantiate
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.task.capabilities import Volumes
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training.build import build

OVER_SUBSETS = "mean over subsets"
Say = Callable[[str], Any]
T = TypeVar("T")


class FinishedRun:
    """A finished run as it lies on disk. Each file is read when it is first asked for, weights are not.

    Args:
        path: of the run's folder.
        name: what to call the run in tables; default: as its folder.

    Attributes:
        folder: where its files are.
        settings: of ``config.yaml``.

    Raises:
        CheckpointError: if the folder is no run; later, if a file that is asked for is missing or damaged.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path, self.folder = path, RunFolder(path)
        self.settings: Tree = self.folder.stored_settings()
        self.name = name or path.name

    @functools.cached_property
    def report(self) -> Report:
        """Scores of the held-out cases."""
        if not self.folder.results.exists():
            raise CheckpointError(
                f"{self.path} is not finished: it has no {self.folder.results.name}; finish it with 'cggm-med train "
                f"--resume {self.path}' (a run that held no case out has no scores)"
            )
        return self.whole(self.folder.results, lambda file: Report.from_json(json.loads(file.read_text())))

    @functools.cached_property
    def splits(self) -> Splits:
        """Case ids of training, validation and test."""
        return self.folder.read_splits()

    @functools.cached_property
    def contents(self) -> Mapping[str, Mapping[str, str]]:
        """Digests by case, see ``Task.contents``."""

        def read(file: Path) -> dict[str, dict[str, str]]:
            return {case: {"prepared": of["prepared"], **of} for case, of in json.loads(file.read_text()).items()}

        return self.whole(self.folder.data, read)

    @functools.cached_property
    def cost(self) -> Record:
        """What the training took; empty if it was stopped in between."""
        return (
            self.whole(self.folder.cost, lambda file: json.loads(file.read_text())) if self.folder.cost.exists() else {}
        )

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """What was logged over training."""
        return self.whole(self.folder.metrics, lambda file: self.folder.read_metrics())

    @functools.cached_property
    def gradients(self) -> list[dict[str, Any]]:
        """Sketches of gradients over training; none if the run has no such file."""
        return self.whole(self.folder.gradients, lambda file: self.folder.read_gradients())

    @property
    def task(self) -> str:
        """Registered name."""
        return str(self.settings["task"]["name"])

    @property
    def task_class(self) -> type[Task]:
        """Class of the task."""
        task: type[Task] = registry.load(registry.TASKS, self.task)
        return task

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it was trained on."""
        return self.whole(self.folder.config, lambda file: tuple(self.settings["task"]["modalities"]))

    @property
    def strategy(self) -> str:
        """Registered name."""
        return self.whole(self.folder.config, lambda file: str(self.settings["strategy"]["name"]))

    @property
    def seed(self) -> int:
        """Of initial weights, splits, sampling and augmentation."""
        return self.whole(self.folder.config, lambda file: int(self.settings["train"]["seed"]))

    @property
    def scored(self) -> str:
        """What was scored: ``regions``, ``classes`` or ``values``."""
        row = self.report.scores.cases[0]
        return "regions" if "dice" in row else "classes" if "probability" in row else "values"

    @property
    def tested(self) -> frozenset[str]:
        """Cases that were scored."""
        return frozenset(row["case"] for row in self.report.scores.cases)

    @property
    def pair(self) -> tuple[int, frozenset[str]]:
        """What two runs share that can be compared as a pair: the seed and the scored cases."""
        return self.seed, self.tested

    @functools.cached_property
    def subsets(self) -> Sequence[Record]:
        """Rows of its scores by subset of the modalities; empty if it was not asked."""
        file = self.path / "subsets" / self.report.split / "results.json"
        return self.whole(file, lambda file: list(json.loads(file.read_text())["cases"])) if file.exists() else ()

    @functools.cached_property
    def values(self) -> CaseValues:
        """What each case adds to each score; over subsets of the modalities too, if the run has been asked."""
        task = self.task_class
        values = task.case_values(self.report.scores.cases)
        if self.subsets and task.chosen_by in values:
            total: dict[str, tuple[float, float]] = {}
            for subset in dict.fromkeys(row["subset"] for row in self.subsets):
                rows = [row for row in self.subsets if row["subset"] == subset]
                for case, (value, count) in task.case_values(rows)[task.chosen_by].items():
                    before = total.get(case, (0.0, 0.0))
                    total[case] = (before[0] + value, before[1] + count)
            values[f"{task.chosen_by}, {OVER_SUBSETS}"] = total
        return values

    @functools.cached_property
    def facts(self) -> Tree:
        """What using the network takes besides settings and weights, see ``Task.facts``."""
        return self.whole(self.folder.facts, lambda file: dict(json.loads(file.read_text())))

    @property
    def digest(self) -> str:
        """Of the weights' file, by which a mask tells what made it."""
        return digest_of(self.folder.weights.read_bytes())

    def make_task(self, overrides: Tree) -> Task:
        """The task, which has not looked for its data, with the run's settings and others over them."""
        return instantiate(self.folder.settings_with(overrides))[0]

    def restore(
        self, model: torch.nn.Module, strategy: BalancingStrategy | None, device: torch.device
    ) -> Mapping[str, float] | None:
        """Load the weights that speak for the run.

        Returns:
            Score and step of the validation that chose them; None if they are those of the last step.

        Raises:
            CheckpointError: if they are missing, damaged or of another network.
        """
        file = self.folder.weights
        weights = checkpoints.load(file, device)
        checkpoints.restore(weights, model, strategy, file)
        return weights.best if file.name == "best.pt" else None

    def whole(self, file: Path, read: Callable[[Path], T]) -> T:
        """What ``read`` makes of a file of this run.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        try:
            return read(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} is damaged or incomplete ({type(error).__name__}: {error}); finish it with 'cggm-med "
                f"train --resume {self.path}' or put back a whole copy"
            ) from error


@dataclass(frozen=True)
class Excluded:
    """A run that takes no part in a comparison or report, and why."""

    run: str
    reason: str


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

    def report(self, scores: Scores, rules: Mapping[str, str], more: Mapping[str, str] | None = None) -> Report:
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


def held_out(splits: Splits) -> str | None:
    """The split that a run is scored on: test, else validation, else none."""
    return "test" if splits.test else "validation" if splits.validation else None


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
