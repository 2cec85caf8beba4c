"""MRI artefacts of fixed severity: what a worse scanner, or a patient who moves, would have delivered.

TorchIO computes them, with arguments that follow from a seed and a severity alone. The seed decides the geometry (which
way a head turns, along which axis ghosts lie), the severity only the amount, so that severities can be compared.

TorchIO reads an affine's origin as the point that a head turns about, and loses the edge of a volume that is resampled
to fewer voxels. Every volume is therefore handed to it on axes of its own, with the origin in the middle of the brain,
and its thick slices are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray

from cggm_med.data.volumes.background import background_value
from cggm_med.errors import UnknownName

Volume = NDArray[np.float32]

MOVEMENT = 5.0  # degrees and mm
GHOSTS = 4
BIAS_ORDER = 3
BIAS_TERMS = math.comb(BIAS_ORDER + 3, 3)  # of a polynomial of this order in three variables
MIN_VOXELS = 8  # along an axis that a ghost or a thick slice may lie along


@dataclass(frozen=True)
class Scan:
    """A volume as artefacts see it.

    Attributes:
        signal: ``(x, y, z)``: how far above its darkest voxel the scan is; 0 in the background.
        brain: ``(x, y, z)``: what is not background.
        spacing: voxel size in mm along x, y, z.
    """

    signal: Volume
    brain: NDArray[np.bool_]
    spacing: tuple[float, float, float]

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """Voxels to mm from the middle of the brain, along the volume's own axes."""
        affine = np.diag([*self.spacing, 1.0])
        middle = [np.average(np.arange(n), weights=self._profile(axis)) for axis, n in enumerate(self.brain.shape)]
        affine[:3, 3] = -np.multiply(middle, self.spacing)
        return affine

    @property
    def deviation(self) -> float:
        """Standard deviation of the signal in the brain."""
        return float(self.signal[self.brain].std(dtype=np.float64))

    def apply(self, *transforms: tio.Transform) -> Volume:
        """The signal after TorchIO's transforms."""
        image = tio.ScalarImage(tensor=torch.from_numpy(self.signal)[None], affine=self.affine)
        for transform in transforms:
            image = transform(image)
        changed: Volume = image.data[0].numpy()
        return changed

    def draw_axis(self, random: np.random.Generator, candidates: Sequence[int] = (0, 1, 2)) -> int:
        """One of some axes, of those that are long enough; the longest if none is."""
        long = [axis for axis in candidates if self.signal.shape[axis] >= MIN_VOXELS]
        return int(random.choice(long or [int(np.argmax(self.signal.shape))]))

    def _profile(self, axis: int) -> NDArray[np.int64]:
        """How many voxels of the brain each slice has."""
        counts: NDArray[np.int64] = self.brain.sum(axis=tuple(a for a in range(3) if a != axis))
        return counts


@dataclass(frozen=True)
class Artefact:
    """What is done to a scan, and how much of it at each severity.

    Attributes:
        description: in one sentence.
        unit: of the amounts.
        amounts: at severity 1, 2 and so on.
        apply: changes the signal of a scan by an amount; draws all that is random from the generator.
    """

    description: str
    unit: str
    amounts: tuple[float, ...]
    apply: Callable[[Scan, float, np.random.Generator], Volume]

    def amount(self, severity: int) -> float:
        """How much there is of it at a severity; nothing at 0.

        Raises:
            UnknownName: for a severity that does not exist.
        """
        if severity not in (0, *SEVERITIES):
            raise UnknownName("severity", str(severity), map(str, SEVERITIES))
        return self.amounts[severity - 1] if severity else 0.0


def corrupt(volume: Volume, spacing: Sequence[float], artefact: str, severity: int, seed: int) -> Volume:
    """A scan with an artefact: only where it is not background, and the same bits for the same arguments.

    The background is the constant that surrounds a skull-stripped brain. What an artefact would put there, a pipeline
    that strips the skull takes away again. A scan without constant background is changed everywhere.

    Args:
        volume: ``(x, y, z)``, as it is in the file; any affine change of its numbers gives the same artefact.
        spacing: voxel size in mm along x, y, z.
        artefact: name.
        severity: 0 (the scan itself) to 5.
        seed: of the geometry, which is the same at every severity.

    Returns:
        A new volume on the same grid. Values may lie outside the range of the scan, as TorchIO leaves them.

    Raises:
        UnknownName: for an artefact or severity that does not exist.

    Example:
        >>> scan = np.zeros((12, 12, 12), np.float32)
        >>> scan[3:9, 3:9, 3:9] = np.arange(1, 217).reshape(6, 6, 6)
        >>> noisy = corrupt(scan, (1, 1, 1), "noise", 5, seed=0)
        >>> bool((noisy[scan == 0] == 0).all()), round(float((noisy - scan)[scan > 0].std() / scan[scan > 0].std()), 1)
        (True, 1.0)
    """
    if artefact not in ARTEFACTS:
        raise UnknownName("artefact", artefact, ARTEFACTS)
    amount = ARTEFACTS[artefact].amount(severity)
    if not severity:
        return volume.copy()
    background = background_value(volume)
    brain = np.full(volume.shape, True) if background is None else volume != background
    darkest = volume.min()
    x, y, z = (float(mm) for mm in spacing)
    scan = Scan(np.where(brain, volume - darkest, np.float32(0)), brain, (x, y, z))
    random = np.random.Generator(np.random.Philox(seed))
    with torch.random.fork_rng(devices=[]):  # every transform of TorchIO draws once, whether it is random or not
        changed = ARTEFACTS[artefact].apply(scan, amount, random)
    return np.where(brain, changed + darkest, volume).astype(np.float32, copy=False)


