"""Light classifier heads on each modality's own features: what that modality alone can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.typing import Features


class VoxelwiseHead(nn.Module):
    """Region logits from one encoder's pyramid: a 1x1x1 convolution a scale, upsampled and summed.

    The finest scale is left out: predicting at half the grid costs an eighth of the voxels, which keeps the heads
    within a few per cent of a training step (ADR 0004).

    Args:
        channels: feature channels of each scale of the encoder, finest first.
        regions: number of regions.
    """

    def __init__(self, channels: Sequence[int], regions: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv3d(c, regions, kernel_size=1) for c in channels[1:])

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Logits ``(batch, region, x/2, y/2, z/2)``."""
        logits: Tensor = self.scales[-1](maps[-1])
        for scale, x in zip(reversed(self.scales[:-1]), reversed(maps[1:-1]), strict=True):
            logits = F.interpolate(logits, scale_factor=2, mode="nearest") + scale(x)
        return logits


class UnimodalHeads(nn.Module):
    """One classifier head a modality.

    Args:
        heads: maps a tuple of feature maps to logits, by modality.
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(dict(heads))

    def forward(self, features: Mapping[str, Features], encoder_weight: float = 1.0) -> dict[str, Tensor]:
        """Each present modality's own logits.

        Args:
            features: each present modality's features.
            encoder_weight: share of the heads' gradient that reaches the encoders. The heads themselves always learn
                at full weight; with 0 they only watch (the stop-gradient of the CGGM paper).
        """
        return {
            m: self.heads[m](tuple(scale_gradient(x, encoder_weight) for x in features[m].maps))
            for m in self.heads
            if m in features
        }


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return gradient * ctx.weight, None


def scale_gradient(x: Tensor, weight: float) -> Tensor:
    """The same tensor, whose gradient is multiplied by ``weight`` on the way back; 0 detaches it.

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> scale_gradient(x, 0.3).sum().backward()
        >>> x.grad
        tensor([0.3000, 0.3000])
    """
    if weight == 0:
        return x.detach()
    if weight == 1:
        return x
    scaled: Tensor = _ScaleGradient.apply(x, weight)
    return scaled
