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

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Debug

if TYPE_CHECKING:
    from cggm_med.scaffold.packages import Kind

NewFolder = Annotated[Path | None, typer.Option(help="New folder. [NAME]")]


def tasks(json: JsonFile = None, debug: Debug = False) -> None:
    """List the installed tasks, with the names of their modalities."""
    from cggm_med.registry import TASKS

    require_json(json, "tasks")
    listed = _list(TASKS, lambda task: f"{task.description}  [{','.join(task.known_modalities)}]")
    write_shown(json, "tasks", {"tasks": listed})


def strategies(json: JsonFile = None, debug: Debug = False) -> None:
    """List the installed balancing strategies."""
    from cggm_med.registry import STRATEGIES

    require_json(json, "strategies")
    listed = _list(STRATEGIES, lambda strategy: f"{strategy.description}  {strategy.url}")
    write_shown(json, "strategies", {"strategies": listed})


def plugins(json: JsonFile = None, debug: Debug = False) -> None:
    """List all that can be chosen by name, of each group of entry points, with its package."""
    from cggm_med.registry import GROUPS

    require_json(json, "plugins")
    listed = {}
    for group, contract in GROUPS.items():
        typer.echo(f"{contract.kind} ({group})")
        listed[group] = _list(group, _first_words, indent="  ", own=True)
    write_shown(json, "plugins", {"groups": listed})


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


def _list(group: str, about: Callable[[Any], str], *, indent: str = "", own: bool = False) -> list[dict[str, Any]]:
    """Print one line per plug-in; one that cannot be used is listed with its error and does not affect the others.

    Args:
        group: of entry points.
        about: describes a plug-in in one line.
        indent: before each line.
        own: also name the package of cggm-med's own plug-ins.

    Returns:
        The same as values: ``name``, and ``about`` and ``package`` or ``error``, of each.
    """
    from cggm_med import registry

    names = registry.names(group)
    width = max(map(len, names), default=0)
    listed: list[dict[str, Any]] = []
    for name in names:
        try:
            # What a package prints while it is imported does not belong in the list.
            with contextlib.redirect_stdout(sys.stderr):
                line = about(registry.load(group, name)).rstrip()
            package = registry.package(group, name)
        except Exception as error:  # a third-party package may fail in any way
            typer.echo(f"{indent}{name:{width}} cannot be used: {error}")
            listed.append({"name": name, "error": str(error)})
            continue
        origin = f"  ({package})" if own or not package.startswith("cggm-med ") else ""
        typer.echo(f"{indent}{name:{width}} {line}{origin}")
        listed.append({"name": name, "about": line, "package": package})
    return listed
