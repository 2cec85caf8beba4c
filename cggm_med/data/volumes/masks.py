"""Writing volumes as NIfTI files on the grid of another file."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
from numpy.typing import NDArray

from cggm_med.errors import ConfigError
from cggm_med.files import atomic_file


def write_mask(path: Path, volume: NDArray[Any], reference: Path) -> None:
    """Write a NIfTI file on the grid of ``reference``: the same affine, sform and qform; whole or not at all.

    Args:
        path: ending in ``.nii`` or ``.nii.gz``.
        volume: ``(x, y, z)``, or ``(x, y, z, channel)``.
        reference: image file.

    Raises:
        ConfigError: for another ending.
        OutputError: if it cannot be written.
    """
    require_nifti(path)
    source = nib.load(reference).header
    # Only what is about the grid: other fields of a scan's header may tell whose it is.
    header = nib.Nifti1Image(volume, None).header
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in ("sform", "qform"):
        affine, code = getattr(source, f"get_{name}")(coded=True)
        getattr(header, f"set_{name}")(affine, int(code))
    header.set_xyzt_units(*source.get_xyzt_units())
    content = nib.Nifti1Image(volume, header.get_best_affine(), header).to_bytes()
    with atomic_file(path) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in it, so that the same mask has the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.write(content)
        else:
            file.write(content)


def require_nifti(path: Path) -> None:
    """Refuse the name of an output that is no NIfTI file.

    Raises:
        ConfigError: if it ends with neither ``.nii`` nor ``.nii.gz``.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ConfigError(f"output is {path.name}, expected a name that ends with .nii.gz or .nii")
