"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cggm_med import registry

if TYPE_CHECKING:
    from rich.console import Console


def names_of(group: str) -> Callable[[str], list[str]]:
    """What a shell completes the name of a plug-in of this group to.

    Example:
        >>> names_of("cggm_med.tasks")("brats")
        ['brats2021']
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in registry.names(group) if name.startswith(incomplete)]

    return complete


TaskName = Annotated[
    str,
    typer.Option("--task", help="What to learn; see 'cggm-med tasks'.", autocompletion=names_of(registry.TASKS)),
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder or file in the layout of the task. [generated data]")]
OtherData = Annotated[Path | None, typer.Option("--data", help="Folder or file with other cases. [the run's own]")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting, such as optim.lr=1e-3; may be repeated. All keys stand in the config.yaml of any run.",
        metavar="KEY=VALUE",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML or JSON file with settings.")]
TrainDevice = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps. [auto]")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="How long to train. [what the task or plan says]", min=1)]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept", help="Use files in spite of findings of this kind, which the message names.", metavar="KIND"
    ),
]
Parallel = Annotated[int | None, typer.Option(help="Runs at once. [one a GPU; on a CPU one a core, at most 4]", min=1)]
Phantom = Annotated[
    bool,
    typer.Option("--phantom", help="Run the same path on generated data, in minutes; the figures mean nothing."),
]
PublishedSeeds = Annotated[
    str | None, typer.Option("--seeds", help="How many, or which, such as 0,3,7. [3; with --phantom 1]")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


def html(path: Path | None) -> Path | None:
    """Insist on the ending .html or .htm, since a browser would show another file as text."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{path} is no name of a page; expected one that ends in .html, such as {path}.html")
    return path


def kinds_of(accept: list[str] | None) -> list[str]:
    """The kinds of findings that are accepted, each given by itself or several with commas.

    Example:
        >>> kinds_of(["implausible_size,contradicting_sides", "slices_after_end"])
        ['implausible_size', 'contradicting_sides', 'slices_after_end']
    """
    return [kind for kinds in accept or () for kind in kinds.split(",")]


def overrides_of(settings: list[str] | None, data: Path | None) -> dict[str, Any]:
    """The command line's settings as a nested dictionary."""
    from cggm_med.config import parse_overrides

    overrides = parse_overrides(settings or [])
    if data is not None:
        overrides["data"] = {**overrides.get("data", {}), "path": str(data)}
    if isinstance(overrides.get("data"), dict) and isinstance(overrides["data"].get("path"), str):
        # A run may be resumed from another folder.
        overrides["data"]["path"] = os.path.abspath(overrides["data"]["path"])
    return overrides


def with_short_options(settings: list[str] | None, given: Mapping[str, object]) -> list[str]:
    """The words of ``--set``, with those of settings that have an option of their own.

    Args:
        settings: words of ``--set``.
        given: value of each such setting, None where the option was not used; text as YAML needs it. The option bears
            the name of its key; --log that of ``train.loggers``.

    Example:
        >>> with_short_options(["optim.lr=1e-3"], {"train.seed": 3, "train.device": None})
        ['optim.lr=1e-3', 'train.seed=3']
    """
    words = list(settings or ())
    for key, value in given.items():
        if value is None:
            continue
        option = "--log" if key == "train.loggers" else f"--{key.rpartition('.')[2].replace('_', '-')}"
        if twice := [word for word in words if word.partition("=")[0].strip() == key]:
            raise typer.BadParameter(f"{option} {value} and --set {twice[0]} are the same setting; give one of them")
        words.append(f"{key}={value}")
    return words


def files_by_modality(words: list[str]) -> tuple[dict[str, Path], list[str]]:
    """Files given as ``--MODALITY FILE``, and the other words."""
    images: dict[str, Path] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            others.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        file = value if equals else next(rest, "")
        if not file or name in images:
            raise typer.BadParameter(f"{word}: expected one file for each modality, such as --flair a.nii.gz")
        images[name] = Path(file)
    return images, others


def make_console() -> Console:
    """Where commands print progress and tables."""
    from rich.console import Console

    return Console(soft_wrap=True, highlight=False, markup=False)
