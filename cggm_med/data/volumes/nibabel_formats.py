"""NIfTI, Analyze and FreeSurfer's MGH, read with nibabel."""

from __future__ import annotations

import gzip
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import NDArray

from cggm_med.data.volumes.stored_image import StoredImage, channel_of, damage_of, needed, without_single
from cggm_med.errors import DataError


def open_nifti(path: Path) -> StoredImage:
    """One file, NIfTI-1 or NIfTI-2."""
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: it is a {type(image).__name__}; expected one NIfTI file (.nii or .nii.gz)")
    return _from_nibabel(path, image, path, _stated_spacing(image, path))


def open_pair(path: Path) -> StoredImage:
    """A header and a file of voxels: NIfTI as two files, or Analyze 7.5."""
    image = nib.load(path)
    files = {kind: Path(holder.filename) for kind, holder in getattr(image, "file_map", {}).items()}
    if set(files) < {"header", "image"}:
        raise DataError(f"{path}: it is a {type(image).__name__}; expected a pair of files (.hdr and .img)")
    if not isinstance(image, nib.Nifti1Pair):
        # SPM's "mat" is an affine; with "M" alone, as with none, left and right depend on how a program was set up.
        if "mat" not in files or not files["mat"].is_file() or not _holds_mat(files["mat"]):
            raise DataError(
                f"{path}: it is an Analyze file, which does not say which side is left, and no .mat file of SPM does; "
                "convert it to NIfTI with the tool that wrote it"
            )
    else:
        files.pop("mat", None)
    parts = tuple(sorted(file for file in files.values() if file != path))
    return _from_nibabel(path, image, files["image"], _stated_spacing(image, files["header"]), parts)


def _holds_mat(path: Path) -> bool:
    """Whether a file of MATLAB holds a variable "mat"."""
    return "mat" in [name for name, *_ in needed("scipy.io", path).whosmat(path)]


def open_mgh(path: Path) -> StoredImage:
    """A volume of FreeSurfer; nibabel's own reader unpacks the whole file to tell its header."""
    packed = path.suffix.lower() == ".mgz"
    with gzip.open(path) if packed else path.open("rb") as file:
        block = file.read(MGHHeader().get_data_offset())
    if len(block) < MGHHeader().get_data_offset():
        raise EOFError("it ends inside its header")
    header = MGHHeader.from_fileobj(io.BytesIO(block))
    axes, stored, start = tuple(map(int, header.get_data_shape())), header.get_data_dtype(), len(block)
    count = math.prod(axes)
    damage = damage_of(start + count * stored.itemsize, path.stat().st_size, packed)

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        if damage:
            raise OSError(damage)
        if packed:
            with gzip.open(path) as file:
                file.seek(start)
                content = bytearray(file.read(count * stored.itemsize))
                _finish(file)
            voxels = np.frombuffer(content, stored, count).reshape(axes, order="F")
        else:
            voxels = np.memmap(path, stored, "c", start, axes, "F")
        for channel in channels:
            yield channel_of(voxels, axes, channel)

    spacing = tuple(float(mm) for mm in header["delta"])
    return StoredImage(path, without_single(axes), stored.newbyteorder("="), header.get_affine(), spacing, damage, read)


def _stated_spacing(image: Any, path: Path) -> tuple[float, ...]:
    """Voxel size as the header in a file states it.

    nibabel corrects these fields while it loads, and a size that was corrected to 1 mm would be taken for the truth.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        raw = type(image).header_class.from_fileobj(file, check=False)
    return tuple(float(mm) for mm in raw["pixdim"][1:4])


def _from_nibabel(
    path: Path, image: Any, data: Path, spacing: tuple[float, ...], parts: tuple[Path, ...] = ()
) -> StoredImage:
    """What nibabel found; ``data`` is the file that holds the voxels."""
    packed = data.suffix.lower() == ".gz"
    axes = tuple(int(n) for n in image.shape)
    promised = image.dataobj.offset + math.prod(axes) * image.get_data_dtype().itemsize
    size = data.stat().st_size

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        voxels = image.dataobj
        if packed:
            with gzip.open(data) as file:
                voxels = np.asanyarray(type(image).from_stream(file).dataobj)
                _finish(file)
        for channel in channels:
            yield channel_of(voxels, axes, channel)

    return StoredImage(
        path,
        without_single(axes),
        image.get_data_dtype().newbyteorder("="),
        image.affine,
        spacing,
        damage_of(promised, size, packed),
        read,
        image.header if isinstance(image, nib.Nifti1Pair) else None,
        parts,
    )


def _finish(file: gzip.GzipFile) -> None:
    """Read on to the end, where the checksum stands; else changed voxels would pass."""
    while file.read(1 << 20):
        pass
