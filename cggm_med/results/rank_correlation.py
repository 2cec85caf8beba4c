"""Whether one number puts cases into the order of another: Spearman's rank correlation, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cggm_med.results.tables import rounded

Array = NDArray[np.float64]
MIN_PATIENTS = 5  # of four, even the perfect order comes by chance in one of 24
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of two numbers over cases.

    Attributes:
        cases: how many.
        value: in [-1, 1]; None of fewer than ``MIN_PATIENTS`` patients, or where one number is the same for all.
        low, high: ends of its 95 % interval; None also at a value of 1 or -1, since every resample has the same one.
    """

    cases: int
    value: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def brief(self) -> str:
        """Value and interval, without which it is shown nowhere.

        Example:
            >>> RankCorrelation(12, 0.61, 0.02, 0.9).brief, RankCorrelation(3).brief, RankCorrelation(6, 1.0).brief
            ('0.61 (0.02 to 0.90)', '-', '1.00 (interval unknown)')
        """
        if self.value is None:
            return "-"
        interval = "interval unknown" if self.low is None else f"{rounded(self.low, 2)} to {rounded(self.high, 2)}"
        return f"{rounded(self.value, 2)} ({interval})"


def rank_correlation(x: Sequence[float], y: Sequence[float], patients: Sequence[str]) -> RankCorrelation:
    """Spearman's rank correlation, and its percentile interval when patients are resampled with all of their cases.

    Args:
        x: a number of each case.
        y: another.
        patients: whose case it is.

    Example:
        >>> rank_correlation([1, 2, 3, 4, 5], [1, 3, 2, 5, 4], "abcde").value  # 1 - 6 (0 + 1 + 1 + 1 + 1) / 120
        0.8
    """
    kinds, of_case = np.unique(np.array(list(patients), dtype=str), return_inverse=True)
    if len(kinds) < MIN_PATIENTS or len(set(x)) == 1 or len(set(y)) == 1:
        return RankCorrelation(len(x))
    value = float(_weighted_spearman(x, y, np.ones((1, len(x))))[0])
    if abs(value) == 1:
        return RankCorrelation(len(x), value)
    random = np.random.Generator(np.random.Philox(0))
    times = random.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=RESAMPLES)
    resampled = _weighted_spearman(x, y, times[:, of_case].astype(float))
    # A resample in which all cases have the same number has no order.
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return RankCorrelation(len(x), value, low, high)


def _weighted_spearman(x: ArrayLike, y: ArrayLike, times: Array) -> Array:
    """The correlation of resamples that hold each case so many times, ``(resample, case)``; NaN where it has none."""
    first, second = (_ranks(np.asarray(values, float), times) for values in (x, y))
    size = times.sum(1, keepdims=True)
    first, second = (ranks - (times * ranks).sum(1, keepdims=True) / size for ranks in (first, second))
    product = (times * first * second).sum(1)
    spread = np.sqrt((times * first**2).sum(1) * (times * second**2).sum(1))
    # Ranks are halves, so that a spread is 0 or far from it.
    return np.divide(product, spread, out=np.full(len(times), np.nan), where=spread > 1e-6).clip(-1, 1).round(12)


def _ranks(values: Array, times: Array) -> Array:
    """Ranks of the cases in each resample, ``(resample, case)``; equal values share the mean of their ranks."""
    distinct, place = np.unique(values, return_inverse=True)
    of_value = times @ (place[:, None] == np.arange(len(distinct))).astype(float)
    return (of_value.cumsum(1) - of_value / 2 + 0.5)[:, place]
