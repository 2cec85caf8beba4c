"""BraTS-like glioma cases, drawn from random anatomy and written as NIfTI: data for a first run and for every test.

One case is a head in four steps: a brain with folded cortex, ventricles and nuclei; a tumour of necrosis inside an
enhancing rim inside oedema; the signal of each tissue in each modality; and what a scanner adds (blur, bias field,
noise, gain). Coordinates are mm from the centre of the head, x to the left, y to the back, z up (LPS, as in BraTS).
The anatomy is plausible, not accurate: success here shows that a network learns, not that it works on patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.data.volumes.io import write_volume
from cggm_med.errors import ConfigError

VERSION = 1  # part of the name of a stored phantom: raise it whenever the same seed would draw other cases
MAX_CASES = 1000  # of a seed, so that the ids of two seeds differ

Volume = NDArray[np.float32]

MODALITIES = ("flair", "t1", "t1ce", "t2")
CSF, GREY, WHITE = 1, 2, 3
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4

# The head of BraTS: a brain of about 130 x 165 x 145 mm in a field of view of 240 x 240 x 155 mm.
_FIELD_OF_VIEW_MM = (240.0, 240.0, 155.0)
_COARSEST_MM = 10.0  # voxels of this size still show each part of most tumours
_MAX_DRAWS = 50
_MIN_VOXELS = 4  # of each label; a case with fewer is drawn again

# Signal of each tissue in the order of MODALITIES, in scanner units. The contrasts follow skull-stripped scans of BRATS
# 2013 and TCGA: z-scored inside the brain, oedema lies near +2 in FLAIR, 0 in T1 and T1ce, and below +1 in T2.
_SIGNAL = {
    "white": (290, 440, 430, 420),
    "grey": (325, 285, 290, 600),
    "nucleus": (315, 355, 350, 500),
    "hyperintensity": (395, 410, 400, 640),
    "csf": (110, 80, 80, 1500),
    "ventricle": (60, 60, 60, 1800),
    "plexus": (330, 300, 700, 1100),
    "vessel": (170, 260, 850, 350),
    "oedema": (475, 375, 350, 920),
    "enhancing": (440, 360, 760, 960),
    "necrosis": (380, 255, 195, 1250),
}


@dataclass(frozen=True)
class PhantomCase:
    """One case, before it is written.

    Attributes:
        images: each modality's ``(x, y, z)`` signal, int16; 0 outside the brain, at least 1 inside.
        labels: ``(x, y, z)`` with the values of BraTS 2021: 0, 1 necrosis, 2 oedema, 4 enhancing tumour.
        tissue: ``(x, y, z)`` anatomy without the tumour: 0 outside, 1 CSF, 2 grey matter, 3 white matter.
    """

    images: dict[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    tissue: NDArray[np.uint8]


def write_phantom(
    folder: Path, *, cases: int, seed: int, shape: tuple[int, int, int] = (120, 120, 78), spacing_mm: float = 2.0
) -> None:
    """Write glioma cases in the layout of BraTS 2021: ``BraTS2021_00000/BraTS2021_00000_flair.nii.gz`` and so on.

    The number in a case's id is 1,000 times the seed plus its own, so that no two seeds share an id. On one grid, case
    i depends on ``seed`` and i alone, down to the bytes of its files, however many are written. Another grid shows
    another patient.

    Args:
        folder: receives one folder for each case.
        cases: number of cases, at most 1,000.
        seed: of all random choices, not negative.
        shape: voxels along x, y, z. In a field of view smaller than that of BraTS the whole head shrinks.
        spacing_mm: edge of the cubic voxels.

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
        case = make_case(seed, index, shape, spacing_mm)
        name = f"BraTS2021_{MAX_CASES * seed + index:05d}"
        files: dict[str, NDArray[Any]] = {**case.images, "seg": case.labels}
        for kind, array in files.items():
            # Equal cases are equal files, on which a cache keyed by their digests relies.
            write_volume(folder / name / f"{name}_{kind}.nii.gz", array, affine, units=("mm", "sec"))


