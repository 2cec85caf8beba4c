"""``cggm-med cohort``: how far a cohort is that is predicted shard by shard, and one table of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Debug, make_console
from cggm_med.cli.unknown_option import App

app = App(name="cohort", no_args_is_help=True, rich_markup_mode=None)
Masks = Annotated[Path, typer.Argument(metavar="OUT", help="The --out of 'predict --shard K/N'.")]


@app.callback()
def cohort() -> None:
    """A cohort that several processes predict, each a shard: see 'cggm-med predict --shard'."""


@app.command()
def status(
    folder: Masks,
    count: Annotated[
        bool, typer.Option("--count", help="Go through the cohort to count what is pending, also of other shards.")
    ] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Show of each shard how many cases are done, failed and pending, and whether a process works on it."""
    require_json(json, "cohort status")
    from cggm_med.inference import cohort as cohorts
    from cggm_med.results.tables import print_table

    shards = cohorts.status(folder, count=count)
    print_table(cohorts.status_table(shards), make_console())
    write_shown(json, "cohort status", {"shards": [each.to_json() for each in shards]})


@app.command()
def merge(
    folder: Masks,
    out: Annotated[Path, typer.Option("-o", "--out", help="The table (.csv).")],
    incomplete: Annotated[bool, typer.Option("--incomplete", help="Also if shards are not finished.")] = False,
    debug: Debug = False,
) -> None:
    """Write the rows of all shards as one table, in the order of their cases."""
    if out.suffix.lower() != ".csv":
        raise typer.BadParameter(f"--out {out}: expected the name of a table, such as {out.with_suffix('.csv')}")
    from cggm_med.errors import counted
    from cggm_med.files import require_writable
    from cggm_med.inference import cohort as cohorts
    from cggm_med.inference.manifest import is_cohort

    require_writable([out], ours=is_cohort)
    rows = cohorts.merge(folder, out, incomplete=incomplete)
    typer.echo(f"written: {out} with {counted(rows, 'case')}")
