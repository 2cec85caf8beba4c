"""``cggm-med ensemble``: put finished runs together, to predict by the mean of their probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.options import Debug


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one task.", metavar="RUN RUN...")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the ensemble.")],
    debug: Debug = False,
) -> None:
    """Put finished runs together: other commands take the folder as a RUN, which predicts the mean probability."""
    from cggm_med.cli import early

    early.refuse_runs(runs)
    from cggm_med.runs.ensemble import make_ensemble

    make_ensemble(runs, out)
    typer.echo(f"written: {out}, of {len(runs)} runs, whose folders it needs no more; next:")
    typer.echo(f"  cggm-med evaluate {out}")
    typer.echo(f"  cggm-med predict {out} SCANS -o MASKS")
