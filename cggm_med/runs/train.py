"""A run from its first line to its last: train, resume and evaluate, with everything written down."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree, differences, require, to_tree
from cggm_med.data.splits import Splits, write_splits
from cggm_med.device import select_device
from cggm_med.errors import CheckpointError, DataError, OutputError, UnknownName
from cggm_med.files import append_text, require_unused, results_folder, unused, write_json, write_text
from cggm_med.models.base import MultimodalModel
from cggm_med.plots.segmentation import learning_figure, modality_figure
from cggm_med.results.results import Report, print_report
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.progress import RunProgress
from cggm_med.runs.settings import make_config
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training import validation
from cggm_med.training.build import build, parameter_count
from cggm_med.training.cost import measured
from cggm_med.training.gradient_log import GradientLog
from cggm_med.training.loop import Record, train
from cggm_med.training.monitor import coverage

DRAWN_CASES = 4  # the first ones
DRAWN_WORST = 3


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
    task, strategy = _make(config)
    say = speaker(console)
    run = RunFolder(folder)
    first = distributed.rank() == 0
    # The folder is tried before the data are read, which may take long.
    with results_folder(folder) if first else contextlib.nullcontext():
        if first and any(folder.iterdir()):
            resume = f", or continue its run with --resume {folder}" if run.config.exists() else ""
            raise OutputError(f"{folder} is not empty; choose another folder with --out{resume}")
        task.find(say)
        splits = task.default_splits()
        task.prepare(splits, say)
        config = task.config = _with_steps(task.config, len(splits.train))
        if first:
            write_text(run.config, yaml.safe_dump(to_tree(config), sort_keys=False))
            write_splits(run.splits, splits)
            write_json(run.data, task.contents())
            write_json(run.facts, task.facts())
    return _train(config, run, task, strategy, console, None)


def resume(folder: Path, overrides: Tree, console: Console) -> Report | None:
    """Continue a run from its last checkpoint and score the held-out cases.

    Args:
        folder: of the run.
        overrides: settings that do not change its numbers, such as ``data.workers``.
        console: for progress and the table.

    Raises:
        CheckpointError: if the folder is no run, or settings or data differ from the run's; names what differs.
    """
    run = RunFolder(folder)
    stored = run.stored_settings()
    config = make_config(str(stored["task"]["name"]), [stored, overrides])
    changed = [x for x in differences(stored, to_tree(config)) if x.split(":")[0] not in checkpoints.FREE_SETTINGS]
    if changed:
        raise CheckpointError(
            f"{folder} cannot be resumed with other settings (run != now): {'; '.join(changed)}; "
            "leave them as they were, or start a new run"
        )
    task, strategy = _make(config)
    say = speaker(console)
    task.find(say)
    task.prepare(run.read_splits(), say)
    last = run.checkpoints / "last.pt"
    checkpoint = None
    if last.exists():
        checkpoint = checkpoints.load(last, torch.device("cpu"))
        say(f"resuming at step {checkpoint.step} of {config.train.steps}")
    else:
        say("no checkpoint yet: starting at step 0")
    if distributed.rank() == 0:
        run.forget_after(0 if checkpoint is None else checkpoint.step)
    return _train(config, run, task, strategy, console, checkpoint)


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Score a finished run on its own held-out cases or on other data.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path`` and ``task.labels``.
        console: for the table.
        split: see ``open_finished``.
        out: folder for table and pictures; default: a new one inside the run folder.

    Raises:
        CheckpointError: if the folder is no run or its weights do not fit.
        DataError: if a case was trained on and ``split`` was not given.
        OutputError: if ``out`` holds something.
    """
    if out is not None:
        require_unused(out)
    x = open_finished(folder, overrides, speaker(console), split=split)
    target = out or new_folder(folder / "evaluations" / x.name, x.device)
    return _score(
        x.config, x.folder, x.task, x.model, x.strategy, x.cases, x.split, x.weights, x.device, target, console
    )


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run, ready to be scored.

    Attributes:
        folder: of the run.
        config: its settings, with what is said now.
        task: prepared.
        model, strategy: with the run's weights.
        cases: ids of what to score.
        split: what they are called.
        weights: the checkpoint.
        device: where to compute.
        name: of these cases, for a folder of results.
    """

    folder: RunFolder
    config: RunConfig
    task: Task
    model: MultimodalModel
    strategy: BalancingStrategy
    cases: tuple[str, ...]
    split: str
    weights: checkpoints.Checkpoint
    device: torch.device
    name: str


def open_finished(
    folder: Path,
    overrides: Tree,
    say: Callable[[str], None],
    *,
    split: str | None,
    check: Callable[[Task], object] = lambda task: None,
) -> FinishedRun:
    """Load a finished run and the cases that it is to be scored on.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path`` and ``task.labels``.
        say: told what is done.
        split: ``train``, ``validation`` or ``test`` of the run, or ``all``; default: the run's held-out cases, or with
            other data all cases, provided that none was trained on.
        check: may refuse the task before its data are read, which may take long.

    Raises:
        CheckpointError: if the folder is no run or its weights do not fit.
        DataError: if a case was trained on and ``split`` was not given.
    """
    run = RunFolder(folder)
    stored = run.stored_settings()
    config = make_config(str(stored["task"]["name"]), [stored, overrides])
    other_data = "path" in overrides.get("data", {})
    task, strategy = _make(config)
    check(task)
    found = task.find(say)
    own = run.read_splits()
    known = {"all": found, **dict(own.items())}
    chosen = split or ("all" if other_data else held_out(own))
    if chosen is None:
        raise DataError(f"{folder} held no case out; name other scans with --data, or cases of the run with --split")
    if chosen not in known:
        raise UnknownName("split", chosen, known)
    available = set(found)
    cases = tuple(case for case in known[chosen] if case in available)
    if not cases:
        raise DataError(f"split '{chosen}' of {folder} has no case in these data; choose another with --split")
    task.prepare(Splits(train=(), validation=(), test=cases), say)
    if split is None and other_data:
        trained = run.digests((*own.train, *own.validation))
        familiar = [id for id, files in task.contents().items() if not trained.isdisjoint(files.values())]
        if familiar:
            raise DataError(
                f"{len(familiar)} of {len(cases)} cases were used to train this run ({_first_of(familiar)}): "
                "--split test scores its held-out cases, --split all scores everything, seen or not"
            )
    device = select_device(config.train.device)
    model = build(task, strategy, config, device)
    weights = checkpoints.load(run.weights, device)
    checkpoints.restore(weights, model, strategy, run.weights)
    name = Path(config.data.path).stem if other_data else chosen
    return FinishedRun(run, config, task, model, strategy, cases, chosen, weights, device, name)


def open_own(folder: Path, overrides: Tree, say: Callable[[str], None], *, split: str) -> FinishedRun:
    """Load a finished run and cases of its own splits, whatever other data are to be scored.

    Args:
        folder: of the run.
        overrides: settings, of which those about other data are left out.
        say: told what is done.
        split: ``train``, ``validation`` or ``test``.

    Raises:
        DataError: if the split is empty or its cases are no longer there.
    """
    if "path" in overrides.get("data", {}):
        about_data = {"data": ("path",), "task": ("labels",)}
        overrides = {
            section: {key: value for key, value in keys.items() if key not in about_data.get(section, ())}
            for section, keys in overrides.items()
        }
    return open_finished(folder, overrides, say, split=split)


def open_validation(x: FinishedRun, overrides: Tree, say: Callable[[str], None]) -> tuple[FinishedRun | None, str]:
    """The run's own validation cases, to choose or fit something by, unless they are what is scored.

    Args:
        x: what is scored.
        overrides: settings with which it was opened.
        say: told what is done.

    Returns:
        Them, or None and why not.

    Raises:
        DataError: if the run's own data are what is scored, and these cases are no longer there.
    """
    own = x.folder.read_splits().validation
    if not own:
        return None, "the run has no validation split"
    other_data = "path" in overrides.get("data", {})
    if other_data:
        known = x.folder.digests(own)
        scored = any(not known.isdisjoint(files.values()) for files in x.task.contents().values())
    else:
        scored = not set(own).isdisjoint(x.cases)
    if scored:
        return None, "cases of the validation split are scored here"
    try:
        return open_own(x.folder.path, overrides, say, split="validation"), ""
    except DataError as error:
        if not other_data:
            raise
        return None, f"the run's own validation cases cannot be read ({str(error).splitlines()[0]})"


def new_folder(path: Path, device: torch.device) -> Path:
    """A folder that holds no results yet, the same for all processes: ``path``, or ``path-2`` and so on.

    Args:
        path: what to call it if that name is free.
        device: where this process computes.
    """
    return Path(distributed.gather_json(str(unused(path)), device)[0])


def held_out(splits: Splits) -> str | None:
    """The split that a run is scored on: test, else validation, else none."""
    return "test" if splits.test else "validation" if splits.validation else None


def _make(config: RunConfig) -> tuple[Task, BalancingStrategy]:
    processes, size = distributed.world_size(), config.train.batch_size
    parts = config.train.accumulate
    share = f"a multiple of {processes * parts}: {processes} process(es) times train.accumulate {parts}"
    require(size % (processes * parts) == 0, "train.batch_size", size, share)
    task = registry.load(registry.TASKS, config.task.name)(config)
    return task, registry.load(registry.STRATEGIES, config.strategy.name)(config.strategy)


def _with_steps(config: RunConfig, cases: int) -> RunConfig:
    """The settings with the length of an epoch written out."""
    if config.train.steps_per_epoch:
        return config
    steps = max(1, cases // config.train.batch_size)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, steps_per_epoch=steps))


def _first_of(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def speaker(console: Console) -> Callable[[str], Any]:
    """Prints lines in the first process and nothing in the others."""
    return console.print if distributed.rank() == 0 else lambda text: None


def _train(
    config: RunConfig,
    run: RunFolder,
    task: Task,
    strategy: BalancingStrategy,
    console: Console,
    checkpoint: checkpoints.Checkpoint | None,
) -> Report | None:
    device = select_device(config.train.device)
    model = build(task, strategy, config, device)
    say = speaker(console)
    if distributed.rank() == 0:
        write_json(run.coverage, coverage(model, strategy))
    say(
        f"training {config.task.name} with {config.strategy.name} on {device}: "
        f"{parameter_count(model) / 1e6:.2f} M parameters, {len(task.splits.train)} training, "
        f"{len(task.splits.validation)} validation, {len(task.splits.test)} test cases; run folder {run.path}"
    )
    if held_out(task.splits) is None:
        say("no case is held out, so nothing will be scored at the end")
    first = distributed.rank() == 0
    progress = RunProgress(
        console if first else Console(quiet=True), checkpoint.step if checkpoint else 0, config.train.steps
    )

    def log(record: Record) -> None:
        if first:
            append_text(run.metrics, json.dumps(record) + "\n")
            progress(record)

    # Of a run that was stopped in between, the cost is not known.
    whole = first and (checkpoint is None or checkpoint.step == 0)
    with progress, measured(run.cost, device, config.train.steps) if whole else contextlib.nullcontext():
        train(
            task,
            model,
            strategy,
            config,
            run.checkpoints,
            device=device,
            log=log,
            log_gradients=GradientLog(run.gradients, config.train.steps, config.train.log_every),
            resume=checkpoint,
        )
    if first and run.metrics.exists():
        records = run.read_metrics()
        learning_figure(run.path / "figures" / "learning.png", records)
        modality_figure(run.path / "figures" / "modalities.png", records, task.modalities)
    split = held_out(task.splits)
    if split is None:
        return None
    weights = checkpoints.load(run.weights, device)
    checkpoints.restore(weights, model, strategy, run.weights)
    cases = getattr(task.splits, split)
    return _score(config, run, task, model, strategy, cases, split, weights, device, run.path, console)


def _score(
    config: RunConfig,
    run: RunFolder,
    task: Task,
    model: MultimodalModel,
    strategy: BalancingStrategy,
    cases: tuple[str, ...],
    split: str,
    weights: checkpoints.Checkpoint,
    device: torch.device,
    folder: Path,
    console: Console,
) -> Report:
    """Evaluate, write ``results.json``, ``results.md`` and pictures to ``folder``, and print the table."""
    speaker(console)(f"scoring {len(cases)} cases ({split})")
    pictures = validation.Drawings(folder / "figures", cases[:DRAWN_CASES], DRAWN_WORST)
    results = validation.evaluate(task, model, strategy, cases, config, device=device, full=True, draw=pictures)
    report = Report(
        task=config.task.name,
        strategy=config.strategy.name,
        split=split,
        scores=task.summarise(results),
        rules={**task.rules(), "checkpoint": checkpoint_rule(run, task, weights, split)},
        provenance=provenance(config, device),
    )
    if distributed.rank() == 0:
        write_json(folder / "results.json", report.to_json())
        write_text(folder / "results.md", report.to_markdown())
        task.draw(results, folder / "figures")
        print_report(report, console)
        console.print(f"written: {folder / 'results.md'} and pictures in {folder / 'figures'}")
    return report


def checkpoint_rule(run: RunFolder, task: Task, weights: checkpoints.Checkpoint, split: str) -> str:
    """How the weights were chosen that a report speaks of."""
    if weights.best is None or run.weights.name != "best.pt":
        return "last step"
    extreme = "lowest" if task.lower_is_better else "highest"
    score, step = weights.best["score"], weights.best["step"]
    chosen = f"{extreme} validation {task.chosen_by}, {score:.3f} at step {step:.0f}"
    if split == "validation":
        chosen += "; these scores are of the cases that it was chosen by, so they are optimistic"
    return chosen


def origin() -> dict[str, str]:
    """Command, versions and date, for a report."""
    packages = ("cggm-med", "torch", "monai", "torchio", "nibabel", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    program = "python -m monai.bundle" if "monai" in Path(sys.argv[0]).parts else "cggm-med"
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "versions": f"{versions}, Python {platform.python_version()}",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }


def provenance(config: RunConfig, device: torch.device) -> dict[str, str]:
    """Command, data, seed, versions and device, for a report."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})"
    about = origin()
    return {
        "command": about["command"],
        "data": "generated (not real data)" if config.data.path is None else Path(config.data.path).name,
        "modalities": ", ".join(config.task.modalities),
        "preset": config.preset,
        "seed": str(config.train.seed),
        "steps": str(config.train.steps),
        "versions": about["versions"],
        "device": f"{hardware}, {distributed.world_size()} process(es)",
        "date": about["date"],
    }
