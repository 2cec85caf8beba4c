"""Put finished runs together as an ensemble: a folder that predicts and is scored as a run is (ADR 0042)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cggm_med.config import Tree
from cggm_med.errors import ConfigError
from cggm_med.files import atomic_folder, require_unused, write_json, write_text
from cggm_med.results.results import Record
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.provenance import checkpoint_rule
from cggm_med.task.base import Task
from cggm_med.task.component_choice import mildest
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.training import checkpoint as checkpoints

CPU = torch.device("cpu")
# Of the data: what decides how a scan is brought to the network and back.
SAME_DATA_SETTINGS = ("spacing", "resample_to", "rescaling", "patch_size", "window_size", "overlap")


def make_ensemble(runs: Sequence[Path], folder: Path) -> None:
    """Write an ensemble of finished runs, all or nothing; it holds their weights and needs their folders no more.

    Args:
        runs: folders, at least two.
        folder: new or empty.

    Raises:
        CheckpointError: if one is not a finished run.
        ConfigError: if there are fewer than two, one is given twice or is an ensemble, or they cannot be averaged; says
            in what they differ.
        OutputError: if ``folder`` holds files already or cannot be written.
    """
    require_unused(folder)
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run is given; expected at least two to average")
    members = [FinishedRun(path) for path in runs]
    for run in members:
        if run.members:
            raise ConfigError(f"{run.path} is an ensemble itself; name its runs")
        run.require_ended()
    tasks = [run.make_task({}) for run in members]
    for run, task in zip(members[1:], tasks[1:], strict=True):
        _require_alike(members[0], tasks[0], run, task)
    described = [_described(k, run, task) for k, (run, task) in enumerate(zip(members, tasks, strict=True), start=1)]
    for k, one in enumerate(described):
        if twin := next((x for x in described[:k] if x["digest"] == one["digest"]), None):
            raise ConfigError(f"{members[k].path} has the same weights as {twin['name']}; give each run once")
    with atomic_folder(folder) as temporary:
        target = RunFolder(temporary)
        _write_shared(target, members, tasks)
        for run, one in zip(members, described, strict=True):
            _write_member(RunFolder(target.members / one["folder"]), run)
        write_json(target.ensemble, {"runs": described})


def members_in_words(runs: Sequence[Record]) -> str:
    """The runs of an ensemble: ``FinishedRun.described_members``.

    Example:
        >>> one = {"name": "a", "digest": "0f", "strategy": "joint", "seed": 3, "checkpoint": "last step"}
        >>> members_in_words([one])
        'a (joint, seed 3, last step, weights 0f)'
    """
    return "; ".join(
        f"{run['name']} ({run['strategy']}, seed {run['seed']}, {run['checkpoint']}, weights {run['digest']})"
        for run in runs
    )


def _require_alike(first: FinishedRun, one: Task, run: FinishedRun, other: Task) -> None:
    """Refuse a run whose predictions mean something else, or that sees scans otherwise."""
    pairs = {
        "the task": (first.task, run.task),
        "modalities": (sorted(one.modalities), sorted(other.modalities)),
        "regions" if one.volumes() else "targets": (list(one.targets), list(other.targets)),
        "labels of masks": (_convention(first, one), _convention(run, other)),
    }
    for key in SAME_DATA_SETTINGS:
        pairs[f"data.{key}"] = (_plain(one, key), _plain(other, key))
    if different := [f"{what}: {now}, there {then}" for what, (then, now) in pairs.items() if now != then]:
        raise ConfigError(
            f"{run.path} cannot be averaged with {first.path}: {'; '.join(different)}; leave it out, or train it alike"
        )


def _plain(task: Task, key: str) -> Any:
    value = getattr(task.config.data, key, None)
    return list(value) if isinstance(value, tuple) else value


def _convention(run: FinishedRun, task: Task) -> Any:
    """The numbers and meanings that a run's masks have, in words; None if it does not segment."""
    if task.volumes() is None:
        return None
    convention = task.conventions.get(str(run.facts.get("labels")))
    return None if convention is None else f"{convention.name} ({convention.describe()})"


def _described(number: int, run: FinishedRun, task: Task) -> dict[str, Any]:
    weights = checkpoints.load(run.folder.weights, CPU)
    best = run.best_of(weights)
    return {
        "folder": f"{number}",
        "name": run.name,
        "digest": run.digest,
        "strategy": run.strategy,
        "seed": run.seed,
        "checkpoint": checkpoint_rule(task, best, "other"),
    }


def _write_shared(target: RunFolder, members: Sequence[FinishedRun], tasks: Sequence[Task]) -> None:
    """What an ensemble has of a run: settings and facts of the first, cases of all, and the mildest filter."""
    write_text(target.config, members[0].folder.config.read_text())
    voxels = {id: of for member in members for id, of in member.facts.get("voxels", {}).items()}
    write_json(target.facts, {**members[0].facts, **({"voxels": voxels} if voxels else {})})
    contents, splits, groups = _cases(members)
    write_json(target.data, contents)
    write_json(target.splits, splits)
    write_json(target.groups, groups)
    if all(isinstance(task, SegmentationTask) and task.component_choice for task in tasks):
        filters = [task.component_filter for task in tasks if isinstance(task, SegmentationTask)]
        write_json(target.postprocessing, {"component_filter": {"kept": dict(mildest(filters, tasks[0].targets).kept)}})
    elif members[0].postprocessing:
        write_json(target.postprocessing, {"component_filter": {"kept": {}}})


def _cases(members: Sequence[FinishedRun]) -> tuple[Tree, dict[str, list[str]], dict[str, str]]:
    """Contents and groups of all runs' cases, and splits in which a case is held out only if no run has seen it.

    A case of which runs saw other data under the same name is another case.
    """
    contents: Tree = {}
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    groups: dict[str, str] = {}
    uses: dict[str, list[str]] = {}
    for run in members:
        for split, cases in run.splits.items():
            for case in cases:
                own = dict(run.contents[case])
                key = case if contents.setdefault(case, own) == own else f"{case} of {run.name}"
                contents[key] = own
                groups[key] = run.groups.get(case, case)
                uses.setdefault(key, []).append(split)
    for key, of in uses.items():
        if of == ["test"] * len(members):
            splits["test"].append(key)
        elif len(of) == len(members) and "train" not in of:
            splits["validation"].append(key)
        else:
            splits["train"].append(key)
    return contents, splits, groups


def _write_member(target: RunFolder, run: FinishedRun) -> None:
    """Settings, facts and weights of one run, without what only training needs."""
    for file in ("config", "facts", "postprocessing"):
        source: Path = getattr(run.folder, file)
        if source.exists():
            write_text(getattr(target, file), source.read_text())
    weights = checkpoints.load(run.folder.weights, CPU)
    slim = dataclasses.replace(weights, strategy={}, optimizer={}, monitor={}, schedule={}, unaveraged={})
    checkpoints.save(target.checkpoints / ("last.pt" if run.best_of(weights) is None else "best.pt"), slim)
