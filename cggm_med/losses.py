"""The training loss of overlapping regions."""

from __future__ import annotations

from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F


class RegionLoss(nn.Module):
    """Soft Dice plus binary cross-entropy over regions that may overlap, one sigmoid channel each.

    Each sample and region counts alike and samples are averaged, so that a batch spread over processes has the
    gradient of the whole batch. Logits on a coarser grid (deep supervision, classifier heads) are compared with
    every n-th voxel of the target, which is where a stride-n convolution is centred.

    Example:
        >>> target = torch.ones(1, 3, 4, 4, 4)
        >>> round(RegionLoss()(20 * target, target).item(), 4)
        0.0
    """

    def __init__(self) -> None:
        super().__init__()
        # The smoothing keeps an empty region finite: with nothing predicted there, its Dice loss is 0.
        self.dice = DiceLoss(sigmoid=True, batch=False, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss in float32.

        Args:
            logits: ``(batch, region, x, y, z)``.
            target: ``(batch, region, X, Y, Z)`` of 0 and 1, each axis a whole multiple of the logits' axis.
        """
        logits = logits.float()
        target = subsample(target, logits).float()
        loss: Tensor = self.dice(logits, target) + F.binary_cross_entropy_with_logits(logits, target)
        return loss


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
