"""A 3-D U-Net with one encoder per modality, mask-aware fusion at every scale and one decoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import torch
from monai.networks.blocks import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.types import Features, Padded

NORM = ("INSTANCE", {"affine": True})  # batches of a few patches are too small for batch statistics
Steps = Sequence[int | Sequence[int]]  # of each scale, finest first: one number, or one for each of x, y, z


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
        in_channels: channels of the image.
        kernels: width of the convolutions of each scale; default: 3.
        strides: by how much each scale is coarser than the one before; default: the first keeps the grid, every other
            halves it.
    """

    def __init__(
        self, channels: Sequence[int], in_channels: int = 1, kernels: Steps | None = None, strides: Steps | None = None
    ) -> None:
        super().__init__()
        before = [in_channels, *channels[:-1]]
        every = zip(before, channels, kernels or _kernels(channels), strides or _strides(channels), strict=True)
        self.scales = nn.ModuleList(
            UnetBasicBlock(3, c_in, c_out, kernel_size=kernel, stride=stride, norm_name=NORM)
            for c_in, c_out, kernel, stride in every
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

    def forward(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Fused maps of each view, finest first.

        Views are selections of the same maps, so every map is projected once for all of them. A sample that lacks every
        modality has nothing to be fused and gets zeros.

        Args:
            views: features of the modalities to fuse; views differ in which there are, and in ``present``.

        Raises:
            ValueError: if a view has no modality.
        """
        if not all(views):
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.projections))
        maps = {m: view[m].maps for m in self.projections for view in views if m in view}
        counts = [self._count(view) for view in views]
        fused: list[list[Tensor]] = [[] for _ in views]
        for scale in range(len(next(iter(maps.values())))):
            totals: list[Tensor | None] = [None] * len(views)
            for m in maps:
                projected = self.projections[m][scale](maps[m][scale])  # type: ignore[index]
                for i, view in enumerate(views):
                    if m not in view:
                        continue
                    here, total = view[m].present, totals[i]
                    part = projected if here is None else torch.where(here.view(-1, 1, 1, 1, 1), projected, 0)
                    if total is None:
                        # The total is added to in place, to save memory, so no two views may begin with one tensor.
                        totals[i] = part.clone() if here is None and len(views) > 1 else part
                    else:
                        total.add_(part)
            for found, total, count in zip(fused, totals, counts, strict=True):
                assert total is not None  # noqa: S101 - for the type checker; no view is empty
                found.append(total / count)
        return [tuple(found) for found in fused]

    def add(self, totals: Sequence[Tensor], modality: str, maps: Sequence[Tensor]) -> list[Tensor]:
        """One modality's share added to the sums of those before it, in place; ``totals`` is empty for the first.

        Together with a division by the number of modalities this is ``forward`` for samples that lack none of them.
        """
        parts = [self.projections[modality][scale](x) for scale, x in enumerate(maps)]  # type: ignore[index]
        return [total.add_(part) for total, part in zip(totals, parts, strict=True)] if totals else parts

    @staticmethod
    def _count(view: Mapping[str, Features]) -> int | Tensor:
        """How many modalities are present, for each sample if samples differ."""
        masks = [f.present for f in view.values() if f.present is not None]
        if not masks:
            return len(view)
        count = torch.stack(masks).sum(0) + (len(view) - len(masks))
        return count.clamp_min(1).view(-1, 1, 1, 1, 1)


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net, from MONAI's blocks.

    Args:
        channels: feature channels of each scale, finest first.
        kernels: see ``UNetEncoder``.
        strides: see ``UNetEncoder``.
    """

    def __init__(self, channels: Sequence[int], kernels: Steps | None = None, strides: Steps | None = None) -> None:
        super().__init__()
        every = zip(
            itertools.pairwise(channels),
            (kernels or _kernels(channels))[:-1],
            (strides or _strides(channels))[1:],
            strict=True,
        )
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


class SegmentationModel(MultimodalModel):
    """One 3-D U-Net encoder per modality, mask-aware fusion, one decoder, one head.

    Args:
        modalities: names of the modalities.
        regions: number of overlapping regions to segment, one sigmoid channel each.
        channels: feature channels of each scale, finest first.
        deep_supervision: also predict from the coarser decoder scales while training.
        kernels: width of the convolutions of each scale; default: 3.
        strides: by how much each scale is coarser than the one before; default: every scale but the first halves the
            grid.
        deep_scales: from how many of the coarser scales; default: all but the coarsest.

    Example:
        >>> model = SegmentationModel(["flair", "t1ce"], regions=3, channels=(4, 8))
        >>> model({"flair": torch.zeros(1, 1, 8, 8, 8)}).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    def __init__(
        self,
        modalities: Sequence[str],
        regions: int,
        channels: Sequence[int],
        deep_supervision: bool = False,
        *,
        kernels: Steps | None = None,
        strides: Steps | None = None,
        deep_scales: int | None = None,
    ) -> None:
        super().__init__(modalities)
        if len(channels) < 2:
            raise ValueError(f"a U-Net needs at least 2 scales, {len(channels)} given")
        self.channels = tuple(channels)
        self.encoders = nn.ModuleDict(
            {m: UNetEncoder(channels, kernels=kernels, strides=strides) for m in self.modalities}
        )
        self.fusion = MaskedFusion(self.modalities, channels)
        self.decoder = UNetDecoder(channels, kernels, strides)
        self.head = UnetOutBlock(3, channels[0], regions)
        # The coarsest scale sees too little to be worth a loss.
        coarser = channels[1:-1][:deep_scales] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(UnetOutBlock(3, c, regions) for c in coarser)

    def forward(self, inputs: Mapping[str, Tensor | Padded]) -> Tensor:
        """Logits from any non-empty subset of the modalities.

        The same numbers as encoding all and fusing them then. But here each modality's maps are let go as soon as they
        are added to the others, so that one set of them is in memory and not one a modality.
        """
        totals: list[Tensor] = []
        for modality in sorted(inputs, key=(*self.modalities, *inputs).index):
            totals = self.fusion.add(totals, modality, self.encode({modality: inputs[modality]})[modality].maps)
        if not totals:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))
        fused = tuple(total.div_(len(inputs)) for total in totals)
        logits: Tensor = self.head(self.decoder(fused)[0])
        return logits

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first, ``(batch, channel, x, y, z)`` each."""
        return self.fuse_views([features])[0]

    def fuse_views(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """The same for several views; see ``MaskedFusion``."""
        return [self.decoder(fused) for fused in self.fusion(views)]

    def deep_logits(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Region logits at 1/2, 1/4, ... of the grid while training with deep supervision, otherwise none."""
        if not self.training:
            return ()
        return tuple(head(x) for head, x in zip(self.deep_heads, fused[1:], strict=False))

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The encoder and the projections of the fusion that only this modality passes through."""
        return (self.encoders[modality], self.fusion.projections[modality])


def _kernels(channels: Sequence[int]) -> Steps:
    return [3] * len(channels)


def _strides(channels: Sequence[int]) -> Steps:
    return [1, *[2] * (len(channels) - 1)]
