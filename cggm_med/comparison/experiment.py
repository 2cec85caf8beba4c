"""Training the runs of a comparison: strategies x seeds x folds, each run in its own process."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch
import yaml

from cggm_med import registry
from cggm_med.comparison.selection import DRAWS, FOLDS, IRRELEVANT
from cggm_med.comparison.variants import MODALITIES, Variant, parse_axis
from cggm_med.config import RunConfig, Tree, flat, merge, parse_overrides, read_file, to_tree
from cggm_med.data.splits import Splits, cross_validation, declared_folds, fold_splits, read_splits, write_splits
from cggm_med.errors import ConfigError, DataError, OutputError, counted
from cggm_med.files import write_text
from cggm_med.runs.finished_run import Excluded
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.journal import FINISHED, ending
from cggm_med.runs.settings import completed, make_config
from cggm_med.task.base import Task

PROGRAM = (sys.executable, "-m", "cggm_med.cli")
MAX_PARALLEL = 4  # runs at once on a CPU by default
DIVISION = {*FOLDS, "data.splits"}  # of the same files
Say = Callable[[str], object]
Trainer = Callable[["Plan", "Sequence[PlannedRun]", Say], list[Excluded]]  # returns those that failed
Part = tuple[str, tuple[str, ...]]  # of the data: what it adds to a run's name, and to its settings


@dataclass(frozen=True)
class Plan:
    """What is the same for all runs, and where they go.

    Attributes:
        folder: of the comparison.
        task: registered name.
        preset: of the task; None: the one that suits the data.
        config: file with settings.
        overrides: settings from the command line.
        assignments: the same as ``SECTION.KEY=VALUE``, for ``--set``.
        subsets: also score every subset of the modalities.
    """

    folder: Path
    task: str
    preset: str | None
    config: Path | None
    overrides: Tree
    assignments: tuple[str, ...]
    subsets: bool = False


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison, trained or not.

    Attributes:
        folder: of the run.
        variant: its strategy and settings.
        assignments: further settings, such as the seed, as ``SECTION.KEY=VALUE``.
        teacher: the run that it learns from, which has to be finished first.
    """

    folder: Path
    variant: Variant
    assignments: tuple[str, ...]
    teacher: PlannedRun | None = None

    @property
    def log(self) -> Path:
        """The run's output, beside its folder, which must be empty when the run starts."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def waits(self) -> bool:
        """Whether its teacher is not finished."""
        return self.teacher is not None and not RunFolder(self.teacher.folder).results.exists()

    @property
    def requested(self) -> Path:
        """The settings it was started with, in which those that the data decide are still open."""
        return self.folder.with_name(f"{self.folder.name}.asked.yaml")


def plan_runs(plan: Plan, variants: Sequence[Variant], seeds: Sequence[int], folds: int) -> list[PlannedRun]:
    """All runs, seed by seed, so that an interrupted comparison has complete seeds.

    Args:
        plan: what is the same for all.
        variants: what is compared.
        seeds: of the runs.
        folds: of a cross-validation, whose split files are written; 0 for the splits of the settings.

    Raises:
        DataError: if the data cannot be divided into so many folds.
        OutputError: if the folder holds the folds of other cases.
    """
    if folds:
        return plan_parts(plan, variants, seeds, _folds(plan, variants[0], folds))
    every = [plan_parts(plan, variants, [seed], [("", tuple(_own_data(plan, seed)))]) for seed in seeds]
    return [run for runs in every for run in runs]


def plan_parts(
    plan: Plan, variants: Sequence[Variant], seeds: Sequence[int], parts: Sequence[Part]
) -> list[PlannedRun]:
    """All runs, seed by seed, on each of some parts of the data.

    Args:
        plan: what is the same for all.
        variants: what is compared.
        seeds: of the runs.
        parts: see ``written_part``.
    """
    runs = []
    for seed, (part, settings), variant in itertools.product(seeds, parts, variants):
        name, assignments = f"seed-{seed}{part}", [f"train.seed={seed}", *settings]
        runs.append(_planned(plan, plan.folder / "runs" / variant.folder / name, variant, assignments))
    return runs


def _own_data(plan: Plan, seed: int) -> list[str]:
    """Settings by which the runs of a seed have embedded data of their own, but for keys that are set already."""
    stated = flat(merge([read_file(plan.config) if plan.config else {}, plan.overrides]))
    if {"data.path", "data.splits", "data.fold"} & stated.keys():
        return []
    own = flat(registry.load(registry.TASKS, plan.task).compared_on(seed))
    return [f"{key}={value}" for key, value in own.items() if key not in stated]


def with_teachers(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants, and before each that learns from a finished run the strategy of that run."""
    every = [v for variant in variants for v in (_teacher_of(variant), variant) if v is not None]
    return tuple(dict.fromkeys(every))


