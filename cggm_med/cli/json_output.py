"""``--json FILE``: what a command shows, as plain values for other programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.files import require_writable, write_json
from cggm_med.trees import parse_json

JsonFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write what is shown, as plain values, to this file as well.", metavar="FILE"),
]


def require_json(path: Path | None, command: str, inputs: Iterable[Path] = ()) -> None:
    """Make sure, before any work, that the file can be written, and that only one of the same command is replaced.

    Args:
        path: the file; None if none was asked for.
        command: that writes it.
        inputs: what the command reads.

    Raises:
        OutputError: if it is an input, a folder or somebody else's, or its folder cannot be written.
    """
    if path is not None:
        require_writable([path], inputs=inputs, ours=lambda file: _is_of(file, command), option="--json")


def write_shown(path: Path | None, command: str, content: Mapping[str, Any] | Path) -> None:
    """Write what a command has shown, with its name and the version; of several processes, the first writes.

    Args:
        path: the file; None if none was asked for.
        command: that writes it.
        content: plain values, or a JSON file of the command that holds them.
    """
    if path is None or os.environ.get("RANK", "0") != "0":
        return
    values = parse_json(content.read_bytes()) if isinstance(content, Path) else content
    write_json(path, {"software": f"cggm-med {version('cggm-med')}", "command": command, **values})


def _is_of(path: Path, command: str) -> bool:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    ours = isinstance(content, dict) and str(content.get("software", "")).startswith("cggm-med")
    return ours and content.get("command") == command
