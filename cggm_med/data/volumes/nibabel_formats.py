"""NIfTI, Analyze and FreeSurfer's MGH, read with nibabel."""

from __future__ import annotations

import gzip
import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from cggm_med.data.checks.header import MAX_LONGER, reconcile_nifti, saw, surplus_bytes
from cggm_med.data.volumes.stored_image import StoredImage, channel_of, damage_of, needed, without_single
from cggm_med.errors import DataError


class _Quaternion:
    """Mixin of headers: a quaternion that rounding made longer than 1 is still the rotation that was meant.

    nibabel refuses it; the standard's own code takes its direction (nifti1_io.c, ``nifti_quatern_to_mat44``).
    """

    def get_qform_quaternion(self) -> NDArray[np.float64]:
        b, c, d = (float(self[f"quatern_{axis}"]) for axis in "bcd")  # type: ignore[index]
        length = math.sqrt(b * b + c * c + d * d)
        if 1 < length <= 1 + MAX_LONGER:
            return np.array([0, b / length, c / length, d / length])
        if not length <= 1:
            raise HeaderDataError(f"quatern_b, quatern_c, quatern_d are {length:.6g} long, at most is 1")
        of_three: NDArray[np.float64] = super().get_qform_quaternion()  # type: ignore[misc]
        return of_three


class _Nifti1Header(_Quaternion, nib.nifti1.Nifti1Header):
    pass


class _Nifti1PairHeader(_Quaternion, nib.nifti1.Nifti1PairHeader):
    pass


class _Nifti2Header(_Quaternion, nib.nifti2.Nifti2Header):
    pass


class _Nifti2PairHeader(_Quaternion, nib.nifti2.Nifti2PairHeader):
    pass


class _Nifti1Image(nib.Nifti1Image):
    header_class = _Nifti1Header


class _Nifti1Pair(nib.Nifti1Pair):
    header_class = _Nifti1PairHeader


class _Nifti2Image(nib.Nifti2Image):
    header_class = _Nifti2Header


class _Nifti2Pair(nib.Nifti2Pair):
    header_class = _Nifti2PairHeader


_FORGIVING = (_Nifti1Pair, _Nifti1Image, _Nifti2Pair, _Nifti2Image)  # in the order of nibabel's own


def _load(path: Path) -> Any:
    """What nibabel loads."""
    if path.is_file() and path.stat().st_size:
        for kind in _FORGIVING:
            if kind.path_maybe_image(path)[0]:
                return kind.from_filename(path)
    return nib.load(path)


def open_nifti(path: Path) -> StoredImage:
    """One file, NIfTI-1 or NIfTI-2."""
    image = _load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: it is a {type(image).__name__}; expected one NIfTI file (.nii or .nii.gz)")
    return _from_nibabel(path, image, path, path)


def open_pair(path: Path) -> StoredImage:
    """A header and a file of voxels: NIfTI as two files, or Analyze 7.5."""
    image = _load(path)
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
    return _from_nibabel(path, image, files["image"], files["header"], parts)


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
    oriented = int(header["goodRASFlag"]) == 1
    unknown = () if oriented else (saw("unknown_orientation", "states no orientation (goodRASFlag is 0)"),)
    return StoredImage(
        path,
        without_single(axes),
        stored.newbyteorder("="),
        header.get_affine(),
        spacing,
        damage,
        read,
        oriented=oriented,
        findings=unknown,
    )


def _raw_header(image: Any, path: Path) -> Any:
    """The header as its file has it.

    nibabel corrects fields while it loads, and a voxel size that was corrected to 1 mm would be taken for the truth.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        return type(image).header_class.from_fileobj(file, check=False)


def _from_nibabel(path: Path, image: Any, data: Path, header: Path, parts: tuple[Path, ...] = ()) -> StoredImage:
    """What nibabel found; ``data`` is the file that holds the voxels, ``header`` that with the header."""
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

    raw, shape, itemsize = _raw_header(image, header), without_single(axes), image.get_data_dtype().itemsize
    surplus = surplus_bytes(_held(data, packed) - promised, math.prod(axes[:2]) * itemsize)
    opened = StoredImage(
        path,
        shape,
        image.get_data_dtype().newbyteorder("="),
        image.affine,
        tuple(float(mm) for mm in raw["pixdim"][1:4]),
        damage_of(promised, size, packed),
        read,
        parts=parts,
        findings=tuple(surplus),
    )
    if not isinstance(image, nib.Nifti1Pair):
        return opened
    said = reconcile_nifti(raw, image.header, image.affine, shape)
    return replace(
        opened,
        affine=said.affine,
        spacing=said.spacing,
        header=image.header,
        oriented=said.oriented,
        findings=(*said.findings, *surplus),
    )


def _held(path: Path, packed: bool) -> int:
    """The bytes of a file; of one that is packed, what its last four bytes say, which is never too much."""
    size = path.stat().st_size
    if not packed or size < 4:
        return 0 if packed else size
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _finish(file: gzip.GzipFile) -> None:
    """Read on to the end, where the checksum stands; else changed voxels would pass."""
    while file.read(1 << 20):
        pass
