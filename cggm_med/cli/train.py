"""``cggm-med train``: train a run, or continue one."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cggm_med import registry
from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.launching import Launcher, Sbatch, goes_on_when_repeated, trainer
from cggm_med.cli.options import (
    ConfigFile,
    Data,
    Debug,
    Epochs,
    Settings,
    TaskName,
    TrainDevice,
    make_console,
    names_of,
    overrides_of,
    with_short_options,
)
from cggm_med.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from cggm_med.comparison.experiment import Plan
    from cggm_med.config import RunConfig
    from cggm_med.results.results import Report


def train(
    task: TaskName = "brats2021",
    data: Data = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="How to balance; see 'cggm-med strategies'. [cggm]", autocompletion=names_of(registry.STRATEGIES)
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as tiny. [what suits the data]")] = None,
    resample_to: Annotated[
        str | None,
        typer.Option(metavar="MODALITY", help="Resample a case's images on other grids to this one's."),
    ] = None,
    epochs: Epochs = None,
    seed: Annotated[int | None, typer.Option(help="Of all draws: split, weights, patches. [0]", min=0)] = None,
    device: TrainDevice = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="LOGGER",
            help="Who follows the run live, such as tensorboard; may be repeated.",
            autocompletion=names_of(registry.LOGGERS),
        ),
    ] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Train cases that lack modalities with what they have.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from this run's weights, where names and shapes agree.", metavar="RUN")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New run folder. [runs/DATE-TASK-STRATEGY]")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder instead of starting one.")] = None,
    launcher: Launcher = "local",
    sbatch: Sbatch = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would be trained on which cases, or print the script of SLURM; write nothing.",
        ),
    ] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Train, then score the held-out cases.

    Without --data the task's embedded data are used. Settings: defaults < plan < preset < --config < --set; --epochs,
    --seed, --device and --log are settings of section train.
    """
    loggers = f"[{','.join(log)}]" if log else None
    short = {"train.epochs": epochs, "train.seed": seed, "train.device": device, "train.loggers": loggers}
    short |= {
        "train.init": None if init is None else dumps(os.path.abspath(init), ensure_ascii=False),
        "data.resample_to": None if resample_to is None else dumps(resample_to, ensure_ascii=False),
        "data.allow_missing": True if allow_missing else None,
    }
    words = with_short_options(settings, short)
    overrides = overrides_of(words, data)
    from cggm_med.cli import early
    from cggm_med.config import read_file

    layers = [*([read_file(config)] if config is not None else []), overrides]
    early.refuse_names(task, strategy)
    early.refuse_settings(layers)
    early.refuse_runs(folder for folder in (resume, init) if folder is not None)
    require_json(json, "train")
    from cggm_med import distributed
    from cggm_med.device import select_device
    from cggm_med.runs.settings import make_config, of_first_process

    if resume is None:  # what is wrong in it is said before all that trains and draws is imported
        resolved = make_config(task, layers, preset=preset, strategy=strategy)
    from cggm_med.runs import train as run
    from cggm_med.runs.folder import RunFolder

    console = make_console()
    if dry_run and json is not None:
        raise typer.BadParameter("--json holds the results of a training; 'cggm-med plan DATA --json FILE' plans one")
    if resume is not None:
        options: dict[str, object] = {
            "--config": config,
            "--out": out,
            "--preset": preset,
            "--init": init,
            "--dry-run": dry_run,
            "--launcher": launcher == "slurm",
            "--sbatch": sbatch,
        }
        ignored = [name for name, value in options.items() if value]
        if ignored:
            raise typer.BadParameter(f"{', '.join(ignored)} cannot go with --resume: the run keeps its settings")
        if strategy is not None:
            overrides["strategy"] = {**overrides.get("strategy", {}), "name": strategy}
        chosen = select_device(RunFolder(resume).device_setting(overrides))
        with distributed.processes(chosen), _interruptible(resume):
            report = run.resume(resume, overrides, console)
        write_shown(json, "train", {} if report is None else report.to_json())
        return
    if launcher == "slurm":
        if out is None:
            raise typer.BadParameter("--launcher slurm needs --out RUN, by which the same command finds the run again")
        from cggm_med.comparison.experiment import Plan

        plan = Plan(out.parent, task, preset, config, overrides, tuple(words))
        report = _on_cluster(plan, resolved, out, sbatch, dry_run, console)
        write_shown(json, "train", {} if report is None else report.to_json())
        return
    if sbatch:
        raise typer.BadParameter("--sbatch goes with --launcher slurm")
    chosen = select_device(resolved.train.device)
    if distributed.restarts():
        _require_restartable(out)
    if out is not None and not dry_run and RunFolder(out).begun_by(distributed.launch()):
        with distributed.processes(chosen), _interruptible(out):
            report = run.resume(out, {}, console)
        write_shown(json, "train", {} if report is None else report.to_json())
        return
    with distributed.processes(chosen):
        resolved = of_first_process(resolved, chosen)
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        stamp = distributed.gather_json(stamp, chosen)[0]
        folder = out or Path("runs") / f"{stamp}-{resolved.task.name}-{resolved.strategy.name}"
        if dry_run:
            run.rehearse(resolved, folder, console)
            return
        with _interruptible(folder):
            report = run.start(resolved, folder, console)
    write_shown(json, "train", {} if report is None else report.to_json())


def _require_restartable(out: Path | None) -> None:
    """Refuse a training that torchrun would start again, and that would not find its run or its other processes then.

    Raises:
        ConfigError: says what to give torchrun.
    """
    from cggm_med import distributed

    if out is None or distributed.launch() is None:
        raise ConfigError(
            "torchrun was given --max-restarts, and a process that it starts again finds its run by --out and the name "
            "of the torchrun; add --out RUN, and --rdzv-id NAME or --standalone to torchrun"
        )
    if distributed.restart_hangs():
        raise ConfigError(
            "torchrun was given --max-restarts, and processes that it starts again would wait for ever for what is in "
            "its store of the first start; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun"
        )


def _on_cluster(
    plan: Plan, config: RunConfig, out: Path, sbatch: list[str] | None, dry_run: bool, console: Console
) -> Report | None:
    """Submit the run as the only one of a plan, or say how far it is; its scores once it is finished, if it has any."""
    from cggm_med.comparison.experiment import PlannedRun
    from cggm_med.comparison.variants import Variant
    from cggm_med.results.results import print_results
    from cggm_med.runs.finished_run import FinishedRun
    from cggm_med.runs.folder import RunFolder
    from cggm_med.runs.train import examine

    run = PlannedRun(out, Variant(config.strategy.name), ())
    submit = trainer("slurm", out.with_name(f"{out.name}.slurm"), "train", sbatch=sbatch, dry_run=dry_run)
    if not (RunFolder(out).config.exists() or run.requested.exists()):
        examine(config, out, lambda line: None)  # before it waits in a queue
    with goes_on_when_repeated():
        submit(plan, [run], console.print)
    console.print(f"{out} is finished")
    if not RunFolder(out).results.exists():
        return None
    report = FinishedRun(out).report
    print_results(report, console)
    return report


@contextlib.contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM with what is saved, and the command that continues the run."""
    from cggm_med.stop import Stopped, stopped_by_signals

    try:
        with stopped_by_signals():
            yield
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        saved = "" if stopped.saved is None else f" after step {stopped.saved}, which is saved"
        goes_on = f"; continue with: cggm-med train --resume {folder}" if (folder / "config.yaml").exists() else ""
        typer.echo(f"stopped{saved}{goes_on}", err=True)
        raise typer.Exit(stopped.exit_code) from None
