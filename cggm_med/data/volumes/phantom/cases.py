"""Cases of the phantom: each drawn from a seed and a number, and written in the layout of BraTS 2021."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.io import write_volume
from cggm_med.data.volumes.phantom.anatomy import healthy_tissue, hull_of
from cggm_med.data.volumes.phantom.grid import FIELD_OF_VIEW_MM, Grid
from cggm_med.data.volumes.phantom.scanner import MODALITIES, Scanner, scan
from cggm_med.data.volumes.phantom.tumour import displaced, plan_tumour, tumour_tissue
from cggm_med.errors import ConfigError

VERSION = 2  # stored with every run: raise it whenever a seed or a preset would draw other cases (ADR 0038)
MAX_CASES = 1000  # of a seed, so that the ids of two seeds differ

CSF, GREY, WHITE = 1, 2, 3
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4

_COARSEST_MM = 10.0  # voxels of this size still show each part of most tumours
_MAX_DRAWS = 50
_MIN_VOXELS = 4  # of each label that a tumour should have; a case with fewer is drawn again


@dataclass(frozen=True)
class PhantomCase:
    """One case, before it is written.

    Attributes:
        images: each modality's ``(x, y, z)`` signal, int16; 0 outside the brain, at least 1 inside.
        labels: ``(x, y, z)`` with the values of BraTS 2021: 0, 1 necrosis and other tumour without enhancement, 2
            oedema, 4 enhancing tumour.
        tissue: ``(x, y, z)`` anatomy without the tumour: 0 outside, 1 CSF, 2 grey matter, 3 white matter.
    """

    images: dict[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    tissue: NDArray[np.uint8]


def write_phantom(
    folder: Path,
    *,
    cases: int,
    seed: int,
    shape: tuple[int, int, int] = (120, 120, 78),
    spacing_mm: float = 2.0,
    scanners: Mapping[str, Scanner] | None = None,
) -> None:
    """Write glioma cases in the layout of BraTS 2021: ``BraTS2021_00000/BraTS2021_00000_flair.nii.gz`` and so on.

    The number in a case's id is 1,000 times the seed plus its own, so that no two seeds share an id. On one grid, case
    i depends on ``seed`` and i alone, down to the bytes of its files, however many are written. Another grid shows
    another patient; other scanners show the same one.

    Args:
        folder: receives one folder for each case.
        cases: number of cases, at most 1,000.
        seed: of all random choices, not negative.
        shape: voxels along x, y, z. In a field of view smaller than that of BraTS the whole head shrinks.
        spacing_mm: edge of the cubic voxels.
        scanners: by modality; default: all alike.

    Raises:
        ConfigError: if an argument is impossible or the grid too coarse to show a tumour.
        OutputError: if the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_phantom(folder, cases=1, seed=0, shape=(40, 40, 26), spacing_mm=6.0)
        >>> sorted(path.name for path in (folder / "BraTS2021_00000").iterdir())[:2]
        ['BraTS2021_00000_flair.nii.gz', 'BraTS2021_00000_seg.nii.gz']
    """
    if not 1 <= cases <= MAX_CASES:
        raise ConfigError(f"cases is {cases}, expected 1 to {MAX_CASES} phantom cases; take several seeds for more")
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    affine[1, 3] = (shape[1] - 1) * spacing_mm
    for index in range(cases):
        case = make_case(seed, index, shape, spacing_mm, scanners)
        name = f"BraTS2021_{MAX_CASES * seed + index:05d}"
        files: dict[str, NDArray[Any]] = {**case.images, "seg": case.labels}
        for kind, array in files.items():
            # Equal cases are equal files, on which a cache keyed by their digests relies.
            write_volume(folder / name / f"{name}_{kind}.nii.gz", array, affine, units=("mm", "sec"))


def make_case(
    seed: int,
    index: int,
    shape: tuple[int, int, int],
    spacing_mm: float,
    scanners: Mapping[str, Scanner] | None = None,
) -> PhantomCase:
    """Draw case ``index`` of ``seed``; the arguments are those of ``write_phantom``.

    Raises:
        ConfigError: if an argument is impossible or the grid too coarse to show a tumour.
    """
    if seed < 0 or min(shape) < 2 or not spacing_mm > 0:
        raise ConfigError(
            f"phantom of seed {seed}, shape {tuple(shape)}, spacing {spacing_mm} mm: expected a seed of 0 or more, "
            "2 voxels or more along each axis and a spacing above 0"
        )
    grid = Grid.of(shape, spacing_mm)
    fewest = " x ".join(str(math.ceil(extent / _COARSEST_MM)) for extent in FIELD_OF_VIEW_MM)
    too_coarse = ConfigError(
        f"no tumour fits shape {tuple(shape)} at {spacing_mm} mm, where a voxel spans {grid.voxel:.1f} mm of a head of "
        f"natural size, expected at most {_COARSEST_MM} mm; choose at least {fewest} voxels, none larger"
    )
    if grid.voxel > _COARSEST_MM + 1e-6:
        raise too_coarse
    rng = np.random.default_rng([seed, index])
    for draw in range(_MAX_DRAWS):
        hull = hull_of(rng, grid)
        plan = plan_tumour(rng, grid, hull)
        healthy = healthy_tissue(rng, grid, hull, displaced(grid, hull, plan))
        tumour = tumour_tissue(rng, grid, hull, healthy, plan)
        brain = hull > 0
        parts = [~brain, tumour["necrosis"] > 0.5, tumour["enhancing"] > 0.5, tumour["oedema"] > 0.5]
        labels = np.select(parts, [0, NECROSIS, ENHANCING, OEDEMA]).astype(np.uint8)
        planned = {NECROSIS: True, ENHANCING: plan.enhancing, OEDEMA: plan.oedema}
        if all((labels == label).sum() >= _MIN_VOXELS for label, wanted in planned.items() if wanted):
            fluid = np.maximum(healthy["csf"], healthy["ventricle"]) > 0.5
            tissue = np.select([~brain, fluid, healthy["grey"] > 0.5], [0, CSF, GREY], WHITE).astype(np.uint8)
            chosen = {modality: Scanner() for modality in MODALITIES} | dict(scanners or {})
            return PhantomCase(scan((seed, index, draw), grid, brain, {**healthy, **tumour}, chosen), labels, tissue)
    raise too_coarse