def make_case(seed: int, index: int, shape: tuple[int, int, int], spacing_mm: float) -> PhantomCase:
    """Draw case ``index`` of ``seed``; the arguments are those of ``write_phantom``.

    Raises:
        ConfigError: if an argument is impossible or the grid too coarse to show a tumour.
    """
    if seed < 0 or min(shape) < 2 or not spacing_mm > 0:
        raise ConfigError(
            f"phantom of seed {seed}, shape {tuple(shape)}, spacing {spacing_mm} mm: expected a seed of 0 or more, "
            "2 voxels or more along each axis and a spacing above 0"
        )
    grid = _Grid.of(shape, spacing_mm)
    too_coarse = ConfigError(
        f"no tumour fits shape {tuple(shape)} at {spacing_mm} mm, where a voxel spans {grid.voxel:.1f} mm of a head of "
        f"natural size, expected at most {_COARSEST_MM} mm; choose more voxels, of {spacing_mm} mm or less"
    )
    if grid.voxel > _COARSEST_MM + 1e-6:
        raise too_coarse
    rng = np.random.default_rng([seed, index])
    for _ in range(_MAX_DRAWS):
        hull = _hull(rng, grid)
        plan = _plan_tumour(rng, grid, hull)
        healthy = _anatomy(rng, grid, hull, plan)
        tumour = _tumour(rng, grid, hull, healthy, plan)
        brain = hull > 0
        oedema, enhancing, necrosis = (share > 0.5 for share in tumour.values())
        labels = np.select([~brain, necrosis, enhancing, oedema], [0, NECROSIS, ENHANCING, OEDEMA]).astype(np.uint8)
        if all((labels == label).sum() >= _MIN_VOXELS for label in (NECROSIS, OEDEMA, ENHANCING)):
            fluid = np.maximum(healthy["csf"], healthy["ventricle"]) > 0.5
            tissue = np.select([~brain, fluid, healthy["grey"] > 0.5], [0, CSF, GREY], WHITE).astype(np.uint8)
            return PhantomCase(_scan(rng, grid, brain, healthy, tumour), labels, tissue)
    raise too_coarse


@dataclass(frozen=True)
class _Grid:
    """The voxels in the head: ``position`` (axis, x, y, z) and edge in mm, ``frequency`` of a real FFT in 1/mm."""

    position: Volume
    frequency: Volume
    voxel: float

    @classmethod
    def of(cls, shape: tuple[int, int, int], spacing_mm: float) -> _Grid:
        shrunk = min(1.0, *(n * spacing_mm / extent for n, extent in zip(shape, _FIELD_OF_VIEW_MM, strict=True)))
        voxel = spacing_mm / shrunk
        axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * voxel for n in shape]
        waves = [np.fft.fftfreq(shape[0], voxel), np.fft.fftfreq(shape[1], voxel), np.fft.rfftfreq(shape[2], voxel)]
        frequency = np.sqrt((np.stack(np.meshgrid(*waves, indexing="ij")) ** 2).sum(0))
        return cls(np.stack(np.meshgrid(*axes, indexing="ij")), frequency, voxel)

    def field(self, rng: np.random.Generator, wavelength: float) -> Volume:
        """A smooth random field of mean 0 and deviation 1 whose waves are about ``wavelength`` mm long."""
        gain = np.exp(-0.5 * ((self.frequency * wavelength - 1) / 0.35) ** 2)
        real, imaginary = rng.standard_normal((2, *gain.shape), dtype=np.float32)
        field = np.fft.irfftn((real + 1j * imaginary) * gain, s=self.position.shape[1:], axes=(0, 1, 2))
        return (field / field.std()).astype(np.float32)

    def sample(self, field: Volume, position: Volume) -> Volume:
        """``field`` read at each ``position`` (axis, x, y, z), trilinear."""
        # grid_sample wants coordinates from -1 to 1, in the last axis, the fastest one first.
        points = np.moveaxis((position / self.position[:, -1:, -1:, -1:])[::-1], 0, -1).astype(np.float32)
        volume, where = torch.from_numpy(field)[None, None], torch.from_numpy(points)[None]
        read = torch.nn.functional.grid_sample(volume, where, padding_mode="border", align_corners=True)
        return read[0, 0].numpy()

    def share(self, depth: Volume, edge: float = 0.0) -> Volume:
        """How much of each voxel has a positive ``depth`` (mm), with edges blurred over a voxel or ``edge`` mm."""
        return np.clip(depth / max(edge, self.voxel) + 0.5, 0, 1)


@dataclass(frozen=True)
class _TumourPlan:
    """Centres ``(axis, 1, 1, 1)`` and radii of a tumour's core and of the oedema around it, in mm."""

    core_centre: Volume
    core_radius: float
    oedema_centre: Volume
    oedema_radius: float


