"""Where training stands, and the random numbers of a step: the same in any process and after any resume."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cggm_med import distributed


def random_seed(*key: int) -> int:
    """A well-mixed seed from a few whole numbers, such as run seed, epoch and position.

    Example:
        >>> random_seed(0, 1, 2) != random_seed(0, 2, 1)
        True
    """
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Step:
    """One optimizer step, or one of the equal parts in which its batch is computed.

    Attributes:
        number: optimizer steps that were done before.
        steps: all steps of the run.
        seed: of the run.
        part: which part of the batch, from 0.
        parts: parts of the batch (gradient accumulation).

    Example:
        >>> step = Step(7, steps=100)
        >>> step.uniform("coin", samples=2, columns=1, device="cpu").shape
        torch.Size([2, 1])
    """

    number: int
    steps: int
    seed: int = 0
    part: int = 0
    parts: int = 1

    @property
    def last(self) -> bool:
        """Whether the batch is complete with this part."""
        return self.part == self.parts - 1

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.number / self.steps

    def generator(self, key: str, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers for one purpose: equal in all processes and all parts of the batch."""
        seed = random_seed(self.seed, 5, self.number, zlib.crc32(key.encode()))
        return torch.Generator(device).manual_seed(seed)

    def uniform(self, key: str, samples: int, columns: int, device: torch.device | str) -> Tensor:
        """Numbers in [0, 1) for each sample of this part, ``(samples, columns)``.

        They are drawn for the whole batch, of which this process and part take their rows, so that a sample meets the
        same numbers however the batch is spread.
        """
        processes, rank = distributed.world_size(), distributed.rank()
        whole = torch.rand(samples * self.parts * processes, columns, generator=self.generator(key))
        mine = whole[rank::processes]
        return mine[self.part * samples : (self.part + 1) * samples].to(device, non_blocking=True)
