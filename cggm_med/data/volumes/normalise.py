"""Normalisation of intensities that is the same for every case, from statistics of the training cases.

An MRI has no unit, so that each image is z-scored by itself (``network_grid.to_network``). A CT or a quantitative map
has one, which this keeps: the same tissue is the same input of the network in every patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Normalisation = Literal["z_score", "training_statistics", "keep_scale"]
PERCENTILES = (0.5, 99.5)  # between which intensities are kept, as in nnU-Net (Isensee et al. 2021)
MIN_DEVIATION = 1e-8  # as in nnU-Net; of intensities that are all the same


@dataclass(frozen=True)
class Rescaling:
    """One change of a modality's intensities for all cases: ``(clip(value, low, high) - mean) / deviation``.

    Attributes:
        mean, deviation: in the unit of the images; the deviation is more than 0.
        low, high: what is beyond is clipped; None: nothing is.

    Example:
        >>> Rescaling(mean=50, deviation=100, low=-100, high=250)(np.array([-1000, 50, 900], np.float32)).tolist()
        [-1.5, 0.0, 2.0]
    """

    mean: float
    deviation: float
    low: float | None = None
    high: float | None = None

    def __call__(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        """The volume after it, in single precision."""
        changed = volume.astype(np.float32)
        if self.low is not None or self.high is not None:
            np.clip(changed, self.low, self.high, out=changed)
        changed -= np.float32(self.mean)
        changed /= np.float32(self.deviation)
        return changed

    @property
    def keeps_zero(self) -> bool:
        """Whether 0 stays 0, so that it can be the background."""
        return self.mean == 0 and self.low is None and self.high is None

    @property
    def settings(self) -> dict[str, float]:
        """Its numbers by name, without those that are None."""
        return {name: number for name, number in asdict(self).items() if number is not None}


def rescaling_of(normalisation: Normalisation, samples: Sequence[NDArray[np.floating]]) -> Rescaling:
    """The change of a modality's intensities that its training cases lead to.

    ``training_statistics``: clip to the 0.5 and 99.5 percentiles of what was sampled, then z-score by its mean and
    deviation, as nnU-Net treats CT. ``keep_scale``: divide by the root mean square of what was sampled, so that 0 stays
    0 and twice the uptake is twice the input.

    Args:
        normalisation: one of these two.
        samples: of each training case, intensities of the voxels that ``sampled`` takes.

    Example:
        >>> rescaling_of("keep_scale", [np.array([3.0]), np.array([4.0, 5.0, 0.0])]).deviation
        3.5355339059327378
    """
    values = np.concatenate([sample.astype(np.float64) for sample in samples])
    if normalisation == "keep_scale":
        return Rescaling(0.0, max(float(np.sqrt(np.mean(values**2))), MIN_DEVIATION))
    low, high = np.percentile(values, PERCENTILES).tolist()
    return Rescaling(float(values.mean()), max(float(values.std()), MIN_DEVIATION), low, high)


def sampled(
    normalisation: Normalisation, volume: NDArray[np.float32], labelled: NDArray[np.bool_], most: int
) -> NDArray[np.float32]:
    """The intensities of a training case that count: at most ``most``, evenly spread over the volume.

    Args:
        normalisation: ``training_statistics`` takes voxels of regions, ``keep_scale`` those that are not 0.
        volume: ``(x, y, z)``.
        labelled: the same shape, where any region is.
        most: number of voxels.
    """
    values = volume[labelled if normalisation == "training_statistics" else volume != 0]
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).astype(np.int64)]
