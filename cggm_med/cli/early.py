"""Refuse what is wrong at first sight, before torch is imported, which takes many times as long."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cggm_med import registry
from cggm_med.config import SHARED_SECTIONS, TrainConfig, build_section, merge
from cggm_med.data.splits import NAMES
from cggm_med.errors import CheckpointError, DataError, UnknownName
from cggm_med.files import did_you_mean
from cggm_med.runs.folder import RunFolder


def refuse_names(task: str, strategy: str | None = None) -> None:
    """Refuse a task or strategy that is not installed.

    Raises:
        UnknownName: with the nearest name.
        PluginError: if two packages install it.

    Example:
        >>> refuse_names("brats2021", "joint")
    """
    registry.package(registry.TASKS, task)
    if strategy is not None:
        registry.package(registry.STRATEGIES, strategy)


def refuse_settings(layers: Iterable[Mapping[str, Any]]) -> None:
    """Refuse settings of the sections that all tasks and strategies share, loggers and data that are not there.

    Args:
        layers: nested settings, later ones over earlier ones.

    Raises:
        UnknownName: for a key or a logger.
        ConfigError: for a value.
        DataError: for a path to data that does not exist.

    Example:
        >>> refuse_settings([{"optim": {"lr": 0.01}}])
    """
    merged = merge([dict(layer) for layer in layers])
    for name, section in SHARED_SECTIONS.items():
        built = build_section(section, merged.get(name, {}), name, SHARED_SECTIONS)
        if isinstance(built, TrainConfig):
            for logger in built.loggers:
                registry.package(registry.LOGGERS, logger)
    data = merged.get("data")
    if isinstance(data, dict) and isinstance(path := data.get("path"), str):
        refuse_absent([Path(path)], "a folder or file with the data")


def refuse_absent(paths: Iterable[Path], expected: str) -> None:
    """Refuse paths that are not there.

    Args:
        paths: that are read.
        expected: what should be there, in words.

    Raises:
        DataError: with the first of them.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist{did_you_mean(path)}; expected {expected}")


def refuse_runs(folders: Iterable[Path]) -> None:
    """Refuse folders that are no runs.

    Raises:
        CheckpointError: with the first of them.
    """
    for folder in folders:
        RunFolder(folder).stored_settings()


def refuse_without_run(folders: Iterable[Path]) -> None:
    """Refuse folders of which none is a run; where one is, the others are left out later, with the reason of each.

    Raises:
        CheckpointError: with the reason, for a single folder.
        DataError: with that of each, for several.
    """
    reasons: list[CheckpointError] = []
    for folder in folders:
        try:
            RunFolder(folder).stored_settings()
        except CheckpointError as error:
            reasons.append(error)
        else:
            return
    if len(reasons) == 1:
        raise reasons[0]
    if reasons:
        expected = "expected folders of finished runs, as 'cggm-med train' leaves them"
        raise DataError(f"none of the folders is a run; {expected}:", list(map(str, reasons)))


def refuse_modalities(run: Path, names: Iterable[str], options: Iterable[str] = ()) -> None:
    """Refuse what is no modality of a run.

    Args:
        run: its folder.
        names: that were given.
        options: parameters of the command; a name that is nearly one of them was meant as that.

    Raises:
        UnknownName: with the first of them.
        CheckpointError: if the folder is no run.
    """
    known = RunFolder(run).stored_settings()["task"].get("modalities")
    for name in names if isinstance(known, list) else ():
        if name not in known:
            meant = difflib.get_close_matches(name, [*options], n=1, cutoff=0.8)
            option = f"--{meant[0].replace('_', '-')}" if meant else None
            raise UnknownName("modality in this run", name, known, guess=option)


def refuse_split(split: str | None) -> None:
    """Refuse what is no split.

    Raises:
        UnknownName: for a name that no split has.
    """
    if split is not None and split not in (*NAMES, "all"):
        raise UnknownName("split", split, (*NAMES, "all"))
