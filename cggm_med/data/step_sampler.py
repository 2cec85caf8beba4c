"""Which samples each step of a run takes, a function of the step alone, so that there is no state to resume."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cggm_med.randomness import Stream, random_seed


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, position) pairs of each remaining step, this process's share of each batch.

    Args:
        first_step: step to begin with; more than 0 when resuming.
        steps: all steps of the run.
        steps_per_epoch: steps in an epoch.
        batch_size: samples in a step over all processes.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self, first_step: int, steps: int, steps_per_epoch: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"train.batch_size {batch_size} cannot be shared by {world_size} processes")
        self.first_step, self.steps, self.steps_per_epoch = first_step, steps, steps_per_epoch
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        return self.steps - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.first_step, self.steps):
            epoch, within = divmod(step, self.steps_per_epoch)
            first = within * self.batch_size
            yield [(epoch, first + i) for i in range(self.rank, self.batch_size, self.world_size)]


def visited(seed: int, number: int, count: int) -> int:
    """The case that is visited as number ``number``, from 0: all of them in random order, then again in another.

    Args:
        seed: of the run.
        number: of the visit, counted from the beginning of the run.
        count: how many cases there are.

    Example:
        >>> sorted(visited(seed=0, number=n, count=3) for n in range(3, 6))
        [0, 1, 2]
    """
    round_, turn = divmod(number, count)
    return int(_order(seed, round_, count)[turn])


@lru_cache(maxsize=2)
def _order(seed: int, round_: int, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(random_seed(seed, Stream.CASE_ORDER, round_))).permutation(count)
