"""Predictions over the classifier heads: the mean of what each present modality says, plus what the decoder adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.models.fusion import count_present, zero_absent
from cggm_med.types import Features


class ResidualOutput(nn.Module):
    """The last layer of a decoder, whose logits are added to those that its input carries behind the decoder's maps.

    Args:
        channels: of the decoder's maps.
        regions: number of logits.

    Example:
        >>> output = ResidualOutput(channels=4, regions=2)
        >>> maps, logits = torch.randn(1, 4, 8, 8, 8), torch.randn(1, 2, 8, 8, 8)
        >>> torch.equal(output(torch.cat([maps, logits], dim=1)), logits + output.conv(maps))
        True
    """

    def __init__(self, channels: int, regions: int) -> None:
        from monai.networks.blocks import UnetOutBlock

        super().__init__()
        self.channels, self.conv = channels, UnetOutBlock(3, channels, regions).conv

    def forward(self, inp: Tensor) -> Tensor:
        """Logits ``(batch, region, x, y, z)`` from ``(batch, channels + region, x, y, z)``."""
        added: Tensor = self.conv(inp[:, : self.channels])
        return inp[:, self.channels :] + added


def mean_of_heads(logits: Mapping[str, Tensor], view: Mapping[str, Features]) -> Tensor:
    """Mean logits of the modalities that a sample has, on the grid of the heads; zeros where it has none.

    Args:
        logits: of each modality's classifier head, ``(batch, region, x, y, z)``.
        view: whose modalities count, and which samples have them.
    """
    parts = [zero_absent(x, view[m].present) for m, x in logits.items() if m in view]
    return sum_in_order(parts) / count_present(view)


def sum_in_order(parts: Sequence[Tensor]) -> Tensor:
    """Sum from the first to the last; another order would give other last digits."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def beside(maps: Tensor, logits: Tensor) -> Tensor:
    """A decoder's maps with logits behind them, brought to the grid of the maps: the input of ``ResidualOutput``."""
    return torch.cat([maps, F.interpolate(logits, maps.shape[2:], mode="trilinear")], dim=1)
