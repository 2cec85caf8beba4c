"""A run as small as it gets, for tests that walk through everything."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from cggm_med.config import parse_overrides
from cggm_med.runs.settings import make_config
from cggm_med.training import checkpoint as checkpoints
from helpers.command_line import command, set_options
from helpers.pictures import drawn

SMALL = {
    "data.patch_size": "[16,16,16]",
    "data.window_size": "[32,32,16]",  # several in a volume, but not many
    "task.component_filter": "none",
    "data.workers": "0",
    "data.validation": "0.2",
    "data.test": "0.2",
    "model.channels": "[4,8]",
    "train.epochs": "3",
    "train.steps_per_epoch": "4",
    "train.validate_every": "1",
    "train.checkpoint_every": "2",
    "train.log_every": "1",
}


def small_settings(phantom: Path, cache: Path, **changes: str) -> list[str]:
    """``KEY=VALUE`` words; keys of ``changes`` are written with two underscores for the dot."""
    extra = {key.replace("__", "."): value for key, value in changes.items()}
    settings = {**SMALL, "data.path": str(phantom), "data.cache": str(cache), **extra}
    return [f"{key}={value}" for key, value in settings.items()]


def filter_components(run: Path, kept: dict) -> None:
    """Let a run that has chosen a component filter have chosen this one."""
    file = run / "postprocessing.json"
    choice = json.loads(file.read_text())
    choice["component_filter"]["kept"] = kept
    file.write_text(json.dumps(choice))


def as_if_trained_with(run: Path, **changes: object) -> None:
    """Change settings of a run everywhere; keys are written with two underscores for the dot."""
    config, device = run / "config.yaml", torch.device("cpu")
    trained = {file: checkpoints.load(file, device) for file in (run / "checkpoints").glob("*.pt")}
    stored = yaml.safe_load(config.read_text())
    for tree in (stored, *(checkpoint.config for checkpoint in trained.values())):
        for key, value in changes.items():
            section, _, name = key.partition("__")
            tree[section][name] = value
    config.write_text(yaml.safe_dump(stored))
    for file, checkpoint in trained.items():
        checkpoints.save(file, checkpoint)


def small_config(phantom: Path, cache: Path, **changes: str):
    return make_config("brats2021", [parse_overrides(small_settings(phantom, cache, **changes))], preset="tiny")


def quiet() -> Console:
    return Console(quiet=True)


def trained_run(folder: Path, phantom: Path, cache: Path, *, pictures: bool = False, **changes: str) -> Path:
    """Train through the command line; returns the run folder."""
    flags = set_options(small_settings(phantom, cache, **changes))
    with pytest.MonkeyPatch.context() as patch, drawn() if pictures else contextlib.nullcontext():
        command(patch, "train", "--preset", "tiny", "--out", folder, *flags)
    return folder
