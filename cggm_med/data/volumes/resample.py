"""Bringing an image onto the grid of another, with SimpleITK."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from numpy.typing import NDArray

from cggm_med.data.volumes.checks import TOLERANCE_VOXELS, Inspection, largest_displacement
from cggm_med.data.volumes.itk_formats import place
from cggm_med.data.volumes.transforms import background_value
from cggm_med.errors import DataError

MIN_COVERED = 0.5  # of a grid that an image is resampled to; with less, something is wrong


def resample_onto(
    volume: NDArray[np.float32],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    onto: NDArray[np.float64],
    *,
    outside: float,
) -> tuple[NDArray[np.float32], float]:
    """Linear interpolation at the voxels of another grid; nothing is registered, the affines are taken at their word.

    Args:
        volume: ``(x, y, z)``.
        affine: of it, voxels to mm in RAS+.
        shape: of the other grid.
        onto: affine of the other grid.
        outside: value where the volume does not reach.

    Returns:
        ``(x, y, z)`` on the other grid, and the share of its voxels that the volume reaches.

    Example:
        >>> volume = np.arange(8, dtype=np.float32).reshape(8, 1, 1).repeat(2, 1).repeat(2, 2)
        >>> half = np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> moved, covered = resample_onto(volume, np.eye(4), (4, 2, 2), half, outside=0)
        >>> moved[:, 0, 0].tolist(), covered
        ([0.5, 1.5, 2.5, 3.5], 1.0)
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    place(image, affine)
    grid = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    place(grid, onto)
    moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, float(outside), sitk.sitkFloat32)
    everywhere = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(image)
    reached = sitk.Resample(everywhere, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(moved).T, float(sitk.GetArrayViewFromImage(reached).mean())


def onto_one_grid(case: str, found: Inspection, onto: str) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
    """Bring the volumes of a case onto the grid of one of them, where they lie on another.

    Args:
        case: id.
        found: whose problems are different grids alone.
        onto: modality whose grid it is to be.

    Returns:
        The volumes, and the modalities that were resampled.

    Raises:
        DataError: if one covers less than half of the grid, which cannot be meant.
    """
    shape, affine = found.volumes[onto].shape, found.affines[onto]
    volumes, resampled = dict(found.volumes), []
    for modality, volume in found.volumes.items():
        own = found.affines[modality]
        if volume.shape == shape and largest_displacement(affine, own, shape) <= TOLERANCE_VOXELS:
            continue
        background = background_value(volume)
        outside = float(volume.min()) if background is None else background
        volumes[modality], covered = resample_onto(volume, own, shape, affine, outside=outside)
        resampled.append(modality)
        covers = f"{case}: {modality} covers {covered:.0%} of the grid of {onto}"
        if covered < MIN_COVERED:
            raise DataError(
                f"{covers}, expected at least {MIN_COVERED:.0%}; do both show the same part of the same patient?"
            )
        if covered < 0.99:
            warnings.warn(f"{covers}; the rest counts as its background", stacklevel=2)
    return volumes, tuple(resampled)
