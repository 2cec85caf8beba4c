"""NRRD and MetaImage, the formats of ITK: a header in text, and voxels behind it or in a file of their own."""

from __future__ import annotations

import contextlib
import gzip
import math
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.affines import from_matvec, voxel_sizes
from numpy.typing import NDArray

from cggm_med.data.checks.header import reconcile_units
from cggm_med.data.volumes.stored_image import StoredImage, channel_of, damage_of, needed, without_single
from cggm_med.errors import DataError

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

MAX_HEADER = 1 << 22  # bytes; those of segmentations with thousands of segments are shorter
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # ITK counts in LPS+
# https://teem.sourceforge.net/nrrd/format.html#space; of others it is not known where the axes of a patient point.
NRRD_SPACES = ("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las")
# https://itk.org/Wiki/ITK/MetaIO/Documentation, "MET_" and perhaps "_ARRAY" left out.
META_TYPES = {
    **{"CHAR": "i1", "SHORT": "i2", "INT": "i4", "LONG": "i4", "LONG_LONG": "i8"},
    **{"UCHAR": "u1", "USHORT": "u2", "UINT": "u4", "ULONG": "u4", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"},
}


def place(image: sitk.Image, affine: NDArray[np.float64]) -> None:
    """Give an image of SimpleITK its place in space.

    Args:
        image: of three axes.
        affine: voxels to mm in RAS+.
    """
    spacing = voxel_sizes(affine)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((RAS_TO_LPS @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS @ affine[:3, 3]).tolist())


def itk_bytes(volume: NDArray[Any], affine: NDArray[np.float64], ending: str) -> bytes:
    """The content of a file ``.nrrd`` or ``.mha`` that holds a volume ``(x, y, z)`` or ``(x, y, z, channel)``."""
    import SimpleITK as sitk  # noqa: N813 - here, since bundles read other formats without it

    turned = np.ascontiguousarray(np.moveaxis(volume, (0, 1, 2), (2, 1, 0)))
    image = sitk.GetImageFromArray(turned, isVector=volume.ndim == 4)
    place(image, affine)
    with tempfile.TemporaryDirectory(prefix="cggm-med-") as folder:
        file = Path(folder) / f"volume{ending}"
        sitk.WriteImage(image, str(file), useCompression=True)
        return file.read_bytes()


def open_nrrd(path: Path) -> StoredImage:
    """NRRD, whose header and voxels ITK reads; of spaces and checksums it is less strict than an image's check."""
    fields, end = _text_header(path, ": ", last="")
    if fields.get("space", "none").lower() not in NRRD_SPACES:
        raise DataError(
            f"{path}: its space is {fields.get('space', 'not given')}, so that nothing says where its axes point; "
            f"expected {', '.join(NRRD_SPACES[::2])}; write it with its orientation"
        )
    encoding = fields.get("encoding", "none").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DataError(f"{path}: its encoding is {encoding}; expected raw or gzip")
    packed = encoding != "raw"
    data, detached = _data_file(path, fields.get("data file", fields.get("datafile")))
    line_skip, byte_skip = (int(fields.get(name, fields.get(name.replace(" ", ""), 0))) for name in _SKIPS)
    if line_skip or (packed and byte_skip):
        raise DataError(f"{path}: it skips lines or packed bytes before its voxels; expected neither")
    start, held = (0 if detached else end) + max(0, byte_skip), data.stat().st_size
    sitk = needed("SimpleITK", path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO")
    with _itk_errors():
        reader.ReadImageInformation()
        # The only public way from ITK's types to numpy's.
        dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID())).dtype
    components, count = reader.GetNumberOfComponents(), reader.GetDimension()
    axes = (*map(int, reader.GetSize()), *([components] if components > 1 else []))
    promised = math.prod(axes) * dtype.itemsize
    damage = damage_of(start + promised, held, packed)

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        if damage:
            raise OSError(damage)
        if packed:
            _require_sound(data, start)
        with _itk_errors():
            stored = sitk.GetArrayFromImage(reader.Execute()).T
        for channel in channels:
            yield channel_of(np.moveaxis(stored, 0, -1) if components > 1 else stored, axes, channel)

    spacing = reader.GetSpacing()
    affine = _affine(np.reshape(reader.GetDirection(), (count, count)), spacing, reader.GetOrigin())
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    said = reconcile_units(units, affine, spacing[:3], "space units")
    return StoredImage(
        path,
        without_single(axes),
        dtype,
        said.affine,
        said.spacing,
        damage,
        read,
        parts=(data,) if detached else (),
        findings=said.findings,
    )


