"""``cggm-med bundle``: MONAI bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.options import Debug
from cggm_med.cli.unknown_option import App

app = App(name="bundle", no_args_is_help=True, help="MONAI bundles.")


@app.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the bundle.")],
    modalities: Annotated[str | None, typer.Option(help="Its channels, such as flair,t1ce. [all of the run]")] = None,
    debug: Debug = False,
) -> None:
    """Write a finished run as a MONAI bundle that runs without this package."""
    from cggm_med.cli import early

    channels = modalities.split(",") if modalities else None
    early.refuse_modalities(run, channels or ())
    from cggm_med.bundle.export import export_bundle

    export_bundle(run, out, channels)
    typer.echo(f"wrote {out}; next, in that folder:")
    typer.echo(
        "  python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir MASKS"
    )
