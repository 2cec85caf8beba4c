"""How far predicted probabilities are from observed frequencies, and the temperature that brings them closer.

Pure functions on weighted predictions. Definitions: Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
https://arxiv.org/abs/1706.04599. A temperature T divides all logits: T above 1 makes a network less sure. It keeps
their order and their signs, so neither the predicted class nor a mask at threshold 0.5 ever changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logit, softmax

BINS = 15  # equal in width, over [0, 1], as in Guo et al.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # bounds of the search
STEPS_PER_UNIT = 512  # of counted log-odds, so that a probability is off by at most 0.00025
MAX_LOG_ODDS = 16  # larger ones are counted as this; in single precision, 1 - 1 / (1 + e^16) is almost 1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Predictions of similar confidence.

    Attributes:
        share: of all predictions.
        confidence: their mean probability; None in an empty bin.
        frequency: how often they are right; None in an empty bin.
    """

    share: float
    confidence: float | None
    frequency: float | None


@dataclass(frozen=True)
class Calibration:
    """How well predictions are calibrated; lower is better in all four.

    Attributes:
        ece: expected calibration error, the mean of |frequency - confidence| over bins, weighted with their shares.
        mce: maximum calibration error, the largest of them; a bin of a few predictions counts like any other.
        brier: mean squared difference between probabilities and the truth; summed over classes, if any.
        nll: mean negative log-likelihood of the truth, in nats.
        count: number of predictions.
        bins: that the first two are computed from.
    """

    ece: float
    mce: float
    brier: float
    nll: float
    count: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class ClassPredictions:
    """Mutually exclusive classes. Calibration is that of the predicted class (top-label).

    Args:
        logits: ``(sample, class)``.
        true: ``(sample,)`` class numbers.

    Example:
        >>> found = ClassPredictions(np.log([[0.8, 0.2]] * 5), np.array([0, 0, 0, 0, 1])).scores()
        >>> round(abs(found.ece), 6), round(found.brier, 2)
        (0.0, 0.32)
    """

    logits: Array
    true: NDArray[np.int64]

    def scores(self, temperature: float = 1.0) -> Calibration | None:
        """Calibration at a temperature; None if there is no prediction."""
        if not len(self.true):
            return None
        probability = softmax(self.logits / temperature, axis=1)
        of_true = np.take_along_axis(log_softmax(self.logits / temperature, axis=1), self.true[:, None], axis=1)
        right = probability.argmax(axis=1) == self.true
        one_hot = np.arange(self.logits.shape[1]) == self.true[:, None]
        return _calibration(
            probability.max(axis=1),
            right.astype(np.float64),
            np.ones(len(self.true)),
            brier=float(((probability - one_hot) ** 2).sum(axis=1).mean()),
            nll=float(-of_true.mean()),
        )

    def slope(self, inverse: float) -> float:
        """Derivative of the summed negative log-likelihood, a convex function, by the inverse of the temperature."""
        expected = (softmax(self.logits * inverse, axis=1) * self.logits).sum(axis=1)
        return float((expected - np.take_along_axis(self.logits, self.true[:, None], axis=1)[:, 0]).sum())