def open_meta_image(path: Path) -> StoredImage:
    """MetaImage; ITK takes damaged streams for images, and ends the process for some headers."""
    fields, end = _text_header(path, "=", last="elementdatafile")
    n = int(*_numbers(fields, "NDims", 1))
    axes = tuple(map(int, _numbers(fields, "DimSize", n)))
    if n not in (2, 3, 4) or min(axes) < 1:
        raise ValueError(f"its DimSize is {fields['dimsize']}; expected 2 to 4 positive numbers")
    if _flag(fields, "binarydata", "true") is False:
        raise DataError(f"{path}: its voxels are text; expected binary ones")
    scaling = [float(fields.get(f"elementtointensityfunction{name}", n)) for name, n in (("slope", 1), ("offset", 0))]
    if scaling != [1, 0]:
        # MetaImage defines the scaling, and ITK and what is built on it leave it out: nobody knows what was meant.
        raise DataError(f"{path}: it scales voxels by {scaling[0]:g} and adds {scaling[1]:g}; write the scaled values")
    kind = fields.get("elementtype", "none").removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in META_TYPES:
        raise ValueError(f"its ElementType is {kind}; expected one of MET_{', MET_'.join(META_TYPES)}")
    big = _flag(fields, "binarydatabyteordermsb", fields.get("elementbyteordermsb", "false"))
    stored = np.dtype(META_TYPES[kind]).newbyteorder(">" if big else "<")
    packed = _flag(fields, "compresseddata", "false")
    name = fields.get("elementdatafile", "")
    data, detached = _data_file(path, None if name == "LOCAL" else name)
    components, header_size = (
        int(fields.get(name, n)) for name, n in (("elementnumberofchannels", 1), ("headersize", 0))
    )
    held = data.stat().st_size
    promised = math.prod(axes) * components * stored.itemsize
    # With -1, the voxels stand at the end of their file.
    start = max(0, held - promised) if header_size < 0 else header_size if detached else end
    damage = damage_of(start + promised, held, packed)
    # In memory, the channels of a voxel stand together.
    order, shape = ((components, *axes), (*axes, components)) if components > 1 else (axes, axes)

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        if damage:
            raise OSError(damage)
        if packed:
            voxels = np.frombuffer(_unzipped(data, start, promised), stored).reshape(order, order="F")
        else:
            voxels = np.memmap(data, stored, "c", start, order, "F")
        for channel in channels:
            yield channel_of(np.moveaxis(voxels, 0, -1) if components > 1 else voxels, shape, channel)

    # Of names that mean the same, ITK takes the first that is there.
    spacing = _numbers(fields, "ElementSpacing ElementSize", n, np.ones(n))
    matrix = _numbers(fields, "TransformMatrix Rotation Orientation", n * n, np.eye(n).ravel())
    origin = _numbers(fields, "Offset Position Origin", n, np.zeros(n))
    # A line of the matrix is the direction of an axis.
    affine = _affine(np.reshape(matrix, (n, n)).T, spacing, origin)
    said = reconcile_units([fields.get("distanceunits", "mm")], affine, spacing[:3], "DistanceUnits")
    return StoredImage(
        path,
        without_single(shape),
        stored.newbyteorder("="),
        said.affine,
        said.spacing,
        damage,
        read,
        parts=(data,) if detached else (),
        findings=said.findings,
    )


_SKIPS = ("line skip", "byte skip")


def _text_header(path: Path, separator: str, *, last: str) -> tuple[dict[str, str], int]:
    """The fields of a header by name in lower case, up to the one of the name ``last``; and the byte after them."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while (line := file.readline(MAX_HEADER)) and file.tell() <= MAX_HEADER:
            name, found, value = line.decode("utf-8", errors="replace").strip().partition(separator)
            if found:
                fields.setdefault(name.strip().lower(), value.strip())
            if name.strip().lower() == last:
                return fields, file.tell()
        # A header may end with its file if the voxels lie in another one.
        if last == "" and not line:
            return fields, file.tell()
    raise ValueError("its header does not end, or it is a file of another format")


def _data_file(path: Path, name: str | None) -> tuple[Path, bool]:
    """The file with the voxels, and whether it is another one than that with the header."""
    if name is None:
        return path, False
    if not name:
        raise ValueError("its header does not name the file with its voxels")
    if name.split()[0] == "LIST" or "%" in name:
        raise DataError(f"{path}: its voxels are spread over several files ({name}); expected one file")
    return path.parent / name, True


def _numbers(
    fields: Mapping[str, str], names: str, count: int, default: NDArray[np.float64] | None = None
) -> list[float]:
    """The numbers of the first field that is there."""
    text = next((fields[name.lower()] for name in names.split() if name.lower() in fields), None)
    if text is None and default is not None:
        return list(default.tolist())
    if text is None:
        raise ValueError(f"its header has no {names}")
    numbers = [float(word) for word in text.split()]
    if len(numbers) != count:
        raise ValueError(f"its {names.split()[0]} is {text}; expected {count} numbers")
    return numbers


def _flag(fields: Mapping[str, str], name: str, default: str) -> bool:
    return fields.get(name, default).lower() in ("true", "1")


def _affine(direction: NDArray[np.float64], spacing: Sequence[float], origin: Sequence[float]) -> NDArray[np.float64]:
    """Voxels to mm in RAS+, from what ITK says of two to four axes in LPS+."""
    own = min(3, len(spacing))
    axes, place = np.eye(3), np.zeros(3)
    axes[:own, :own] = (direction * spacing)[:own, :own]
    place[:own] = origin[:own]
    return np.asarray(from_matvec(RAS_TO_LPS @ axes, RAS_TO_LPS @ place))


def _require_sound(path: Path, start: int) -> None:
    """Unpack to the end, where the checksum stands, which ITK does not look at."""
    with path.open("rb") as file:
        file.seek(start)
        with gzip.open(file) as unpacked:
            while unpacked.read(1 << 20):
                pass


def _unzipped(path: Path, start: int, size: int) -> bytearray:
    """The bytes of a zlib stream, which must be as many as expected."""
    stream = zlib.decompressobj()
    with path.open("rb") as file:
        file.seek(start)
        voxels = bytearray(stream.decompress(file.read(), size))
    further = stream.decompress(stream.unconsumed_tail, 1)
    if len(voxels) != size or further or not stream.eof:
        raise EOFError(f"its compressed voxels are not the {size} bytes that its header promises")
    return voxels


@contextlib.contextmanager
def _itk_errors() -> Iterator[None]:
    """Raise ITK's errors as those of files, with the last of their lines, which names the cause."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).split("ERROR: ")[-1].splitlines()
        raise OSError(lines[-1].removeprefix("[nrrd] ") if lines else type(error).__name__) from error
