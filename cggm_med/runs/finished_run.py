"""Read a finished run from its folder, each file when it is first needed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import torch

from cggm_med import registry
from cggm_med.config import Tree
from cggm_med.data.splits import Splits
from cggm_med.errors import CheckpointError
from cggm_med.files import digest_of
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.models.base import MultimodalModel
from cggm_med.models.mean_network import MeanNetwork
from cggm_med.results.order import ORDER, OrderViolations, metrics_in_order, order_violations
from cggm_med.results.results import CaseValues, Record, Report
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.settings import completed, instantiate
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training.resume_check import changed_settings
from cggm_med.trees import in_form, parse_json

OVER_SUBSETS = "mean over subsets"
WORST_SUBSET = "worst subset"
OF_SUBSETS = (OVER_SUBSETS, WORST_SUBSET, f"{ORDER}{LOWER_IS_BETTER}")  # ends of metrics about several subsets
T = TypeVar("T")


class FinishedRun:
    """A finished run on disk. Each file is read when it is first needed, the weights only by ``restore``.

    Args:
        path: the run's folder.
        name: the run's name in tables; default: that of its folder.

    Attributes:
        folder: the paths of its files.
        settings: the content of ``config.yaml``.

    Raises:
        CheckpointError: if the folder is not a run; later, if a requested file is missing or damaged.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.folder = RunFolder(path)
        self.path = self.folder.path
        self.settings: Tree = self.folder.stored_settings()
        self.name = name or path.name

    @functools.cached_property
    def report(self) -> Report:
        """Scores of the held-out cases."""
        if self.members:
            raise CheckpointError(
                f"{self.path} is an ensemble, which was not trained; name its runs instead, or score it with 'cggm-med "
                f"evaluate {self.path}'"
            )
        if self.folder.shared.exists():
            raise CheckpointError(
                f"{self.path} was passed on without its scores; score it with 'cggm-med evaluate {self.path} --data "
                "PATH'"
            )
        if not self.folder.results.exists():
            raise CheckpointError(
                f"{self.path} is not finished: it has no {self.folder.results.name}; finish it with 'cggm-med train "
                f"--resume {self.path}' (a run that held no case out has no scores)"
            )
        return self.whole(self.folder.results, lambda file: Report.from_json(parse_json(file.read_text())))

    @functools.cached_property
    def members(self) -> tuple[FinishedRun, ...]:
        """The runs of an ensemble, each with its settings and weights; none of an ordinary run."""
        return tuple(FinishedRun(self.folder.members / each["folder"]) for each in self.described_members)

    @functools.cached_property
    def described_members(self) -> Sequence[Record]:
        """What is said of each run of an ensemble: ``name``, ``digest``, ``strategy``, ``seed`` and ``checkpoint``."""
        if not self.folder.ensemble.exists():
            return ()
        return self.whole(self.folder.ensemble, lambda file: list(parse_json(file.read_text())["runs"]))

    @functools.cached_property
    def splits(self) -> Splits:
        """Case ids of training, validation and test."""
        return self.folder.read_splits()

    @functools.cached_property
    def contents(self) -> Mapping[str, Mapping[str, str]]:
        """Digests by case, see ``Task.contents``."""

        def read(file: Path) -> dict[str, dict[str, str]]:
            content = in_form(parse_json(file.read_text()), {str: {str: str}})
            return {case: {"prepared": of["prepared"], **of} for case, of in content.items()}

        return self.whole(self.folder.data, read)

    @functools.cached_property
    def groups(self) -> Mapping[str, str]:
        """The patient of each case, see ``Member.group``; a case that is not named is a patient of its own."""
        if not self.folder.groups.exists():
            return {}
        return self.whole(self.folder.groups, lambda file: in_form(parse_json(file.read_text()), {str: str}))

    @functools.cached_property
    def cost(self) -> Record:
        """Time and memory of the training; empty if it was interrupted."""
        if not self.folder.cost.exists():
            return {}
        form = {str: (float, str, NoneType)}
        return self.whole(self.folder.cost, lambda file: in_form(parse_json(file.read_text()), form))

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records logged during training."""
        return self.whole(self.folder.metrics, lambda file: self.folder.read_metrics())

    @functools.cached_property
    def gradients(self) -> list[dict[str, Any]]:
        """Sketches of gradients logged during training; none if the run has no such file."""
        return self.whole(self.folder.gradients, lambda file: self.folder.read_gradients())

    @property
    def task(self) -> str:
        """Registered name of the task."""
        return str(self.settings["task"]["name"])

    @functools.cached_property
    def task_class(self) -> type[Task]:
        """Class of the task."""
        return registry.load(registry.TASKS, self.task)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that it was trained on."""
        return self.whole(self.folder.config, lambda file: tuple(self.settings["task"]["modalities"]))

    @property
    def strategy(self) -> str:
        """Registered name of the strategy."""
        return self.whole(self.folder.config, lambda file: str(self.settings["strategy"]["name"]))

    @property
    def seed(self) -> int:
        """Seed of initial weights, splits, sampling and augmentation."""
        return self.whole(self.folder.config, lambda file: int(self.settings["train"]["seed"]))

    @property
    def max_steps(self) -> int:
        """Optimizer steps that its settings allow."""
        train = self.settings["train"]
        return int(train["epochs"] * train["steps_per_epoch"])

    @functools.cached_property
    def steps(self) -> int:
        """Optimizer steps of its training: all that its settings allow, unless it ended early."""
        return int(self.ended.get("step", self.max_steps))

    @functools.cached_property
    def ended(self) -> Record:
        """After which ``step`` its training ended before its last one, and ``why``; empty if it did not."""
        if not self.folder.ended.exists():
            return {}

        def read(file: Path) -> Record:
            content = in_form(parse_json(file.read_text()), {"step": int, "why": str})
            return {"step": content["step"], "why": content["why"]}

        return self.whole(self.folder.ended, read)

    @functools.cached_property
    def parts(self) -> Sequence[Mapping[str, int]]:
        """After which ``step`` the batch was computed in how many ``parts``, where memory ended; mostly empty."""
        if not self.folder.parts.exists():
            return ()
        form = [{"step": int, "parts": int}]
        return self.whole(self.folder.parts, lambda file: list(in_form(parse_json(file.read_text()), form)))

    @property
    def scored(self) -> str:
        """The kind of scored targets: ``regions``, ``classes`` or ``values``."""
        row = self.report.scores.cases[0]
        return "regions" if "dice" in row else "classes" if "probability" in row else "values"

    @property
    def tested(self) -> frozenset[str]:
        """Cases that were scored."""
        return frozenset(row["case"] for row in self.report.scores.cases)

    @property
    def pair(self) -> tuple[int, frozenset[str]]:
        """Seed and scored cases: runs that share both can be compared as a pair."""
        return self.seed, self.tested

    @functools.cached_property
    def subsets(self) -> Sequence[Record]:
        """Rows of scores by modality subset; empty if ``evaluate --subsets`` was not run."""
        file = self.path / "subsets" / self.report.split / "results.json"
        return self.whole(file, lambda file: list(parse_json(file.read_text())["cases"])) if file.exists() else ()

    @functools.cached_property
    def subset_values(self) -> Mapping[str, CaseValues]:
        """What each case adds to each metric, by modality subset; empty if these were not scored."""
        # All subsets at once, since a task looks for its metrics each time; no id holds a line break.
        rows = [{**row, "case": f"{row['subset']}\n{row['case']}"} for row in self.subsets]
        found: dict[str, CaseValues] = {}
        for metric, values in (self.task_class.case_values(rows) if rows else {}).items():
            for key, value in values.items():
                subset, _, case = key.partition("\n")
                found.setdefault(subset, {}).setdefault(metric, {})[case] = value
        return found

    @functools.cached_property
    def orders(self) -> Mapping[str, OrderViolations]:
        """Order violations by metric; empty where no scored subset is a part of another."""
        task, found = self.task_class, {}
        for metric in metrics_in_order(next(iter(self.subset_values.values()), {}), task.chosen_by):
            by_subset = {subset: values[metric] for subset, values in self.subset_values.items()}
            if (order := order_violations(by_subset, task.lower_is_better)) is not None:
                found[metric] = order
        return found

    @functools.cached_property
    def values(self) -> CaseValues:
        """What each case adds to each metric; also over modality subsets, if these were scored."""
        chosen_by = self.task_class.chosen_by
        values = self.task_class.case_values(self.report.scores.cases)
        if self.subsets and chosen_by in values:
            total: dict[str, tuple[float, float]] = {}
            for of_subset in self.subset_values.values():
                for case, (value, count) in of_subset[chosen_by].items():
                    before = total.get(case, (0.0, 0.0))
                    total[case] = (before[0] + value, before[1] + count)
            values[f"{chosen_by}, {OVER_SUBSETS}"] = total
        if order := self.orders.get(chosen_by):
            of_cases = {case: (float(n), float(order.pairs)) for case, n in order.any.items()}
            values[f"{chosen_by}, {ORDER}{LOWER_IS_BETTER}"] = of_cases
        return values

    @property
    def headline(self) -> dict[str, float | None]:
        """The metrics that stand for all, and the worst subset of the modalities, if these were scored."""
        order = self.orders.get(self.task_class.chosen_by)
        worst = {} if order is None else {f"{self.task_class.chosen_by}, {WORST_SUBSET}": order.worst_mean}
        return {**self.report.scores.headline, **worst}

    @functools.cached_property
    def facts(self) -> Tree:
        """What the trained network needs besides settings and weights, see ``Task.facts``."""
        return self.whole(self.folder.facts, lambda file: dict(parse_json(file.read_text())))

    @functools.cached_property
    def postprocessing(self) -> Tree:
        """What was chosen after training, see ``Task.use_postprocessing``; empty if nothing was."""
        if not self.folder.postprocessing.exists():
            return {}
        return self.whole(self.folder.postprocessing, lambda file: dict(parse_json(file.read_text())))

    @functools.cached_property
    def initial(self) -> Record:
        """Which weights of another run it started from, see ``start_from_run``; empty if it started from its own."""
        if not self.folder.initial.exists():
            return {}
        return self.whole(self.folder.initial, lambda file: dict(parse_json(file.read_text())))

    @property
    def digest(self) -> str:
        """Digest of the weights' file, by which a mask names the run that made it; of an ensemble, of all of them."""
        return digest_of((self.folder.ensemble if self.members else self.folder.weights).read_bytes())

    def require_ended(self) -> None:
        """Refuse a run whose training or scoring has not finished.

        Raises:
            CheckpointError: says how to go on.
        """
        if self.members or self.folder.results.exists() or self.folder.shared.exists():
            return
        last = checkpoints.load(self.folder.checkpoints / "last.pt", torch.device("cpu"))
        if held_out(self.splits) is not None or last.step < self.steps:
            raise CheckpointError(f"{self.path} has not ended; go on with: cggm-med train --resume {self.path}")

    def make_task(self, overrides: Tree) -> Task:
        """The task with the run's settings and ``overrides``, before it looks for its data."""
        task, _ = instantiate(self.folder.settings_after_training(overrides))
        task.use_postprocessing(self.postprocessing)
        return task

    def network(self, task: Task, device: torch.device) -> MultimodalModel:
        """The run's network with its final weights; of an ensemble, the mean of its networks.

        Args:
            task: of this run.
            device: where to put it.

        Raises:
            CheckpointError: if weights are missing, damaged or belong to another network.
        """
        if self.members:
            return MeanNetwork([run.network(run.make_task({}), device) for run in self.members], task.average)
        model = task.network().to(device)
        self.restore(model, None, device)
        return model

    def restore(
        self, model: torch.nn.Module, strategy: BalancingStrategy | None, device: torch.device
    ) -> Mapping[str, float] | None:
        """Load the run's final weights: the best by validation, else the last.

        Returns:
            Score and step of the validation that chose them; None if they are those of the last step.

        Raises:
            CheckpointError: if they are missing or damaged, belong to another network, or were trained with other
                settings than the run's file says now.
        """
        file = self.folder.weights
        weights = checkpoints.load(file, device)
        # A run that was passed on has its settings in one place only.
        if weights.config and (changed := changed_settings(completed(weights.config), completed(self.settings))):
            raise CheckpointError(
                f"{self.folder.config} was changed after the training ({file.name} != now): {'; '.join(changed)}; put "
                "that back"
            )
        checkpoints.restore(weights, model, strategy, file)
        return self.best_of(weights)

    def best_of(self, weights: checkpoints.Checkpoint) -> Mapping[str, float] | None:
        """Score and step of the validation that chose the final weights; None if they are those of the last step."""
        return None if self.folder.weights.name == "last.pt" else weights.best

    def whole(self, file: Path, read: Callable[[Path], T]) -> T:
        """Read a file of this run with ``read``.

        Raises:
            CheckpointError: if it is missing or damaged.
        """
        try:
            return read(file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            absent = isinstance(error, FileNotFoundError)
            what = "is missing" if absent else f"is damaged or incomplete ({type(error).__name__}: {error})"
            # Other files are written when a run begins, and while it trains.
            written_last = file == self.folder.results
            again = f"write it anew with 'cggm-med train --resume {self.path}', or " if written_last else ""
            raise CheckpointError(f"{file} {what}; {again}put back a whole copy") from error


@dataclass(frozen=True)
class Excluded:
    """A run that takes no part in a comparison or report, and why."""

    run: str
    reason: str


def held_out(splits: Splits) -> str | None:
    """The split that a run is scored on: test, else validation, else none."""
    return "test" if splits.test else "validation" if splits.validation else None
