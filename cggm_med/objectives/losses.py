"""Training losses of overlapping regions and of utterances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.objectives.activation import activation, with_background

UNKNOWN = 255  # target of a region at a voxel that nobody annotated
IGNORED = -100  # target of a position that does not exist, such as after the end of a dialogue


class RegionLoss(nn.Module):
    """Soft Dice plus cross-entropy over regions, one logit each.

    Regions that may overlap have a sigmoid and a binary cross-entropy each; regions that exclude one another a softmax
    and a cross-entropy with the background (see ``activation.exclusive``). Each sample and region counts alike and
    samples are averaged, so that a batch spread over processes has the gradient of the whole batch. Logits on a coarser
    grid (deep supervision, classifier heads) are compared with every n-th voxel of the target, which is where a
    stride-n convolution is centred.

    The Dice of a sample in which a region does not occur has hardly any gradient there, so that little is unlearned
    that is predicted in its place. With ``batch_dice``, the Dice of a region is that of all samples together. It is
    then another loss where processes, or parts of a batch (``train.accumulate``), share the samples.

    Voxels of a region whose target is ``UNKNOWN`` were not annotated and add nothing. The cross-entropy is then
    averaged over the other voxels of all samples.

    Args:
        exclusive: whether the regions exclude one another.
        partial: whether targets may hold ``UNKNOWN``.
        batch_dice: whether the Dice of a region is that of all samples together.

    Example:
        >>> target = torch.ones(1, 3, 4, 4, 4)
        >>> round(RegionLoss()(20 * target, target).item(), 4)
        0.0
    """

    def __init__(self, *, exclusive: bool = False, partial: bool = False, batch_dice: bool = False) -> None:
        super().__init__()
        self.exclusive, self.partial = exclusive, partial
        # The smoothing keeps an empty region finite: with nothing predicted there, its Dice loss is 0.
        self.dice = DiceLoss(sigmoid=not exclusive, batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5)
        self.dice_of_probabilities = DiceLoss(batch=batch_dice, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss in float32.

        Args:
            logits: ``(batch, region, x, y, z)``.
            target: ``(batch, region, X, Y, Z)`` from 0 to 1 or ``UNKNOWN``, each axis a whole multiple of the logits'
                axis.
        """
        logits = logits.float()
        target = subsample(target, logits)
        if self.exclusive or self.partial:
            return self._general(logits, target)
        target = target.float()
        return self.dice(logits, target) + F.binary_cross_entropy_with_logits(logits, target)

    def _general(self, logits: Tensor, target: Tensor) -> Tensor:
        known = target != UNKNOWN
        truth = torch.where(known, target, 0).float()
        probability = torch.where(known, activation(self.exclusive)(logits), 0)
        dice: Tensor = self.dice_of_probabilities(probability, truth)
        if not self.exclusive:
            entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            return dice + torch.where(known, entropy, 0).sum() / known.sum().clamp_min(1)
        # A voxel of which any region is unknown has no class; with one region left, it would be that region or not.
        annotated = known.all(1)
        classes = torch.cat([1 - truth.sum(1, keepdim=True), truth], dim=1)  # the share of each, the background first
        entropy = F.cross_entropy(with_background(logits), classes, reduction="none")
        return dice + torch.where(annotated, entropy, 0).sum() / annotated.sum().clamp_min(1)


class UtteranceLoss(nn.Module):
    """Cross-entropy of the utterances of conversations, or focal loss ``(1 - p)^gamma * cross-entropy``.

    Focal loss: Lin et al., ICCV 2017, with p the softmax probability of the true class.

    The sum over utterances is divided by (dialogues in the batch x a constant). Divided by the utterances of its batch,
    as is usual, an utterance would weigh more in a batch of short dialogues; and the mean over processes, or over equal
    parts of a batch, would not be the loss of the whole batch, since they have different numbers of utterances.

    Args:
        mean_length: mean number of utterances of a training dialogue, so that the loss has the size of a mean.
        class_weights: one factor for each class. They are not normalised: let their mean over the training utterances
            be 1, such as ``1 / (classes x frequency)``.
        gamma: 0 for cross-entropy; 2 and 2.5 are usual for focal loss.

    Raises:
        ValueError: if ``mean_length`` is not positive, or ``gamma`` lies between 0 and 1, where the gradient of an
            utterance that is predicted with certainty is infinite, or below.

    Example:
        >>> logits = torch.zeros(1, 4, 2)
        >>> UtteranceLoss(mean_length=2.0)(logits, torch.tensor([[3, IGNORED]]))  # ln(4) / 2
        tensor(0.6931)
    """

    class_weights: Tensor | None

    def __init__(self, mean_length: float, class_weights: Sequence[float] | None = None, gamma: float = 0.0) -> None:
        super().__init__()
        if not 0 < mean_length < float("inf"):
            raise ValueError(f"mean_length is {mean_length}, expected the mean number of utterances of a dialogue")
        if gamma != 0 and not 1 <= gamma < float("inf"):
            raise ValueError(f"gamma is {gamma}, expected 0 or at least 1")
        self.mean_length = mean_length
        self.gamma = gamma
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss in float32.

        Args:
            logits: ``(dialogue, class, utterance)``.
            target: ``(dialogue, utterance)`` class numbers, ``IGNORED`` after a dialogue's end.
        """
        loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none")
        if self.gamma:
            loss = (-torch.expm1(-loss)) ** self.gamma * loss
        if self.class_weights is not None:
            loss = loss * self.class_weights[target.clamp_min(0)]
        return loss.sum() / (len(target) * self.mean_length)


def subsample(target: Tensor, logits: Tensor) -> Tensor:
    """Every n-th voxel of ``target`` so that it lies on the grid of ``logits``.

    Raises:
        ValueError: if an axis of the target is not a whole multiple of the logits' axis.
    """
    fine, coarse = target.shape[2:], logits.shape[2:]
    if any(f % c for f, c in zip(fine, coarse, strict=True)):
        raise ValueError(f"target grid {tuple(fine)} is not a whole multiple of the logits' grid {tuple(coarse)}")
    for axis, (f, c) in enumerate(zip(fine, coarse, strict=True), start=2):
        target = target[(slice(None),) * axis + (slice(None, None, f // c),)]
    return target
