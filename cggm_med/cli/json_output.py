"""``--json FILE``: what a command shows, as plain values for other programs; ``-`` is standard output."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from cggm_med.files import require_writable, write_json
from cggm_med.trees import parse_json

JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json", help="Write what is shown, as plain values, to this file as well; - for stdout alone.", metavar="FILE"
    ),
]
STDOUT = Path("-")
_stdout: list[TextIO] = []


@contextlib.contextmanager
def alone_on_stdout(words: Sequence[str]) -> Iterator[None]:
    """Inside, with ``--json -`` among the words of a command, everything that is said goes to stderr but the JSON."""
    if "--json=-" not in words and ("--json", "-") not in itertools.pairwise(words):
        yield
        return
    _stdout.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.pop()


def require_json(path: Path | None, command: str, inputs: Iterable[Path] = ()) -> None:
    """Make sure, before any work, that the file can be written, and that only one of the same command is replaced.

    Args:
        path: the file; None if none was asked for.
        command: that writes it.
        inputs: what the command reads.

    Raises:
        OutputError: if it is an input, a folder or somebody else's, or its folder cannot be written.
    """
    if path is not None and path != STDOUT:
        require_writable([path], inputs=inputs, ours=lambda file: _is_of(file, command), option="--json")


def write_shown(path: Path | None, command: str, content: Mapping[str, Any] | Path) -> None:
    """Write what a command has shown, with its name and the version; of several processes, the first writes.

    Args:
        path: the file; ``-`` for standard output; None if none was asked for.
        command: that writes it.
        content: plain values, or a JSON file of the command that holds them.
    """
    if path is None or os.environ.get("RANK", "0") != "0":
        return
    values = parse_json(content.read_bytes()) if isinstance(content, Path) else content
    values = {"software": f"cggm-med {version('cggm-med')}", "command": command, **values}
    if path == STDOUT:
        typer.echo(json.dumps(values, indent=2, allow_nan=False), file=_stdout[-1] if _stdout else None)
    else:
        write_json(path, values)


def _is_of(path: Path, command: str) -> bool:
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return False
    ours = isinstance(content, dict) and str(content.get("software", "")).startswith("cggm-med")
    return ours and content.get("command") == command
