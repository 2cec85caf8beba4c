"""Encoders of 3-D images: their base class, and the contracting half of a U-Net."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

NORM = ("INSTANCE", {"affine": True})  # batches of a few patches are too small for batch statistics
Steps = Sequence[int | Sequence[int]]  # of each scale, finest first: one number, or one for each of x, y, z


class Encoder(nn.Module, ABC):
    """Maps one modality's image to feature maps of several scales, finest first.

    The network makes one for each modality, from ``model.channels`` alone. Fusion, decoder and classifier heads adapt
    to the channels and strides that it declares.

    Args:
        channels: of each map, finest first.
        strides: of each map relative to the one before; default: every map but the first has half the grid. The first
            is 1, since the finest map has the grid of the image.

    Attributes:
        channels: of each map, finest first.
        strides: of each map relative to the one before.

    Raises:
        ValueError: if there is not one stride per map, or the first is not 1.
    """

    def __init__(self, channels: Sequence[int], strides: Steps | None = None) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(strides or halving(channels))
        if len(self.strides) != len(self.channels) or set(_xyz(self.strides[0])) != {1}:
            raise ValueError(
                f"strides are {list(self.strides)}, expected one for each of {len(self.channels)} scales, the first 1"
            )

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps ``(batch, channel, x, y, z)``, finest first, from an image ``(batch, 1, x, y, z)``."""

    @property
    def reduction(self) -> tuple[int, ...]:
        """Voxels of the image per voxel of the coarsest map, along x, y, z."""
        return tuple(math.prod(steps) for steps in zip(*map(_xyz, self.strides), strict=True))


class UNetEncoder(Encoder):
    """The contracting half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
        kernels: width of the convolutions of each scale; default: 3.
        strides: see ``Encoder``.
    """

    def __init__(self, channels: Sequence[int], kernels: Steps | None = None, strides: Steps | None = None) -> None:
        from monai.networks.blocks import UnetBasicBlock

        super().__init__(channels, strides)
        every = zip([1, *channels[:-1]], channels, kernels or [3] * len(channels), self.strides, strict=True)
        self.scales = nn.ModuleList(
            UnetBasicBlock(3, c_in, c_out, kernel_size=kernel, stride=stride, norm_name=NORM)
            for c_in, c_out, kernel, stride in every
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        maps = [image]
        for scale in self.scales:
            maps.append(scale(maps[-1]))
        return tuple(maps[1:])


def halving(channels: Sequence[int]) -> list[int]:
    """Strides that halve the grid at every scale but the first.

    Example:
        >>> halving((8, 16, 32))
        [1, 2, 2]
    """
    return [1, *[2] * (len(channels) - 1)]


def _xyz(stride: int | Sequence[int]) -> Sequence[int]:
    return (stride,) * 3 if isinstance(stride, int) else stride
