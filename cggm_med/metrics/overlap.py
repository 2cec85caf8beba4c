"""Overlap of a predicted and a true region, and the error of the volume, with explicit rules for empty regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Empty = Literal["none", "both", "missed", "false"]


def empty_region(prediction: Tensor, target: Tensor) -> Empty:
    """Which of two boolean volumes has no voxel.

    Returns:
        ``none`` (both have some), ``both``, ``missed`` (only the target has) or ``false`` (only the prediction has).
    """
    predicted, true = bool(prediction.any()), bool(target.any())
    if predicted and true:
        return "none"
    return "missed" if true else "false" if predicted else "both"


def dice(prediction: Tensor, target: Tensor) -> float:
    """Dice overlap of two boolean volumes; 1 when both are empty, 0 when only one is.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> dice(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        0.6666666666666666
    """
    require_same_shape(prediction, target)
    both = int(prediction.count_nonzero() + target.count_nonzero())
    return 2 * int((prediction & target).count_nonzero()) / both if both else 1.0


def sensitivity(prediction: Tensor, target: Tensor) -> float:
    """Share of the target's voxels that were found.

    Where the target is empty nothing can be found, and the rule of BraTS 2023 holds: 1 when the prediction is empty as
    well, 0 when it is not.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> sensitivity(torch.tensor([True, False, True]), torch.tensor([True, True, False]))
        0.5
    """
    require_same_shape(prediction, target)
    true = int(target.count_nonzero())
    return int((prediction & target).count_nonzero()) / true if true else float(not prediction.any())


def specificity(prediction: Tensor, target: Tensor) -> float:
    """Share of the voxels outside the target that were left out.

    It grows with the empty space around the head: 0.99 can be a poor value. A target that fills the volume has no
    outside, hence no false voxel: 1 (where the script of BraTS 2023 says 0).

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> specificity(torch.tensor([True, False, True]), torch.tensor([True, False, False]))
        0.5
    """
    require_same_shape(prediction, target)
    outside = int((~target).count_nonzero())
    return int((~prediction & ~target).count_nonzero()) / outside if outside else 1.0


def volume_error_ml(prediction: Tensor, target: Tensor, spacing_mm: Sequence[float]) -> float:
    """Volume of the prediction minus that of the target, in ml; an empty region has the volume 0.

    Args:
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> volume_error_ml(torch.ones(4, 5, 5).bool(), torch.zeros(4, 5, 5).bool(), (1, 1, 2))
        0.2
    """
    require_same_shape(prediction, target)
    voxels = int(prediction.count_nonzero()) - int(target.count_nonzero())
    return voxels * math.prod(float(mm) for mm in spacing_mm) / 1000


def require_same_shape(prediction: Tensor, target: Tensor) -> None:
    """Raise `ValueError` if the shapes differ."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
