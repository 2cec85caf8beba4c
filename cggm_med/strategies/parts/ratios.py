"""How a modality's score compares with the others': the ratio behind OGM and OPM, for any number of modalities."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-6  # ratios this close to one are ties, which rounding must not decide
SMALLEST = 1e-6  # below it a mean score is no divisor; next to it, any ratio is far above one


def score_ratios(score: Tensor) -> Tensor:
    """Each score over the mean of the others; 1 for a single modality.

    Args:
        score: ``(modality,)``, at least 0.

    Example:
        >>> score_ratios(torch.tensor([0.6, 0.2, 0.4]))
        tensor([2.0000, 0.4000, 1.0000])
    """
    modalities = len(score)
    if modalities == 1:
        return torch.ones_like(score)
    # Summed without the score itself: subtracting it from the total would make ties unequal by rounding.
    others = (score * ~torch.eye(modalities, dtype=torch.bool, device=score.device)).sum(1) / (modalities - 1)
    return (score + SMALLEST) / (others + SMALLEST)
