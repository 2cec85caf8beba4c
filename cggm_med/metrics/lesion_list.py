"""The lesions of a region one by one: where each lies, how large it is, and its diameters."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from cggm_med.metrics.lesions import LesionRules, lesion_areas

MAX_LESIONS = 100  # of one region that are measured one by one; masks of noise have a hundred thousand
MM_DIGITS, ML_DIGITS = 2, 6


@dataclass(frozen=True)
class Lesion:
    """One lesion; see ``list_lesions``.

    Attributes:
        right_mm, anterior_mm, superior_mm: its centroid in the coordinates of the file (RAS+): negative to the left,
            to the back, downwards.
        voxels: of the mask.
        ml: volume.
        longest_axial_mm: its longest diameter in any of the slices that are closest to axial.
        perpendicular_axial_mm: its width across that diameter, in the same slice.
        longest_mm: its longest diameter in any direction.
    """

    right_mm: float
    anterior_mm: float
    superior_mm: float
    voxels: int
    ml: float
    longest_axial_mm: float
    perpendicular_axial_mm: float
    longest_mm: float

    def record(self) -> dict[str, Any]:
        """As plain values, rounded to 0.01 mm and 0.000001 mL."""
        digits = {name: MM_DIGITS for name in COLUMNS if name.endswith("_mm")} | {"ml": ML_DIGITS}
        return {name: round(value, digits[name]) if name in digits else value for name, value in asdict(self).items()}


COLUMNS = tuple(field.name for field in fields(Lesion))


@dataclass(frozen=True)
class RegionLesions:
    """The lesions of one region.

    Attributes:
        ml: volume of the region, also of what is too small to be a lesion.
        lesions: those that count, the largest first; at most ``MAX_LESIONS``.
        count: how many count.
        small: how many are too small to count.
    """

    ml: float
    lesions: tuple[Lesion, ...]
    count: int
    small: int


def list_lesions(mask: NDArray[np.bool_], affine: NDArray[np.float64], rules: LesionRules) -> RegionLesions:
    """Measure each lesion of a mask.

    What one lesion is, and which are too small to count, the rules say, as for a true mask in
    ``lesions.lesion_metrics``. A lesion's own voxels are measured, before any dilation.

    Diameters are distances between centres of the faces at which voxels of the lesion meet others, the vertices of
    marching cubes; a single voxel has its own size, as in PyRadiomics (van Griethuysen et al., Cancer Research 2017,
    https://doi.org/10.1158/0008-5472.CAN-17-0339, feature *Maximum 3D diameter*). The perpendicular one is the distance
    of the two lines along the longest between which the lesion lies in that slice.

    Args:
        mask: ``(x, y, z)``.
        affine: voxels to mm in RAS+.
        rules: of the task.

    Example:
        >>> mask = np.zeros((9, 9, 9), bool)
        >>> mask[2:6, 2:6, 4] = True
        >>> (lesion,) = list_lesions(mask, np.diag([1.0, 1.0, 5.0, 1.0]), LesionRules()).lesions
        >>> lesion.longest_axial_mm, lesion.perpendicular_axial_mm, lesion.ml  # of 4 x 4 x 5 mm
        (5.0, 5.0, 0.08)
    """
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    if not mask.any():
        return RegionLesions(0.0, (), 0, 0)
    box = find_objects(mask.astype(np.uint8))[0]
    inside, start = mask[box], np.array([part.start for part in box])
    # Dilated masks that touch outside this box touch inside it as well.
    areas, number = lesion_areas(inside, rules)
    areas = np.where(inside, areas, 0)
    sizes = np.bincount(areas[inside], minlength=number + 1)
    # A turned affine has the volume of a voxel but for its last digits, which must not decide.
    counting = [k for k in range(1, number + 1) if rules.counts(round(sizes[k] * voxel_ml * 1000, 6))]
    largest = sorted(counting, key=lambda k: (-sizes[k], k))[:MAX_LESIONS]
    boxes = find_objects(areas)
    found = []
    for k in largest:
        corner = start + [part.start for part in boxes[k - 1]]
        found.append(_measured(areas[boxes[k - 1]] == k, corner, affine, voxel_ml))
    return RegionLesions(float(sizes.sum()) * voxel_ml, tuple(found), len(counting), number - len(counting))


def _measured(lesion: NDArray[np.bool_], corner: NDArray[np.integer], affine: NDArray[np.float64], ml: float) -> Lesion:
    """The numbers of the lesion ``(x, y, z)`` whose first voxel has the index ``corner``."""
    voxels = np.argwhere(lesion)
    right, anterior, superior = affine[:3, :3] @ (voxels.mean(0) + corner) + affine[:3, 3]
    slices = int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 2)[0])
    across = [axis for axis in range(3) if axis != slices]
    longest, width = max(
        (_in_plane(plane, affine[:3, across]) for plane in np.moveaxis(lesion, slices, 0) if plane.any()),
        key=lambda of: (round(of[0], 6), of[1]),
    )
    outline = _outline(lesion) @ affine[:3, :3].T
    return Lesion(
        right_mm=float(right),
        anterior_mm=float(anterior),
        superior_mm=float(superior),
        voxels=len(voxels),
        ml=len(voxels) * ml,
        longest_axial_mm=longest,
        perpendicular_axial_mm=width,
        longest_mm=float(pdist(outline).max()),
    )


def _in_plane(plane: NDArray[np.bool_], steps: NDArray[np.float64]) -> tuple[float, float]:
    """Longest diameter and width across it of a slice ``(row, column)``, with its steps in mm ``(3, 2)``."""
    _, in_mm = np.linalg.qr(steps)  # coordinates within the slice, whichever way that is turned
    outline = _outline(plane) @ in_mm.T
    distances = squareform(pdist(outline))
    longest = float(distances.max())
    widths = []
    for one, other in np.argwhere(np.triu(distances >= longest * (1 - 1e-9))):
        x, y = (outline[other] - outline[one]) / longest
        widths.append(float(np.ptp(outline @ [-y, x])))
    return longest, max(widths)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The corners of the convex hull of the faces at which voxels end, as indices ``(corner, axis)``."""
    padded = np.pad(mask, 1)
    ends: list[NDArray[np.float64]] = []
    for axis in range(mask.ndim):
        for step in (1, -1):
            faces = np.argwhere(padded & ~np.roll(padded, -step, axis)).astype(float) - 1
            faces[:, axis] += step / 2
            ends.append(faces)
    points = np.concatenate(ends)
    return points[ConvexHull(points).vertices]
