"""The learning-rate schedule: a linear warm-up, then a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from cggm_med.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up to ``lr``, then a cosine to ``lr * final_lr_fraction``; a function of the step alone.

    Example:
        >>> config = OptimConfig(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.0)
        >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    low = config.final_lr_fraction
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
