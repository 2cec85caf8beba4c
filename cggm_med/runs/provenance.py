"""Provenance of results: command, versions, data, seed, device, and how the weights were chosen."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree, to_tree
from cggm_med.device import hardware, number_format
from cggm_med.task.base import Task


def origin(plugins: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Command, versions and date.

    Args:
        plugins: versions of further packages by name, see ``plugins_of``.
    """
    packages = ("cggm-med", "torch", "monai", "torchio", "nibabel", "numpy")
    known = {**{name: importlib.metadata.version(name) for name in packages}, **plugins}
    versions = ", ".join(f"{name} {version}" for name, version in known.items())
    program = "python -m monai.bundle" if "monai" in Path(sys.argv[0]).parts else "cggm-med"
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "versions": f"{versions}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def plugins_of(settings: Tree) -> dict[str, str]:
    """Version of each other package that a run's numbers depend on, by its name.

    Args:
        settings: of the run.
    """
    model = settings.get("model", {})
    used = {
        registry.TASKS: settings["task"]["name"],
        registry.STRATEGIES: settings["strategy"]["name"],
        registry.ENCODERS: model.get("encoder"),
        registry.FUSIONS: model.get("fusion"),
    }
    # A task may have fusions of its own, which are registered nowhere.
    packages = [registry.package(g, name).split() for g, name in used.items() if name in registry.names(g)]
    packages += [registry.package(registry.METRICS, name).split() for name in settings["task"].get("metrics", ())]
    return {name: version for name, version in packages if name != "cggm-med"}


def provenance(config: RunConfig, device: torch.device) -> dict[str, str]:
    """Command, data, seed, versions and device."""
    number = str(number_format(config.train.precision, device)).removeprefix("torch.")
    made_by, decay = origin(plugins_of(to_tree(config))), config.train.ema_decay
    averaged = {} if decay is None else {"weights": f"moving average over the steps, decay {decay:g}"}
    return {
        "command": made_by["command"],
        "data": "generated (not real data)" if config.data.path is None else Path(config.data.path).name,
        "modalities": ", ".join(config.task.modalities),
        "preset": config.preset,
        "seed": str(config.train.seed),
        "steps": str(config.train.steps),
        **averaged,
        **({} if number == "float32" else {"precision": number}),
        "versions": made_by["versions"],
        "device": f"{hardware(device)}, {distributed.world_size()} process(es)",
        "date": made_by["date"],
    }


def checkpoint_rule(task: Task, best: Mapping[str, float] | None, split: str) -> str:
    """How the evaluated weights were chosen.

    Args:
        task: the run's task.
        best: score and step of the validation that chose them; None if they are those of the last step.
        split: the evaluated split.
    """
    if best is None:
        return "last step"
    extreme = "lowest" if task.lower_is_better else "highest"
    chosen = f"{extreme} validation {task.chosen_by}, {best['score']:.3f} at step {best['step']:.0f}"
    if split == "validation":
        chosen += "; these scores are of the cases that it was chosen by, so they are optimistic"
    return chosen
