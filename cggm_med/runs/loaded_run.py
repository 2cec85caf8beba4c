"""Load a finished run: its task, weights and strategy, and the cases to evaluate."""

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
from cggm_med.runs.ensemble import members_in_words
from cggm_med.runs.finished_run import FinishedRun, held_out
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
    """A finished run with its weights, and the cases to evaluate.

    Attributes:
        run: its files.
        overrides: settings that replace the run's.
        task: prepared.
        model, strategy: with the run's weights; of an ensemble, the strategy has no classifier heads.
        cases: ids of the cases to evaluate.
        split: the name of these cases in results.
        best: score and step of the validation that chose the weights; None if they are those of the last step.
        device: where to compute.
        name: of the folder for results on these cases.
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
        """The run's settings, with the overrides."""
        return self.task.config

    @property
    def volumes(self) -> Volumes:
        """The task's volumes, for a run of a task that segments."""
        volumes = self.task.volumes()
        assert volumes is not None  # noqa: S101 - a question is asked only of tasks that passed its check
        return volumes

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]:
        """Context for the network's computations."""
        return precision(self.config.train.precision, self.device)

    @property
    def share(self) -> tuple[str, ...]:
        """The cases of this process, its share of all."""
        return self.cases[distributed.rank() :: distributed.world_size()]

    def gathered(self, results: Mapping[str, T]) -> list[T]:
        """The results by case of all processes, in the order of all cases, on every process."""
        by_case: dict[str, T] = {}
        for part in distributed.gather_json(results, self.device):
            by_case |= part
        return [by_case[case] for case in self.cases]

    def make_report(self, scores: Scores, rules: Mapping[str, str], more: Mapping[str, str] | None = None) -> Report:
        """Scores of these cases with their rules and provenance, to which ``more`` is added."""
        runs = self.run.described_members
        strategies = ", ".join(dict.fromkeys(run["strategy"] for run in runs))
        chosen = {"checkpoint": checkpoint_rule(self.task, self.best, self.split)}
        if runs:
            seen = "; some of these scores' cases chose their weights, so they are optimistic"
            said = f"the mean of the probabilities of {len(runs)} runs: {members_in_words(runs)}"
            chosen = {"ensemble": said + (seen if self.split == "validation" else "")}
        return Report(
            task=self.config.task.name,
            strategy=f"mean of {len(runs)} runs ({strategies})" if runs else self.config.strategy.name,
            split=self.split,
            scores=scores,
            rules={**rules, **chosen},
            provenance={
                **provenance(self.config, self.device),
                **self._ended_early(),
                **self._in_parts(),
                **self._started_from(),
                **(more or {}),
            },
        )

    def _ended_early(self) -> dict[str, str]:
        """After how many steps the training ended, and why; nothing of one that went on to its last step."""
        run = self.run
        return {"steps": f"{run.steps} of at most {run.max_steps}: {run.ended['why']}"} if run.ended else {}

    def _in_parts(self) -> dict[str, str]:
        """In how many parts a batch was computed, where memory ended."""
        said = ", ".join(f"in {change['parts']} parts after step {change['step']}" for change in self.run.parts)
        return {"batch": f"computed {said}, since the memory of the device ended"} if said else {}

    def _started_from(self) -> dict[str, str]:
        initial = self.run.initial
        if not initial:
            return {}
        copied, every = initial["values"]
        name = Path(initial["run"]).name
        return {"initial weights": f"{copied} of {every} parameters from run {name}, weights {initial['digest']}"}

    @property
    def other_data(self) -> bool:
        """Whether the cases may come from other data than the run's own."""
        return _names_data(self.overrides)

    def own(self, split: str, say: Say) -> LoadedRun:
        """The same run with the cases of one of its own splits, even if other data are evaluated.

        Args:
            split: ``train``, ``validation`` or ``test``.
            say: receives lines of progress.

        Raises:
            DataError: if the split is empty or its cases no longer exist.
        """
        overrides = self.overrides
        if self.other_data:
            about_data = {"data": ("path", "allow_missing", "required"), "task": ("labels",)}
            overrides = {
                section: {key: value for key, value in keys.items() if key not in about_data.get(section, ())}
                for section, keys in overrides.items()
            }
        return load_run(self.run.path, overrides, say, split=split)

    def validation(self, say: Say) -> tuple[LoadedRun | None, str]:
        """The run with its own validation cases, to choose or fit something by, unless these cases are evaluated.

        Returns:
            The run with these cases, and an empty text; or None and the reason.

        Raises:
            DataError: if the run's own data are evaluated, and these cases no longer exist.
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
    """Load a finished run and the cases to evaluate.

    Args:
        folder: the run's folder.
        overrides: settings such as ``data.path`` and ``task.labels``.
        say: receives lines of progress.
        split: ``train``, ``validation`` or ``test`` of the run, or ``all``; default: the run's held-out cases, or with
            other data all cases, provided that none was trained on.
        check: may refuse the task by an error before its data are read, which may take long.

    Raises:
        CheckpointError: if the folder is not a run or its weights do not fit.
        DataError: if a case was trained on and ``split`` was not given.
        UnknownName: if there is no such split.
    """
    run = FinishedRun(folder)
    other_data = _names_data(overrides)
    if run.folder.shared.exists() and not other_data:
        raise DataError(f"{folder} was passed on without its cases; name scans with --data")
    if other_data and hasattr(run.task_class.DataConfig, "allow_missing"):
        # Other cases are scored with what they have.
        overrides = {**overrides, "data": {"allow_missing": True, **overrides["data"]}}
    task, strategy = instantiate(run.folder.settings_after_training(run.folder.on_other_data(overrides)))
    check(task)
    task.use_postprocessing(run.postprocessing)
    ids, own = task.find(say), run.splits
    known = {"all": ids, **dict(own.items())}
    chosen = split or ("all" if other_data else held_out(own))
    if chosen is None:
        raise DataError(f"{folder} held no case out; name other scans with --data, or cases of the run with --split")
    if chosen not in known:
        raise UnknownName("split", chosen, known)
    available = set(ids)
    cases = tuple(case for case in known[chosen] if case in available)
    if not cases:
        raise DataError(f"split '{chosen}' of {folder} has no case in these data; choose another with --split")
    task.recall(run.facts)
    task.prepare(Splits(train=(), validation=(), test=cases), say)
    if split is None and other_data:
        _require_unseen(run, task, cases)
    device = select_device(task.config.train.device)
    model: MultimodalModel
    if run.members:
        model, best = run.network(task, device), None
    else:
        model = build(task, strategy, task.config, device)
        best = run.restore(model, strategy, device)
    name = Path(task.config.data.path).stem if other_data else chosen
    return LoadedRun(run, overrides, task, model, strategy, cases, chosen, best, device, name)


def _names_data(overrides: Tree) -> bool:
    return "path" in overrides.get("data", {})


def _require_unseen(run: FinishedRun, task: Task, cases: tuple[str, ...]) -> None:
    """Refuse cases that were used in training, even under other names."""
    seen = run.folder.digests((*run.splits.train, *run.splits.validation))
    again = set(task.familiar())
    familiar = [id for id, files in task.contents().items() if id in again or not seen.isdisjoint(files.values())]
    if familiar:
        names = first_of(familiar)
        raise DataError(
            f"{len(familiar)} of {len(cases)} cases were used to train this run ({names}): "
            "--split test scores its held-out cases, --split all scores everything, seen or not"
        )
