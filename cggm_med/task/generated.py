"""Data that a task makes itself, for runs without any: written once to the cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cggm_med.files import atomic_folder


def generated_data(
    task: str, version: int, generate: Callable[[Path], None], cache: Path, say: Callable[[str], None]
) -> Path:
    """The folder of a task's generated data, made if it is not there yet.

    Args:
        task: name of the task.
        version: of what is generated; another one is another folder.
        generate: writes the data into an empty folder.
        cache: in which the folder lies.
        say: told that these are no real data.
    """
    folder = cache / "generated" / f"{task}-v{version}"
    say(f"no --data given: using generated data in {folder} (not real ones)")
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            generate(temporary)
    return folder
