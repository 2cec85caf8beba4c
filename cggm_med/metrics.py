"""Scores of a segmented region: Dice and HD95 in mm, with the empty region decided in the open."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

from monai.metrics import compute_hausdorff_distance
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
    _require_same_shape(prediction, target)
    both = int(prediction.count_nonzero() + target.count_nonzero())
    return 2 * int((prediction & target).count_nonzero()) / both if both else 1.0


def hausdorff95(prediction: Tensor, target: Tensor, spacing_mm: Sequence[float], *, empty_mm: float) -> float:
    """The 95th percentile Hausdorff distance: the larger of the two directed 95th percentiles of surface distances.

    The surface is made of the voxels that touch the outside. There is no distance to an empty surface, and leaving such
    a case out would reward a network for missing lesions; hence the explicit penalty.

    Args:
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.
        empty_mm: distance in mm when exactly one of the two is empty; 0 when both are.

    Raises:
        ValueError: if the shapes differ.
    """
    _require_same_shape(prediction, target)
    empty = empty_region(prediction, target)
    if empty != "none":
        return 0.0 if empty == "both" else empty_mm
    with warnings.catch_warnings():
        # MONAI 1.6 passes an argument to itself that it has deprecated.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        distance = compute_hausdorff_distance(
            prediction[None, None].float(),
            target[None, None].float(),
            include_background=True,
            percentile=95,
            spacing=[float(mm) for mm in spacing_mm],  # MONAI refuses a mix of int and float
        )
    return float(distance.item())


def _require_same_shape(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
