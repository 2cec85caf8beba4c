"""Random numbers drawn by key and training step: the same in any process and after any resume."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from cggm_med import distributed


class Stream(Enum):
    """All uses of random numbers, one stream each, so that no two draw the same ones (ADR 0009).

    The values decide the numbers of existing runs and never change; a new use takes a new value. Two uses have no
    stream: a network's initial weights follow, as a rule, from the seed itself, splits from a hash of seed and patient.
    """

    # The second part of a key, after the seed of the run
    CASE_ORDER = 0
    PATCH_PLACE = 1
    AUGMENTATION = 2
    MODEL_IN_STEP = 3  # dropout and all else that a network draws
    HEAD_WEIGHTS = 4
    STEP = 5  # then the step, and one of the words below
    ARTEFACT = 6
    PROBED_SAMPLES = 8
    PROBED_VOXELS = 9
    MEASURED_PATCH = 10
    OTHER_WEIGHTS = 11  # then the number that was asked for

    # Purposes of a step's draws, see ``Step.generator``; strategies of other packages use words of their own
    MODALITY_DROPOUT = "modality dropout"
    DROPPED_TO_SUBSET = "dropped to subset"
    SUBSET_VIEW = "subset view"
    SHAPLEY_ORDERS = "shapley"
    OPM_STEPS = "opm"
    OPM_FEATURES = "opm features"
    GRADIENT_NOISE = "gradient noise"  # then the modality


def random_seed(*key: int | str | Stream) -> int:
    """A well-mixed seed from a few whole numbers, streams and words, such as run seed, stream, epoch and position.

    Words count by their CRC-32, since Python salts its own ``hash``.

    Example:
        >>> random_seed(0, Stream.PATCH_PLACE, 2, 1) != random_seed(0, Stream.PATCH_PLACE, 1, 2)
        True
    """
    values = (part.value if isinstance(part, Stream) else part for part in key)
    numbers = [zlib.crc32(value.encode()) if isinstance(value, str) else value for value in values]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_network(seed: int, device: torch.device) -> None:
    """Seed what a network on this device draws by itself, such as dropout: torch's streams of it and of the CPU.

    Each call of ``torch.manual_seed`` keeps a stack trace for every kind of device that is not in use, which takes
    milliseconds, and memory for good; so on the CPU only its own stream is seeded.

    Example:
        >>> seed_network(0, torch.device("cpu"))
        >>> one = torch.rand(1)
        >>> seed_network(0, torch.device("cpu"))
        >>> torch.equal(torch.rand(1), one)
        True
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@dataclass(frozen=True)
class Step:
    """One optimizer step, or one of the equal parts in which its batch is computed.

    Attributes:
        number: its number in the run, from 0.
        steps: number of steps in the run.
        seed: the run's seed.
        part: number of the batch's part, from 0.
        parts: number of parts of the batch (gradient accumulation).
        counts: how many samples of the whole batch, over all parts and processes, have each modality of the run; None
            where no case of the data lacks any.

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
    counts: Mapping[str, int] | None = None

    def modalities(self, here: Iterable[str]) -> tuple[str, ...]:
        """The modalities that any sample of the whole batch has, the same in all processes and all parts.

        Args:
            here: those of this part, in the order of the model, which are all unless cases are incomplete.

        Example:
            >>> Step(0, steps=1, counts={"t1": 3, "t2": 0, "flair": 1}).modalities(["t1"])
            ('t1', 'flair')
        """
        return tuple(here) if self.counts is None else tuple(m for m, count in self.counts.items() if count)

    def weigh(self, modality: str, mean: Tensor, samples: int) -> Tensor:
        """A mean over the samples of this part that have a modality, as its share of the mean over the whole batch.

        Parts and processes have different numbers of such samples. What they contribute is averaged over parts and
        processes later, and becomes the mean over all samples that have it.

        Args:
            modality: which.
            mean: over its samples in this part.
            samples: how many these are.

        Example:
            >>> one_of_three = Step(0, steps=1, parts=2, counts={"t1": 3})
            >>> one_of_three.weigh("t1", torch.tensor(6.0), samples=1)  # 6 / 3, and 2 parts
            tensor(4.)
        """
        if self.counts is None:
            return mean
        share = samples * self.parts * distributed.world_size() / self.counts[modality]
        return mean if share == 1 else mean * share

    @property
    def last(self) -> bool:
        """Whether the batch is complete with this part."""
        return self.part == self.parts - 1

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1)."""
        return self.number / self.steps

    def generator(self, purpose: Stream | str, device: torch.device | str = "cpu") -> torch.Generator:
        """Random numbers for one purpose: equal in all processes and all parts of the batch."""
        return torch.Generator(device).manual_seed(random_seed(self.seed, Stream.STEP, self.number, purpose))

    def uniform(self, purpose: Stream | str, samples: int, columns: int, device: torch.device | str) -> Tensor:
        """Numbers in [0, 1) for each sample of this part, ``(samples, columns)``.

        They are drawn for the whole batch, and this process and part take their rows, so that a sample gets the same
        numbers however the batch is distributed.
        """
        processes, rank = distributed.world_size(), distributed.rank()
        whole = torch.rand(samples * self.parts * processes, columns, generator=self.generator(purpose))
        mine = whole[rank::processes]
        return mine[self.part * samples : (self.part + 1) * samples].to(device, non_blocking=True)
