"""Distance between the surfaces of a predicted and a true region: HD95 in mm, and surface Dice, with explicit rules for
empty regions."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence

from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from torch import Tensor

from cggm_med.metrics.overlap import empty_region, require_same_shape


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
    require_same_shape(prediction, target)
    empty = empty_region(prediction, target)
    if empty != "none":
        return 0.0 if empty == "both" else empty_mm
    with deprecation_ignored():
        distance = compute_hausdorff_distance(
            prediction[None, None].float(),
            target[None, None].float(),
            include_background=True,
            percentile=95,
            spacing=[float(mm) for mm in spacing_mm],  # MONAI refuses a mix of int and float
        )
    return float(distance.item())


def surface_dice(prediction: Tensor, target: Tensor, spacing_mm: Sequence[float], *, tolerance_mm: float) -> float:
    """Normalised surface Dice: the share of both surfaces that lies within ``tolerance_mm`` of the other surface.

    A surface is made of elements at the corners of voxels, one for each 2 x 2 x 2 neighbourhood that is neither full
    nor empty, weighted by its area in mm2, so that spacing that differs along the axes is respected (Nikolov et al.,
    arXiv:1809.04430, and their package ``surface-distance``, as MONAI computes it with ``use_subvoxels``).

    Args:
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.
        tolerance_mm: the greatest distance that still counts as agreement.

    Returns:
        0 to 1; 1 when both are empty, 0 when only one is.

    Raises:
        ValueError: if the shapes differ or the tolerance is negative or not finite.

    Example:
        >>> target = torch.zeros(8, 8, 8, dtype=torch.bool)
        >>> target[2:5, 2:5, 2:5] = True
        >>> surface_dice(target.roll(1, 0), target, (1, 1, 1), tolerance_mm=1)
        1.0
    """
    require_same_shape(prediction, target)
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm is {tolerance_mm}; expected a finite number of at least 0")
    empty = empty_region(prediction, target)
    if empty != "none":
        return 1.0 if empty == "both" else 0.0
    with deprecation_ignored():
        agreement = compute_surface_dice(
            prediction[None, None].float(),
            target[None, None].float(),
            class_thresholds=[float(tolerance_mm)],
            include_background=True,
            spacing=[float(mm) for mm in spacing_mm],
            use_subvoxels=True,
        )
    return float(agreement.item())


@contextlib.contextmanager
def deprecation_ignored() -> Iterator[None]:
    """Ignore the warning about an argument that MONAI 1.6 has deprecated and passes to itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        yield
