"""Finding tasks and strategies by name, built-in and third-party alike, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from cggm_med.errors import UnknownName

TASKS = "cggm_med.tasks"
STRATEGIES = "cggm_med.strategies"


def names(group: str) -> tuple[str, ...]:
    """The registered names of a group, without importing any of them.

    Example:
        >>> "joint" in names(STRATEGIES)
        True
    """
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def load(group: str, name: str) -> Any:
    """Import the one object that is registered as ``name``; no other plug-in is touched.

    Raises:
        UnknownName: if nothing is registered under that name.
    """
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    kind = {TASKS: "task", STRATEGIES: "strategy"}.get(group, group)
    raise UnknownName(kind, name, names(group), "A new entry point is seen after its package is installed again")
