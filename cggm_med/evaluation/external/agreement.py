"""How far two measurements of the same volumes agree: Bland-Altman and intraclass correlation, over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Interval = tuple[float, float] | None

LEVEL = 0.95
Z = float(stats.norm.isf((1 - LEVEL) / 2))
MIN_PATIENTS = 5  # whose values can be drawn again; below, no interval
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None for each that is not defined."""

    value: float | None
    interval: Interval = None


@dataclass(frozen=True)
class Agreement:
    """How far predicted volumes agree with true ones.

    Attributes:
        bias: mean of predicted minus true.
        low, high: limits of agreement, between which 95 % of normally distributed differences lie.
        icc: ICC(2,1), absolute agreement.
        cases: of how many.
    """

    bias: Estimate
    low: Estimate
    high: Estimate
    icc: Estimate
    cases: int


def agreement(predicted: Sequence[float], true: Sequence[float], patients: Sequence[str]) -> Agreement:
    """Bland-Altman and ICC of pairs of volumes.

    Where every patient has one case, intervals are those of the papers (Bland and Altman 1999,
    https://doi.org/10.1177/096228029900800204; McGraw and Wong 1996, https://doi.org/10.1037/1082-989X.1.1.30), which
    take pairs as independent. Where some have several, whole patients are drawn again, see ``bootstrap_means``.

    Args:
        predicted: of each case.
        true: of each case, in the same unit.
        patients: of each case.

    Example:
        >>> found = agreement([1.0, 3.0, 4.0], [1.0, 2.0, 3.0], ["a", "b", "c"])
        >>> round(found.bias.value, 3), round(found.low.value, 3), round(found.high.value, 3), round(found.icc.value, 3)
        (0.667, -0.465, 1.798, 0.818)
    """
    pairs = np.column_stack([np.asarray(predicted, float), np.asarray(true, float)])
    cases = len(pairs)
    if len(set(patients)) < cases:
        ends = _bootstrap(pairs, patients, lambda x: (*bland_altman(x[:, 0] - x[:, 1]), icc(x)))
        return Agreement(ends[0], ends[1], ends[2], ends[3], cases)
    bias, low, high = bland_altman(pairs[:, 0] - pairs[:, 1])
    if cases < 2:
        return Agreement(Estimate(bias), Estimate(None), Estimate(None), Estimate(None), cases)
    reach = float(stats.t.isf((1 - LEVEL) / 2, cases - 1)) * (high - bias) / Z
    of_bias, of_limit = reach * math.sqrt(1 / cases), reach * math.sqrt(1 / cases + Z**2 / (2 * (cases - 1)))
    return Agreement(
        Estimate(bias, (bias - of_bias, bias + of_bias)),
        Estimate(low, (low - of_limit, low + of_limit)),
        Estimate(high, (high - of_limit, high + of_limit)),
        Estimate(_finite(icc(pairs)), icc_interval(pairs)),
        cases,
    )


def bland_altman(differences: Array) -> tuple[float, float, float]:
    """Bias and limits of agreement of differences; the limits are NaN for a single one.

    Example:
        >>> [round(x, 2) for x in bland_altman(np.array([1.0, 2.0, 3.0]))]
        [2.0, 0.04, 3.96]
    """
    bias = float(differences.mean())
    reach = Z * float(differences.std(ddof=1)) if len(differences) > 1 else math.nan
    return bias, bias - reach, bias + reach


def icc(ratings: Array) -> float:
    """ICC(2,1) of Shrout and Fleiss 1979: two-way random effects, absolute agreement of single ratings.

    Args:
        ratings: ``(case, rater)``.

    Returns:
        At most 1; NaN for fewer than two cases, or where all ratings are the same.

    Example:
        >>> icc(np.array([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]]))
        1.0
    """
    n, k = ratings.shape
    if n < 2:
        return math.nan
    rows, columns, rest = _mean_squares(ratings)
    total = rows + (k - 1) * rest + k * (columns - rest) / n
    return float((rows - rest) / total) if total > 1e-15 * np.abs(ratings).max() ** 2 else math.nan


