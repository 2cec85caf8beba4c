"""The volumes that lie under a folder: what their names consist of, and their shapes."""

from __future__ import annotations

import filecmp
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import stem
from cggm_med.data.folders.segments import segments_of
from cggm_med.data.layouts import files_under
from cggm_med.data.volumes.grids import same_grid
from cggm_med.data.volumes.io import open_image
from cggm_med.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")  # endings
APPLE_DOUBLE = "AppleDouble twin, no image"
FILE_COPY = "copy of a file beside it"
_COPY_MARKS = (
    r"(?:copy of|copie de|kopie von|kopie van|copia de|copia di) (?P<a>.+)",
    r"(?P<b>.+?)(?: ?\(\d{1,2}\)| copy(?: \d+)?| - (?:copy|kopie|copie|copia)(?: ?\(\d{1,2}\))?)",
)
MAX_LABEL_VALUES = 64  # a label map has fewer values, an image has more


@dataclass(frozen=True)
class Scan:
    """One file with a volume.

    Attributes:
        path: of the file.
        folders: below the folder that was given, outermost first.
        stem: the name without its ending.
        volumes: how many the file holds; 0 where its header cannot be read.
    """

    path: Path
    folders: tuple[str, ...]
    stem: str
    volumes: int

    @property
    def below(self) -> str:
        """Path below the folder that was given, without the ending."""
        return "/".join((*self.folders, self.stem))


@dataclass(frozen=True)
class Scans:
    """What a folder holds.

    Attributes:
        volumes: of one time point.
        series: of several volumes in one file.
        slices: files of single slices, DICOM or pictures, by kind.
        twins: what macOS leaves beside files (``._name``), no images.
        copies: files named as copies of others beside them, such as ``T1 (1).nii.gz``, and the others.
    """

    volumes: tuple[Scan, ...]
    series: tuple[Scan, ...]
    slices: dict[str, tuple[Path, ...]]
    twins: tuple[Path, ...]
    copies: dict[Path, Path]


def scans_under(folder: Path) -> Scans:
    """Look for volumes in a folder and those below it; headers are read, voxels are not.

    Raises:
        DataError: if a folder cannot be read.
    """
    single: list[Scan] = []
    series: list[Scan] = []
    slices: dict[str, list[Path]] = {}
    files = files_under(folder)
    copies = _copies(files)
    for path in files:
        if path in copies:
            continue
        name = stem(path.name)
        if not name:
            if kind := _kind_of_slice(path):
                slices.setdefault(kind, []).append(path)
            continue
        volumes = _volumes(path)
        scan = Scan(path, path.relative_to(folder).parts[:-1], name, volumes)
        # Overlapping segments of 3D Slicer are one label, in as many volumes as it takes.
        (series if volumes > 1 and not segments_of(path) else single).append(scan)
    sliced = {kind: tuple(of) for kind, of in slices.items()}
    return Scans(tuple(single), tuple(series), sliced, twins_under(folder), copies)


def _copies(files: Sequence[Path]) -> dict[Path, Path]:
    """Files that programs name as copies of another one in the same folder, and that one."""
    there = {(path.parent, path.name.lower()): path for path in files}
    found: dict[Path, Path] = {}
    for path in files:
        name = stem(path.name)
        for mark in _COPY_MARKS if name else ():
            if matched := re.fullmatch(mark, name, re.IGNORECASE):
                original = (matched[1] + path.name[len(name) :]).lower()
                if (path.parent, original) in there:
                    found[path] = there[path.parent, original]
    return found


def twins_under(folder: Path) -> tuple[Path, ...]:
    """What macOS leaves beside the images below a folder."""
    return tuple(path for path in sorted(folder.rglob("._*")) if stem(path.name))


def label_values(path: Path) -> frozenset[int]:
    """The whole numbers but 0 that a label file holds; none where it cannot be read.

    Example:
        >>> label_values(Path("absent.nii"))
        frozenset()
    """
    try:
        voxels = open_image(path).voxels()
    except DataError:
        return frozenset()
    drawn = voxels[voxels != 0]  # few of millions, which keeps the sort inside np.unique short
    values = np.unique(drawn[np.isfinite(drawn)])
    return frozenset(int(value) for value in values if float(value).is_integer())


def looks_like_label(path: Path) -> bool:
    """Whether a volume holds few whole numbers, none below 0, mostly 0, and in patches, as no coarse image does."""
    try:
        voxels = open_image(path).voxels()
    except DataError:
        return False
    values = np.unique(voxels)
    whole = bool(np.all(np.isfinite(values)) and np.all(values == np.round(values)) and values.min(initial=0) >= 0)
    few = whole and 1 < len(values) <= MAX_LABEL_VALUES and float(np.mean(voxels == 0)) > 0.5
    return few and _in_patches(voxels)


def _in_patches(voxels: NDArray[Any]) -> bool:
    """Whether most neighbours that are not 0 are equal.

    Example:
        >>> drawn = np.repeat([0, 0, 1, 2], 3)
        >>> _in_patches(drawn), _in_patches(np.arange(12))
        (True, False)
    """
    pairs = equal = 0
    for axis in range(voxels.ndim):
        one, next_one = (np.moveaxis(voxels, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        both = (one != 0) & (next_one != 0)
        pairs += int(np.count_nonzero(both))
        equal += int(np.count_nonzero(both & (one == next_one)))
    return 2 * equal >= pairs


def lowest_value(path: Path, channel: int | None = None) -> float | None:
    """The lowest finite value of a volume, or of one of its channels; None where it cannot be read."""
    try:
        voxels = open_image(path).voxels(channel)
    except (DataError, IndexError):
        return None
    finite = voxels[np.isfinite(voxels)]
    return float(finite.min()) if finite.size else None


def on_one_grid(one: Path, other: Path) -> bool:
    """Whether two files have as many voxels at the same places; False where one cannot be read."""
    try:
        a, b = open_image(one), open_image(other)
    except DataError:
        return False
    return same_grid(a.affine, a.shape[:3], b.affine, b.shape[:3])


def same_voxels(one: Path, other: Path) -> bool:
    """Whether two files hold the same volume; False where one cannot be read."""
    if one.stat().st_size == other.stat().st_size and filecmp.cmp(one, other, shallow=False):
        return True
    if not on_one_grid(one, other):
        return False
    try:
        return np.array_equal(open_image(one).voxels(), open_image(other).voxels())
    except DataError:
        return False


def common_folder(scans: Sequence[Scan]) -> tuple[str, ...]:
    """The folders that all scans have in common, outermost first."""
    shared = itertools.takewhile(
        lambda level: len(set(level)) == 1, zip(*(scan.folders for scan in scans), strict=False)
    )
    return tuple(level[0] for level in shared)


def _volumes(path: Path) -> int:
    try:
        shape = open_image(path).shape
    except DataError:
        return 0
    return int(np.prod(shape[3:], initial=1))


def _kind_of_slice(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in PICTURES:
        return "pictures"
    if suffix in (".dcm", ".ima"):
        return "DICOM"
    if suffix == "" or suffix[1:].isdigit():  # DICOM files often have no ending
        try:
            with path.open("rb") as file:
                return "DICOM" if file.read(132)[128:] == b"DICM" else ""
        except OSError:
            return ""
    return ""
