"""Ctrl-C and SIGTERM in commands that train many runs: these save their step, and the same command goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer


@contextlib.contextmanager
def goes_on_when_repeated() -> Iterator[None]:
    """Answer a signal with what continues the work, and the exit code of the signal."""
    from cggm_med.stop import Stopped, stopped_by_signals

    try:
        with stopped_by_signals():
            yield
    except Stopped as stopped:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(stopped.exit_code) from None