def _teacher_of(variant: Variant) -> Variant | None:
    """The strategy that a variant learns from, with the same network; None if there is none or a run is given."""
    name = registry.load(registry.STRATEGIES, variant.strategy).teacher
    if not name or "strategy.teacher" in dict(variant.settings):
        return None
    return Variant(
        name, tuple(setting for setting in variant.settings if setting[0].startswith(("model.", MODALITIES)))
    )


def _planned(
    plan: Plan, folder: Path, variant: Variant, assignments: Sequence[str], name: str | None = None
) -> PlannedRun:
    """A run, with its teacher if it has one: a run of the comparison itself, called ``name``, else as the folder."""
    if (above := _teacher_of(variant)) is None:
        return PlannedRun(folder, variant, tuple(assignments))
    teacher = PlannedRun(plan.folder / "runs" / above.folder / (name or folder.name), above, tuple(assignments))
    return PlannedRun(folder, variant, (*assignments, f"strategy.teacher={os.path.abspath(teacher.folder)}"), teacher)


def every_run(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs, and before each the one that it learns from."""
    return list(dict.fromkeys(r for run in runs for r in (run.teacher, run) if r is not None))


def require_same(plan: Plan, runs: Sequence[PlannedRun]) -> None:
    """Check the requested settings, and refuse folders that hold runs with others.

    Raises:
        OutputError: if a folder holds a run with other settings.
    """
    for run in every_run(runs):
        _require_same(plan, run)


def unfinished(plan: Plan, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs that are not trained, or not scored as the plan asks."""
    return [run for run in runs if next(_commands(plan, run), None)]


def write_requested(plan: Plan, run: PlannedRun) -> None:
    """Keep the settings that a run is about to be started with, beside its folder."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    if not RunFolder(run.folder).config.exists():
        write_text(run.requested, yaml.safe_dump(_settings(plan, run), sort_keys=False))


def last_error(log: Path) -> str:
    """The last line of a run's output that names an error, else the last line, else nothing."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "NonFinite" in line or "Unknown" in line]
    return (errors or lines or [""])[-1]


def train_all(plan: Plan, runs: Sequence[PlannedRun], say: Say, parallel: int | None = None) -> list[Excluded]:
    """Train the runs that are not trained yet; interrupted ones are resumed.

    Args:
        plan: what is the same for all.
        runs: see ``plan_runs``.
        say: called with a line of progress when runs start or end.
        parallel: how many at once; default: one per GPU, else one per CPU core up to four.

    Returns:
        Runs that failed, with the reason.

    Raises:
        OutputError: if a folder holds a run with other settings.
        DataError, ConfigError: what the first run on some data refused before it trained, as the others would.
    """
    runs = every_run(runs)
    require_same(plan, runs)
    todo = unfinished(plan, runs)
    gpus = torch.cuda.device_count() if str(plan.overrides.get("train", {}).get("device", "auto")) != "cpu" else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slots = parallel or gpus or min(MAX_PARALLEL, cores)
    if len(runs) > len(todo):
        say(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
    if todo:
        say(f"{counted(len(todo), 'run')} to train, {min(slots, len(todo))} at once, in {plan.folder / 'runs'}")
    failed: list[Excluded] = []
    waiting, free = list(todo), list(range(slots))
    active: dict[int, _Process] = {}
    data = {run.folder: _data_of(plan, run) for run in todo}

    def begun() -> list[Tree]:
        """Data that a run has checked and prepared; its folder is written then."""
        return [data[run.folder] for run in todo if RunFolder(run.folder).config.exists()]

    def ready() -> PlannedRun | None:
        """The next run whose teacher is finished, and whose data no other run is still checking."""
        usable = begun()
        checked = [of for process in active.values() if (of := data[process.run.folder]) not in usable]
        return next((run for run in waiting if not run.waits and data[run.folder] not in checked), None)

    started, done = time.monotonic(), 0
    try:
        while waiting or active:
            while free and (run := ready()) is not None:
                waiting.remove(run)
                slot = free.pop(0)
                active[slot] = _Process(plan, run, _environment(slot, gpus, max(1, cores // slots)))
            if not active:  # the teacher of all that wait has failed
                failed += [
                    Excluded(str(r.folder), f"its teacher {r.teacher.folder} failed") for r in waiting if r.teacher
                ]
                break
            time.sleep(0.1)
            for slot, process in list(active.items()):
                code = process.poll()
                if code is None:
                    continue
                del active[slot]
                free.append(slot)
                done += 1
                left = (time.monotonic() - started) / done * (len(todo) - done) / 60
                where = f"{process.run.variant.name}, {process.run.folder.name}"
                if code:
                    if data[process.run.folder] not in begun() and (refusal := process.refusal()) is not None:
                        process.forget()
                        raise refusal
                    failed.append(Excluded(str(process.run.folder), f"failed: {process.last_error()}"))
                    say(f"{done}/{len(todo)} {where}: {failed[-1].reason}; all it said: {process.run.log}")
                else:
                    say(f"{done}/{len(todo)} {where}: done, about {left:.0f} min left")
    finally:
        for process in active.values():
            process.interrupt()
        for process in active.values():
            process.wait()
    return failed


def tune(
    plan: Plan,
    variants: Sequence[Variant],
    axes: Sequence[str],
    trials: int | None,
    first: PlannedRun,
    train: Trainer,
    say: Say,
) -> tuple[Variant, ...]:
    """Choose settings for each variant by its best validation score, with the same number of trials for each.

    Args:
        plan: what is the same for all runs.
        variants: what is compared.
        axes: ``KEY=VALUE,VALUE`` each; their combinations are tried.
        trials: how many of them, drawn with a fixed seed; default: all.
        first: a run of the comparison, whose seed and splits the trials take.
        train: trains the trials.
        say: called with what was chosen.

    Raises:
        ConfigError: if no trial of a variant has a validation score.
    """
    keys, values = zip(*(parse_axis(axis, "--tune") for axis in axes), strict=True)
    points = [dict(zip(keys, point, strict=True)) for point in itertools.product(*values)]
    random.Random(0).shuffle(points)  # noqa: S311 - a draw of settings, no secret
    points = points[:trials]
    by_variant: dict[Variant, list[PlannedRun]] = {}
    for variant in variants:
        tried = [variant.with_settings(point) for point in points]
        by_variant[variant] = [
            _planned(plan, plan.folder / "tuning" / t.folder, t, first.assignments, first.folder.name) for t in tried
        ]
    say(f"tuning: {len(points)} trials for each of {len(variants)} strategies, chosen by validation")
    every = [run for runs in by_variant.values() for run in runs]
    failed = {run.run: run.reason for run in train(replace(plan, subsets=False), every, say)}
    better = min if registry.load(registry.TASKS, plan.task).lower_is_better else max
    chosen = []
    for variant, runs in by_variant.items():
        scores = [(best_validation(plan, run.folder), run.variant) for run in runs]
        known = [(score, tried) for score, tried in scores if score is not None]
        if not known:
            if why := next((failed[str(run.folder)] for run in runs if str(run.folder) in failed), None):
                raise ConfigError(f"no trial of '{variant.name}' was trained to its end; the first one {why}")
            raise ConfigError(f"no trial of '{variant.name}' has a validation score; set data.validation above 0")
        score, best = better(known, key=lambda trial: trial[0])
        say(f"tuned: {best.name} (validation {score:.3f})")
        chosen.append(best)
    return tuple(chosen)


def best_validation(plan: Plan, folder: Path) -> float | None:
    """The best validation score of a run, if it has finished and was validated."""
    run = RunFolder(folder)
    if not run.results.exists():
        return None
    task = registry.load(registry.TASKS, plan.task)
    scores = [r["scores"][task.chosen_by] for r in run.read_metrics() if r["kind"] == "validation"]
    known = [score for score in scores if score is not None]
    return (min if task.lower_is_better else max)(known, default=None)


class _Process:
    """The commands of one run, one after the other."""

    def __init__(self, plan: Plan, run: PlannedRun, environment: Mapping[str, str]) -> None:
        self.plan, self.run, self.environment = plan, run, environment
        write_requested(plan, run)
        self.log: IO[bytes] = run.log.open("wb")
        self.process = self._start(next(_commands(plan, run)))

    def poll(self) -> int | None:
        """The exit code, once all commands have ended or one has failed."""
        code = self.process.poll()
        if code is None:
            return None
        following = None if code else next(_commands(self.plan, self.run), None)
        if following is None:
            self.log.close()
            return code
        self.process = self._start(following)
        return None

    def interrupt(self) -> None:
        """Ask it to end, once, so that it writes what it needs to be resumed."""
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended."""
        self.process.wait()
        self.log.close()

    def last_error(self) -> str:
        """Why it failed, in one line."""
        return last_error(self.run.log) or f"exit code {self.process.returncode}"

    def refusal(self) -> DataError | ConfigError | None:
        """What the program said last, if that is an error in the data or settings."""
        said = self.run.log.read_text(errors="replace").rstrip()
        found = re.search(r"^(DataError|ConfigError): ((?:.*\n  )*.*)\Z", said, re.MULTILINE)
        return None if found is None else {"DataError": DataError, "ConfigError": ConfigError}[found[1]](found[2])

    def forget(self) -> None:
        """Remove what was written for a run that has no folder."""
        for file in (self.run.log, self.run.requested):
            file.unlink()
        for folder in itertools.takewhile(self.plan.folder.__ne__, self.run.folder.parents):
            with contextlib.suppress(OSError):  # other runs may be there
                folder.rmdir()

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - this program, with its own arguments
            [*PROGRAM, *arguments],
            env=self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # A terminal's Ctrl-C is for the comparison, which passes it on: a training asked twice saves nothing.
            start_new_session=True,
        )


def _commands(plan: Plan, run: PlannedRun) -> Iterator[list[str]]:
    """Arguments of the commands that a run still needs, the next one first."""
    folder = RunFolder(run.folder)
    if not folder.results.exists():
        if ending(folder.log) == FINISHED:  # with no case held out
            return
        if folder.config.exists():
            yield ["train", "--resume", str(run.folder)]
        else:
            yield train_command(plan, run)
    elif plan.subsets and not (run.folder / "subsets").exists():
        yield ["evaluate", str(run.folder), "--subsets", "all"]


def train_command(plan: Plan, run: PlannedRun) -> list[str]:
    """Arguments of the command that begins a run."""
    command = ["train", "--task", plan.task, "--strategy", run.variant.strategy, "--out", str(run.folder)]
    command += ["--preset", plan.preset] if plan.preset else []
    command += ["--config", str(plan.config)] if plan.config else []
    path = plan.overrides.get("data", {}).get("path")
    command += ["--data", path] if path else []
    for setting in (*plan.assignments, *run.variant.assignments, *run.assignments):
        command += ["--set", setting]
    return command


def modalities_of(plan: Plan) -> tuple[str, ...]:
    """Of the runs that name none of their own."""
    return _config(plan, Variant("joint")).task.modalities


def _settings(plan: Plan, run: PlannedRun) -> Tree:
    return to_tree(_config(plan, run.variant, run.variant.overrides(), parse_overrides(run.assignments)))


def _data_of(plan: Plan, run: PlannedRun) -> Tree:
    """The settings that say which files a run reads, and how, however they are divided."""
    tree = _settings(plan, run)
    return {"task": tree["task"], "data": {key: v for key, v in tree["data"].items() if f"data.{key}" not in DIVISION}}


def _config(plan: Plan, variant: Variant, *more: Tree) -> RunConfig:
    layers = [read_file(plan.config)] if plan.config else []
    return make_config(plan.task, [*layers, plan.overrides, *more], preset=plan.preset, strategy=variant.strategy)


def _require_same(plan: Plan, run: PlannedRun) -> None:
    """Refuse a folder whose run has other settings; this also checks the requested settings before any run starts."""
    wanted = flat(_settings(plan, run))
    folder = RunFolder(run.folder)
    if not folder.config.exists():
        return
    if run.requested.exists():
        stored = flat(completed(read_file(run.requested)))
    else:  # trained by hand: requested settings cannot be told from those that the data decided
        left_open = {k for k, value in wanted.items() if value is None or (k, value) == ("train.steps_per_epoch", 0)}
        stored = {k: value for k, value in flat(completed(folder.stored_settings())).items() if k not in left_open}
    compared = [k for k in wanted if k not in IRRELEVANT or k in (*DRAWS, *FOLDS)]
    if other := [k for k in compared if stored.get(k, wanted[k]) != wanted[k]]:
        changed = "; ".join(f"{k}: {stored.get(k)} != {wanted[k]}" for k in other)
        raise OutputError(
            f"{run.folder} holds a run with other settings (run != now): {changed}; choose another folder with --out"
        )


def task_of(plan: Plan, variant: Variant) -> Task:
    """The task of a variant's runs; it has not looked for its data yet."""
    task: Task = registry.load(registry.TASKS, plan.task)(_config(plan, variant))
    return task


def written_part(file: Path, splits: Splits, task: Task) -> Part:
    """A part of the data by its split file, which is written unless it exists.

    Raises:
        OutputError: if the file holds other splits.
    """
    if not file.exists():
        write_splits(file, splits)
    elif read_splits(file, task.members, task.group_kind) != splits:
        raise OutputError(f"{file} divides other cases, or in another way; choose another folder with --out")
    return f"-{file.stem}", (f"data.splits={os.path.abspath(file)}",)


def _folds(plan: Plan, variant: Variant, folds: int) -> list[Part]:
    """Each fold, whose split file is written unless the data set names the fold."""
    task = task_of(plan, variant)
    if len(task.own_folds) == folds:  # files of the data set tell who is in which, and perhaps more
        return [(f"-fold-{number}-of-{folds}", (setting,)) for number, setting in enumerate(task.own_folds, 1)]
    task.find(lambda line: None)
    validation = task.config.data.validation
    members, kind = task.members, task.group_kind
    declared = declared_folds(members)
    if len(declared) == folds:  # the data set's own, so that results compare with those of others
        every = tuple(fold_splits(members, fold, validation=validation, kind=kind) for fold in declared)
    else:
        every = cross_validation(members, folds, validation=validation, kind=kind)
    files = [plan.folder / "folds" / f"fold-{number}-of-{folds}.json" for number in range(folds)]
    return [written_part(file, splits, task) for file, splits in zip(files, every, strict=True)]


def _environment(slot: int, gpus: int, threads: int) -> dict[str, str]:
    environment = dict(os.environ)
    if gpus:
        visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if visible != [""] else [str(i) for i in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
    else:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    return environment
