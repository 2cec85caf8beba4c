"""A 3-D U-Net with one encoder per modality, mask-aware fusion at every scale and one decoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.typing import Features

NORM = ("INSTANCE", {"affine": True})  # batches of a few patches are too small for batch statistics


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net, from MONAI's blocks; every scale after the first halves the grid.

    Args:
        channels: feature channels of each scale, finest first.
        in_channels: channels of the image.
    """

    def __init__(self, channels: Sequence[int], in_channels: int = 1) -> None:
        super().__init__()
        before = [in_channels, *channels[:-1]]
        self.scales = nn.ModuleList(
            UnetBasicBlock(3, c_in, c_out, kernel_size=3, stride=1 if i == 0 else 2, norm_name=NORM)
            for i, (c_in, c_out) in enumerate(zip(before, channels, strict=True))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, finest first, from an image ``(batch, channel, x, y, z)``."""
        maps = []
        for scale in self.scales:
            x = scale(x)
            maps.append(x)
        return tuple(maps)


class MaskedFusion(nn.Module):
    """Mean over the present modalities of one 1x1x1 projection each, at every scale.

    With all modalities present this is the familiar concatenation followed by a 1x1x1 convolution, since a convolution
    of a concatenation is the sum of one convolution a modality. An absent modality adds nothing and is not counted,
    so leaving it out equals never having loaded it, bit for bit (unlike a block of zeros, which the biases and
    the normalisation of an encoder turn into features).

    Args:
        modalities: names, in the order of summation.
        channels: feature channels of each scale.
    """

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__()
        self.projections = nn.ModuleDict(
            {m: nn.ModuleList(nn.Conv3d(c, c, kernel_size=1) for c in channels) for m in modalities}
        )

    def forward(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """Fused maps, finest first.

        A sample that lacks every modality has nothing to be fused and gets zeros.

        Raises:
            ValueError: if no modality is given.
        """
        given = [m for m in self.projections if m in features]
        if not given:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.projections))
        present = {m: mask.view(-1, 1, 1, 1, 1) for m in given if (mask := features[m].present) is not None}
        count: int | Tensor = len(given)
        if present:
            count = sum((mask.to(torch.int64) for mask in present.values()), torch.tensor(0))
            count = (count + (len(given) - len(present))).clamp_min(1)
        fused = []
        for scale in range(len(features[given[0]].maps)):
            total: Tensor | None = None
            for m in given:
                projected = self.projections[m][scale](features[m].maps[scale])  # type: ignore[index]
                if m in present:
                    projected = torch.where(present[m], projected, 0)
                total = projected if total is None else total.add_(projected)
            assert total is not None  # noqa: S101 - for the type checker; `given` is not empty
            fused.append(total / count)
        return tuple(fused)


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            UnetUpBlock(3, below, here, kernel_size=3, stride=1, upsample_kernel_size=2, norm_name=NORM)
            for here, below in itertools.pairwise(channels)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first; the coarsest map is where decoding starts."""
        x = maps[-1]
        decoded = [x]
        for scale in reversed(range(len(self.scales))):
            x = self.scales[scale](x, maps[scale])
            decoded.append(x)
        return tuple(reversed(decoded))


class SegmentationModel(MultimodalModel):
    """One 3-D U-Net encoder per modality, mask-aware fusion, one decoder, one head.

    Args:
        modalities: names of the modalities.
        regions: number of overlapping regions to segment, one sigmoid channel each.
        channels: feature channels of each scale, finest first; each scale after the first halves the grid.
        deep_supervision: also predict from the coarser decoder scales while training.

    Example:
        >>> model = SegmentationModel(["flair", "t1ce"], regions=3, channels=(4, 8))
        >>> model({"flair": torch.zeros(1, 1, 8, 8, 8)}).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    def __init__(
        self, modalities: Sequence[str], regions: int, channels: Sequence[int], deep_supervision: bool = False
    ) -> None:
        super().__init__(modalities)
        if len(channels) < 2:
            raise ValueError(f"a U-Net needs at least 2 scales, {len(channels)} given")
        self.channels = tuple(channels)
        self.encoders = nn.ModuleDict({m: UNetEncoder(channels) for m in self.modalities})
        self.fusion = MaskedFusion(self.modalities, channels)
        self.decoder = UNetDecoder(channels)
        self.head = UnetOutBlock(3, channels[0], regions)
        # The coarsest scale sees too little to be worth a loss, as in nnU-Net.
        coarser = channels[1:-1] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(UnetOutBlock(3, c, regions) for c in coarser)

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first, ``(batch, channel, x, y, z)`` each."""
        decoded: tuple[Tensor, ...] = self.decoder(self.fusion(features))
        return decoded

    def deep_logits(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Region logits at 1/2, 1/4, ... of the grid while training with deep supervision, otherwise none."""
        if not self.training:
            return ()
        return tuple(head(x) for head, x in zip(self.deep_heads, fused[1:], strict=False))

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The encoder and the projections of the fusion that only this modality passes through."""
        return (self.encoders[modality], self.fusion.projections[modality])
