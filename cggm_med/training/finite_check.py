"""Stop a training whose loss, or whose every gradient, is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cggm_med.errors import NonFiniteLoss
from cggm_med.training.monitor import Monitor
from cggm_med.types import Batch


class FiniteCheck:
    """Checks losses and skipped steps only on request, since reading them makes a GPU program wait.

    Args:
        monitor: counts the skipped steps; restored already, if the run is resumed.
        last: the checkpoint that messages name.
    """

    def __init__(self, monitor: Monitor, last: Path) -> None:
        self.monitor, self.last = monitor, last
        self.skipped = int(monitor.skipped_steps.item())
        self.pending: list[tuple[int, Batch, Tensor]] = []

    def add(self, step: int, batch: Batch, losses: Mapping[str, Tensor]) -> None:
        """Add a step's losses; ``step`` counts from 0."""
        self.pending.append((step, batch, torch.stack(list(losses.values())).sum()))

    def loss(self) -> float:
        """The newest loss.

        Raises:
            NonFiniteLoss: if any loss since the last call is not finite; names step, cases and last checkpoint.
        """
        values = torch.stack([loss for *_, loss in self.pending]).tolist()
        for (step, batch, _), value in zip(self.pending, values, strict=True):
            if not math.isfinite(value):
                last = self.last
                saved = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
                raise NonFiniteLoss(
                    f"loss is {value} at step {step + 1} (cases {', '.join(batch.ids)}); {saved}. "
                    "Look at these cases, or lower optim.lr"
                )
        self.pending.clear()
        return float(values[-1])

    def gradients(self, done: int, log_every: int, *, searching: bool = False) -> None:
        """Check the gradients; to be called every ``log_every`` steps, with the number of steps done.

        Args:
            done: number of steps done.
            log_every: number of steps between two calls.
            searching: whether steps are skipped to find a scale of the gradients.

        Raises:
            NonFiniteLoss: if the gradient was not finite in any step since the last call.
        """
        skipped, self.skipped = int(self.monitor.skipped_steps.item()) - self.skipped, self.skipped
        self.skipped += skipped
        if skipped >= max(2, log_every) and not searching:
            raise NonFiniteLoss(
                f"the gradient was not finite in any of the {skipped} steps up to {done}, so nothing was "
                "learned; lower optim.lr, or train with train.precision=float32"
            )
