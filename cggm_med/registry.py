"""Find and load plug-ins by name, built-in and third-party alike, through entry points."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cggm_med.errors import MissingExtra, PluginError, UnknownName

TASKS = "cggm_med.tasks"
STRATEGIES = "cggm_med.strategies"
METRICS = "cggm_med.metrics"
ENCODERS = "cggm_med.encoders"
FUSIONS = "cggm_med.fusions"
LOGGERS = "cggm_med.loggers"


@dataclass(frozen=True)
class Group:
    """The contract of one group of entry points.

    Attributes:
        kind: what to call one of them.
        base: ``module:Name`` of their base class.
        declared: attributes that the base class declares and each must define.
        instances: whether they are objects of that class instead of subclasses.
    """

    kind: str
    base: str
    declared: tuple[str, ...] = ()
    instances: bool = False

    def base_class(self) -> type:
        """The base class, imported late so that names can be listed without torch."""
        module, _, name = self.base.partition(":")
        return getattr(importlib.import_module(module), name)


GROUPS = {
    TASKS: Group("task", "cggm_med.task.base:Task", ("DataConfig", "ModelConfig", "known_modalities", "chosen_by")),
    STRATEGIES: Group("strategy", "cggm_med.strategies.base:BalancingStrategy"),
    METRICS: Group("metric", "cggm_med.metrics.metric:Metric", instances=True),
    ENCODERS: Group("encoder", "cggm_med.models.encoders:Encoder"),
    FUSIONS: Group("fusion", "cggm_med.models.fusion:Fusion"),
    LOGGERS: Group("logger", "cggm_med.runs.loggers:RunLogger"),
}


def names(group: str) -> tuple[str, ...]:
    """The registered names of a group, without importing any of them.

    Example:
        >>> "joint" in names(STRATEGIES)
        True
    """
    return tuple(sorted({entry.name for entry in _entries(group)}))


def package(group: str, name: str) -> str:
    """Name and version of the installed package that registers ``name``, without importing it.

    Raises:
        UnknownName: if nothing is registered under that name.
        PluginError: if two packages register different things under it.

    Example:
        >>> package(STRATEGIES, "joint").split()[0]
        'cggm-med'
    """
    return _package(_find(group, name))


def load(group: str, name: str) -> Any:
    """Import the one thing that is registered as ``name``; no other plug-in is touched.

    Raises:
        UnknownName: if nothing is registered under that name.
        PluginError: if two packages register different things under it, if it cannot be imported, or if it is not a
            complete plug-in of its group.
        MissingExtra: if it raises this itself.
    """
    entry = _find(group, name)
    what = f"{GROUPS[group].kind} '{name}' of package {_package(entry)} ({entry.value})"
    try:
        plugin = entry.load()
    except MissingExtra:
        raise
    except (Exception, SystemExit) as error:  # a third-party module may do anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"{what} cannot be imported: {reason}; fix the package or uninstall it") from error
    base = GROUPS[group].base_class()
    given = plugin if isinstance(plugin, type) else type(plugin)
    if GROUPS[group].instances == isinstance(plugin, type) or not issubclass(given, base):
        kind = f"class {given.__name__}" if isinstance(plugin, type) else f"a {given.__name__}"
        expected = "an object" if GROUPS[group].instances else "a subclass"
        raise PluginError(f"{what} is {kind}, expected {expected} of cggm_med.{base.__name__}")
    abstract: frozenset[str] = getattr(plugin, "__abstractmethods__", frozenset())
    if lacks := [*sorted(abstract), *(name for name in GROUPS[group].declared if not hasattr(plugin, name))]:
        raise PluginError(f"{what} does not define {', '.join(lacks)}, see cggm_med.{base.__name__}")
    return plugin


def _entries(group: str) -> tuple[EntryPoint, ...]:
    folders = tuple(sys.path)
    return _entries_installed(group, folders, tuple(map(_changed, folders)))


@functools.lru_cache(maxsize=32)
def _entries_installed(group: str, folders: tuple[str, ...], changed: tuple[int | None, ...]) -> tuple[EntryPoint, ...]:
    """Kept, since the metadata of every installed package are read; installing one changes a folder on the path."""
    return tuple(entry_points(group=group))


def _changed(folder: str) -> int | None:
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return None


def _find(group: str, name: str) -> EntryPoint:
    entries = [entry for entry in _entries(group) if entry.name == name]
    if not entries:
        fix = "A new entry point is seen after its package is installed again"
        raise UnknownName(GROUPS[group].kind, name, names(group), fix)
    # The same target twice is harmless: a failed upgrade left it behind, or a package was renamed.
    if len({entry.value for entry in entries}) > 1:
        owners = " and ".join(sorted(f"{_package(entry)} ({entry.value})" for entry in entries))
        raise PluginError(f"{GROUPS[group].kind} '{name}' is registered by {owners}; uninstall or rename all but one")
    return entries[0]


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown"
