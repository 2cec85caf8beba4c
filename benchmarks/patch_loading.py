"""Whether one background worker makes patches faster than the tiny CPU step uses them up, from one process.

Run: python benchmarks/patch_loading.py [--batches 60] [--tiny]
"""

from __future__ import annotations

import argparse
import time

import torch

from cggm_med.config import parse_overrides
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.registry import STRATEGIES, TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med.training.build import build
from cggm_med.training.step import train_step


def main() -> None:
    """Print batches a second of the loader alone and of the training step alone, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], help="settings, such as data.augmentation=standard")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.batches = 2
    steps = 2 if options.tiny else 10
    settings = ["data.workers=1", f"train.steps_per_epoch={options.batches + 5}", "train.epochs=1", *options.set]
    config = make_config("brats2021", [parse_overrides(settings)], preset="tiny")
    task = load(TASKS, "brats2021")(config)
    task.find(print)
    task.prepare(task.default_splits(), print)
    device = torch.device("cpu")
    batches = iter(task.batches(0, pin_memory=False))
    kept = [next(batches) for _ in range(5)]  # the worker has started by then
    start = time.perf_counter()
    for _ in range(options.batches):
        next(batches)
    loading = options.batches / (time.perf_counter() - start)

    strategy = load(STRATEGIES, "cggm")(config.strategy)
    model = build(task, strategy, config, device).train()
    optimizer = make_optimizer(model, strategy, config.optim, device)
    criterion = task.criterion()
    start = time.perf_counter()
    for number in range(steps):
        step = Step(number, config.train.steps)
        train_step(model, strategy, optimizer, criterion, kept[number % 5], step, clip_norm=1.0)
    training = steps / (time.perf_counter() - start)
    print(f"one worker makes {loading:.1f} batches/s, the step uses {training:.1f}: ratio {loading / training:.1f}")


if __name__ == "__main__":
    main()