def _ellipsoid(offset: Sequence[Volume] | Volume, axes: Sequence[float] | NDArray[np.float64]) -> Volume:
    """Signed depth in mm below the surface of an ellipsoid, positive inside; exact to first order at the surface."""
    square = sum((u / a) ** 2 for u, a in zip(offset, axes, strict=True)) + np.float32(1e-4)
    slope = np.sqrt(sum((u / a**2) ** 2 for u, a in zip(offset, axes, strict=True)) + np.float32(1e-6))
    return (np.sqrt(square) - square) / slope


def _hull(rng: np.random.Generator, grid: _Grid) -> Volume:
    """Depth in mm below the outer surface of cerebrum, temporal lobes, cerebellum and brain stem; negative outside."""
    x, y, z = grid.position / rng.normal(1, 0.03, (3, 1, 1, 1)).astype(np.float32)
    vault = np.where(z < 2, (z - 2) * np.float32(64 / 46), z - 2)  # the base of the cerebrum is flatter than its vault
    parts = [
        _ellipsoid([x, y, vault], (65, 81, 64)),
        _ellipsoid([np.abs(x) - 38, y + 4, z + 28], (21, 38, 24)),
        _ellipsoid([x, y - 46, z + 38], (50, 33, 26)),
        _ellipsoid([x, y - 18, z + 50], (14, 15, 40)),
    ]
    return np.maximum.reduce(parts) + 1.5 * grid.field(rng, 45)


def _plan_tumour(rng: np.random.Generator, grid: _Grid, hull: Volume) -> _TumourPlan:
    """A place in the white matter of either hemisphere, and sizes as in adult glioma."""
    x, _, z = grid.position
    places = np.flatnonzero((hull > 14) & (hull < 45) & (np.abs(x) > 15) & (z > -22))
    centre = grid.position.reshape(3, -1)[:, rng.choice(places)]
    radius = rng.uniform(16, 34)
    core_radius = radius * rng.uniform(0.5, 0.8)
    shift = rng.standard_normal(3, dtype=np.float32)
    shift *= rng.uniform(0, radius - core_radius) / np.sqrt((shift**2).sum())
    return _TumourPlan(centre.reshape(3, 1, 1, 1), core_radius, (centre + shift).reshape(3, 1, 1, 1), radius)


def _anatomy(rng: np.random.Generator, grid: _Grid, hull: Volume, plan: _TumourPlan) -> dict[str, Volume]:
    """Share of each voxel taken by each healthy tissue on top of white matter, in painting order."""
    # The core pushes the tissue around it aside (mass effect), but the skull holds the surface in place.
    away = grid.position - plan.core_centre
    distance = np.sqrt((away**2).sum(0)) + 1
    push = 0.25 * plan.core_radius * np.exp(-((distance / (2 * plan.core_radius)) ** 2)) * np.clip(hull / 20, 0, 1)
    x, y, z = position = grid.position - push / distance * away
    x = x + grid.field(rng, 60)
    side = np.abs(x)

    # Sulci are the zero sheets of a random field. Reading it near the surface, above each voxel, makes them radial.
    height = 1 - _ellipsoid(position, (65, 81, 62)) / 65
    fold = grid.sample(grid.field(rng, 23), position * np.maximum(height, 0.05) ** -0.6)
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(fold, grid.voxel))) + 0.02
    sulcus = np.abs(fold) / slope + np.maximum(0, hull - 22 - 7 * grid.field(rng, 50))
    # The hemispheres part down to the corpus callosum, and the tentorium lies over the cerebellum.
    callosum = _ellipsoid([x, y - 4, z + 4], (200, 44, 30))
    fissure = side + np.maximum(0, 2 * callosum) + np.maximum(0, -18 - z)
    tentorium = np.abs(_ellipsoid([x, y - 46, z + 38], (50, 33, 26))) + 0.3 * np.maximum(0, 20 - side)
    pial = np.minimum.reduce([hull + 0.5, sulcus, fissure, tentorium])

    width = rng.uniform(0.8, 1.6)  # of all spaces filled with CSF, which grow with age
    bend = 0.006 * np.clip(y + 10, -60, 60) ** 2
    lateral = _ellipsoid([side - 6 - bend, y - 2, z - 12 + bend], (5.5 * width, 42, 8 * width))
    third = _ellipsoid([x, y - 4, z + 6], (2.2 * width, 13, 9))
    nuclei = [
        _ellipsoid([side - 11, y - 8, z + 1], (8, 14, 9)),
        _ellipsoid([side - 25, y + 4, z], (6.5, 19, 11)),
        _ellipsoid([side - 14, y + 20, z - 6], (5, 12, 10)),
    ]
    spots, strands = grid.field(rng, 14), grid.field(rng, 16)
    # What is bright but no tumour: white-matter hyperintensities around the ventricles or scattered, and vessels.
    caps = np.minimum(lateral + 3 + 2 * spots, 10 - callosum)
    sinus = 3 - np.hypot(x, hull - 1) - np.maximum(0, -20 - z)
    return {
        "nucleus": grid.share(np.maximum.reduce(nuclei), 3),
        "hyperintensity": rng.uniform(0.2, 1.0) * grid.share(np.maximum(caps, 4 * (spots - 2.6)), 3),
        "grey": grid.share(rng.uniform(3.0, 3.8) - pial),
        "csf": grid.share(0.5 + 0.3 * width - pial),
        "ventricle": grid.share(np.maximum(lateral, third)),
        "plexus": grid.share(np.minimum.reduce([lateral, 4 * spots - 2, y])),
        "vessel": grid.share(np.maximum(np.minimum(0.7 - pial, 2 * strands - 3), sinus)),
    }


