"""The expanding half of a U-Net: from fused maps of all scales to maps that the heads read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from cggm_med.models.encoders import NORM, Steps

ACTIVATION = ("LEAKYRELU", {"negative_slope": 0.01, "inplace": True})  # that of MONAI's own blocks


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
        strides: of each scale relative to the one before, see ``Encoder``.
        kernels: width of the convolutions of each scale; default: 3.
        single: whether a scale has one convolution after the upsampling instead of two.
    """

    def __init__(
        self, channels: Sequence[int], strides: Steps, kernels: Steps | None = None, *, single: bool = False
    ) -> None:
        from monai.networks.blocks import Convolution, UnetUpBlock

        super().__init__()
        kernels = (kernels or [3] * len(channels))[:-1]
        self.scales = nn.ModuleList(
            UnetUpBlock(3, below, here, kernel_size=kernel, stride=1, upsample_kernel_size=stride, norm_name=NORM)
            for (here, below), kernel, stride in zip(itertools.pairwise(channels), kernels, strides[1:], strict=True)
        )
        if single:
            for scale, here, kernel in zip(self.scales, channels[:-1], kernels, strict=True):
                scale.conv_block = Convolution(
                    3, 2 * here, here, kernel_size=kernel, adn_ordering="NA", act=ACTIVATION, norm=NORM, bias=False
                )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first; the coarsest map is where decoding starts."""
        x = maps[-1]
        decoded = [x]
        for scale in reversed(range(len(self.scales))):
            x = self.scales[scale](x, maps[scale])
            decoded.append(x)
        return tuple(reversed(decoded))
