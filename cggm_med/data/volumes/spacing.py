"""Voxel sizes along the axes of the body."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

Spacing = tuple[float, float, float]


def resampling(affine: NDArray[np.float64], spacing: Spacing | None) -> Spacing | None:
    """The spacing to resample to; None if there is none or the voxels have that size already.

    Example:
        >>> resampling(np.diag([1.0, 1.0, 2.0, 1.0]), (1.0, 1.0, 1.0))
        (1.0, 1.0, 1.0)
        >>> resampling(np.eye(4), (1.0, 1.0, 1.0)) is None
        True
    """
    if spacing is None or np.allclose(spacing_along_axes(affine), spacing, rtol=0.01):
        return None
    return spacing


def spacing_along_axes(affine: NDArray[np.float64]) -> Spacing:
    """Voxel size in mm along right, anterior and superior, whatever the order of the array's axes.

    Example:
        >>> spacing_along_axes(np.array([[0, 0, 2.0, 0], [3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
        (2.0, 3.0, 1.0)
    """
    axes = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    x, y, z = (float(size) for _, size in sorted(zip(axes, voxel_sizes(affine), strict=True)))
    return (x, y, z)
