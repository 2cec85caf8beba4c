"""The expanding half of a U-Net: from fused maps of all scales to maps that the heads read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from monai.networks.blocks import UnetUpBlock
from torch import Tensor, nn

from cggm_med.models.encoders import NORM, Steps


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
        strides: of each scale relative to the one before, see ``Encoder``.
        kernels: width of the convolutions of each scale; default: 3.
    """

    def __init__(self, channels: Sequence[int], strides: Steps, kernels: Steps | None = None) -> None:
        super().__init__()
        every = zip(itertools.pairwise(channels), (kernels or [3] * len(channels))[:-1], strides[1:], strict=True)
        self.scales = nn.ModuleList(
            UnetUpBlock(3, below, here, kernel_size=kernel, stride=1, upsample_kernel_size=stride, norm_name=NORM)
            for (here, below), kernel, stride in every
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first; the coarsest map is where decoding starts."""
        x = maps[-1]
        decoded = [x]
        for scale in reversed(range(len(self.scales))):
            x = self.scales[scale](x, maps[scale])
            decoded.append(x)
        return tuple(reversed(decoded))
