"""From logits to probabilities, and the mean of several predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]
# Of logits (predictor, batch, target, ...) and weights (predictor, batch) that sum to 1
Average = Callable[[Tensor, Tensor], Tensor]


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


def prior_logits(shares: Tensor, are_exclusive: bool) -> Tensor:
    """Logits of which ``activation`` makes these probabilities.

    Args:
        shares: ``(region,)``, each region's share of the voxels.
        are_exclusive: whether the regions exclude one another.

    Example:
        >>> prior_logits(torch.tensor([0.2, 0.5]), are_exclusive=False)
        tensor([-1.3863,  0.0000])
        >>> torch.exp(prior_logits(torch.tensor([0.2, 0.5]), are_exclusive=True))  # over the background's 0.3
        tensor([0.6667, 1.6667])
    """
    return torch.log(shares) - torch.log(1 - shares.sum() if are_exclusive else 1 - shares)


def average_overlapping(logits: Tensor, weights: Tensor) -> Tensor:
    """Logits of the mean probability of regions that may overlap.

    Args:
        logits: ``(predictor, batch, region, ...)``.
        weights: ``(predictor, batch)``, which sum to 1 over the predictors.

    Returns:
        ``(batch, region, ...)`` in float32.

    Example:
        >>> half = torch.tensor([0.5, 0.5])[:, None]
        >>> overlapping(average_overlapping(torch.tensor([[[0.0]], [[100.0]]]), half))
        tensor([[0.7500]])
    """
    x = logits.float()
    return _log_mean(F.logsigmoid(x), weights) - _log_mean(F.logsigmoid(-x), weights)


def average_exclusive(logits: Tensor, weights: Tensor) -> Tensor:
    """The same of regions that exclude one another, the background at a logit of 0."""
    whole = with_background(logits.flatten(0, 1)).unflatten(0, logits.shape[:2])
    mean = _log_mean(F.log_softmax(whole, dim=2), weights)
    return mean[:, 1:] - mean[:, :1]


def average_classes(logits: Tensor, weights: Tensor) -> Tensor:
    """The same of classes, ``(predictor, batch, class, ...)``."""
    return _log_mean(F.log_softmax(logits.float(), dim=2), weights)


def average_values(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of values, ``(predictor, batch, 1)``."""
    return torch.einsum("pb...,pb->b...", values.float(), weights)


def _log_mean(logs: Tensor, weights: Tensor) -> Tensor:
    """Logarithm of the weighted mean of numbers whose logarithms are given."""
    spread = weights.log().reshape(*weights.shape, *[1] * (logs.ndim - 2))
    return torch.logsumexp(logs + spread, dim=0)
