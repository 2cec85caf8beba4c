"""Label maps: in one file, or made of files that hold a region each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import LabelFile, RegionFile, RegionFiles
from cggm_med.data.volumes.grids import grid_difference
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import DataError

# Of whole numbers that went through a scaling (scl_slope) or arithmetic in single precision; interpolated labels and
# probabilities have values that are further away.
MAX_ROUNDING = 1e-3


def whole_numbers(volume: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """The numbers of a label map, whole if they are so but for rounding; and how far off they were, 0 if unchanged.

    Example:
        >>> numbers, off = whole_numbers(np.array([0, 0.99999994, 1.9999999], np.float32))
        >>> numbers.tolist(), f"{off:.0e}"
        ([0.0, 1.0, 2.0], '1e-07')
        >>> whole_numbers(np.array([0, 0.5, 1]))[0].tolist()
        [0.0, 0.5, 1.0]
    """
    if volume.dtype.kind != "f" or not volume.size:
        return volume, 0.0
    with np.errstate(invalid="ignore"):
        whole = np.rint(volume)
        off = float(np.abs(volume - whole).max())
    return (whole, off) if 0 < off <= MAX_ROUNDING else (volume, 0.0)


def open_label(label: LabelFile, convention: LabelConvention | None = None) -> StoredImage:
    """The header of a label map, and its numbers when they are asked for.

    Where each region has a file, the map holds the numbers that the convention has for them: regions that overlap
    stay overlapping as far as it has a number for both, else the later one is painted over the earlier.

    Args:
        label: the file, or the files of its regions.
        convention: which numbers the regions have; None: from 1 on, in the order of the files.

    Raises:
        DataError: if a file is missing or damaged, or the files of regions lie on different grids.
    """
    if isinstance(label, Path):
        stored = open_image(label)

        def read_whole(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
            for volume in stored.read(channels):
                yield whole_numbers(volume)[0]

        return dataclasses.replace(stored, read=read_whole)
    opened = _opened(label)
    grid, *others = (image for _, _, image in opened)
    damage = next((image.damage for _, _, image in opened if image.damage), "")
    parts = {part for image in others for part in (image.path, *image.parts)} | set(grid.parts)

    def read(channels: Iterable[int | None]) -> Iterator[NDArray[Any]]:
        masks = _masks(opened)
        for _ in channels:
            yield painted(masks, grid.shape[:3], convention)

    return dataclasses.replace(
        grid,
        shape=grid.shape[:3],
        dtype=np.dtype(np.uint16),
        damage=damage,
        read=read,
        parts=tuple(sorted(parts - {grid.path})),
        findings=tuple(dict.fromkeys(finding for _, _, image in opened for finding in image.findings)),
    )


def masks_of(label: RegionFiles) -> dict[str, NDArray[np.bool_]]:
    """The masks ``(x, y, z)`` of the regions that have a file, by name.

    Raises:
        DataError: see ``open_label``; or if a file holds several numbers and nothing says which is meant.
    """
    return _masks(_opened(label))


def painted(
    masks: Mapping[str, NDArray[np.bool_]], shape: tuple[int, ...], convention: LabelConvention | None
) -> NDArray[np.unsignedinteger[Any]]:
    """The label map ``(x, y, z)`` of masks by region, or by meaning of a number.

    Args:
        masks: those that are not empty, by name.
        shape: of the map.
        convention: see ``open_label``.

    Raises:
        DataError: if the convention has neither regions nor meanings of these names.

    Example:
        >>> two = LabelConvention("x", {1: "rim", 2: "core"}, {"whole": (1, 2), "core": (2,)}, {"whole": 1, "core": 2})
        >>> whole, core = np.array([[[True, True]]]), np.array([[[False, True]]])
        >>> painted({"core": core, "whole": whole}, (1, 1, 2), two).tolist()
        [[[1, 2]]]
        >>> painted({"core": core, "rim": whole & ~core}, (1, 1, 2), two).tolist()
        [[[1, 2]]]
    """
    if convention is None:
        numbers = {name: number for number, name in enumerate(masks, start=1)}
    elif set(masks) <= set(convention.regions):
        empty = np.zeros(shape, bool)
        return convention.to_labels(np.stack([masks.get(region, empty) for region in convention.regions]))
    else:
        numbers = {meaning: number for number, meaning in convention.meanings.items()}
    if strange := set(masks) - set(numbers):
        raise DataError(f"files of regions {sorted(strange)}; expected some of {sorted(numbers)}")
    painted = np.zeros(shape, np.uint16)
    for name, number in numbers.items():
        if name in masks:
            painted[masks[name]] = number
    return painted


def _opened(label: RegionFiles) -> list[tuple[str, RegionFile, StoredImage]]:
    files = [(name, file, open_image(file.path)) for name, file in label.files if file is not None]
    if not files:
        raise DataError("a label of several files has none: expected the file of at least one region")
    (first, _, grid), *others = files
    for name, _, image in others:
        if differ := grid_difference(first, grid, name, image):
            raise DataError(f"{differ}; bring the regions of a case onto one grid")
    return files


def _masks(opened: Sequence[tuple[str, RegionFile, StoredImage]]) -> dict[str, NDArray[np.bool_]]:
    """The voxels of each region, in whichever of its files they were drawn."""
    found: dict[str, NDArray[np.bool_]] = {}
    for name, file, image in opened:
        mask = _mask(file, image)
        found[name] = found[name] | mask if name in found else mask
    return found


def _mask(file: RegionFile, image: StoredImage) -> NDArray[np.bool_]:
    """The voxels of a region."""
    volume, _ = whole_numbers(image.voxels(file.channel))
    if file.value is not None:
        return np.asarray(volume == file.value)
    numbers = np.unique(volume[volume != 0])
    if len(numbers) > 1:
        shown = ", ".join(f"{number:g}" for number in numbers[:3])
        raise DataError(
            f"{file.path} holds {shown}{', ...' if len(numbers) > 3 else ''}; expected one region, as 0 and one other "
            'number; say which with {"file": path, "value": number}'
        )
    return np.asarray(volume != 0)
