"""``cggm-med share``: put what others need of a finished run into a folder to pass on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.options import Debug


def share(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder.")],
    debug: Debug = False,
) -> None:
    """Write a run's weights, settings and facts to a folder to pass on, without any name of a case, patient or file.

    The folder is in the format of the Hugging Face Hub and is taken wherever a RUN is.
    """
    from cggm_med.cli import early

    early.refuse_runs([run])
    from cggm_med.runs.shared import share as write

    write(run, out)
    typer.echo(f"written: {out}; read its README.md, add a licence and what the data were, and pass it on")
    typer.echo(f"  cggm-med predict {out} SCANS -o MASKS")
