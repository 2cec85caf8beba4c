"""How fast a device trains, measured by a few steps of a network that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from cggm_med import registry
from cggm_med.config import RunConfig
from cggm_med.device import number_format, precision
from cggm_med.models.cpu_convolution import FastConvolutions
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.task.base import Task
from cggm_med.training.build import build
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.step import train_step
from cggm_med.types import Batch

STEPS = 2  # the first is slower: it makes room, and on a GPU chooses convolutions


@dataclass(frozen=True)
class Pace:
    """Seconds that parts of a training take.

    Attributes:
        batch: to read and augment a batch in one process.
        step: to learn from it.
        sample: to predict one sample of it.
    """

    batch: float
    step: float
    sample: float

    def per_step(self, device: torch.device, workers: int) -> float:
        """Seconds of a step with its batch.

        A GPU learns while workers prepare the next batches; on a CPU both share the processor.

        Example:
            >>> pace = Pace(batch=0.4, step=0.3, sample=0.1)
            >>> round(pace.per_step(torch.device("cpu"), 2), 3), round(pace.per_step(torch.device("cuda"), 2), 3)
            (0.7, 0.3)
        """
        if device.type == "cpu" or workers == 0:
            return self.batch + self.step
        return max(self.step, self.batch / workers)


def measure_pace(task: Task, config: RunConfig, device: torch.device, batches: Iterable[Batch]) -> Pace:
    """Take ``STEPS`` training steps with a new network and strategy, and time the fastest; neither is kept.

    Args:
        task: prepared, or at least with its cases found.
        config: the run's config.
        device: where to compute.
        batches: at least ``STEPS``.
    """
    strategy = registry.load(registry.STRATEGIES, config.strategy.name)(config.strategy)
    model = build(task, strategy, config, device)
    optimizer = make_optimizer(model, strategy, config.optim, device)
    criterion, autocast = task.criterion().to(device), precision(config.train.precision, device)
    scale = GradientScale(number_format(config.train.precision, device), model, strategy).to(device)
    reading, learning, samples = [], [], 1
    model.train()
    strategy.train()
    started = time.monotonic()
    for number, batch in zip(range(STEPS), batches, strict=False):
        reading.append(time.monotonic() - started)
        started, samples = time.monotonic(), len(batch.target)
        train_step(
            model,
            strategy,
            optimizer,
            criterion,
            batch,
            Step(number, config.train.steps, config.train.seed),
            clip_norm=config.optim.clip_norm,
            settings=config.train,
            autocast=autocast,
            scale=scale,
        )
        _wait(device)
        learning.append(time.monotonic() - started)
        started = time.monotonic()
    model.eval()
    started = time.monotonic()
    with torch.no_grad(), FastConvolutions(), autocast():
        model(batch.to(device).inputs)
    _wait(device)
    predicting = (time.monotonic() - started) / samples
    del model, strategy, optimizer
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return Pace(min(reading), min(learning), predicting)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
