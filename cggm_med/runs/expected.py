"""How long a run is expected to take, said before its first step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from cggm_med import distributed
from cggm_med.config import TrainConfig
from cggm_med.errors import counted
from cggm_med.models.sliding_window import window_count
from cggm_med.task.base import Task
from cggm_med.training.pace import Pace, measure_pace

LONG = 3600  # seconds of a training on a CPU that is worth shortening
MIN_STEPS = 100  # of a run that is worth timing: the timed steps are a fiftieth of it


@dataclass(frozen=True)
class Expected:
    """What a run will take.

    Attributes:
        seconds_per_step: with reading its batch.
        seconds_per_validation: of all validation cases.
        steps: that are left.
        validations: that are left.
    """

    seconds_per_step: float
    seconds_per_validation: float
    steps: int
    validations: int

    @property
    def seconds(self) -> float:
        """Of the whole training, without preparing the data and without the scores at the end."""
        return self.steps * self.seconds_per_step + self.validations * self.seconds_per_validation

    def __str__(self) -> str:
        validations = f" and {counted(self.validations, 'validation')}" if self.seconds_per_validation else ""
        return f"{self.steps:,} steps of {readable(self.seconds_per_step)}{validations}: about {readable(self.seconds)}"


def how_to_shorten(settings: TrainConfig, outlook: Expected, device: torch.device) -> str:
    """What makes a training of more than an hour on a CPU shorter; empty for any other.

    Example:
        >>> how_to_shorten(TrainConfig(epochs=100), Expected(3.6, 0, 10000, 0), torch.device("cpu"))
        'a GPU is many times as fast; --epochs 10 takes about an hour'
    """
    if device.type != "cpu" or outlook.seconds <= LONG:
        return ""
    epochs = int(settings.epochs * LONG / outlook.seconds)
    shorter = f"--epochs {epochs} takes about an hour" if epochs else "patches, network or --preset may be smaller"
    return f"a GPU is many times as fast; {shorter}"


def within_budget(settings: TrainConfig, outlook: Expected, spent: float) -> str:
    """Where ``train.hours`` is expected to end a training before its last step; empty if it is not.

    Args:
        settings: how long it trains.
        outlook: what is left of it.
        spent: seconds of it that are spent.

    Example:
        >>> settings = TrainConfig(epochs=100, steps_per_epoch=100, hours=2)
        >>> print(within_budget(settings, Expected(3.6, 0, 10000, 0), spent=0))
        train.hours 2 ends it after about step 2,000 of 10,000, before its schedules end; --epochs 20 fits them in
    """
    if settings.hours is None or outlook.seconds <= (left := max(0.0, 3600 * settings.hours - spent)):
        return ""
    done, share = settings.steps - outlook.steps, left / outlook.seconds
    step, epochs = done + int(outlook.steps * share), int(settings.epochs * share)
    instead = f"; --epochs {epochs} fits them in" if epochs and not done else ""
    where = f"about step {step:,} of {settings.steps:,}, before its schedules end"
    return f"train.hours {settings.hours:g} ends it after {where}{instead}"


def expected(
    settings: TrainConfig, pace: Pace, device: torch.device, *, windows: int, workers: int, done: int = 0
) -> Expected:
    """What a run will take at a pace.

    Args:
        settings: how long it trains.
        pace: of the device.
        device: where it trains.
        windows: that a validation predicts.
        workers: processes that read.
        done: steps that were taken before.
    """
    every = settings.validation_interval
    validations = math.ceil(settings.steps / every) - done // every
    per_validation = pace.sample * windows / distributed.world_size()
    return Expected(pace.per_step(device, workers), per_validation, settings.steps - done, validations)


def expected_of(task: Task, device: torch.device, done: int) -> Expected:
    """What is left of the run of a prepared task, by the pace of its own batches."""
    config, volumes = task.config, task.volumes()
    with _reading_itself(task):
        pace = measure_pace(task, task.config, device, task.batches(0, pin_memory=False))
    cases = [] if volumes is None else [volumes.cases[id] for id in task.splits.validation]
    windows = windows_of(task, [case.image().shape[1:] for case in cases])
    return expected(config.train, pace, device, windows=windows, workers=config.data.workers, done=done)


def windows_of(task: Task, shapes: Sequence[Sequence[int]]) -> int:
    """Windows of these scans; 0 for a task without volumes."""
    volumes = task.volumes()
    return 0 if volumes is None else sum(window_count(s, volumes.window_size, volumes.overlap) for s in shapes)


def readable(seconds: float) -> str:
    """Seconds in a unit that suits them, with two digits.

    Example:
        >>> [readable(s) for s in (0.0123, 2.34, 50, 600, 9000, 720000)]
        ['0.012 s', '2.3 s', '50 s', '10 min', '2.5 hours', '200 hours']
    """
    size, unit = (1, "s") if seconds < 100 else (60, "min") if seconds < 6000 else (3600, "hours")
    return f"{seconds / size:.2g} {unit}" if seconds < 360000 else f"{seconds / size:,.0f} {unit}"


@contextlib.contextmanager
def _reading_itself(task: Task) -> Iterator[None]:
    """Read batches in this process for the duration of the block, so that reading can be timed."""
    data = task.config.data
    task.settle(data=replace(data, workers=0))
    try:
        yield
    finally:
        task.settle(data=data)
