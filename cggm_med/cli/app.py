"""The ``cggm-med`` command line, assembled from its commands; heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from cggm_med.cli import (
    benchmark,
    bundle,
    change,
    check,
    cohort,
    correct,
    doctor,
    ensemble,
    finished_runs,
    init,
    nnunet,
    plan,
    plugins,
    predict,
    reproduce,
    share,
    train,
    unforeseen,
)
from cggm_med.cli.json_output import alone_on_stdout
from cggm_med.cli.unknown_option import App
from cggm_med.errors import CggmMedError

FILES_BY_MODALITY = {"ignore_unknown_options": True}  # --flair FILE, whatever the modalities are called

app = App(
    name="cggm-med",
    help="Multimodal learning, medical image segmentation first, whose modalities are balanced while they train.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cggm-med {version('cggm-med')}")
        raise typer.Exit


@app.callback()
def _options_of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app.add_typer(nnunet.app)
app.add_typer(bundle.app)
app.add_typer(cohort.app)
app.command()(init.init)
app.command()(check.check)
app.command()(plan.plan)
app.command()(train.train)
app.command()(ensemble.ensemble)
app.command()(share.share)
app.command()(finished_runs.evaluate)
app.command()(correct.correct)
app.command()(finished_runs.report)
app.command()(finished_runs.compare)
app.command()(finished_runs.rank)
app.command()(reproduce.reproduce)
app.command()(benchmark.benchmark)
app.command()(finished_runs.probe)
app.command()(finished_runs.calibrate)
app.command(context_settings=FILES_BY_MODALITY)(predict.predict)
app.command()(change.change)
app.command(context_settings=FILES_BY_MODALITY)(finished_runs.view)
app.command()(plugins.tasks)
app.command()(plugins.strategies)
app.command()(plugins.plugins)
app.command()(plugins.new_task)
app.command()(plugins.new_strategy)
app.command()(doctor.doctor)


def main() -> None:
    """Entry point: errors are one line on stderr and exit code 1; 2 for wrong usage."""
    # One line, without the source line that issued it.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        with alone_on_stdout(sys.argv):
            app()
    except CggmMedError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(1) from None
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(unforeseen.in_one_line(error), err=True)
        raise SystemExit(1) from None