def _tumour(
    rng: np.random.Generator, grid: _Grid, hull: Volume, healthy: dict[str, Volume], plan: _TumourPlan
) -> dict[str, Volume]:
    """Share of each voxel taken by each part of the tumour, in painting order."""
    beyond_midline = np.maximum(0, 2 - grid.position[0] * np.sign(plan.core_centre[0]))
    core = _ellipsoid(grid.position - plan.core_centre, plan.core_radius * np.exp(rng.normal(0, 0.15, 3)))
    core = core + 0.24 * plan.core_radius * grid.field(rng, 1.6 * plan.core_radius) - beyond_midline
    core = np.minimum(core - 6 * healthy["ventricle"], hull - 2)
    # Where the rim's thickness falls to zero the rim is open and necrosis meets oedema.
    rim = plan.core_radius * rng.uniform(0.2, 0.42) * (1 + rng.uniform(0.3, 0.9) * grid.field(rng, 20))
    oedema = _ellipsoid(grid.position - plan.oedema_centre, plan.oedema_radius * np.exp(rng.normal(0, 0.15, 3)))
    oedema = oedema + 0.22 * plan.oedema_radius * grid.field(rng, 32) - 2 * beyond_midline
    # Oedema spreads through white matter, stops at CSF and hardly enters the cortex.
    oedema = np.maximum(oedema - 4 * healthy["grey"], core + 2)
    return {
        "oedema": grid.share(oedema, 4) * (1 - np.maximum(healthy["csf"], healthy["ventricle"])),
        "enhancing": grid.share(core),
        "necrosis": grid.share(core - np.maximum(0, rim)),
    }


def _scan(
    rng: np.random.Generator,
    grid: _Grid,
    brain: NDArray[np.bool_],
    healthy: dict[str, Volume],
    tumour: dict[str, Volume],
) -> dict[str, NDArray[np.int16]]:
    """Paint the tissues over white matter, each with this patient's contrast, then add what a scanner adds."""
    white = np.array(_SIGNAL["white"], dtype=np.float32)[:, None, None, None]
    image = np.repeat(white, brain.size).reshape(4, *brain.shape)
    uneven = 1 + 0.15 * grid.field(rng, 12)
    for name, share in {**healthy, **tumour}.items():
        spread, share = (0.2, share * uneven) if name in tumour else (0.08, share)
        contrast = (np.array(_SIGNAL[name]) - _SIGNAL["white"]) * rng.normal(1, spread, 4)
        image += share * (white + contrast.astype(np.float32)[:, None, None, None] - image)
    image *= brain
    blur = rng.uniform(0.0, 0.12, (4, 1, 1, 1)).astype(np.float32)
    for axis in (1, 2, 3):
        image = (1 - 2 * blur) * image + blur * (np.roll(image, 1, axis) + np.roll(image, -1, axis))
    images = {}
    for modality, volume in zip(MODALITIES, image, strict=True):
        bias = np.exp(0.12 * grid.field(rng, 180))
        noise = rng.uniform(7, 18) * rng.standard_normal((2, *brain.shape), dtype=np.float32)
        measured = np.exp(rng.normal(0, 0.3)) * np.hypot(volume * bias + noise[0], noise[1])  # Rician
        images[modality] = np.where(brain, np.clip(np.rint(measured), 1, 32767), 0).astype(np.int16)
    return images