def _motion(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    way = random.normal(size=(2, 2, 3))
    degrees, translation = MOVEMENT * way / np.linalg.norm(way, axis=-1, keepdims=True)
    # TorchIO takes the middle of k-space from the head that has not moved; what lies before the first time and after
    # the second is from two other positions.
    first = amount * random.uniform(0.4, 0.6)
    return scan.apply(tio.Motion(degrees, translation, np.array([first, 1 - amount + first]), "linear"))


def _ghosting(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    return scan.apply(tio.Ghosting(GHOSTS, scan.draw_axis(random), amount, restore=None))


def _bias(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    coefficients = random.uniform(-1, 1, BIAS_TERMS).tolist()
    exponent = np.log(tio.BiasField.generate_bias_field(scan.signal[None], BIAS_ORDER, coefficients))
    low, middle, high = np.percentile(exponent[scan.brain], [5, 50, 95])
    # A field that is the same everywhere, as over a single voxel, cannot be stretched.
    scale = math.log(amount) / (high - low) if high > low else 0.0
    return scan.signal * np.exp((exponent - middle) * scale).astype(np.float32)


def _spike(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    shape = np.array(scan.signal.shape)
    # Waves of 4 to 20 voxels along each axis: stripes that can be seen.
    steps = np.clip(np.round(random.uniform(0.05, 0.25, 3) * shape), 1, (shape - 1) // 2)
    place = shape // 2 + steps * random.choice([-1, 1], 3)
    # TorchIO measures a spike by the largest value in k-space, which for a signal without negative values is its sum.
    intensity = amount * scan.deviation / float(scan.signal.mean(dtype=np.float64))
    return scan.apply(tio.Spike((place[None] + 0.5) / shape, intensity))


def _noise(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    return scan.apply(tio.Noise(0.0, amount * scan.deviation, int(random.integers(2**32))))


def _anisotropy(scan: Scan, amount: float, random: np.random.Generator) -> Volume:
    finest = [axis for axis, mm in enumerate(scan.spacing) if mm <= 1.1 * min(scan.spacing)]
    axis = scan.draw_axis(random, finest)
    shape, affine = list(scan.signal.shape), scan.affine.copy()
    slices = math.ceil(shape[axis] / amount)
    # The slices lie around the middle of the volume and cover all of it.
    affine[axis, 3] += ((shape[axis] - 1) / 2 - (slices - 1) / 2 * amount) * scan.spacing[axis]
    affine[axis, axis] *= amount
    shape[axis] = slices
    # A slice profile whose full width at half maximum, together with the voxel's own, is the slice's thickness.
    profile = np.zeros(3)
    profile[axis] = scan.spacing[axis] * math.sqrt((amount**2 - 1) / (8 * math.log(2)))
    thick = tio.Resample((tuple(shape), affine))
    return scan.apply(tio.Blur(profile), thick, tio.Resample((scan.signal.shape, scan.affine)))


SEVERITIES = (1, 2, 3, 4, 5)
ARTEFACTS: Mapping[str, Artefact] = {
    "motion": Artefact(
        f"TorchIO Motion: the outer parts of k-space, along the third axis of the file, show the head in two other "
        f"positions, each turned by {MOVEMENT:g} degrees about the middle of the brain and shifted by {MOVEMENT:g} mm",
        "share of k-space that shows the head elsewhere",
        (0.1, 0.2, 0.4, 0.6, 0.8),
        _motion,
    ),
    "ghosting": Artefact(
        f"TorchIO Ghosting: every {GHOSTS}th plane of k-space but the central one is weakened along an axis that is "
        f"drawn, which lays {GHOSTS - 1} ghosts over the image",
        "share by which these planes are weakened; each ghost has a quarter of it",
        (0.2, 0.4, 0.6, 0.8, 1.0),
        _ghosting,
    ),
    "bias": Artefact(
        f"TorchIO BiasField: the exponential of a polynomial of order {BIAS_ORDER} with coefficients that are drawn",
        "gain at the 95th over gain at the 5th percentile of the brain",
        (1.25, 1.5, 2.0, 3.0, 4.0),
        _bias,
    ),
    "spike": Artefact(
        "TorchIO Spike: one spike in k-space, which lays stripes of 4 to 20 voxels along each axis over the image",
        "amplitude of the stripes in standard deviations of the brain's signal",
        (0.25, 0.5, 1.0, 1.5, 2.0),
        _spike,
    ),
    "noise": Artefact(
        "TorchIO Noise: Gaussian, independent in every voxel",
        "standard deviation of the noise in standard deviations of the brain's signal",
        (0.1, 0.25, 0.5, 0.75, 1.0),
        _noise,
    ),
    "anisotropy": Artefact(
        "TorchIO Blur and Resample: thick slices along one of the axes with the smallest voxels, brought back to the "
        "grid by linear interpolation",
        "thickness of a slice in voxels",
        (1.5, 2.0, 3.0, 4.0, 5.0),
        _anisotropy,
    ),
}
