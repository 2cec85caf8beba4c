"""Image files: the one place where they are opened and written.

A format is one function that opens a file, its line in ``FORMATS``, and its ending in ``cases.ENDINGS``.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from cggm_med.data.checks.header import implausible_size
from cggm_med.data.volumes.itk_formats import itk_bytes, open_meta_image, open_nrrd
from cggm_med.data.volumes.nibabel_formats import open_mgh, open_nifti, open_pair
from cggm_med.data.volumes.stored_image import StoredImage, reading
from cggm_med.errors import ConfigError
from cggm_med.files import atomic_file, digest_of_files

DIGEST_BYTES = 20  # of what is said of image files
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha")  # endings of outputs; formats of two files cannot be written as a whole

FORMATS: Mapping[str, Callable[[Path], StoredImage]] = {
    ".nii": open_nifti,
    ".nii.gz": open_nifti,
    ".nrrd": open_nrrd,
    ".nhdr": open_nrrd,
    ".mha": open_meta_image,
    ".mhd": open_meta_image,
    ".mgz": open_mgh,
    ".mgh": open_mgh,
    ".hdr": open_pair,
    ".img": open_pair,
}


def open_image(path: Path) -> StoredImage:
    """Read the header of an image file, and hold its fields against one another.

    Raises:
        DataError: if it is missing, damaged or of another format.
    """
    known = [opened for ending, opened in FORMATS.items() if path.name.lower().endswith(ending)]
    with reading(path) if known else reading(path, f"convert it to one of {', '.join(FORMATS)}"):
        if not known:  # not even tried: nibabel's readers of other formats warn and raise what they like
            raise ImageFileError
        image = known[0](path)
        return replace(image, findings=(*image.findings, *implausible_size(image.affine, image.shape)))


def digest_of_image(path: Path) -> str:
    """Digest of the contents of an image file, and of the other files that belong to it: of one, ``b2sum -l 160``.

    Raises:
        DataError: see ``open_image``.
    """
    return digest_of_files([path, *open_image(path).parts], DIGEST_BYTES)


def write_volume(
    path: Path, volume: NDArray[Any], grid: Path | NDArray[np.float64], *, units: Sequence[str] = ("mm",)
) -> None:
    """Write an image file, whole or not at all; the same voxels on the same grid are the same bytes.

    Args:
        path: ending in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``.
        volume: ``(x, y, z)``, or ``(x, y, z, channel)``.
        grid: an image file on whose grid the volume lies, whose sform, qform and units are repeated; or an affine.
        units: of space, and perhaps of time; for an affine, in NIfTI.

    Raises:
        ConfigError: for another ending.
        DataError: if the other file cannot be read.
        OutputError: if it cannot be written.
    """
    require_image_name(path)
    source = open_image(grid) if isinstance(grid, Path) else None
    affine = source.affine if source is not None else np.asarray(grid)
    ending = next(ending for ending in WRITTEN if path.name.lower().endswith(ending))
    if not ending.startswith(".nii"):
        content = itk_bytes(volume, affine, ending)
    else:
        header = source.header if source is not None else None
        content = _nifti_image(volume, affine, header, units).to_bytes()
        content = gzip.compress(content, compresslevel=4, mtime=0) if ending == ".nii.gz" else content
    with atomic_file(path) as file:
        file.write(content)


def nifti_bytes(
    volume: NDArray[Any], affine: NDArray[np.float64], *, scaling: tuple[float, float] | None = None
) -> bytes:
    """The content of a NIfTI file, whose voxels perhaps mean slope x number + intercept."""
    image = nib.Nifti1Image(volume, affine)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    content: bytes = image.to_bytes()
    return content


def require_image_name(path: Path) -> None:
    """Refuse the name of an output that is no image file.

    Raises:
        ConfigError: if it ends with none of ``WRITTEN``.
    """
    if not path.name.lower().endswith(WRITTEN):
        raise ConfigError(f"output is {path.name}, expected a name that ends with {', '.join(WRITTEN)}")


def _nifti_image(
    volume: NDArray[Any], affine: NDArray[np.float64], source: nib.Nifti1Header | None, units: Sequence[str]
) -> nib.Nifti1Image:
    """A NIfTI image on the grid of another's header, or of an affine."""
    if source is None:
        image = nib.Nifti1Image(volume, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units(*units)
        return image
    # Only what is about the grid: other fields of a scan's header may tell whose it is.
    header = nib.Nifti1Image(volume, None).header
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in ("sform", "qform"):
        try:
            of_source, code = getattr(source, f"get_{name}")(coded=True)
        except HeaderDataError:  # no rotation, which the finding "broken_qform" tells
            continue
        getattr(header, f"set_{name}")(of_source, int(code))
    header["xyzt_units"] = source["xyzt_units"]
    return nib.Nifti1Image(volume, header.get_best_affine(), header)
