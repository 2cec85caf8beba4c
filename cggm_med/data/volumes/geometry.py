"""How large scans and their voxels are, as the headers state it, and the voxel size that suits all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from cggm_med.data.cases import Case
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.spacing import Spacing, spacing_along_axes
from cggm_med.errors import DataError

ANISOTROPY = 3  # from which ratio on one axis is much coarser than the others, as in nnU-Net
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """The grid of a scan, along right, anterior and superior.

    Attributes:
        shape: voxels.
        spacing: voxel size in mm.
    """

    shape: Shape
    spacing: Spacing

    def resampled(self, spacing: Spacing) -> Shape:
        """Voxels of the same scan at another voxel size.

        Example:
            >>> Geometry((100, 100, 20), (1.0, 1.0, 5.0)).resampled((2.0, 2.0, 5.0))
            (50, 50, 20)
        """
        x, y, z = (max(1, round(n * s / t)) for n, s, t in zip(self.shape, self.spacing, spacing, strict=True))
        return x, y, z


def geometries(cases: Iterable[Case], reference: str | None = None) -> list[Geometry]:
    """The grids of cases, in their order, from one header a case.

    Headers that make no sense are left out: ``checks.inspect`` says what is wrong with them.

    Args:
        cases: with at least one image each.
        reference: modality whose grid a case has; default: its first, as in cases that lack the reference.
    """
    found = []
    for case in cases:
        file = case.images.get(reference or "", next(iter(case.images.values())))
        try:
            image = open_image(file.path)
        except DataError:
            continue
        sized = not image.damage and len(image.shape) in (3, 4) and min(image.shape) > 0
        usable = sized and np.isfinite(image.affine).all()
        if not usable or abs(np.linalg.det(image.affine[:3, :3])) == 0:
            continue
        axes = np.argsort(nib.orientations.io_orientation(image.affine)[:, 0])
        x, y, z = (int(image.shape[axis]) for axis in axes)
        found.append(Geometry((x, y, z), spacing_along_axes(image.affine)))
    return found


def target_spacing(scans: Sequence[Geometry]) -> Spacing:
    """The voxel size in mm to resample scans to, by the rule of nnU-Net.

    The median along each axis. Where one axis has much thicker voxels and much fewer of them than the others, as in a
    stack of thick slices, the tenth percentile of that axis: then few scans lose slices, and most are not invented.

    Source: Isensee et al., Nature Methods 2021, https://doi.org/10.1038/s41592-020-01008-z, supplementary note 2.

    Args:
        scans: at least one.

    Example:
        >>> stacks = [Geometry((256, 256, 20), (1.0, 1.0, mm)) for mm in (5.0, 5.0, 6.0, 8.0)]
        >>> target_spacing(stacks)
        (1.0, 1.0, 5.0)
    """
    spacings = np.array([scan.spacing for scan in scans])
    target = np.median(spacings, axis=0)
    voxels = np.median([scan.shape for scan in scans], axis=0)
    coarse = int(target.argmax())
    others = [axis for axis in range(3) if axis != coarse]
    thick = target[coarse] > ANISOTROPY * target[others].max()
    if thick and voxels[coarse] * ANISOTROPY < voxels[others].min():
        target[coarse] = max(np.percentile(spacings[:, coarse], 10), target[others].max())
    # Less than this is noise of the headers.
    x, y, z = (round(float(mm), 4) for mm in target)
    return x, y, z


def median_shape(scans: Sequence[Geometry], spacing: Spacing) -> Shape:
    """The median number of voxels along each axis at one voxel size.

    Example:
        >>> median_shape([Geometry((9, 8, 5), (1.0, 1.0, 1.0)), Geometry((11, 4, 5), (1.0, 2.0, 1.0))], (1.0, 1.0, 1.0))
        (10, 8, 5)
    """
    x, y, z = np.median([scan.resampled(spacing) for scan in scans], axis=0)
    return round(x), round(y), round(z)
