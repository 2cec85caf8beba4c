"""Where the voxels of two volumes lie, and whether that is at the same places."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.stored_image import StoredImage

# Scanners and tools write affines in single precision; a shift that matters to a voxel is hundreds of times larger.
TOLERANCE_VOXELS = 0.05


def largest_displacement(reference: NDArray[np.float64], affine: NDArray[np.float64], shape: Sequence[int]) -> float:
    """How far any corner of a volume moves between two affines, in voxels of ``reference``.

    Example:
        >>> shifted = np.eye(4)
        >>> shifted[0, 3] = 0.5
        >>> largest_displacement(2 * np.eye(4), 2 * np.eye(4) @ shifted, (10, 10, 10))
        0.5
    """
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*((-0.5, n - 0.5) for n in shape))])
    moved = corners @ (np.linalg.inv(reference) @ affine).T - corners
    return float(np.linalg.norm(moved[:, :3], axis=1).max())


def same_grid(
    affine: NDArray[np.float64], shape: Sequence[int], other: NDArray[np.float64], other_shape: Sequence[int]
) -> bool:
    """Whether the voxels of two volumes lie at the same places, but for rounding.

    Example:
        >>> same_grid(np.eye(4), (3, 2, 2), np.eye(4), (3, 2, 3))
        False
    """
    if tuple(shape) != tuple(other_shape):
        return False
    try:
        return largest_displacement(affine, other, shape) <= TOLERANCE_VOXELS
    except np.linalg.LinAlgError:  # a volume without extent
        return False


def grid_difference(role: str, one: StoredImage, other_role: str, other: StoredImage) -> str | None:
    """One sentence if two images do not lie on one grid, which names them by their roles; None if they do."""
    names = f"{role} {one.path} and {other_role} {other.path}"
    shape, other_shape = one.shape[:3], other.shape[:3]
    if shape != other_shape:
        return f"{names} differ in shape: {_times(shape)} and {_times(other_shape)}"
    moved = largest_displacement(one.affine, other.affine, shape)
    if moved <= TOLERANCE_VOXELS:
        return None
    how = f"orientation: {one.axes} and {other.axes}" if one.axes != other.axes else "affine"
    return f"{names} differ in {how}; a corner moves by {moved:.3g} voxels, allowed are {TOLERANCE_VOXELS}"


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
