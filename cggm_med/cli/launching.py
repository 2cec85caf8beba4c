"""Where a command trains its runs, here or on a cluster, and how it ends when they are stopped or not finished."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from cggm_med.comparison.experiment import Trainer

Launcher = Annotated[
    Literal["local", "slurm"], typer.Option(help="Where runs are trained: here, or as an array job of a cluster.")
]
Sbatch = Annotated[
    list[str] | None,
    typer.Option(
        help="Of --launcher slurm, any option of sbatch, such as partition=gpu; may be repeated.", metavar="KEY[=VALUE]"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Of --launcher slurm: print the script alone.")]
NOT_FINISHED = 75  # exit code: runs are under way elsewhere; sysexits.h calls it a temporary failure


def trainer(
    launcher: str,
    jobs: Path,
    command: str,
    *,
    sbatch: list[str] | None,
    parallel: int | None = None,
    dry_run: bool = False,
) -> Trainer:
    """What trains the runs of a command.

    Args:
        launcher: ``local`` or ``slurm``.
        jobs: folder for what is submitted.
        command: whose runs they are.
        sbatch: options of ``sbatch``.
        parallel: how many run at once.
        dry_run: whether to show the script of an array job alone.

    Raises:
        typer.BadParameter: if there are options of a cluster, and none is used.
        ConfigError: for an option that ``sbatch`` does not take from a script.
    """
    if launcher == "local" and (sbatch or dry_run):
        raise typer.BadParameter("--sbatch and --dry-run go with --launcher slurm")
    from functools import partial

    from cggm_med.comparison.experiment import train_all
    from cggm_med.comparison.on_slurm import OnSlurm
    from cggm_med.runs.slurm import Array, require_options

    if launcher == "local":
        return partial(train_all, parallel=parallel)
    require_options(sbatch or [])
    return OnSlurm(Array(jobs, command, tuple(sbatch or ()), parallel), dry_run)


@contextlib.contextmanager
def goes_on_when_repeated() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM with what continues the work, and end with the state of runs on a cluster."""
    from cggm_med.comparison.on_slurm import NotFinished, Shown
    from cggm_med.stop import Stopped, stopped_by_signals

    try:
        with stopped_by_signals():
            yield
    except Stopped as stopped:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(stopped.exit_code) from None
    except Shown as shown:
        typer.echo(str(shown))
        raise typer.Exit from None
    except NotFinished as state:
        typer.echo(str(state))
        raise typer.Exit(NOT_FINISHED) from None
