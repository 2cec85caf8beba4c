"""A preprocessed case on disk, read piece by piece."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.cases import Case, LabelFile
from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.measure import VERSION
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid
from cggm_med.data.volumes.raters import majority, shares
from cggm_med.data.volumes.resample import OneGrid, onto_grid
from cggm_med.data.volumes.spacing import spacing_along_axes
from cggm_med.errors import DataError, first_of
from cggm_med.objectives.targets import UNKNOWN
from cggm_med.trees import in_form, parse_json

MEASURED = "measured.json"  # beside a prepared case, which it does not change


@dataclass(frozen=True)
class PreparedCase:
    """A preprocessed case on disk, read piece by piece.

    Attributes:
        id: of the case.
        patient: whom it shows.
        folder: where its arrays lie.
        source: the case that it was made from.
        convention: of its label.
        findings: of its files; none that forbids their use.
    """

    id: str
    patient: str
    folder: Path
    source: Case
    convention: LabelConvention
    findings: tuple[Finding, ...] = ()

    @property
    def oriented(self) -> bool:
        """Whether its files state which side is left."""
        return all(finding.kind.name != "unknown_orientation" for finding in self.findings)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What is needed to find the way back to the case's own grid."""
        return read_facts(self.folder)

    @cached_property
    def measured(self) -> dict[str, Any]:
        """What checks need to know of its voxels, see ``checks.measure``."""
        with _reading(self.folder / MEASURED) as file:
            return in_form(parse_json(file.read_bytes()), {})

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the case has, in the order of the run's: the channels of its image."""
        return tuple(self.facts["files"])

    def image(self) -> NDArray[np.float32]:
        """``(modality, x, y, z)`` in RAS+, mapped from disk: only the pages that are touched are read."""
        return _array(self.folder / "image.npy", mapped=True)

    def tensor(self, device: torch.device) -> Tensor:
        """The whole image on a device."""
        return torch.from_numpy(np.array(self.image())).to(device)

    def target(self) -> NDArray[Any]:
        """``(region, x, y, z)``: 0 and 1, or shares of readers; perhaps ``UNKNOWN``; mapped from disk."""
        return _array(self.folder / "target.npy", mapped=True)

    @cached_property
    def centres(self) -> NDArray[np.int32]:
        """``(n, 4)``: region, x, y, z of voxels that lie in a region."""
        return _array(self.folder / "centres.npy")

    @property
    def grid(self) -> NativeGrid:
        """The case's own grid, whose foreground is read from disk each time; ask once a case."""
        facts = {f.name: self.facts[f.name] for f in fields(NativeGrid) if f.name in self.facts}
        shape = [stop - start for start, stop in zip(facts["crop_start"], facts["crop_stop"], strict=True)]
        bits = _array(self.folder / "foreground.npy")
        foreground = np.unpackbits(bits, count=math.prod(shape)).reshape(shape).view(bool)
        return NativeGrid(**facts, foreground=foreground)

    @property
    def label_grid(self) -> NativeGrid | None:
        """The grid of the label files, on which the case is scored; None if it is the case's own."""
        stored = self.facts.get("label_grid")
        return None if stored is None else NativeGrid.whole(np.array(stored["affine"]), stored["shape"])

    def scan(self, onto: NativeGrid | None = None) -> OneGrid:
        """The images as their files have them, on the case's own grid or another."""
        images = replace(self.source, label=None, raters={})
        found, grid = inspect(images, None), onto or self.grid
        return onto_grid(images, found, self.facts.get("grid_of", "the case"), grid.shape, np.array(grid.affine))

    def native_target(self) -> NDArray[np.bool_]:
        """True regions on the grid of the label file, read from it, or what most of the case's readers drew."""
        if self.source.label is None:
            return self._majority() == 1
        return self.convention.to_regions(self._label())

    def native_raters(self) -> dict[str, NDArray[np.bool_]]:
        """The regions that each reader drew, on the grid of the label files."""
        read = {name: self._drawn(label) for name, label in self.source.raters.items()}
        return {name: self.convention.to_regions(labels) for name, labels in read.items()}

    def scored(self, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Predicted masks ``(region, x, y, z)`` without the voxels that nobody annotated."""
        annotated = self.annotated()
        return masks if annotated is None else masks & annotated

    def annotated(self) -> NDArray[np.bool_] | None:
        """``(x, y, z)`` on the grid of the label files: voxels whose label is known; None if all are."""
        if self.convention.ignore is None:
            return None
        if self.source.label is None:
            return (self._majority() != UNKNOWN).all(0)
        return self._label() != self.convention.ignore

    def _majority(self) -> NDArray[np.uint8]:
        maps = [self._drawn(label) for label in self.source.raters.values()]
        return majority(shares(maps, self.convention), exclusive=self.convention.exclusive)

    def _label(self) -> NDArray[Any]:
        assert self.source.label is not None  # noqa: S101 - find_cases was asked for labels
        return self._drawn(self.source.label)

    def _drawn(self, label: LabelFile) -> NDArray[Any]:
        return open_label(label, self.convention).voxels()


def read_facts(folder: Path) -> dict[str, Any]:
    """What is said of a prepared case in its folder.

    Raises:
        DataError: if the file is damaged.
    """
    with _reading(folder / "case.json") as file:
        return in_form(parse_json(file.read_bytes()), {"files": {}})


def _array(file: Path, *, mapped: bool = False) -> NDArray[Any]:
    with _reading(file):
        return np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Path]:
    """Turn what a damaged file of the cache makes the block raise into one line."""
    try:
        yield file
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"{file} is damaged: {' '.join(str(error).split())}; remove the folder {file.parent}, and the case is "
            "prepared anew"
        ) from error


def is_measured(folder: Path) -> bool:
    """Whether a prepared case has been measured for checks, by this version."""
    try:
        return bool(parse_json((folder / MEASURED).read_text())["version"] == VERSION)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def common_spacing(prepared: Sequence[PreparedCase]) -> tuple[float, float, float]:
    """The voxel size of all cases in mm, along right, anterior and superior.

    Raises:
        DataError: if they differ, since then the size of a structure in voxels would mean nothing.
    """
    sizes: dict[tuple[float, float, float], list[str]] = {}
    for case in prepared:
        x, y, z = spacing_along_axes(np.array(case.facts["affine"]))
        sizes.setdefault((round(x, 2), round(y, 2), round(z, 2)), []).append(case.id)
    if len(sizes) > 1:
        found = [f"{' x '.join(map(str, size))} mm: {first_of(cases, 3)}" for size, cases in sizes.items()]
        most = ",".join(f"{n:g}" for n in max(sizes, key=lambda size: len(sizes[size])))
        raise DataError(f"voxel sizes differ between cases; choose one, such as --set data.spacing=[{most}]:", found)
    return next(iter(sizes))
