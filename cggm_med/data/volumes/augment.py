"""Random augmentation of patches with TorchIO, replayable from one seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Amount = Literal["none", "light", "standard"]


class Augmentation:
    """Random changes that a network should not mind.

    ``light``: mirroring, contrast (gamma), noise and blur. ``standard``: also rotation up to 15 degrees and scaling
    by up to 15 %, drawn from a larger patch so that no border is made up.

    Args:
        amount: ``none``, ``light`` or ``standard``.
    """

    def __init__(self, amount: Amount) -> None:
        import torchio as tio

        self.margin = 1.25 if amount == "standard" else 1.0
        # The patch is nobody else's: by default, every transform first copies it.
        local = [
            tio.RandomFlip(axes=(0, 1, 2), copy=False),
            tio.RandomGamma(log_gamma=(-0.3, 0.3), p=0.3, copy=False),
            tio.RandomNoise(std=(0, 0.15), p=0.3, copy=False),
            tio.RandomBlur(std=(0, 0.8), p=0.15, copy=False),
        ]
        affine = [tio.RandomAffine(scales=0.15, degrees=15, default_pad_value=0, p=0.3, copy=False)]
        self.affine = tio.Compose(affine, copy=False) if amount == "standard" else None
        self.local = tio.Compose(local, copy=False) if amount != "none" else None

    def read_size(self, patch_size: Sequence[int]) -> tuple[int, ...]:
        """How large a patch to read so that ``patch_size`` is left after rotation."""
        return tuple(math.ceil(size * self.margin) for size in patch_size)

    def __call__(self, image: Tensor, target: Tensor, patch_size: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Augment one patch; the same seed gives the same bits, whatever else draws random numbers.

        Args:
            image: ``(modality, x, y, z)``, as large as ``read_size`` says; may be overwritten.
            target: ``(region, x, y, z)`` of 0 and 1; may be overwritten.
            patch_size: size of what is returned.
            seed: decides every draw.
        """
        if self.local is None:
            return image, target
        import torchio as tio

        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds every device, which takes longer
            names = [f"modality{i}" for i in range(len(image))]
            images = {name: tio.ScalarImage(tensor=channel[None]) for name, channel in zip(names, image, strict=True)}
            subject = tio.Subject(**images, target=tio.LabelMap(tensor=target))
            if self.affine is not None:
                subject = tio.CropOrPad(tuple(patch_size))(self.affine(subject))
            subject = self.local(subject)
        return torch.cat([subject[name].data for name in names]), subject["target"].data
