"""The command ``reproduce``: tables and figures of the papers, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.launching import DryRun, Launcher, Sbatch, goes_on_when_repeated, trainer
from cggm_med.cli.options import Debug, Parallel, Phantom, PublishedSeeds, Settings, make_console, overrides_of


def reproduce(
    name: Annotated[str | None, typer.Argument(help="Of a table or figure, see --list.", metavar="[NAME]")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name all tables and figures, and what each shows.")] = False,
    data: Annotated[Path | None, typer.Option(help="The paper's data set, in the layout of the task.")] = None,
    phantom: Phantom = False,
    seeds: PublishedSeeds = None,
    folds: Annotated[
        int | None,
        typer.Option(help="Of a cross-validation, such as the ten of IEMOCAP. [those of the table, else 0]", min=0),
    ] = None,
    parallel: Parallel = None,
    launcher: Launcher = "local",
    sbatch: Sbatch = None,
    dry_run: DryRun = False,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; the same one again goes on. [reproductions/NAME]")
    ] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Make a table or figure of a paper again, with its settings, beside the published figures that are known."""
    from cggm_med.reproduction.catalogue import find, listing

    if list_:
        for line in listing():
            typer.echo(line)
        return
    if name is None:
        raise typer.BadParameter("name a table or figure, such as cggm/iemocap, or list them with --list")
    table = find(name)
    if phantom and data is not None:
        raise typer.BadParameter("--phantom generates data; leave out --data, or --phantom")
    from cggm_med.cli import early

    early.refuse_settings([overrides_of(settings, data)])
    from cggm_med.comparison.variants import parse_seeds

    numbers = parse_seeds(seeds or ("1" if phantom else "3"))
    require_json(json, "reproduce", [] if data is None else [data])
    folder = out or Path("reproductions") / (f"{name}-phantom" if phantom else name)
    train = trainer(launcher, folder / "slurm", "reproduce", sbatch=sbatch, parallel=parallel, dry_run=dry_run)
    from cggm_med.reproduction.reproduce import Request, reproduce, what_to_get

    if data is None and not phantom:
        raise what_to_get(table.name, table.data)
    request = Request(folder, data, numbers, folds, tuple(settings or ()), train)
    with goes_on_when_repeated():
        reproduce(table, request, make_console())
    write_shown(json, "reproduce", folder / "table.json")
