"""Start or resume a run: train, then score the held-out cases, and write everything to the run folder."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import yaml
from rich.console import Console

from cggm_med import distributed
from cggm_med.config import RunConfig, TrainConfig, Tree, merge, to_tree
from cggm_med.data.splits import Splits, write_splits
from cggm_med.device import held_bytes, precision, select_device
from cggm_med.errors import CheckpointError
from cggm_med.files import require_unused, results_folder, write_json, write_text
from cggm_med.lock import LOCK, alone
from cggm_med.plots.curves import learning_figure, modality_figure
from cggm_med.results.results import Report
from cggm_med.results.tables import print_table
from cggm_med.runs.expected import MIN_STEPS, expected_of, how_to_shorten, within_budget
from cggm_med.runs.finished_run import FinishedRun, held_out
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.initial_weights import require_usable, start_from_run
from cggm_med.runs.journal import FINISHED, Journal
from cggm_med.runs.loaded_run import LoadedRun
from cggm_med.runs.loggers import RunLog, RunLogger, make_loggers
from cggm_med.runs.memory import expected_memory
from cggm_med.runs.outlook import outlook
from cggm_med.runs.progress import RunProgress, speaker
from cggm_med.runs.scoring import score_run
from cggm_med.runs.settings import completed, instantiate
from cggm_med.runs.short_memory import TooLarge, more_parts
from cggm_med.runs.teacher import network_of, teacher_of
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training import early_stopping
from cggm_med.training.build import build
from cggm_med.training.cost import measured
from cggm_med.training.gradient_log import GradientLog
from cggm_med.training.loop import Record, train
from cggm_med.training.monitor import coverage
from cggm_med.training.resume_check import changed_settings, require_same_data
from cggm_med.training.validation import require_watchable

MIN_POINTS = 4  # of a curve that is worth drawing


def start(config: RunConfig, folder: Path, console: Console) -> Report | None:
    """Train from the beginning and score the held-out cases.

    Args:
        config: resolved settings.
        folder: new or empty.
        console: for progress and the table.

    Returns:
        The scores, or None if no case was held out.

    Raises:
        OutputError: if the folder holds files already or cannot be written.
    """
    journal, loggers = Journal(speaker(console)), make_loggers(config.train.loggers)
    run, first = RunFolder(folder), distributed.rank() == 0
    # Try the folder before the data are read, which may take long.
    _require_new(folder)
    with _alone(folder, journal):
        _require_new(folder)  # nobody else made a run of it meanwhile
        task, strategy, splits = _begin(config, journal)
        task.prepare(splits, journal)
        teacher_of(task, strategy, prepared=True)
        if config.train.init is not None:
            require_usable(Path(config.train.init), task)
        settings = task.config.train
        length = settings.steps_in_epoch(len(splits.train))
        settings = dataclasses.replace(settings, steps_per_epoch=length)
        task.settle(train=_dense_enough(settings, journal))
        if first:
            write_splits(run.splits, splits)
            write_json(run.groups, task.groups)
            write_json(run.data, task.contents())
            write_json(run.facts, task.facts())
            write_json(run.findings, task.findings())
            if (launch := distributed.launch()) is not None:
                write_text(run.launch, launch)
            # Last, since it makes the folder a run, which can be continued.
            write_text(run.config, yaml.safe_dump(to_tree(task.config), sort_keys=False))
        return _as_memory_allows(run, task, strategy, console, None, loggers, journal)


def rehearse(config: RunConfig, folder: Path, console: Console) -> None:
    """Say what a run would train, on which cases and for how long, as far as settings and headers tell.

    Everything is refused that :func:`start` refuses before it reads images, and nothing is left behind.

    Args:
        config: resolved settings.
        folder: that the run would be written to.
        console: for the tables.

    Raises:
        OutputError: if the folder holds files already.
    """
    task, splits = examine(config, folder, speaker(console))
    device = select_device(config.train.device)
    if isinstance(task, SegmentationTask):
        for table in outlook(task, at_hand=True):
            print_table(table, console)
    console.print(
        f"would train {config.task.name} with {config.strategy.name} on {device}: {len(splits.train)} training, "
        f"{len(splits.validation)} validation, {len(splits.test)} test cases; run folder {folder}, which was not "
        "made. Images were not read: 'cggm-med check' reads and checks them"
    )


def examine(config: RunConfig, folder: Path, say: Callable[[str], None]) -> tuple[Task, Splits]:
    """Refuse what :func:`start` refuses before it reads images.

    Args:
        config: resolved settings.
        folder: that the run would be written to.
        say: receives lines about the data.

    Returns:
        The task, whose cases are found, and how they would be divided.

    Raises:
        OutputError: if the folder holds files already.
    """
    make_loggers(config.train.loggers)
    _require_new(folder)
    task, _, splits = _begin(config, say)
    return task, splits


def _begin(config: RunConfig, say: Callable[[str], None]) -> tuple[Task, BalancingStrategy, Splits]:
    """The task with its cases found, the strategy and the split, after all that can be refused without an image."""
    task, strategy = instantiate(config)
    teacher_of(task, strategy, prepared=False)  # before the data are read
    if config.train.init is not None:
        FinishedRun(Path(config.train.init))
    task.find(say)
    splits = task.default_splits()
    require_watchable(task, strategy, splits)  # before the images are read
    return task, strategy, splits


def _require_new(folder: Path) -> None:
    """Refuse a folder that holds something, once."""
    if distributed.rank() != 0:
        return
    started = RunFolder(folder).config.exists()
    go_on = f", or continue its run with --resume {folder}" if started else ""
    require_unused(folder, instead=go_on, beside=[LOCK])


@contextlib.contextmanager
def _alone(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """A folder that can be written, in which no other process trains; of several processes, the first cares for it."""
    if distributed.rank() != 0:
        yield
        return
    with results_folder(folder), alone(folder, say):
        yield


def _dense_enough(settings: TrainConfig, say: Callable[[str], object]) -> TrainConfig:
    """The settings, with a smaller ``log_every`` if a short run would leave nothing to draw.

    Example:
        >>> _dense_enough(TrainConfig(epochs=2, steps_per_epoch=6), print).log_every
        12 steps: logging every 3, since every 10 (train.log_every) leaves 1 of 4 points of a curve
        3
    """
    steps, every = settings.steps, max(1, settings.steps // MIN_POINTS)
    if every >= settings.log_every:
        return settings
    say(
        f"{steps} steps: logging every {every}, since every {settings.log_every} (train.log_every) leaves "
        f"{steps // settings.log_every} of {MIN_POINTS} points of a curve"
    )
    return dataclasses.replace(settings, log_every=every)


def resume(folder: Path, overrides: Tree, console: Console) -> Report | None:
    """Continue a run from its last checkpoint and score the held-out cases.

    Args:
        folder: the run's folder.
        overrides: settings that do not change its numbers, such as ``data.workers``.
        console: for progress and the table.

    Raises:
        CheckpointError: if the folder is not a run, or settings or data differ from the run's; names what differs.
    """
    run = RunFolder(folder)
    if run.ensemble.exists():
        raise CheckpointError(f"{folder} is an ensemble, which was not trained; continue one of its runs")
    if run.shared.exists():
        raise CheckpointError(f"{folder} was passed on without its checkpoints; start a new run with --init {folder}")
    config = run.settings_with(overrides)
    if changed := changed_settings(completed(run.stored_settings()), to_tree(config)):
        raise CheckpointError(
            f"{folder} cannot be resumed with other settings (run != now): {'; '.join(changed)}; "
            "leave them as they were, or start a new run"
        )
    task, strategy = instantiate(config)
    loggers = make_loggers(config.train.loggers)
    journal = Journal(speaker(console))
    with _alone(folder, journal):
        return _continue(run, task, strategy, console, loggers, journal)


def _continue(
    run: RunFolder,
    task: Task,
    strategy: BalancingStrategy,
    console: Console,
    loggers: Mapping[str, RunLogger],
    journal: Journal,
) -> Report | None:
    """Continue a run whose settings were not changed."""
    config = task.config
    task.find(journal)
    task.prepare(run.read_splits(), journal)
    if distributed.rank() == 0:
        _store_choice(run, config)
    last = run.checkpoints / "last.pt"
    checkpoint = None
    if last.exists():
        checkpoint = checkpoints.load(last, torch.device("cpu"))
        checkpoint = dataclasses.replace(checkpoint, config=completed(checkpoint.config))
        journal(f"resuming at step {checkpoint.step} of {config.train.steps}")
    else:
        require_same_data(run.path, dict(FinishedRun(run.path).contents), dict(task.contents()))
        journal("no checkpoint yet: starting at step 0")
    if distributed.rank() == 0:
        run.forget_after(0 if checkpoint is None else checkpoint.step)
    return _as_memory_allows(run, task, strategy, console, checkpoint, loggers, journal)


def _store_choice(run: RunFolder, config: RunConfig) -> None:
    """Store whether components are removed, which a resumed run may decide anew, for whoever uses the run later."""
    stored, key = run.stored_settings(), "component_filter"
    now = to_tree(config)["task"].get(key)
    if now is not None and stored["task"].get(key, "none") != now:
        write_text(run.config, yaml.safe_dump(merge([stored, {"task": {key: now}}]), sort_keys=False))


def _as_memory_allows(
    run: RunFolder,
    task: Task,
    strategy: BalancingStrategy,
    console: Console,
    checkpoint: checkpoints.Checkpoint | None,
    loggers: Mapping[str, RunLogger],
    journal: Journal,
) -> Report | None:
    """Train and score; where memory ends, go on from the last checkpoint with the batch in more parts."""
    with journal.kept_in(run.log):
        try:
            return _train_and_score(run, task, strategy, console, checkpoint, loggers, journal)
        except TooLarge as error:
            parts = error.parts
        # Here, since until an error is handled, what has failed holds its memory.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        last = run.checkpoints / "last.pt"
        step = checkpoints.load(last, torch.device("cpu")).step if last.exists() else 0
        journal(
            f"memory is short: going on after step {step} with each batch of {task.config.train.batch_size} in {parts} "
            f"parts, which changes its update by rounding alone; train.accumulate={parts} begins with that"
        )
        write_json(run.parts, [*FinishedRun(run.path).parts, {"step": step, "parts": parts}])
    config = task.config
    task, strategy = instantiate(config)
    return _continue(run, task, strategy, console, make_loggers(config.train.loggers), journal)


def _train_and_score(
    run: RunFolder,
    task: Task,
    strategy: BalancingStrategy,
    console: Console,
    checkpoint: checkpoints.Checkpoint | None,
    loggers: Mapping[str, RunLogger],
    say: Journal,
) -> Report | None:
    """Train to the end, draw the learning curves, and score the held-out cases."""
    config, splits = task.config, task.splits
    first = distributed.rank() == 0
    device = select_device(config.train.device)
    done, spent = (checkpoint.step, checkpoint.seconds) if checkpoint else (0, 0.0)
    # Several processes have smaller shares, and the first one has only begun to write the folder.
    changes = FinishedRun(run.path).parts if distributed.world_size() == 1 else ()
    parts = changes[-1]["parts"] if changes else config.train.accumulate
    # Before the run's own network is made, so that no two are in memory.
    timed = config.train.steps - done >= MIN_STEPS
    memory = expected_memory(task, device, held_bytes(device)) if timed else None
    duration = expected_of(task, device, done) if timed else None
    model = build(task, strategy, config, device)
    if checkpoint is None:
        task.start_from_data(model, strategy.heads)
        if config.train.init is not None:
            known = FinishedRun(run.path).initial
            initial = start_from_run(Path(config.train.init), model, strategy.heads, known, say)
            if first:
                write_json(run.initial, initial)
    if (teacher := teacher_of(task, strategy, prepared=True)) is not None:
        strategy.learn_from(network_of(teacher, task, device))
    if first:
        write_json(run.coverage, coverage(model, strategy))
    values = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(
        f"training {config.task.name} with {config.strategy.name} on {device}: "
        f"{values / 1e6:.2f} M parameters, {len(splits.train)} training, "
        f"{len(splits.validation)} validation, {len(splits.test)} test cases; run folder {run.path}"
    )
    for table in task.overview() if first else ():
        print_table(table, console, fold=True)
    split = held_out(splits)
    if split is None:
        say("no case is held out, so nothing will be scored at the end")
    if memory is not None:
        say(f"expected memory of the process on {device}: {memory}")
    if duration is not None:
        say(f"expected on {device}: {duration}; Ctrl-C stops, --resume {run.path} continues")
        for line in (how_to_shorten(config.train, duration, device), within_budget(config.train, duration, spent)):
            if line:
                say(line)
    shown = console if first else Console(quiet=True)
    progress = RunProgress(shown, done, config.train.steps, say.note, hours=config.train.hours)
    run_log = RunLog(loggers, run.path, to_tree(config), done, say)

    def log(record: Record) -> None:
        run_log(record)
        progress(record)
        if record["kind"] == "validation" and (word := early_stopping.word(config.train, record, task.chosen_by)):
            say(word)

    # The cost of an interrupted run is unknown.
    cost = measured(run.cost, device) if first and done == 0 else contextlib.nullcontext()
    with run_log:
        with progress, cost as memory_of_steps:
            try:
                steps, why = train(
                    task,
                    model,
                    strategy,
                    config,
                    run.checkpoints,
                    device=device,
                    log=log,
                    log_gradients=GradientLog(run.gradients, config.train.steps, config.train.log_every),
                    resume=checkpoint,
                    memory=memory_of_steps,
                    parts=parts,
                )
            except torch.OutOfMemoryError:
                raise TooLarge(more_parts(config, parts, model, strategy, device)) from None
        if why:
            say(f"training ended after step {steps} of at most {config.train.steps}: {why}")
            if first:
                write_json(run.ended, {"step": steps, "why": why})
        if first and run.metrics.exists():
            records = run.read_metrics()
            learning_figure(run.path / "figures" / "learning.png", records)
            modality_figure(run.path / "figures" / "modalities.png", records, task.modalities)
        if split is None:
            say.note(FINISHED)
            return None
        finished, cases = FinishedRun(run.path), getattr(splits, split)
        best = finished.restore(model, strategy, device)
        autocast = precision(config.train.precision, device)
        if fitted := task.fit_postprocessing(model, device=device, autocast=autocast, say=say):
            if first:
                write_json(run.postprocessing, fitted)
            task.use_postprocessing(fitted)
        loaded = LoadedRun(finished, {}, task, model, strategy, cases, split, best, device, split)
        report = score_run(loaded, run.path, console)
        run_log.pictures(sorted((run.path / "figures").glob("*.png")))
        say.note(f"{FINISHED}, see {run.path / 'results.md'}")
        return report
