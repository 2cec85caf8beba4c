"""An image file as it is stored: what its header says, and its voxels on demand."""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding
from cggm_med.errors import DataError
from cggm_med.files import did_you_mean, what_it_is

# What nibabel, gzip and numpy raise for damaged files.
_UNREADABLE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError, OverflowError, MemoryError)
_NIFTI_SIZES = tuple(size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big"))  # sizeof_hdr
# No deflate stream can grow by more (https://zlib.net/zlib_tech.html).
_MAX_GZIP_RATIO = 1032


@dataclass(frozen=True)
class StoredImage:
    """An image file: its header, and its voxels when they are asked for.

    Attributes:
        path: of the file.
        shape: ``(x, y, z)``, or ``(x, y, z, channel)``; a fourth axis of one time point is left out.
        dtype: of the voxels as they are stored.
        affine: voxels to mm in RAS+.
        spacing: voxel size in mm along x, y, z as the header states it, whether or not it makes sense.
        damage: why the file cannot hold the voxels that its header promises; empty if it can.
        read: yields the volume of each of some channels (None: of a file of three axes), within ``reading``; a
            compressed file is unpacked once.
        header: of a NIfTI file.
        parts: the other files that the image consists of, such as that with the voxels.
        oriented: whether the file states where its axes point; if not, left may be right.
        findings: what its header says that is worth a line, or a question; of no case and no role yet.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, ...]
    damage: str
    read: Callable[[Iterable[int | None]], Iterator[NDArray[Any]]] = field(repr=False)
    header: nib.Nifti1Header | None = field(default=None, repr=False)
    parts: tuple[Path, ...] = ()
    oriented: bool = True
    findings: tuple[Finding, ...] = ()

    @property
    def axes(self) -> str:
        """Where the axes x, y, z point to, such as ``LPS``."""
        return "".join(nib.aff2axcodes(self.affine))

    def voxels(self, channel: int | None = None) -> NDArray[Any]:
        """The values ``(x, y, z)`` of a file, or of one channel of a 4-D file.

        Raises:
            DataError: if the file is damaged.
        """
        with reading(self.path):
            (volume,) = self.read([channel])
            return volume


def needed(package: str, path: Path) -> Any:
    """A package that some formats need, imported when a file of theirs is opened: bundles run without it until then.

    Raises:
        DataError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        raise DataError(f"{path} cannot be read without {name}: pip install {name}") from error


@contextlib.contextmanager
def reading(path: Path, remedy: str = "it may be damaged or incomplete, copy it anew") -> Iterator[None]:
    """Turn whatever a damaged file makes the block raise into one line that names the file.

    Args:
        path: of the file.
        remedy: what helps, unless the file itself tells something better.

    Raises:
        DataError: with that line.
    """
    try:
        # What is wrong with numbers is said in words where they are checked; warnings would come on top.
        with np.errstate(all="ignore"):
            yield
    except _UNREADABLE as error:
        if not path.exists():
            raise DataError(f"{path} does not exist{did_you_mean(path)}") from error
        if isinstance(error, FileNotFoundError) and error.filename:
            part = Path(error.filename)
            raise DataError(
                f"{path} cannot be read: its voxels are in {part}, which does not exist{did_you_mean(part)}"
            ) from error
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, ImageFileError):  # nibabel names the file once more, and what it tried itself
            reason = "it does not begin as an image does"
        raise DataError(f"{path} cannot be read: {reason}; {_remedy(path) or remedy}") from error


def _remedy(path: Path) -> str:
    """What helps where an existing file cannot be read, if the file tells; else empty."""
    if path.is_dir():
        return "it is a folder, give one of its files"
    try:
        with path.open("rb") as file:
            beginning = file.read(348)
    except OSError:
        return "allow it to be read"
    name, packed = path.name.lower(), beginning.startswith(b"\x1f\x8b")
    if name.endswith(".gz") and beginning[:4] in _NIFTI_SIZES:
        return f"it is not compressed, call it {path.name[: -len('.gz')]}"
    if name.endswith((".nii", ".nrrd", ".mha")) and packed:
        return f"it is compressed, call it {path.name}.gz" if name.endswith(".nii") else "decompress it with gunzip"
    for one, other in ((".img", ".hdr"), (".hdr", ".img")):
        if name.endswith(one) and not (pair := path.with_suffix(other)).exists():
            return f"the other file of its pair, {pair.name}, does not exist"
    if beginning[128:132] == b"DICM":
        return "it is a DICOM file, give the folder of its study"
    return what_it_is(beginning)


def without_single(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without further axes that hold one volume, such as one time point."""
    return (*axes[:3], *(n for n in axes[3:] if n != 1))


def channel_of(voxels: Any, axes: tuple[int, ...], channel: int | None) -> NDArray[Any]:
    """One volume of an array, or proxy of one, with these axes; without ``channel``, all that there is."""
    if axes[3:] and (channel is not None or max(axes[3:]) == 1):
        voxels = voxels[(..., *(0 if n == 1 else channel for n in axes[3:]))]
    volume = np.asanyarray(voxels)
    return volume.astype(volume.dtype.newbyteorder("="), copy=False)


def damage_of(promised: int, size: int, packed: bool) -> str:
    """Why a file of ``size`` bytes cannot hold ``promised`` bytes, perhaps compressed; empty if it can."""
    if promised <= size * (_MAX_GZIP_RATIO if packed else 1):
        return ""
    return f"its header promises {promised} bytes and the file has {size}"
