"""Fusion by attention: in every voxel, each modality weighs as much as it scores there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cggm_med import Fusion


class AttentionFusion(Fusion):
    """Sum of the maps, weighted by a softmax over the present modalities of one 1x1x1 convolution each."""

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__(modalities, channels)
        # Keyed by modality, so that balancing reaches them.
        self.scores = nn.ModuleDict({m: nn.ModuleList(nn.Conv3d(c, 1, 1) for c in channels) for m in modalities})

    def fuse(self, maps: Mapping[str, Sequence[Tensor]], present: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Fused maps, finest first."""
        absent = ~torch.stack([present[m] for m in maps])[..., None, None, None, None]  # (modality, batch, 1, 1, 1, 1)
        fused = []
        for scale in range(len(self.channels)):
            scores = torch.stack([self.scores[m][scale](x[scale]) for m, x in maps.items()])
            # Not -inf: the softmax of a sample that lacks everything would be NaN, and so would its gradient.
            weights = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=0)
            fused.append((weights * torch.stack([x[scale] for x in maps.values()])).sum(dim=0))
        return tuple(fused)
