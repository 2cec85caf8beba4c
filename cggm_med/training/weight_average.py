"""The moving average of the weights of a training, which is validated and kept in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Averages weights over the steps: ``a <- d a + (1 - d) w`` (Tarvainen and Valpola 2017, Section 2).

    As long as fewer than ``1 / (1 - d)`` steps are done it is the plain mean of all of them (Polyak and Juditsky 1992),
    so that the random weights of the start leave no trace. Floating-point buffers, such as the statistics of batch
    normalisation, are averaged as well.

    Args:
        decay: ``d``, more than 0 and below 1; None: nothing is averaged.
        modules: whose weights are averaged, each tensor once.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(0.75, layer)
        >>> for step, weight in enumerate([1.0, 2.0, 3.0, 4.0, 5.0], start=1):
        ...     _ = nn.init.constant_(layer.weight, weight)
        ...     average.update(step)  # after four steps it is 2.5
        >>> with average.applied():
        ...     layer.weight.item()  # 0.75 * 2.5 + 0.25 * 5
        3.125
        >>> layer.weight.item()
        5.0
    """

    def __init__(self, decay: float | None, *modules: nn.Module) -> None:
        super().__init__()
        self.decay = decay
        every = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        self._live: list[Tensor] = []
        if decay is not None:
            self._live = [x for x in dict.fromkeys(every) if x.is_floating_point()]
        for number, tensor in enumerate(self._live):
            self.register_buffer(f"average{number}", tensor.detach().clone())

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Add the weights after a step.

        Args:
            steps: number of steps done, this one included.
        """
        if self.decay is not None:
            weight = max(1 - self.decay, 1 / steps)
            for average, live in zip(self.buffers(), self._live, strict=True):
                average.lerp_(live, weight)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Let the modules have the average during the block; this one holds their weights meanwhile."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Exchange the average and the weights of the modules, in place, to the bit."""
        for average, live in zip(self.buffers(), self._live, strict=True):
            held = live.detach().clone()
            live.copy_(average)
            average.copy_(held)
