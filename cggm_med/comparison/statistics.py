"""Statistics of a comparison: a bootstrap over seeds and cases, a paired test for runs that share data, Holm, ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
SeedMatrix = tuple[list[int], list[str], Array, Array]


def seed_matrix(values: Sequence[tuple[int, Mapping[str, tuple[float, float]]]]) -> SeedMatrix:
    """Seeds, cases, and sums and counts ``(seed, case)``; the folds of a seed share one row.

    Args:
        values: of each run, its seed, and what each case adds to a metric: a sum, and of how many values.

    Example:
        >>> seed_matrix([(0, {"a": (1.0, 2.0)}), (0, {"b": (3.0, 4.0)})])[2]
        array([[1., 3.]])
    """
    seeds = sorted({seed for seed, _ in values})
    cases = sorted({case for _, by_case in values for case in by_case})
    column = {case: i for i, case in enumerate(cases)}
    sums, counts = np.zeros((2, len(seeds), len(cases)))
    for seed, by_case in values:
        row = seeds.index(seed)
        for case, (value, count) in by_case.items():
            sums[row, column[case]] += value
            counts[row, column[case]] += count
    return seeds, cases, sums, counts


def seed_scores(sums: Array, counts: Array) -> Array:
    """Score of each seed, ``(seed,)``: the mean over its cases; NaN where it has none.

    Args:
        sums: ``(seed, case)``, sum over a case, such as the number of correct utterances.
        counts: ``(seed, case)``, number of summands; 0 where a seed did not test a case.

    Example:
        >>> seed_scores(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
        array([0.6])
    """
    total = counts.sum(1)
    return np.divide(sums.sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def bootstrap_interval(
    sums: Array, counts: Array, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of ``seed_scores``, when seeds and cases are resampled.

    Seeds and cases are drawn independently of one another, each with replacement, and a case keeps its weight in every
    seed that tested it (the pigeonhole bootstrap of Owen 2007, https://doi.org/10.1214/07-AOAS122): a case that is hard
    is hard for all seeds, so it must not count as many cases. For paired differences, give differences as ``sums``.

    Args:
        sums: ``(seed, case)``, see ``seed_scores``.
        counts: ``(seed, case)``.
        resamples: how many.
        seed: of the random numbers.
        level: share of the resamples inside the interval.

    Returns:
        Lower and upper end.
    """
    random = np.random.Generator(np.random.Philox(seed))
    seeds, cases = counts.shape
    means: list[Array] = []
    for done in range(0, resamples, 500):  # in parts, since weights of 3,000 cases take memory
        n = min(500, resamples - done)
        seed_weight, case_weight = _drawn(random, n, seeds), _drawn(random, n, cases)
        total = case_weight @ counts.T
        score = np.divide(case_weight @ sums.T, total, out=np.zeros_like(total), where=total > 0)
        weight = seed_weight * (total > 0)
        kept = weight.sum(1) > 0
        means.append((weight * score).sum(1)[kept] / weight.sum(1)[kept])
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(random: np.random.Generator, times: int, count: int) -> Array:
    """How often each of ``count`` is among ``count`` draws with replacement, ``(time, count)``."""
    drawn = random.integers(count, size=(times, count)) + np.arange(times)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=times * count).reshape(times, count).astype(float)


def paired_p_value(differences: Sequence[float], test_share: float = 0.0) -> float | None:
    """Two-sided p-value of a paired t-test over runs, corrected for the training data that the runs share.

    Runs on random splits or folds of one data set are not independent, and the plain test finds differences where there
    are none. Nadeau and Bengio 2003 (https://doi.org/10.1023/A:1024068626366) multiply the variance by
    ``1 / n + n_test / n_train`` instead of ``1 / n``; Bouckaert and Frank 2004 recommend it for repeated
    cross-validation.

    Args:
        differences: ``(run,)``, of two methods on the same seed and split.
        test_share: number of test cases over number of training cases where runs differ in their split; 0 where all
            runs have the same one, which gives the plain test.

    Returns:
        None for fewer than two runs, and where all differences are the same but not 0.

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
    """P-values corrected for their number: Holm 1979, https://www.jstor.org/stable/4615733.

    Args:
        p_values: by name; None means no test, which is not counted.

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
