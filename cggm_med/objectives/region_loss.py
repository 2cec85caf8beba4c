"""The training loss of regions: soft Dice and cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.objectives.activation import activation, with_background
from cggm_med.objectives.targets import UNKNOWN, subsample


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
        from monai.losses import DiceLoss

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
