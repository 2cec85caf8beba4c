"""Balance scores: how well logits fit a target, in [0, 1], as sums that add up over batches and processes.

Each function returns ``(target, 3)`` in float32: a numerator and a denominator, whose ratio is the score of one target
(a region, or the only one), and how much of the target occurred. No gradient flows through them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cggm_med.objectives.activation import activation
from cggm_med.objectives.targets import IGNORED, UNKNOWN, subsample

ScoreSums = Callable[[Tensor, Tensor], Tensor]


def soft_dice_sums(logits: Tensor, target: Tensor, *, exclusive: bool = False) -> Tensor:
    """Segmentation: soft Dice of each region; voxels whose target is ``UNKNOWN`` do not count.

    Args:
        logits: ``(batch, region, x, y, z)``, also on a coarser grid than the target.
        target: ``(batch, region, X, Y, Z)`` of 0, 1 and perhaps ``UNKNOWN``.
        exclusive: whether the regions exclude one another.

    Returns:
        ``(region, 3)``: twice the soft intersection, predicted plus true volume, true volume, in voxels.
    """
    target = subsample(target, logits)
    known = target != UNKNOWN
    probability = activation(exclusive)(logits.detach())
    return _dice_sums(torch.where(known, probability, 0), torch.where(known, target, 0).float())


def softmax_dice_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Segmentation into classes that exclude one another: soft Dice of each class but the background, class 0.

    Voxels whose class number has no logit do not count, such as nnU-Net's ignore label, which is the last.

    Args:
        logits: ``(batch, class, x, y, z)``, also on a coarser grid than the target.
        target: ``(batch, 1, X, Y, Z)`` class numbers.

    Returns:
        ``(class - 1, 3)``; see ``soft_dice_sums``.

    Example:
        >>> logits = torch.tensor([[-50.0, 50.0], [50.0, -50.0]]).view(1, 2, 2, 1, 1)
        >>> softmax_dice_sums(logits, torch.tensor([1, 0]).view(1, 1, 2, 1, 1))
        tensor([[2., 2., 1.]])
    """
    classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
    target = subsample(target, logits)
    probability = torch.softmax(logits.detach().float(), dim=1)[:, 1:]
    return _dice_sums(torch.where(target < logits.shape[1], probability, 0), (target == classes).float())


def true_class_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Classification: softmax probability of the true class, averaged over samples or their utterances.

    Args:
        logits: ``(batch, class, ...)``.
        target: ``(batch, ...)`` class numbers; positions with ``IGNORED`` (-100) do not count.

    Example:
        >>> true_class_sums(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
        tensor([[0.7500, 3.0000, 3.0000]])
    """
    counts = target != IGNORED
    probability = torch.softmax(logits.detach().float(), dim=1).gather(1, target.clamp_min(0)[:, None])[:, 0]
    positions = counts.sum().to(probability.dtype)
    return torch.stack([torch.where(counts, probability, 0).sum(), positions, positions])[None]


def accuracy_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Classification: share of samples, or of their utterances, whose most probable class is the true one.

    Args:
        logits: ``(batch, class, ...)``.
        target: see ``true_class_sums``.

    Example:
        >>> accuracy_sums(torch.eye(3), torch.tensor([0, 1, 0]))
        tensor([[2., 3., 3.]])
    """
    counts = target != IGNORED
    right = ((logits.argmax(1) == target) & counts).sum().float()
    return torch.stack([_or_not_a_number(right, logits), counts.sum().float(), counts.sum().float()])[None]


def sign_accuracy_sums(logits: Tensor, target: Tensor) -> Tensor:
    """Regression of signed values: share of values predicted above 0 where they are, and not where they are not.

    Args:
        logits: predictions.
        target: of equal shape; a value of exactly 0 counts as not above 0.

    Example:
        >>> sign_accuracy_sums(torch.tensor([[1.0], [-0.5]]), torch.tensor([[2.0], [0.0]]))
        tensor([[2., 2., 2.]])
    """
    right = ((logits > 0) == (target > 0)).sum().float()
    values = torch.full_like(right, target.numel())
    return torch.stack([_or_not_a_number(right, logits), values, values])[None]


def hard_dice_sums(logits: Tensor, target: Tensor, *, exclusive: bool = False) -> Tensor:
    """Segmentation: Dice of each thresholded region, or where they exclude one another of each most probable class.

    Args:
        logits: see ``soft_dice_sums``.
        target: see ``soft_dice_sums``.
        exclusive: see ``soft_dice_sums``.

    Returns:
        See ``soft_dice_sums``.

    Example:
        >>> hard_dice_sums(torch.tensor([3.0, 0.1, -2.0]).view(1, 1, 3, 1, 1), torch.ones(1, 1, 3, 1, 1))
        tensor([[4., 5., 3.]])
    """
    target = subsample(target, logits)
    known = target != UNKNOWN
    if exclusive:
        # The background has no logit of its own: it is the most probable where every other one is below 0.
        best = logits.detach().amax(1, keepdim=True)
        mask = (logits.detach() == best) & (best > 0)
    else:
        mask = logits.detach() > 0
    hard = _or_not_a_number(torch.where(known, mask, 0).float(), logits)
    return _dice_sums(hard, torch.where(known, target, 0).float())


def residual_sums(scale: float) -> ScoreSums:
    """Regression: ``exp(-|prediction - target| / scale)``, averaged over values.

    The scale is a constant of the task, not a running mean of the residual, with which a score would stay the same
    while the prediction improves.

    Args:
        scale: residual at which the score is 1/e, in the unit of the target, such as its standard deviation.

    Returns:
        A function of logits and target of equal shapes.

    Example:
        >>> residual_sums(2.0)(torch.tensor([[1.0]]), torch.tensor([[1.0]]))
        tensor([[1., 1., 1.]])
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}, expected a finite residual above 0 in the unit of the target")

    def sums(logits: Tensor, target: Tensor) -> Tensor:
        if logits.shape != target.shape:
            raise ValueError(
                f"predictions have shape {tuple(logits.shape)} and targets {tuple(target.shape)}; make them equal"
            )
        score = torch.exp(-(logits.detach().float() - target.float()).abs() / scale).sum()
        values = torch.full_like(score, target.numel())
        return torch.stack([score, values, values])[None]

    return sums


def mean_score(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Scores from sums, averaged over the targets that occurred.

    Args:
        sums: ``(..., target, 3)``.

    Returns:
        The scores ``(...)``, and a boolean scalar: all are finite, and something occurred for each. Where a modality's
        samples hold nothing of the target, and those of another do, they cannot be compared.
    """
    occurred = (sums[..., 2] > 0).float()
    score = (sums[..., 0] / sums[..., 1].clamp_min(1e-8) * occurred).sum(-1) / occurred.sum(-1).clamp_min(1)
    return score, torch.isfinite(score).all() & (occurred.sum(-1) > 0).all()


def _or_not_a_number(values: Tensor, logits: Tensor) -> Tensor:
    """The values, or NaN if a logit is not finite: a comparison with NaN is False, and would pass as a score."""
    return torch.where(torch.isfinite(logits.detach()).all(), values, torch.nan)


def _dice_sums(probability: Tensor, truth: Tensor) -> Tensor:
    axes = [0, *range(2, truth.ndim)]
    volume = truth.sum(axes)
    intersection = (probability * truth).sum(axes)
    return torch.stack([2 * intersection, probability.sum(axes) + volume, volume], dim=-1)