@dataclass(frozen=True)
class RegionPredictions:
    """Voxels inside and outside a region, counted by log-odds. Calibration is that of the region's probability.

    Any number of voxels takes the same memory, and counts of several cases add up.

    Args:
        counts: ``(2, 2 * MAX_LOG_ODDS * STEPS_PER_UNIT + 1)``: voxels outside and inside the region, by log-odds in
            steps of ``1 / STEPS_PER_UNIT`` from ``-MAX_LOG_ODDS``.

    Example:
        >>> p = np.array([0.25, 0.25, 0.25, 0.25])
        >>> found = RegionPredictions.count(p, np.array([True, False, False, False])).scores()
        >>> round(found.ece, 3), round(found.brier, 4), found.count
        (0.0, 0.1875, 4)
    """

    counts: NDArray[np.int64]

    @classmethod
    def count(cls, probability: NDArray[np.floating], inside: NDArray[np.bool_]) -> RegionPredictions:
        """Count voxels by their probability of the region and whether they are inside it; both arrays of one shape."""
        with np.errstate(divide="ignore"):  # of probabilities that are exactly 0 or 1
            odds = logit(probability.astype(np.float64)).clip(-MAX_LOG_ODDS, MAX_LOG_ODDS)
        place = np.rint((odds + MAX_LOG_ODDS) * STEPS_PER_UNIT).astype(np.int64).ravel()
        size = len(LOG_ODDS)
        both = np.bincount(place + size * inside.ravel(), minlength=2 * size)
        return cls(both.reshape(2, size))

    def scores(self, temperature: float = 1.0) -> Calibration | None:
        """Calibration at a temperature; None if there is no prediction."""
        weight = self.counts.sum(axis=0)
        kept = weight > 0
        if not kept.any():
            return None
        outside, inside = self.counts[:, kept].astype(np.float64)
        odds, total = LOG_ODDS[kept] / temperature, float(weight.sum())
        p = expit(odds)
        # log(1 + e^z) is -log(1 - p), without the digits that 1 - p loses
        nll = inside @ np.logaddexp(0, -odds) + outside @ np.logaddexp(0, odds)
        brier = inside @ (1 - p) ** 2 + outside @ p**2
        return _calibration(
            p, inside / (inside + outside), inside + outside, brier=float(brier / total), nll=float(nll / total)
        )

    def slope(self, inverse: float) -> float:
        """Derivative of the summed negative log-likelihood, a convex function, by the inverse of the temperature."""
        outside, inside = self.counts
        return float(((outside + inside) * expit(LOG_ODDS * inverse) - inside) @ LOG_ODDS)


LOG_ODDS: Array = np.arange(-MAX_LOG_ODDS * STEPS_PER_UNIT, MAX_LOG_ODDS * STEPS_PER_UNIT + 1) / STEPS_PER_UNIT


def fit_temperature(slope: Callable[[float], float]) -> float:
    """The temperature with the lowest negative log-likelihood, between ``MIN_TEMPERATURE`` and ``MAX_TEMPERATURE``.

    The likelihood is convex in 1 / T, so its slope has one zero, which bracketing finds without a start value or random
    numbers.

    Args:
        slope: of the predictions; a sum of several slopes fits all of them together.

    Example:
        >>> odds = np.log([[0.8, 0.2]] * 5)
        >>> round(fit_temperature(ClassPredictions(3 * odds, np.array([0, 0, 0, 0, 1])).slope), 6)
        3.0
    """
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(1.0) == 0:
        return 1.0  # also where there is nothing to fit: no prediction, or all logits equal
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    return 1 / float(brentq(slope, low, high, xtol=1e-12, rtol=1e-12))


def at_limit(temperature: float) -> bool:
    """Whether the best temperature may lie outside the bounds of the search."""
    return math.isclose(temperature, MAX_TEMPERATURE) or math.isclose(temperature, MIN_TEMPERATURE)


def _calibration(confidence: Array, frequency: Array, weight: Array, *, brier: float, nll: float) -> Calibration:
    """Scores of weighted predictions; a confidence on the border of two bins belongs to the lower one."""
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")
    total = weight.sum()
    of_bin = np.bincount(place, weight, BINS)
    held = of_bin > 0
    divisor = np.where(held, of_bin, 1)
    mean_confidence = np.bincount(place, weight * confidence, BINS) / divisor
    mean_frequency = np.bincount(place, weight * frequency, BINS) / divisor
    gap = np.abs(mean_frequency - mean_confidence)
    return Calibration(
        ece=float(gap @ of_bin / total),
        mce=float(gap[held].max()),
        brier=brier,
        nll=nll,
        count=int(total),
        bins=tuple(
            Bin(float(n / total), float(c) if n else None, float(f) if n else None)
            for n, c, f in zip(of_bin, mean_confidence, mean_frequency, strict=True)
        ),
    )
