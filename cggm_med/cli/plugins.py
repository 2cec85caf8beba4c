"""Commands about plug-ins: list the installed ones, and write a package to start a new one from."""

from __future__ import annotations

import contextlib
import inspect
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cggm_med.cli.options import Debug

if TYPE_CHECKING:
    from cggm_med.scaffold.packages import Kind

NewFolder = Annotated[Path | None, typer.Option(help="New folder. [NAME]")]


def tasks() -> None:
    """List the installed tasks, with the names of their modalities."""
    from cggm_med.registry import TASKS

    _list(TASKS, lambda task: f"{task.description}  [{','.join(task.known_modalities)}]")


def strategies() -> None:
    """List the installed balancing strategies."""
    from cggm_med.registry import STRATEGIES

    _list(STRATEGIES, lambda strategy: f"{strategy.description}  {strategy.url}")


def plugins() -> None:
    """List all that can be chosen by name, of each group of entry points, with its package."""
    from cggm_med.registry import GROUPS

    for group, contract in GROUPS.items():
        typer.echo(f"{contract.kind} ({group})")
        _list(group, _first_words, indent="  ", own=True)


def _first_words(plugin: Any) -> str:
    text: str = getattr(plugin, "description", "") or getattr(plugin, "rule", "") or inspect.getdoc(plugin) or ""
    return text.partition("\n")[0]


def new_task(
    name: Annotated[str, typer.Argument(help="Of the task, such as spoken_digits.", metavar="NAME")],
    kind: Annotated[str, typer.Option(help="classification or segmentation, see above.")] = "classification",
    out: NewFolder = None,
    debug: Debug = False,
) -> None:
    """Write a package with a small task that trains at once, to be changed into yours.

    Kind classification: samples of any modalities (images, sound, text, tables, ...), each with one of several classes.
    Kind segmentation: regions in scans that only a program can list, such as one that asks a table or a database. For
    scans in a folder you need no Python: 'cggm-med init FOLDER -o dataset.json' proposes what they are, and 'cggm-med
    train --task segmentation --data dataset.json' trains.
    """
    from cggm_med.errors import UnknownName
    from cggm_med.scaffold.packages import TASKS

    if kind not in TASKS:
        raise UnknownName("kind of task", kind, TASKS)
    _write(TASKS[kind], name, out)


def new_strategy(
    name: Annotated[str, typer.Argument(help="Of the strategy, such as level.", metavar="NAME")],
    out: NewFolder = None,
    debug: Debug = False,
) -> None:
    """Write a package with a small balancing strategy that trains at once, to be changed into yours."""
    from cggm_med.scaffold.packages import STRATEGY

    _write(STRATEGY, name, out)


def _write(kind: Kind, name: str, out: Path | None) -> None:
    from cggm_med.scaffold.packages import write_package

    folder = out or Path(name)
    write_package(kind, name, folder)
    typer.echo(f"wrote {folder}; next:")
    typer.echo(f"  pip install -e {shlex.quote(os.path.join(os.curdir, folder))}")
    typer.echo(f"  cggm-med train --{kind.word} {name}")


def _list(group: str, about: Callable[[Any], str], *, indent: str = "", own: bool = False) -> None:
    """Print one line per plug-in; one that cannot be used is listed with its error and does not affect the others.

    Args:
        group: of entry points.
        about: describes a plug-in in one line.
        indent: before each line.
        own: also name the package of cggm-med's own plug-ins.
    """
    from cggm_med import registry

    names = registry.names(group)
    width = max(map(len, names), default=0)
    for name in names:
        try:
            # What a package prints while it is imported does not belong in the list.
            with contextlib.redirect_stdout(sys.stderr):
                line = about(registry.load(group, name))
            package = registry.package(group, name)
            origin = f"  ({package})" if own or not package.startswith("cggm-med ") else ""
            typer.echo(f"{indent}{name:{width}} {line.rstrip()}{origin}")
        except Exception as error:  # a third-party package may fail in any way
            typer.echo(f"{indent}{name:{width}} cannot be used: {error}")
