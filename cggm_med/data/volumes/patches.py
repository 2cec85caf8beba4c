"""Patches out of a volume for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cggm_med.data.step_sampler import StepSampler, visited
from cggm_med.data.volumes.augment import Augmentation
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.randomness import Stream, random_seed
from cggm_med.stop import leave_signals_to_parent
from cggm_med.types import Batch


@dataclass(frozen=True)
class PatchSampling:
    """How training patches are drawn.

    Attributes:
        patch_size: voxels along x, y, z.
        foreground: share of patches that are centred on a voxel of a region; each region is as likely as the others.
        seed: of the run.
    """

    patch_size: tuple[int, int, int]
    foreground: float
    seed: int


class PatchDataset(Dataset[tuple[Tensor, Tensor, str]]):
    """Training patches by (epoch, position): the same pair gives the same patch in any process and any order.

    Every case is visited equally often, in an order that is shuffled anew each time all have been seen.

    Args:
        cases: preprocessed cases.
        sampling: how to draw.
        augmentation: random changes.
        epoch_size: patches in an epoch.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], sampling: PatchSampling, augmentation: Augmentation, epoch_size: int
    ) -> None:
        self.cases, self.sampling, self.augmentation, self.epoch_size = list(cases), sampling, augmentation, epoch_size

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        """Image ``(modality, x, y, z)`` of what the case has, target ``(region, x, y, z)`` and case id."""
        epoch, position = index
        seed = self.sampling.seed
        case = self.cases[visited(seed, epoch * self.epoch_size + position, len(self.cases))]
        random = np.random.Generator(np.random.Philox(random_seed(seed, Stream.PATCH_PLACE, epoch, position)))
        image = case.image()
        size = self.augmentation.read_size(self.sampling.patch_size)
        start = self._start(case, image.shape[1:], size, random)
        patch = torch.from_numpy(crop(image, start, size))
        target = torch.from_numpy(crop(case.target(), start, size))
        patch, target = self.augmentation(
            patch, target, self.sampling.patch_size, random_seed(seed, Stream.AUGMENTATION, epoch, position)
        )
        return patch, target, case.id

    def _start(
        self, case: PreparedCase, shape: Sequence[int], size: Sequence[int], random: np.random.Generator
    ) -> tuple[int, ...]:
        """First voxel of the patch; it may lie outside where the volume is smaller than the patch."""
        regions = np.unique(case.centres[:, 0])
        if len(regions) and random.random() < self.sampling.foreground:
            candidates = case.centres[case.centres[:, 0] == random.choice(regions)]
            centre = candidates[random.integers(len(candidates))][1:]
            start = [int(c) - s // 2 for c, s in zip(centre, size, strict=True)]
        else:
            start = [int(random.integers(min(0, n - s), max(0, n - s) + 1)) for n, s in zip(shape, size, strict=True)]
        return tuple(min(max(a, min(0, n - s)), max(0, n - s)) for a, n, s in zip(start, shape, size, strict=True))


def crop(volume: NDArray[Any], start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """A window of ``(channel, x, y, z)``, with zeros where it reaches outside; reads only what lies inside.

    Example:
        >>> crop(np.ones((1, 2, 1, 1)), (-1, 0, 0), (2, 1, 1)).ravel().tolist()
        [0.0, 1.0]
    """
    out = np.zeros((volume.shape[0], *size), dtype=volume.dtype)
    inside, here = [slice(None)], [slice(None)]
    for a, s, n in zip(start, size, volume.shape[1:], strict=True):
        first, last = max(a, 0), min(a + s, n)
        inside.append(slice(first, last))
        here.append(slice(first - a, last - a))
    out[tuple(here)] = volume[tuple(inside)]
    return out


def patch_loader(
    dataset: PatchDataset, sampler: StepSampler, modalities: Sequence[str], *, workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """Batches of patches, made in ``workers`` background processes.

    Args:
        dataset: yields the patches.
        sampler: says which of them each step takes.
        modalities: of the run, in order; cases may lack some, and all batches say which samples have which.
        workers: processes.
        pin_memory: see ``Batch.pin_memory``.
    """
    images = {case.id: case.modalities for case in dataset.cases}
    complete = all(of == tuple(modalities) for of in images.values())
    return DataLoader(  # the data set yields samples, collated into batches
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=_Collate(tuple(modalities), None if complete else images),
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        pin_memory=pin_memory,
    )


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of patches.

    Attributes:
        modalities: of the run.
        images: the modalities of each case's image, by case id; None where all cases have all.
    """

    modalities: tuple[str, ...]
    images: Mapping[str, Sequence[str]] | None = None

    def __call__(self, samples: Sequence[tuple[Tensor, Tensor, str]]) -> Batch:
        target, ids = torch.stack([sample[1] for sample in samples]), tuple(sample[2] for sample in samples)
        if self.images is None:
            image = torch.stack([sample[0] for sample in samples])
            inputs = {m: image[:, i : i + 1].contiguous() for i, m in enumerate(self.modalities)}
            return Batch(inputs, target, ids)
        inputs, present = {}, {}
        for modality in self.modalities:
            channels = []
            for image, _, id in samples:
                held = self.images[id]
                channels.append(image[held.index(modality)] if modality in held else None)
            present[modality] = torch.tensor([channel is not None for channel in channels])
            if present[modality].any():
                empty = torch.zeros_like(samples[0][0][0])
                inputs[modality] = torch.stack([empty if x is None else x for x in channels])[:, None]
        return Batch(inputs, target, ids, present)
