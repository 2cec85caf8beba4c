"""Light classifier heads on each modality's own features, which show what the modality alone can predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.types import Features, UnimodalOutput


class UnimodalHead(nn.Module, ABC):
    """A classifier head on one modality's features.

    Attributes:
        last: the last layer, linear, with a weight whose first axis is the target.
    """

    last: nn.Module

    @abstractmethod
    def hidden(self, features: Features) -> Tensor:
        """The input of the last layer, ``(batch, channel, ...)``."""

    def forward(self, features: Features) -> UnimodalOutput:
        """Hidden features and logits."""
        hidden = self.hidden(features)
        return UnimodalOutput(hidden, self.last(hidden))


class VectorHead(UnimodalHead):
    """A linear layer on a feature vector, such as ``LateFusionModel`` fuses.

    Args:
        width: length of the vector.
        targets: number of classes or values.
    """

    def __init__(self, width: int, targets: int) -> None:
        super().__init__()
        self.last = nn.Linear(width, targets)

    def hidden(self, features: Features) -> Tensor:
        """The vector itself."""
        return features.maps[-1]


class VoxelwiseHead(UnimodalHead):
    """Region logits from one encoder's pyramid: one 1x1x1 convolution per scale, upsampled and summed, and one more.

    The finest scale is left out: half the grid has an eighth of the voxels, which keeps the cost of the heads at a few
    per cent of a training step (ADR 0004). The last layer is as wide as that of the fused prediction, so that their
    gradients can be compared.

    Args:
        channels: feature channels of each scale of the encoder, finest first.
        regions: number of regions.
    """

    def __init__(self, channels: Sequence[int], regions: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv3d(c, channels[0], kernel_size=1) for c in channels[1:])
        self.last = nn.Conv3d(channels[0], regions, kernel_size=1)

    def hidden(self, features: Features) -> Tensor:
        """Features ``(batch, channel, x, y, z)`` on the grid of the second scale."""
        maps = features.maps
        hidden: Tensor = self.scales[-1](maps[-1])
        for scale, x in zip(reversed(self.scales[:-1]), reversed(maps[1:-1]), strict=True):
            hidden = F.interpolate(hidden, x.shape[2:], mode="nearest") + scale(x)
        return F.relu(hidden)


class UnimodalHeads(nn.Module):
    """One classifier head per modality."""

    def __init__(self, heads: Mapping[str, UnimodalHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(dict(heads))

    def logits(self, modality: str, features: Features) -> Tensor:
        """A modality's own logits for every sample; what they say of one that lacks the modality means nothing."""
        output: UnimodalOutput = self.heads[modality](features)
        return output.logits

    @torch.no_grad()
    def predict_at_first(self, logits: Tensor) -> None:
        """Set the biases of the last layers, so that new heads predict about these logits ``(target,)``."""
        for head in self.heads.values():
            head.last.bias.copy_(logits)  # type: ignore[union-attr,operator]

    def last_weight(self, modality: str) -> Tensor:
        """Weight of a head's last layer, ``(target, channel)``."""
        return next(p for p in self.heads[modality].last.parameters() if p.ndim > 1).flatten(1)  # type: ignore[union-attr]

    def forward(self, features: Mapping[str, Features], encoder_weight: float = 1.0) -> dict[str, UnimodalOutput]:
        """Each present modality's own prediction, of the samples that have it.

        Args:
            features: of each present modality.
            encoder_weight: factor on the heads' gradient that reaches the encoders. The heads themselves always learn
                at full weight; with 0 they only observe (the stop-gradient of the CGGM paper).
        """
        outputs = {}
        for modality in (m for m in self.heads if m in features):
            own = features[modality]
            maps = tuple(scale_gradient(x, encoder_weight) for x in own.maps)
            outputs[modality] = self.heads[modality](own._replace(maps=maps)).of(own.rows)
        return outputs


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return gradient * ctx.weight, None


def scale_gradient(x: Tensor, weight: float) -> Tensor:
    """The same tensor, whose gradient is multiplied by ``weight``; 0 detaches it.

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
    return _ScaleGradient.apply(x, weight)
