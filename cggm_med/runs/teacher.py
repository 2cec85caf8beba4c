"""Load the network of a finished run that another run learns from, after checking that it may."""

from __future__ import annotations

from pathlib import Path

import torch

from cggm_med.config import RunConfig, flat, to_tree
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.held_out import require_held_out_unseen
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task


def teacher_folder(config: RunConfig, strategy: BalancingStrategy) -> Path | None:
    """The folder of the run that the strategy learns from; None if it needs none.

    Raises:
        ConfigError: if it needs one and none is given.
    """
    if not strategy.teacher:
        return None
    if config.strategy.teacher is None:
        raise ConfigError(
            f"strategy '{config.strategy.name}' learns from a finished run of '{strategy.teacher}' on the same splits: "
            f"train one with --strategy {strategy.teacher}, then give --set strategy.teacher=RUN (compare does both)"
        )
    return Path(config.strategy.teacher)


def load_teacher(folder: Path, strategy: str, task: Task, device: torch.device) -> MultimodalModel:
    """The teacher's network with its weights, frozen and in evaluation mode.

    Args:
        folder: of its run.
        strategy: that it must have been trained with.
        task: of the run that learns from it, prepared.
        device: where to put the network.

    Raises:
        CheckpointError: if the folder is not a finished run.
        ConfigError: if it was trained with another strategy, on another task, or is another network.
        DataError: if it was trained on cases that this run holds out, or chosen by cases that this run is tested on.
    """
    run = FinishedRun(folder)
    _ = run.report  # or it is not finished
    wanted = {"strategy": strategy, "task": task.config.task.name, "task.modalities": list(task.modalities)}
    found = {"strategy": run.strategy, "task": run.task, "task.modalities": list(run.modalities)}
    wanted |= flat({"model": to_tree(task.config)["model"]})
    found |= flat({"model": run.settings["model"]})
    if other := [
        f"{key} is {found.get(key)}, expected {value}" for key, value in wanted.items() if found.get(key) != value
    ]:
        raise ConfigError(f"strategy.teacher={folder}: {'; '.join(other)}; train one with --strategy {strategy}")
    require_held_out_unseen(run, task, f"strategy.teacher={folder}")
    model = task.network(strategy).to(device)
    run.restore(model, None, device)
    return model.eval().requires_grad_(False)
