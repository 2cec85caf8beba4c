"""What a scanner makes of a head: signal of each tissue in each modality, movement, texture, bias, blur and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.config import require
from cggm_med.data.volumes.phantom.grid import Grid, Volume
from cggm_med.errors import UnknownName

MODALITIES = ("flair", "t1", "t1ce", "t2")

# Signal of each tissue in the order of MODALITIES, in scanner units.
_SIGNAL = {
    "white": (290, 440, 430, 420),
    "grey": (325, 300, 305, 560),
    "nucleus": (315, 355, 350, 490),
    "hyperintensity": (470, 395, 385, 640),
    "csf": (110, 80, 80, 1500),
    "ventricle": (60, 60, 60, 1800),
    "flow": (430, 80, 80, 1500),
    "plexus": (330, 300, 700, 1100),
    "vessel": (200, 300, 700, 380),
    "calcification": (270, 600, 610, 330),
    # Each modality has a part of its own: FLAIR faint oedema, T2 wet oedema, T1ce the enhancing rim, and T1 what solid
    # tumour is beside oedema, and blood beside the rim, which is as bright after contrast agent but not before it.
    "oedema": (475, 395, 385, 520),
    "wet oedema": (325, 385, 375, 880),
    "enhancing": (410, 370, 680, 720),
    "necrosis": (330, 250, 205, 1150),
    "solid": (460, 275, 375, 540),
    "blood": (370, 640, 690, 560),
}
_TUMOUR = ("oedema", "wet oedema", "enhancing", "necrosis", "solid", "blood")
# Standard deviations of texture and noise. In white matter texture has .11, .05, .08 and .13 of the mean; all that the
# slices of BRATS 2013 with four modalities show there is .09 to .12, .05 to .07, .06 to .14 and .12 to .15. Noise is
# stronger than in patients, since no look-up table of intensities should solve the phantom.
_TEXTURE, _TEXTURE_MM = (31, 21, 33, 56), 5.0
_NOISE = (47, 32, 50, 85)
_COMMON_BIAS, _OWN_BIAS, _BIAS_MM = 0.08, 0.04, 150.0
_SHIFT_MM, _TURN_DEGREES = 0.5, 0.5  # that registration leaves between modalities


@dataclass(frozen=True)
class Scanner:
    """How a modality is acquired.

    Attributes:
        noise: factor on texture and noise.
        contrast: factor on what sets the tumour apart from white matter.
        resolution_mm: edge of the acquired voxels; 0: that of the grid.
        slice_mm: thickness of the acquired axial slices; 0: as ``resolution_mm``.
    """

    noise: float = 1.0
    contrast: float = 1.0
    resolution_mm: float = 0.0
    slice_mm: float = 0.0


# Named settings of the scanners, by modality; those that are not named have the default.
PRESETS: Mapping[str, Mapping[str, Scanner]] = {
    "balanced": {},
    # One modality that shows much of every region at once, beside three that know what it does not show.
    "imbalanced": {
        "flair": Scanner(noise=1.5, contrast=0.8, resolution_mm=4),
        "t1": Scanner(noise=1.5, contrast=0.8, resolution_mm=4),
        "t1ce": Scanner(noise=0.5, contrast=1.3),
        "t2": Scanner(noise=1.5, contrast=0.8, resolution_mm=4),
    },
    # As 2-D sequences are acquired: thin slices of T1ce alone.
    "thick_slices": {"flair": Scanner(slice_mm=5), "t1": Scanner(slice_mm=5), "t2": Scanner(slice_mm=5)},
}


def scanners_of(preset: str, changes: Mapping[str, Mapping[str, float]], key: str) -> dict[str, Scanner]:
    """The scanner of each modality: those of a preset, with changes.

    Args:
        preset: a name of ``PRESETS``.
        changes: by modality, values by attribute of ``Scanner``.
        key: what messages call the changes.

    Raises:
        UnknownName: for an unknown preset, modality or attribute.
        ConfigError: for an impossible value.

    Example:
        >>> scanners_of("balanced", {"t1ce": {"noise": 2}}, "scanners")["t1ce"]
        Scanner(noise=2, contrast=1.0, resolution_mm=0.0, slice_mm=0.0)
    """
    if preset not in PRESETS:
        raise UnknownName("preset of the phantom", preset, PRESETS)
    for modality, values in changes.items():
        if modality not in MODALITIES:
            raise UnknownName(f"modality of {key}", modality, MODALITIES)
        known = [field.name for field in fields(Scanner)]
        for name, value in values.items():
            if name not in known:
                raise UnknownName(f"value of {key}.{modality}", name, known)
            require(0 <= value < math.inf, f"{key}.{modality}.{name}", value, "at least 0 and finite")
    chosen = {modality: PRESETS[preset].get(modality, Scanner()) for modality in MODALITIES}
    return {modality: replace(scanner, **changes.get(modality, {})) for modality, scanner in chosen.items()}


def scan(
    seed: tuple[int, ...],
    grid: Grid,
    brain: NDArray[np.bool_],
    tissue: Mapping[str, Volume],
    scanners: Mapping[str, Scanner],
) -> dict[str, NDArray[np.int16]]:
    """Scan a head: signal ``(x, y, z)`` of each modality, 0 outside the brain, at least 1 inside.

    Each modality draws from a generator of its own, so that another scanner of one changes no other image.

    Args:
        seed: of the random numbers.
        grid: of the phantom.
        brain: which voxels are in the brain.
        tissue: share of each voxel, in painting order, of what replaces white matter.
        scanners: of every modality.
    """
    rng = np.random.default_rng(seed)
    contrast = {name: rng.normal(0, 0.2 if name in _TUMOUR else 0.12, len(MODALITIES)) for name in tissue}
    uneven = 1 + 0.3 * grid.field(rng, 12)
    bias = _COMMON_BIAS * grid.field(rng, _BIAS_MM)
    images = {}
    for number, modality in enumerate(MODALITIES):
        scanner, own = scanners[modality], np.random.default_rng((*seed, number))
        white = _SIGNAL["white"][number]
        head = np.full(grid.shape, white, dtype=np.float32)
        for name, share in tissue.items():
            signal = (_SIGNAL[name][number] - white) * np.float32(np.exp(contrast[name][number]))
            head += share * (white + (scanner.contrast * signal * uneven if name in _TUMOUR else signal) - head)
        spread = scanner.noise * own.uniform(0.8, 1.2)
        head = _moved(own, grid, head * brain)
        head += np.float32(spread * _TEXTURE[number]) * grid.texture(own, _TEXTURE_MM)
        head *= np.exp(bias + _OWN_BIAS * grid.field(own, _BIAS_MM))
        head = _acquired(own, grid, head, spread * _NOISE[number], scanner) * np.exp(own.normal(0, 0.3))
        images[modality] = np.where(brain, np.clip(np.rint(head), 1, 32767), 0).astype(np.int16)
    return images


def _moved(rng: np.random.Generator, grid: Grid, head: Volume) -> Volume:
    """The head after a small movement."""
    x, y, z = np.radians(rng.normal(0, _TURN_DEGREES, 3))
    turn = np.array([[1, -z, y], [z, 1, -x], [-y, x, 1]], dtype=np.float32)  # by small angles
    shift = rng.normal(0, _SHIFT_MM, (3, 1, 1, 1)).astype(np.float32)
    return grid.sample(head, np.tensordot(turn, grid.position, 1) + shift)


def _acquired(rng: np.random.Generator, grid: Grid, head: Volume, noise: float, scanner: Scanner) -> Volume:
    """The head on the acquired voxels, with Rician noise, brought back to the grid."""
    edges = (scanner.resolution_mm, scanner.resolution_mm, max(scanner.resolution_mm, scanner.slice_mm))
    size = [max(2, round(n * grid.voxel / max(edge, grid.voxel))) for n, edge in zip(grid.shape, edges, strict=True)]
    coarse = torch.nn.functional.interpolate(torch.from_numpy(head)[None, None], size, mode="area")[0, 0].numpy()
    real, imaginary = np.float32(noise) * rng.standard_normal((2, *size), dtype=np.float32)
    measured = torch.from_numpy(np.hypot(coarse + real, imaginary))[None, None]
    return torch.nn.functional.interpolate(measured, grid.shape, mode="trilinear", align_corners=False)[0, 0].numpy()
