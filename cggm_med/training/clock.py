"""The time that a training has taken, over all its parts, and what is due by it."""

from __future__ import annotations

import time

import torch

from cggm_med import distributed


class Clock:
    """Seconds of the steps and validations of a training, which a checkpoint keeps.

    What was lost with a process that was killed does not count, as its steps do not.

    Attributes:
        seconds: at the last reading, the same on every process.
        before: of them, those of earlier parts.
        saved: when the last checkpoint was written.

    Example:
        >>> clock = Clock()
        >>> clock.continue_from(3000.0)
        >>> clock.due(minutes=20), clock.spent(hours=0.5), clock.spent(hours=None)
        (False, True, False)
    """

    def __init__(self) -> None:
        self.seconds = self.before = self.saved = 0.0
        self._started = time.monotonic()

    def continue_from(self, seconds: float) -> None:
        """Count on from the seconds of a checkpoint."""
        self.seconds = self.before = self.saved = seconds

    def read(self, device: torch.device) -> None:
        """Look at the time; several processes have to look at once, and agree on that of the one which started first.

        Args:
            device: by which processes communicate.
        """
        self.seconds = max(distributed.gather_json(self.before + time.monotonic() - self._started, device))

    def spent(self, hours: float | None) -> bool:
        """Whether a budget is spent; no budget is never."""
        return hours is not None and self.seconds >= 3600 * hours

    def due(self, minutes: float | None) -> bool:
        """Whether the last checkpoint is so old that another one is due."""
        return minutes is not None and self.seconds - self.saved >= 60 * minutes
