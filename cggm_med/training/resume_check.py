"""The resume check: a checkpoint continues only with the settings and the data that it was made with."""

from __future__ import annotations

from pathlib import Path

from cggm_med.config import Tree, differences
from cggm_med.errors import CheckpointError

# Settings that change where and how fast a run computes or how it is scored at the end, but not what it learns.
FREE_SETTINGS = (
    "task.metrics",
    "task.subset_hd95",
    "task.component_filter",
    "data.path",
    "data.splits",
    "data.surface_tolerance_mm",
    "data.cache",
    "data.accept",
    "data.workers",
    "train.device",
    "train.validate_modalities",
    "train.checkpoint_every",
    "train.checkpoint_minutes",
    "train.exchange",
    "train.log_every",
    "train.log_shapley",
    "train.loggers",
)


def changed_settings(before: Tree, now: Tree) -> list[str]:
    """Settings that differ and change what a run learns, as ``name: before != now``."""
    return [line for line in differences(before, now) if line.split(":")[0] not in FREE_SETTINGS]


def require_same_run(path: Path, made_with: Tree, config: Tree, made_of: Tree, data: Tree) -> None:
    """Refuse a checkpoint that was made with other settings or other data.

    Args:
        path: of the checkpoint, for the message.
        made_with: settings of the checkpoint.
        config: settings of now.
        made_of: digests of each prepared case of the checkpoint.
        data: digests of each prepared case of now.

    Raises:
        CheckpointError: names every setting that differs, or every case.
    """
    if changed := changed_settings(made_with, config):
        raise CheckpointError(
            f"{path} was made with other settings (checkpoint != now): {'; '.join(changed)}. "
            "Start a new run for new settings"
        )
    require_same_data(path, made_of, data)


def require_same_data(path: Path, made_of: Tree, data: Tree) -> None:
    """Refuse to go on with other data.

    Args:
        path: of the checkpoint or the run, for the message.
        made_of: digests of each prepared case that it was begun with.
        data: digests of each prepared case of now.

    Raises:
        CheckpointError: names every case that differs.
    """
    if changed := differences(made_of, data):
        cases = ", ".join(line.split(":")[0] for line in changed)
        raise CheckpointError(f"{path} was made with other data; what differs: {cases}. Start a new run")
