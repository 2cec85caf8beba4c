"""Probabilities of regions at another temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from cggm_med.data.volumes.labels import THRESHOLD

BELOW_THRESHOLD = np.nextafter(np.float32(THRESHOLD), np.float32(0))


def at_temperatures(probability: NDArray[np.float32], temperatures: Sequence[float]) -> NDArray[np.float32]:
    """Each region's log-odds divided by its temperature; what was below one half stays below it, to the last bit.

    Args:
        probability: ``(region, x, y, z)`` in [0, 1].
        temperatures: one each.

    Example:
        >>> two = np.array([0.8, 0.5], np.float32).reshape(1, 2, 1, 1)
        >>> at_temperatures(two, [2.0]).ravel().tolist()  # odds of 4 become their root, 2
        [0.6666666865348816, 0.5]
    """
    scaled = np.empty_like(probability)
    for region, (p, temperature) in enumerate(zip(probability, temperatures, strict=True)):
        with np.errstate(divide="ignore"):  # of probabilities that are exactly 0 or 1
            scaled[region] = expit(logit(p.astype(np.float64)) / temperature)
        # Rounded to single precision, what lies very little below one half would reach it.
        np.minimum(scaled[region], BELOW_THRESHOLD, out=scaled[region], where=p < THRESHOLD)
    return scaled
