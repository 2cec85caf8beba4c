"""The ratio of a modality's score to the others', which OGM and OPM use, for any number of modalities."""

from __future__ import annotations

import torch
from torch import Tensor

TIE = 1e-6  # ratios this close to one are ties, which rounding must not decide
EPSILON = 1e-6  # added to both scores, so that a score of 0 is no divisor; far below any score that matters


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
    return (score + EPSILON) / (others + EPSILON)