def icc_interval(ratings: Array) -> Interval:
    """95 % interval of ``icc`` by McGraw and Wong 1996, Table 7, ICC(A,1); None where it is not defined."""
    n, k = ratings.shape
    value = icc(ratings)
    if n < 3 or math.isnan(value) or value == 1:
        return None
    rows, columns, rest = _mean_squares(ratings)
    a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * rest) ** 2 / ((a * columns) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1)))
    upper, lower = (float(stats.f.isf((1 - LEVEL) / 2, *of)) for of in ((n - 1, freedom), (freedom, n - 1)))
    rest_of = k * columns + (k * n - k - n) * rest
    return (
        float(n * (rows - upper * rest) / (upper * rest_of + n * rows)),
        float(n * (lower * rows - rest) / (rest_of + n * lower * rows)),
    )


def bootstrap_means(values: Array, patients: Sequence[str]) -> list[Estimate]:
    """Means over cases with 95 % intervals: whole patients are drawn again, with replacement.

    The percentiles lie as far out as those of a t-distribution, since plain ones of few patients are too near (expanded
    percentile interval, Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789).

    Args:
        values: ``(case, number)``.
        patients: of each case.

    Returns:
        One for each number; without an interval below ``MIN_PATIENTS`` patients.

    Example:
        >>> (mean,) = bootstrap_means(np.arange(20.0)[:, None], [str(i) for i in range(20)])
        >>> mean.value, mean.interval[0] < 7.1, mean.interval[1] > 11.9
        (9.5, True, True)
    """
    names, of = np.unique(np.asarray(patients), return_inverse=True)
    sums, cases = np.zeros((len(names), values.shape[1])), np.bincount(of)
    np.add.at(sums, of, values)
    draws = _draws(len(names))
    weights = np.stack([np.bincount(draw, minlength=len(names)) for draw in draws])
    return _estimates(values.mean(axis=0).tolist(), weights @ sums / (weights @ cases)[:, None], len(names))


def _bootstrap(values: Array, patients: Sequence[str], statistic: Callable[[Array], Sequence[float]]) -> list[Estimate]:
    """The same of other statistics, one call for each draw."""
    names, of = np.unique(np.asarray(patients), return_inverse=True)
    cases = [np.flatnonzero(of == patient) for patient in range(len(names))]
    drawn = [statistic(values[np.concatenate([cases[i] for i in draw])]) for draw in _draws(len(names))]
    return _estimates(statistic(values), np.array(drawn), len(names))


def _draws(patients: int) -> NDArray[np.int64]:
    """Which patients each draw has; a single one, of all, where these are too few."""
    if patients < MIN_PATIENTS:
        return np.arange(patients)[None]
    return np.random.Generator(np.random.Philox(0)).integers(patients, size=(RESAMPLES, patients))


def _estimates(values: Sequence[float], drawn: Array, patients: int) -> list[Estimate]:
    if patients < MIN_PATIENTS:
        return [Estimate(_finite(value)) for value in values]
    tail = float(stats.norm.sf(math.sqrt(patients / (patients - 1)) * stats.t.isf((1 - LEVEL) / 2, patients - 1)))
    ends = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return [
        Estimate(_finite(value), (float(low), float(high)) if np.isfinite([low, high]).all() else None)
        for value, low, high in zip(values, *ends, strict=True)
    ]


def _mean_squares(ratings: Array) -> tuple[float, float, float]:
    """Between cases, between raters, and what is left, of a two-way analysis of variance."""
    n, k = ratings.shape
    of_cases, of_raters, mean = ratings.mean(axis=1), ratings.mean(axis=0), ratings.mean()
    rest = ratings - of_cases[:, None] - of_raters[None] + mean
    return (
        float(k * ((of_cases - mean) ** 2).sum() / (n - 1)),
        float(n * ((of_raters - mean) ** 2).sum() / (k - 1)),
        float((rest**2).sum() / ((n - 1) * (k - 1))),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
