"""Distance between the surfaces of a predicted and a true region: HD95 in mm, and surface Dice, with explicit rules for
empty regions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

from cggm_med.metrics.overlap import empty_region, require_same_shape

Distances = NDArray[np.float64]
ROUNDING = 1e-9  # by which a distance may exceed the tolerance: 3 voxels of 0.1 mm are not 0.3 mm in double precision
VOXELS_AN_ELEMENT = 10  # that a distance transform visits in the time in which a tree answers for one element


def hausdorff95(prediction: Tensor, target: Tensor, spacing_mm: Sequence[float], *, empty_mm: float) -> float:
    """The 95th percentile Hausdorff distance: the larger of the two directed 95th percentiles of surface distances.

    The surface is made of the voxels that touch the outside with a face, which an erosion takes away; all distances are
    in double precision, and between two of them the percentile is interpolated linearly. There is no distance to an
    empty surface, and leaving such a case out would reward a network for missing lesions; hence the explicit penalty.

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
    # The outside of the array counts as outside of the mask.
    here, there = (np.argwhere(mask & ~binary_erosion(mask)) for mask in (_array(prediction), _array(target)))
    return max(float(np.percentile(mm, 95)) for mm in surface_distances(here, there, spacing_mm))


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
    (here, here_mm2), (there, there_mm2) = (surface_elements(_array(mask), spacing_mm) for mask in (prediction, target))
    reach = tolerance_mm * (1 + ROUNDING)
    near = 0.0
    distances_mm = surface_distances(np.argwhere(here), np.argwhere(there), spacing_mm)
    for distances, areas in zip(distances_mm, (here_mm2, there_mm2), strict=True):
        near += float(areas[distances <= reach].sum())
    return near / float(here_mm2.sum() + there_mm2.sum())


def surface_elements(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[NDArray[np.bool_], Distances]:
    """The elements of a surface, weighted by their area, as in ``surface_dice``.

    The area of each of the 256 neighbourhoods is MONAI's, from the triangles of marching cubes.

    Args:
        mask: ``(x, y, z)``.
        spacing_mm: voxel size along x, y, z.

    Returns:
        The corners of voxels that are elements, ``(x + 1, y + 1, z + 1)``, and the area in mm2 of each, in the order of
        ``mask[elements]``.

    Example:
        >>> elements, areas = surface_elements(np.ones((1, 1, 1), bool), (1, 1, 1))
        >>> int(elements.sum()), round(float(areas.sum()), 3)
        (8, 1.732)
    """
    areas, bits = neighbourhood_areas(spacing_mm)
    padded = np.pad(mask, 1).view(np.uint8)
    code = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for (x, y, z), bit in np.ndenumerate(bits):
        nx, ny, nz = code.shape
        code += bit * padded[x : x + nx, y : y + ny, z : z + nz]
    elements = (code != 0) & (code != len(areas) - 1)
    return elements, areas[code[elements]]


def neighbourhood_areas(spacing_mm: Sequence[float]) -> tuple[Distances, NDArray[np.uint8]]:
    """The area in mm2 of each 2 x 2 x 2 neighbourhood by its code, and the bit of each of its voxels in that code."""
    from monai.metrics.utils import get_code_to_measure_table

    table, kernel = get_code_to_measure_table([float(mm) for mm in spacing_mm])
    return table.numpy().astype(np.float64), kernel.numpy()[0, 0].astype(np.uint8)


def surface_distances(
    here: NDArray[np.integer], there: NDArray[np.integer], spacing_mm: Sequence[float]
) -> tuple[Distances, Distances]:
    """Distance in mm, in double precision, from each element of a surface to the nearest one of the other surface.

    Args:
        here: ``(element, 3)``, indices of the elements of one surface, at least one.
        there: the same of the other surface.
        spacing_mm: size of a step along x, y, z.

    Returns:
        ``(element,)`` from ``here`` to ``there``, and from ``there`` to ``here``.

    Example:
        >>> surface_distances(np.array([[0, 0, 0]]), np.array([[3, 0, 0], [0, 4, 0]]), (1, 1, 1))
        (array([3.]), array([3., 4.]))
    """
    # Relative to the first of them, so that surroundings do not change even the last bit.
    origin = np.minimum(here.min(axis=0), there.min(axis=0))
    one, other = here - origin, there - origin
    shape = np.maximum(one.max(axis=0), other.max(axis=0)) + 1
    return _nearest(one, other, shape, spacing_mm), _nearest(other, one, shape, spacing_mm)


def _nearest(
    these: NDArray[np.integer], others: NDArray[np.integer], shape: NDArray[np.integer], spacing_mm: Sequence[float]
) -> Distances:
    """Distance from each of these elements to the nearest of the others, all within ``shape``.

    A tree of the others takes a fraction of the time of a distance transform, which visits every voxel, unless there
    are about as many elements as voxels, as in noise.
    """
    if len(these) * VOXELS_AN_ELEMENT > np.prod(shape):
        away = np.ones(shape, dtype=bool)
        away[tuple(others.T)] = False
        distances: Distances = distance_transform_edt(away, sampling=tuple(map(float, spacing_mm)))[tuple(these.T)]
        return distances
    mm = np.asarray(spacing_mm, dtype=np.float64)
    nearest: Distances = KDTree(others * mm, leafsize=32).query(these * mm)[0]
    return nearest


def _array(mask: Tensor) -> NDArray[np.bool_]:
    return mask.cpu().numpy().astype(bool)
