"""The lesions of a region one by one: where each lies, how large it is, and its diameters."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from cggm_med.metrics.lesion_areas import LesionRules, lesion_areas

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
        >>> found = lesion.record()  # of 4 x 4 x 5 mm
        >>> found["longest_axial_mm"], found["perpendicular_axial_mm"], found["ml"]
        (5.0, 5.0, 0.08)
    """
    numbered = number_lesions(mask, affine, rules)
    found = tuple(numbered.measured([number]) for number in range(1, min(numbered.count, MAX_LESIONS) + 1))
    ml, number = float(numbered.sizes.sum()) * numbered.voxel_ml, len(numbered.sizes)
    return RegionLesions(ml, found, numbered.count, number - numbered.count)


@dataclass(frozen=True)
class NumberedLesions:
    """The lesions of a mask, numbered from 1 on by their size, those that are too small to count after all others.

    Attributes:
        areas: ``(x, y, z)`` of a part of the grid that holds all of them: the number of the lesion in whose mask,
            dilated if the rules say so, a voxel lies, 0 outside all.
        inside: ``(x, y, z)`` of the same part: the mask itself.
        start: index of the first voxel of that part.
        sizes: voxels of each lesion, in the order of their numbers.
        count: how many count.
        affine: of the grid, voxels to mm in RAS+.
        shape: of the grid.
    """

    areas: NDArray[np.integer]
    inside: NDArray[np.bool_]
    start: NDArray[np.integer]
    sizes: NDArray[np.integer]
    count: int
    affine: NDArray[np.float64]
    shape: tuple[int, ...]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000

    @functools.cached_property
    def own(self) -> NDArray[np.integer]:
        """``(x, y, z)`` of that part: the number of each voxel's lesion, without any dilation."""
        return np.where(self.inside, self.areas, 0)

    def measured(self, numbers: Sequence[int]) -> Lesion:
        """One or several lesions, measured as one.

        Args:
            numbers: at least one.
        """
        boxes = [self._boxes[number - 1] for number in numbers]
        box = tuple(slice(min(of[axis].start for of in boxes), max(of[axis].stop for of in boxes)) for axis in range(3))
        corner = self.start + [part.start for part in box]
        return _measured(np.isin(self.own[box], numbers), corner, self.affine, self.voxel_ml)

    @functools.cached_property
    def _boxes(self) -> list[tuple[slice, ...]]:
        return list(find_objects(self.own))


def number_lesions(mask: NDArray[np.bool_], affine: NDArray[np.float64], rules: LesionRules) -> NumberedLesions:
    """Tell the lesions of a mask from one another; for arguments see ``list_lesions``."""
    if not mask.any():
        nothing = np.zeros((0, 0, 0), int)
        return NumberedLesions(nothing, nothing > 0, np.zeros(3, int), np.zeros(0, int), 0, affine, mask.shape)
    (box,) = find_objects(mask.astype(np.uint8))
    start = np.array([max(0, part.start - rules.dilations) for part in box])
    stop = np.array([part.stop + rules.dilations for part in box])
    inside = mask[tuple(map(slice, start, stop))]
    areas, number = lesion_areas(inside, rules)
    sizes = np.bincount(areas[inside], minlength=number + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.concatenate([[0], np.argsort(order) + 1])
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    # A turned affine has the volume of a voxel but for its last digits, which must not decide.
    count = sum(rules.counts(round(size * voxel_mm3, 6)) for size in sizes.tolist())
    return NumberedLesions(rank[areas], inside, start, sizes[order], count, affine, mask.shape)


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
    """The corners of the convex hull of the faces at which voxels end, as indices ``(corner, axis)``.

    Of all faces across a line of voxels, only the first and the last can be corners.
    """
    ends: list[NDArray[np.float64]] = []
    for axis, length in enumerate(mask.shape):
        lines = np.argwhere(mask.any(axis))
        first, last = mask.argmax(axis), length - 1 - np.flip(mask, axis).argmax(axis)
        for voxel, step in ((first, -0.5), (last, 0.5)):
            ends.append(np.insert(lines.astype(float), axis, voxel[tuple(lines.T)] + step, axis=1))
    points = np.concatenate(ends)
    return points[ConvexHull(points).vertices]
