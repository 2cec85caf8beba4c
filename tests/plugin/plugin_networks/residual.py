"""An encoder of residual blocks (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385), one a scale."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.blocks import UnetResBlock
from torch import Tensor, nn

from cggm_med import Encoder


class ResidualEncoder(Encoder):
    """Two convolutions and a shortcut at every scale."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        # Instance normalisation: batches of a few patches are too small for batch statistics, which mix samples too.
        norm = ("INSTANCE", {"affine": True})
        self.scales = nn.ModuleList(
            UnetResBlock(3, c_in, c_out, kernel_size=3, stride=stride, norm_name=norm)
            for c_in, c_out, stride in zip([1, *channels[:-1]], channels, self.strides, strict=True)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps, finest first."""
        maps = [image]
        for scale in self.scales:
            maps.append(scale(maps[-1]))
        return tuple(maps[1:])
