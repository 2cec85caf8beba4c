"""The finished runs of a comparison: read back, checked to be of one task on the same data, and named."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cggm_med import registry
from cggm_med.comparison.variants import label
from cggm_med.config import Tree, to_tree
from cggm_med.errors import CggmMedError, CheckpointError
from cggm_med.results.results import CaseValues, Record
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.settings import make_config
from cggm_med.task.base import Task
from cggm_med.training.checkpoint import FREE_SETTINGS

OVER_SUBSETS = "mean over subsets"
SAME = ("task", "data", "preset")  # sections in which runs must agree; a difference elsewhere becomes part of the name
NEITHER = {*FREE_SETTINGS, "train.seed", "strategy.name"}  # settings that neither forbid a comparison nor name a run


@dataclass(frozen=True)
class ComparedRun:
    """One finished run.

    Attributes:
        folder: of the run.
        name: what tables call runs of this kind.
        settings: by dotted key.
        report: ``results.json``.
        subsets: rows of its scores by subset of the modalities; empty if they were not computed.
        splits: case ids.
        digests: of each case.
        cost: ``cost.json``; empty if the run was stopped in between.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    report: Record
    subsets: Sequence[Record]
    splits: Mapping[str, Sequence[str]]
    digests: Mapping[str, str]
    cost: Record

    @property
    def seed(self) -> int:
        """Of initial weights, splits, sampling and augmentation."""
        return int(self.settings["train.seed"])

    @property
    def tested(self) -> frozenset[str]:
        """Cases that were scored."""
        return frozenset(row["case"] for row in self.report["cases"])

    @property
    def pair(self) -> tuple[int, frozenset[str]]:
        """What two runs share that can be compared as a pair: the seed and the scored cases."""
        return self.seed, self.tested

    @functools.cached_property
    def values(self) -> CaseValues:
        """What each case adds to each score; over subsets of the modalities too, if the run has been asked."""
        values = self.task.case_values(self.report["cases"])
        if self.subsets and self.task.chosen_by in values:
            total: dict[str, tuple[float, float]] = {}
            for subset in dict.fromkeys(row["subset"] for row in self.subsets):
                rows = [row for row in self.subsets if row["subset"] == subset]
                for case, (value, count) in self.task.case_values(rows)[self.task.chosen_by].items():
                    before = total.get(case, (0.0, 0.0))
                    total[case] = (before[0] + value, before[1] + count)
            values[f"{self.task.chosen_by}, {OVER_SUBSETS}"] = total
        return values

    @property
    def task(self) -> type[Task]:
        """Class of the task."""
        task: type[Task] = registry.load(registry.TASKS, self.report["task"])
        return task


@dataclass(frozen=True)
class Excluded:
    """A run that takes no part, and why."""

    run: str
    reason: str


def read_run(folder: Path, name: str | None = None) -> ComparedRun:
    """Read a finished run.

    Args:
        folder: of the run.
        name: what to call it; default: its strategy and all settings that are not that strategy's defaults.

    Raises:
        CheckpointError: if the folder is no run, or is not finished or damaged.
    """
    run = RunFolder(folder)
    stored = run.stored_settings()
    if not run.results.exists():
        raise CheckpointError(
            f"{folder} is not finished: it has no {run.results.name}; cggm-med train --resume {folder}"
        )
    try:
        report = json.loads(run.results.read_text())
        contents = json.loads(run.data.read_text())
        subset_file = folder / "subsets" / report["split"] / "results.json"
        return ComparedRun(
            folder=folder,
            name=name or _name(stored),
            settings=flat(stored),
            report=report,
            subsets=json.loads(subset_file.read_text())["cases"] if subset_file.exists() else (),
            splits=dict(run.read_splits().items()),
            digests={case: digests["prepared"] for case, digests in contents.items()},
            cost=json.loads(run.cost.read_text()) if run.cost.exists() else {},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is damaged: {type(error).__name__} {error}; put back a whole copy") from error


def read_runs(folders: Mapping[Path, str | None]) -> tuple[list[ComparedRun], list[Excluded]]:
    """Read runs and leave out, with the reason, those that cannot be compared with most of the others.

    Args:
        folders: of runs, and what to call each, see ``read_run``; without names, settings that all runs share are not
            named.
    """
    runs: list[ComparedRun] = []
    excluded: list[Excluded] = []
    for folder, name in folders.items():
        try:
            runs.append(read_run(folder, name))
        except CggmMedError as error:
            excluded.append(Excluded(str(folder), str(error)))
    if not runs:
        return runs, excluded
    usual = Counter(_shared(run) for run in runs).most_common(1)[0][0]
    known: dict[str, str] = {}
    seen: dict[tuple[str, tuple[int, frozenset[str]]], Path] = {}
    kept = []
    for run in runs:
        reason = None
        if _shared(run) != usual:
            mine, theirs = dict(_shared(run)), dict(usual)
            keys = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
            reason = "; ".join(f"{key} is {mine.get(key)}, of most runs {theirs.get(key)}" for key in keys)
        elif other := [c for c, digest in run.digests.items() if known.setdefault(c, digest) != digest]:
            reason = f"{len(other)} of its cases hold other data under the same name ({', '.join(other[:3])})"
        elif twin := seen.get((run.name, run.pair)):
            reason = f"the same strategy, settings, seed and cases as {twin}"
        if reason is None:
            seen[run.name, run.pair] = run.folder
            kept.append(run)
        else:
            excluded.append(Excluded(str(run.folder), reason))
    if not any(folders.values()):
        names = without_common(run.name for run in kept)
        kept = [replace(run, name=names[run.name]) for run in kept]
    return kept, excluded


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    Example:
        >>> flat({"optim": {"lr": 0.1}, "preset": "tiny"})
        {'optim.lr': 0.1, 'preset': 'tiny'}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def without_common(names: Iterable[str]) -> dict[str, str]:
    """Names without the settings that all of them share.

    Example:
        >>> without_common(["joint, epochs=5", "cggm, epochs=5, rho=1.3"])
        {'joint, epochs=5': 'joint', 'cggm, epochs=5, rho=1.3': 'cggm, rho=1.3'}
    """
    parts = {name: name.split(", ") for name in names}
    if len(parts) < 2:
        return {name: name for name in parts}
    common = set.intersection(*(set(words[1:]) for words in parts.values()))
    return {
        name: ", ".join(w for i, w in enumerate(words) if i == 0 or w not in common) for name, words in parts.items()
    }


def _shared(run: ComparedRun) -> tuple[tuple[str, str], ...]:
    """In what runs must agree, as text."""
    found = {key: value for key, value in run.settings.items() if key.split(".")[0] in SAME and key not in NEITHER}
    return tuple(sorted((key, str(value)) for key, value in ({**found, "split": run.report["split"]}).items()))


def _name(stored: Tree) -> str:
    strategy = str(stored["strategy"]["name"])
    base: Tree = {"data": {"path": stored["data"].get("path")}}
    plain = flat(to_tree(make_config(stored["task"]["name"], [base], preset=stored["preset"], strategy=strategy)))
    own = {
        key: str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
        for key, value in flat(stored).items()
        if key not in NEITHER
        and key.split(".")[0] not in SAME
        and value != plain.get(key)
        and (key != "train.steps_per_epoch" or plain.get(key))  # 0 is replaced by what the data say
    }
    return label(strategy, own)
