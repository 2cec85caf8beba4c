"""Statistics of a comparison: a bootstrap over seeds and cases, a paired test for runs that share data, Holm, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def seed_scores(sums: Array, counts: Array) -> Array:
    """Score of each seed, ``(seed,)``: the mean over its cases; NaN where it has none.

    Args:
        sums: ``(seed, case)``, what was scored in all of a case, such as right utterances.
        counts: ``(seed, case)``, of how many; 0 where a seed did not test a case.

    Example:
        >>> seed_scores(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
        array([0.6])
    """
    total = counts.sum(1)
    return np.divide(sums.sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def bootstrap_interval(
    sums: Array, counts: Array, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of ``seed_scores``, when seeds and cases are drawn again.

    Seeds and cases are drawn independently of one another, each with replacement, and a case keeps its weight in every
    seed that tested it (the pigeonhole bootstrap of Owen 2007, https://doi.org/10.1214/07-AOAS122): a case that is hard
    is hard for all seeds, so it must not count as many cases. For paired differences, give differences as ``sums``.

    Args:
        sums: ``(seed, case)``, see ``seed_scores``.
        counts: ``(seed, case)``.
        resamples: how many.
        seed: of the draws.
        level: share of the draws inside the interval.

    Returns:
        Lower and upper end.
    """
    random = np.random.Generator(np.random.Philox(seed))
    seeds, cases = counts.shape
    means: list[Array] = []
    for done in range(0, resamples, 500):  # in parts, since weights of 3,000 cases take memory
        n = min(500, resamples - done)
        of_seed, of_case = _drawn(random, n, seeds), _drawn(random, n, cases)
        total = of_case @ counts.T
        score = np.divide(of_case @ sums.T, total, out=np.zeros_like(total), where=total > 0)
        weight = of_seed * (total > 0)
        kept = weight.sum(1) > 0
        means.append((weight * score).sum(1)[kept] / weight.sum(1)[kept])
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(random: np.random.Generator, times: int, things: int) -> Array:
    """How often each thing is drawn when as many are drawn as there are, ``(time, thing)``."""
    drawn = random.integers(things, size=(times, things)) + np.arange(times)[:, None] * things
    return np.bincount(drawn.ravel(), minlength=times * things).reshape(times, things).astype(float)


def paired_p_value(differences: Sequence[float], test_share: float = 0.0) -> float | None:
    """Two-sided p-value of a paired t-test over runs, corrected for the training data that the runs share.

    Runs on random splits or folds of one data set are not independent, and the plain test finds differences that are
    none. Nadeau and Bengio 2003 (https://doi.org/10.1023/A:1024068626366) multiply the variance by
    ``1 / n + n_test / n_train`` instead of ``1 / n``; Bouckaert and Frank 2004 recommend it for repeated
    cross-validation.

    Args:
        differences: ``(run,)``, of two methods on the same seed and split.
        test_share: number of test cases over number of training cases where runs differ in their split; 0 where all
            runs have the same one, which gives the plain test.

    Returns:
        None for fewer than two runs, and where all differ from zero by the same.

    Example:
        >>> round(paired_p_value([0.1, 0.3, 0.2]), 4), round(paired_p_value([0.1, 0.3, 0.2], test_share=0.25), 4)
        (0.0742, 0.1201)
    """
    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return None
    mean, variance = float(d.mean()), float(d.var(ddof=1))
    if variance == 0:
        return 1.0 if mean == 0 else None
    t = mean / math.sqrt((1 / len(d) + test_share) * variance)
    return float(2 * stats.t.sf(abs(t), len(d) - 1))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """P-values that allow for how many there are: Holm 1979, https://www.jstor.org/stable/4615733.

    Args:
        p_values: by name; None is no test and is not counted.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03})
        {'a': 0.03, 'b': 0.06, 'c': None, 'd': 0.06}
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted


def ranks(scores: Mapping[str, float], lower_is_better: bool) -> dict[str, float]:
    """Rank of each score, 1 for the best; equal scores share the mean of their ranks.

    Example:
        >>> ranks({"a": 0.5, "b": 0.7, "c": 0.5}, lower_is_better=False)
        {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    values = np.array(list(scores.values()))
    return dict(zip(scores, stats.rankdata(values if lower_is_better else -values).tolist(), strict=True))
