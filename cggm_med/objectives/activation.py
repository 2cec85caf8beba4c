"""From a network's region logits to probabilities: regions that may overlap, or exclude one another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


def overlapping(logits: Tensor) -> Tensor:
    """Probabilities of regions that may overlap, in float32: the sigmoid of each logit."""
    return torch.sigmoid(logits.float())


def exclusive(logits: Tensor) -> Tensor:
    """Probabilities of regions that exclude one another, in float32: a softmax with the background at a logit of 0.

    A softmax does not change when the same number is added to all logits, so the background needs none of its own: the
    network has one output per region either way, and what a region's logit says is its evidence over the background
    (ADR 0033). What is left to 1 is the background's probability.

    Args:
        logits: ``(batch, region, ...)``.

    Returns:
        The same shape.

    Example:
        >>> exclusive(torch.tensor([[0.0, 0.0]]))  # two regions and the background are equally likely
        tensor([[0.3333, 0.3333]])
    """
    return torch.softmax(with_background(logits), dim=1)[:, 1:]


def with_background(logits: Tensor) -> Tensor:
    """Logits ``(batch, 1 + region, ...)`` in float32, that of the background, 0, first."""
    spatial = [0, 0] * (logits.ndim - 2)
    return F.pad(logits.float(), [*spatial, 1, 0])


def activation(are_exclusive: bool) -> Activation:
    """``exclusive`` or ``overlapping``."""
    return exclusive if are_exclusive else overlapping
