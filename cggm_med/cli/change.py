"""``cggm-med change``: what became of the lesions between two time points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Accept, Debug, kinds_of, make_console


def change(
    earlier: Annotated[Path, typer.Argument(help="A mask, or a folder that 'predict' wrote.", metavar="EARLIER")],
    later: Annotated[Path, typer.Argument(help="The same of a later time point, in the same space.", metavar="LATER")],
    registered: Annotated[
        bool, typer.Option("--registered", help="Both lie in one space, although on grids of their own.")
    ] = False,
    same: Annotated[
        float, typer.Option(help="Change of volume up to which a lesion is the same.", min=0, metavar="PERCENT")
    ] = 0.0,
    labels: Annotated[
        str | None,
        typer.Option(help="Of masks without the JSON file of predict: brats2021 and so on, or data that declare it."),
    ] = None,
    accept: Accept = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Follow lesions from one time point to the next: new, gone, grown or shrunk, by how many mL and percent.

    Nothing is registered: both masks must lie in one space.
    """
    from cggm_med.cli import early

    early.refuse_absent([earlier, later], "a mask, or a folder that 'cggm-med predict' wrote")
    require_json(json, "change", [earlier, later])
    from cggm_med.inference.follow_up import change_tables, follow
    from cggm_med.results.tables import print_table

    found = follow(
        earlier,
        later,
        labels=labels,
        registered=registered,
        same_percent=same,
        accepted=kinds_of(accept),
        say=typer.echo,
    )
    console = make_console()
    for table in change_tables(found):
        print_table(table, console)
    write_shown(json, "change", found)
    if found["failed"]:
        typer.echo(f"{len(found['failed'])} of {len(found['failed']) + len(found['cases'])} cases failed", err=True)
        raise typer.Exit(1)
