"""``cggm-med tasks`` and its like: which plug-ins are installed, and packages to begin one of your own."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.cli.options import Debug


def tasks() -> None:
    """List the installed tasks, with the names of their modalities."""
    from cggm_med.registry import TASKS

    _list(TASKS, lambda task: f"{task.description}  [{','.join(task.known_modalities)}]")


def strategies() -> None:
    """List the installed balancing strategies."""
    from cggm_med.registry import STRATEGIES

    _list(STRATEGIES, lambda strategy: f"{strategy.description}  {strategy.url}")


def new_task(
    name: Annotated[str, typer.Argument(help="Of the task, such as spoken_digits.", metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help="New folder. [NAME]")] = None,
    debug: Debug = False,
) -> None:
    """Write a package with a small task that trains at once, to be changed into yours."""
    from cggm_med.scaffold.new_task import write_task

    folder = out or Path(name)
    write_task(name, folder)
    typer.echo(f"wrote {folder}; next:")
    typer.echo(f"  pip install -e {shlex.quote(os.path.join(os.curdir, folder))}")
    typer.echo(f"  cggm-med train --task {name}")


def _list(group: str, about: Callable[[Any], str]) -> None:
    """One line a plug-in; one that cannot be used is listed with its error and harms no other."""
    from cggm_med import registry

    names = registry.names(group)
    width = max(map(len, names), default=0)
    for name in names:
        try:
            # What a package prints while it is imported does not belong to the list.
            with contextlib.redirect_stdout(sys.stderr):
                line = about(registry.load(group, name))
            package = registry.package(group, name)
            origin = "" if package.startswith("cggm-med ") else f"  ({package})"
            typer.echo(f"{name:{width}} {line.rstrip()}{origin}")
        except Exception as error:  # a third-party package may fail in any way
            typer.echo(f"{name:{width}} cannot be used: {error}")
