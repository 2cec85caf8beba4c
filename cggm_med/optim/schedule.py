"""The learning rate: a linear warm-up, then a cosine, steps, or a fall whenever validation stops improving."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from cggm_med.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int, steps_per_epoch: int) -> float:
    """Linear warm-up to ``lr``, then what ``schedule`` says; a function of the step alone.

    With the schedule ``plateau`` it stays at ``lr``, and a ``Plateau`` lowers it.

    Args:
        config: the optimizer's settings.
        step: number of steps done.
        steps: of the whole run.
        steps_per_epoch: optimizer steps in an epoch.

    Example:
        >>> config = OptimConfig(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.0)
        >>> [round(learning_rate(config, step, 100, 10), 3) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
        >>> config = OptimConfig(lr=1.0, warmup_fraction=0.0, schedule="step", decay_epochs=2)
        >>> [round(learning_rate(config, step, 100, 10), 3) for step in (0, 19, 20, 39, 40)]
        [1.0, 1.0, 0.1, 0.1, 0.01]
    """
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "plateau":
        return config.lr
    if config.schedule == "step":
        return config.lr * config.decay_factor ** (step // steps_per_epoch // config.decay_epochs)
    progress = (step - warmup) / max(1, steps - warmup)
    low = config.final_lr_fraction
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


class Plateau:
    """Lowers the learning rate whenever validation stops improving, as torch's ``ReduceLROnPlateau`` does.

    An improvement is one of more than a ten-thousandth of the best so far. Other schedules are left alone.

    Args:
        config: the optimizer's settings.
        lower_is_better: whether lower is better in what is watched.

    Example:
        >>> plateau = Plateau(OptimConfig(lr=1.0, schedule="plateau", patience=1), lower_is_better=True)
        >>> for loss in (0.5, 0.4, 0.4, 0.4):
        ...     plateau.watch(loss)
        >>> round(plateau.factor, 3)
        0.1
    """

    def __init__(self, config: OptimConfig, *, lower_is_better: bool) -> None:
        # Of an optimizer that moves nothing: the rate of the model's own also follows the warm-up and the strategy.
        self._optimizer = SGD([torch.zeros(1)], lr=config.lr)
        mode: Any = "min" if lower_is_better else "max"
        self._torch = ReduceLROnPlateau(self._optimizer, mode, config.decay_factor, config.patience)
        self.lr, self.active = config.lr, config.schedule == "plateau"

    @property
    def factor(self) -> float:
        """What to multiply the learning rate by."""
        return float(self._optimizer.param_groups[0]["lr"]) / self.lr

    def watch(self, value: float) -> None:
        """Learn from one validation."""
        if self.active:
            self._torch.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, from which a resumed run continues alike; none where nothing is watched."""
        return {"lr": self._optimizer.param_groups[0]["lr"], **self._torch.state_dict()} if self.active else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        if self.active:
            self._torch.load_state_dict({name: value for name, value in state.items() if name != "lr"})
            self._optimizer.param_groups[0]["lr"] = state["lr"]


def set_learning_rate(optimizer: Optimizer, rate: float, heads_rate: float | None = None) -> None:
    """Give every parameter group the same learning rate, but the classifier heads their own if they have one."""
    for group in optimizer.param_groups:
        group["lr"] = heads_rate if heads_rate is not None and group.get("heads") else rate
