"""Image files: how headers and voxels are read and written. No other module knows a file format.

A format is one function that opens a file, its line in ``FORMATS``, and its ending in ``cases.ENDINGS``.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from cggm_med.data.cases import ENDINGS
from cggm_med.errors import ConfigError, DataError
from cggm_med.files import atomic_file

# What nibabel, gzip and numpy raise for damaged files.
_UNREADABLE = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError, OverflowError, MemoryError)
# No deflate stream can grow by more (https://zlib.net/zlib_tech.html).
_MAX_GZIP_RATIO = 1032


@dataclass(frozen=True)
class StoredImage:
    """An image file: its header, and its voxels when they are asked for.

    Attributes:
        path: of the file.
        shape: ``(x, y, z)``, or ``(x, y, z, channel)``.
        dtype: of the voxels as they are stored.
        affine: voxels to mm in RAS+.
        spacing: voxel size in mm along x, y, z as the header states it, whether or not it makes sense.
        damage: why the file cannot hold the voxels that its header promises; empty if it can.
        read: yields the volume of each of some channels (None: of a file of three axes), within ``reading``; a
            compressed file is unpacked once.
        header: of a NIfTI file.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, ...]
    damage: str
    read: Callable[[Iterable[int | None]], Iterator[NDArray[Any]]] = field(repr=False)
    header: nib.Nifti1Header | None = field(default=None, repr=False)

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


def open_image(path: Path) -> StoredImage:
    """Read the header of an image file.

    Raises:
        DataError: if it is missing, damaged or of another format.
    """
    ending = next((ending for ending in FORMATS if path.name.lower().endswith(ending)), ".nii")
    with reading(path):
        return FORMATS[ending](path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the block raise into one line that names the file.

    Raises:
        DataError: with that line.
    """
    try:
        # What is wrong with numbers is said in words where they are checked; warnings would come on top.
        with np.errstate(all="ignore"):
            yield
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"{path} cannot be read: {reason}; it may be damaged or incomplete, copy it anew") from error


def write_volume(
    path: Path, volume: NDArray[Any], grid: Path | NDArray[np.float64], *, units: Sequence[str] = ("mm",)
) -> None:
    """Write a NIfTI file, whole or not at all; the same voxels on the same grid are the same bytes.

    Args:
        path: ending in ``.nii`` or ``.nii.gz``.
        volume: ``(x, y, z)``, or ``(x, y, z, channel)``.
        grid: an image file on whose grid the volume lies, whose sform, qform and units are repeated; or an affine.
        units: of space, and perhaps of time; for an affine.

    Raises:
        ConfigError: for another ending.
        DataError: if the other file cannot be read.
        OutputError: if it cannot be written.
    """
    require_image_name(path)
    source = open_image(grid) if isinstance(grid, Path) else None
    if source is not None and source.header is not None:
        # Only what is about the grid: other fields of a scan's header may tell whose it is.
        header = nib.Nifti1Image(volume, None).header
        header["pixdim"][:4] = source.header["pixdim"][:4]
        for name in ("sform", "qform"):
            affine, code = getattr(source.header, f"get_{name}")(coded=True)
            getattr(header, f"set_{name}")(affine, int(code))
        header.set_xyzt_units(*source.header.get_xyzt_units())
        image = nib.Nifti1Image(volume, header.get_best_affine(), header)
    else:
        affine = grid if source is None else source.affine
        image = nib.Nifti1Image(volume, affine)
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        image.header.set_xyzt_units(*units)
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=4, mtime=0)
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
        ConfigError: if it ends with neither ``.nii`` nor ``.nii.gz``.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise ConfigError(f"output is {path.name}, expected a name that ends with {' or '.join(reversed(ENDINGS))}")


def _open_nifti(path: Path) -> StoredImage:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Image):
        raise DataError(f"{path}: it is a {type(image).__name__}; expected one NIfTI file ({' or '.join(ENDINGS)})")
    packed = path.suffix.lower() == ".gz"
    promised = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    incomplete = promised > size * (_MAX_GZIP_RATIO if packed else 1)
    # nibabel corrects these fields while it loads, and a size that was corrected to 1 mm would be taken for the truth.
    with gzip.open(path) if packed else path.open("rb") as file:
        raw = type(image).header_class.from_fileobj(file, check=False)

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        voxels = image.dataobj
        if packed:
            with gzip.open(path) as file:
                voxels = np.asanyarray(type(image).from_stream(file).dataobj)
                # The checksum stands at the end of the stream; without reading on, changed voxels would pass.
                while file.read(1 << 20):
                    pass
        for channel in channels:
            yield np.asanyarray(voxels if channel is None else voxels[..., channel])

    return StoredImage(
        path,
        image.shape,
        image.get_data_dtype(),
        image.affine,
        tuple(float(mm) for mm in raw["pixdim"][1:4]),
        f"its header promises {promised} bytes and the file has {size}; it is damaged or incomplete" * incomplete,
        read,
        image.header,
    )


FORMATS: Mapping[str, Callable[[Path], StoredImage]] = {".nii": _open_nifti, ".nii.gz": _open_nifti}
