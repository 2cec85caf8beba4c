"""A preprocessed case on disk: reading it piece by piece, and the way back to its own grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.cases import Case
from cggm_med.data.labels import LabelConvention
from cggm_med.errors import DataError

Affine = Sequence[Sequence[float]]


@dataclass(frozen=True)
class NativeGrid:
    """The grid of a case's own files, and the way back to it from what preprocessing made of them.

    Attributes:
        affine: of the files, voxels to mm in RAS+.
        oriented_shape: after turning to RAS+.
        crop_start, crop_stop: what was cut out of that.
        cropped_affine: of what was cut out.
        prepared_affine: of that after resampling.
    """

    affine: Affine
    oriented_shape: Sequence[int]
    crop_start: Sequence[int]
    crop_stop: Sequence[int]
    cropped_affine: Affine
    prepared_affine: Affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, along the grid's own axes."""
        x, y, z = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0).tolist()
        return (x, y, z)

    def to_native(self, volume: Tensor) -> NDArray[np.float32]:
        """Bring ``(channel, x, y, z)`` from the preprocessed grid to the case's own grid and orientation.

        Resampling is undone by linear interpolation; what was cropped away becomes 0; axes are turned back exactly.
        """
        cropped = [stop - start for start, stop in zip(self.crop_start, self.crop_stop, strict=True)]
        if list(volume.shape[1:]) != cropped:
            resample = SpatialResample(mode="bilinear", padding_mode="border")
            image = MetaTensor(volume, affine=torch.tensor(self.prepared_affine, dtype=torch.float64))
            volume = resample(image, dst_affine=torch.tensor(self.cropped_affine), spatial_size=cropped).as_tensor()
        oriented = np.zeros((volume.shape[0], *self.oriented_shape), dtype=np.float32)
        window = tuple(slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        oriented[(slice(None), *window)] = volume.cpu().numpy()
        native = nib.orientations.io_orientation(np.array(self.affine))
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), native)
        return np.stack([nib.orientations.apply_orientation(channel, back) for channel in oriented])


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case on disk, read piece by piece.

    Attributes:
        id: of the case.
        patient: whom it shows.
        folder: where its arrays lie.
        source: the case that it was made from.
    """

    id: str
    patient: str
    folder: Path
    source: Case

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is needed to find the way back to the case's own grid."""
        facts: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return facts

    def image(self) -> NDArray[np.float32]:
        """``(modality, x, y, z)`` in RAS+, mapped from disk: only the pages that are touched are read."""
        return np.load(self.folder / "image.npy", mmap_mode="r", allow_pickle=False)

    def target(self) -> NDArray[np.uint8]:
        """``(region, x, y, z)`` of 0 and 1, mapped from disk."""
        return np.load(self.folder / "target.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def centres(self) -> NDArray[np.int32]:
        """``(n, 4)``: region, x, y, z of voxels that lie in a region."""
        return np.load(self.folder / "centres.npy", allow_pickle=False)

    @property
    def grid(self) -> NativeGrid:
        """The case's own grid."""
        return NativeGrid(**{field.name: self.facts[field.name] for field in fields(NativeGrid)})

    def native_target(self, convention: LabelConvention) -> NDArray[np.bool_]:
        """True regions on the case's own grid, read from its label file."""
        assert self.source.label is not None  # noqa: S101 - find_cases was asked for labels
        return convention.to_regions(np.asanyarray(nib.load(self.source.label).dataobj))


def spacing_along_axes(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in mm along right, anterior and superior, whatever the order of the array's axes.

    Example:
        >>> spacing_along_axes(np.array([[0, 0, 2.0, 0], [3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
        (2.0, 3.0, 1.0)
    """
    axes = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    x, y, z = (float(size) for _, size in sorted(zip(axes, voxel_sizes(affine), strict=True)))
    return (x, y, z)


def common_spacing(prepared: Sequence[PreparedCase]) -> tuple[float, float, float]:
    """The voxel size of all cases in mm, along right, anterior and superior.

    Raises:
        DataError: if they differ, since then the size of a structure in voxels would mean nothing.
    """
    sizes: dict[tuple[float, float, float], str] = {}
    for case in prepared:
        x, y, z = spacing_along_axes(np.array(case.facts["affine"]))
        sizes.setdefault((round(x, 2), round(y, 2), round(z, 2)), case.id)
    if len(sizes) > 1:
        found = [f"{case}: {' x '.join(map(str, size))} mm" for size, case in sizes.items()]
        raise DataError("voxel sizes differ between cases; choose one, such as --set data.spacing=[1,1,1]:", found)
    return next(iter(sizes))
