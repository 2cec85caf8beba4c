"""P-values of many comparisons with one baseline, corrected for their number: single-step max-t by sign flips."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cggm_med.comparison.statistics import LEVEL, Array

MAX_PATTERNS = 10_000  # of signs: all of them if there are no more, else as many draws


@dataclass(frozen=True)
class MaxT:
    """What a family of comparisons shows once it is corrected for their number.

    Attributes:
        p: ``(comparison,)``; NaN where there is no test.
        critical: the t that a comparison has to exceed for p of at most 0.05; None if no t is large enough for so few
            units.
        smallest: the smallest p that is possible.
    """

    p: Array
    critical: float | None
    smallest: float


def max_t(sums: Array, counts: Array, test_share: float = 0.0, *, seed: int = 0) -> MaxT:
    """Corrected p-values of several comparisons: how often the largest t would be as large by chance.

    Under the hypothesis that a strategy does as its baseline does, the sign of each difference is a coin flip. All
    comparisons of one unit (a run, or a patient) are flipped together, so that what they share, such as the baseline,
    is kept; the largest studentised mean over all comparisons is what each of them has to exceed (Westfall and Young
    1993, single step). The unit is flipped as a whole, whatever is in it.

    Args:
        sums: ``(unit, comparison)``, differences; NaN where a unit lacks one.
        counts: ``(unit, comparison)``, of how many values each is the sum; 1 for the means of runs.
        test_share: see ``statistics.t_estimate``; makes the t of the comparisons smaller, not those of the flips.
        seed: of the signs, where there are too many patterns to try all.

    Returns:
        NaN for a comparison of fewer than two units, or of differences that are all the same but not 0; it is not
        counted.

    Example:
        >>> one = np.array([[0.1], [0.3], [0.2]])
        >>> max_t(one, np.ones((3, 1))).p  # 2 of 8 patterns: all as they are, all turned
        array([0.25])
    """
    known = ~np.isnan(sums)
    x, n = np.where(known, sums, 0.0), np.where(known, counts, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = np.abs(_t(x.sum(0), (n * x).sum(0), x, n))
    alike = np.abs(x).max(0) < 1e-15
    tested = (known.sum(0) > 1) & (np.isfinite(observed) | alike)
    p = np.full(sums.shape[1], np.nan)
    if not tested.any():
        return MaxT(p, None, 1.0)
    x, n = x[:, tested], n[:, tested]
    units = known.sum(0)[tested]
    observed = np.where(alike[tested], 0.0, observed[tested]) / np.sqrt(1 + units * test_share)
    largest = np.sort(np.concatenate([_largest(signs, x, n) for signs in _patterns(len(x), seed)]))
    # The observed pattern is among those of an exact test; to a draw it is added.
    added = 0 if 2 ** (len(x) - 1) <= MAX_PATTERNS else 1
    every = len(largest) + added
    above = len(largest) - np.searchsorted(largest, observed * (1 - 1e-9), side="left")
    p[tested] = (above + added) / every
    allowed = int((1 - LEVEL) * every + 1e-9) - added
    critical = float(largest[-allowed - 1]) if allowed >= 1 else None
    return MaxT(p, critical, 1 / every)


def _patterns(units: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Patterns of signs ``(pattern, unit)`` in parts; the first sign is always plus, since a test has two sides."""
    if 2 ** (units - 1) <= MAX_PATTERNS:
        yield np.array([(1.0, *signs) for signs in itertools.product((1.0, -1.0), repeat=units - 1)])
        return
    random = np.random.Generator(np.random.Philox(seed))
    for done in range(0, MAX_PATTERNS, 500):
        yield random.choice((1.0, -1.0), size=(min(500, MAX_PATTERNS - done), units))


def _largest(signs: Array, x: Array, n: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.abs(_t(signs @ x, signs @ (n * x), x, n))
    return np.asarray(np.nanmax(np.where(np.isnan(t), 0.0, t), axis=1))


def _t(total: Array, weighted: Array, x: Array, n: Array) -> Array:
    """The mean over its standard error, both from the residuals of whole units.

    Args:
        total: ``(..., comparison)``, sum of the flipped differences.
        weighted: the same, each times its count.
        x: ``(unit, comparison)``, the differences, whose squares no flip changes.
        n: counts.
    """
    units = (n > 0).sum(0)
    mean = total / n.sum(0)
    residual = (x**2).sum(0) - 2 * mean * weighted + mean**2 * (n**2).sum(0)
    residual = np.where(residual < 1e-12 * (x**2).sum(0), 0.0, residual)
    return np.asarray(total / np.sqrt(residual * units / (units - 1)))
