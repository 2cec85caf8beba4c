"""The run that a strategy learns from: its network with its weights, after checking that it may."""

from __future__ import annotations

from pathlib import Path

import torch

from cggm_med.config import flat, to_tree
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.held_out import require_held_out_unseen
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task


def teacher_of(task: Task, strategy: BalancingStrategy, *, prepared: bool) -> FinishedRun | None:
    """The run that the strategy learns from; None if it needs none.

    Args:
        task: of the run that learns from it.
        strategy: of that run.
        prepared: whether the task is; else what the data decide of its network, and its cases, are not compared.

    Raises:
        CheckpointError: if the folder is not a finished run.
        ConfigError: if no run is given, or it was trained with another strategy, on another task, or is another
            network.
        DataError: if it was trained on cases that this run holds out, or chosen by cases that this run is tested on.
    """
    if not strategy.teacher:
        return None
    section, kind = task.config.strategy, strategy.teacher
    if section.teacher is None:
        raise ConfigError(
            f"strategy '{section.name}' learns from a finished run of '{kind}' on the same splits: train one with "
            f"--strategy {kind}, then give --set strategy.teacher=RUN (compare does both)"
        )
    run = FinishedRun(Path(section.teacher))
    _ = run.report  # or it is not finished
    wanted = {"strategy": kind, "task": task.config.task.name, "task.modalities": list(task.modalities)}
    found = {"strategy": run.strategy, "task": run.task, "task.modalities": list(run.modalities)}
    model = flat({"model": to_tree(task.config)["model"]})
    wanted |= {key: value for key, value in model.items() if prepared or value is not None}
    found |= flat({"model": run.settings["model"]})
    if other := [
        f"{key} is {found.get(key)}, expected {value}" for key, value in wanted.items() if found.get(key) != value
    ]:
        raise ConfigError(f"strategy.teacher={run.path}: {'; '.join(other)}; train one with --strategy {kind}")
    if prepared:
        require_held_out_unseen(run, task, f"strategy.teacher={run.path}")
    return run


def network_of(teacher: FinishedRun, task: Task, device: torch.device) -> MultimodalModel:
    """The teacher's network with its weights, frozen and in evaluation mode.

    Args:
        teacher: see ``teacher_of``.
        task: of the run that learns from it, prepared.
        device: where to put the network.
    """
    model = task.network(teacher.strategy).to(device)
    teacher.restore(model, None, device)
    return model.eval().requires_grad_(False)
