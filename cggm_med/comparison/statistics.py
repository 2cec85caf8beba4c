"""Statistics of a comparison: estimates over runs and over patients, what they could have found, and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

Array = NDArray[np.float64]
MIN_PATIENTS = 5  # fewer have too few different draws to say anything about others
LEVEL = 0.95  # of intervals
POWER = 0.8


def seed_matrix(
    values: Sequence[tuple[int, Mapping[str, tuple[float, float]]]], groups: Mapping[str, str]
) -> tuple[Array, Array]:
    """Sums and counts ``(seed, patient)``; the folds of a seed share one row, the cases of a patient one column.

    Args:
        values: of each run, its seed, and what each case adds to a metric: a sum, and of how many values.
        groups: the patient of each case; a case without one is a patient of its own.

    Example:
        >>> seed_matrix([(0, {"a": (1.0, 2.0)}), (0, {"b": (3.0, 4.0)})], {})[0]
        array([[1., 3.]])
    """
    seeds = sorted({seed for seed, _ in values})
    patients = sorted({groups.get(case, case) for _, by_case in values for case in by_case})
    column = {patient: i for i, patient in enumerate(patients)}
    sums, counts = np.zeros((2, len(seeds), len(patients)))
    for seed, by_case in values:
        row = seeds.index(seed)
        for case, (value, count) in by_case.items():
            sums[row, column[groups.get(case, case)]] += value
            counts[row, column[groups.get(case, case)]] += count
    return sums, counts


def seed_scores(sums: Array, counts: Array) -> Array:
    """Score of each seed, ``(seed,)``: the mean over its patients; NaN where it has none.

    Args:
        sums: ``(seed, patient)``, sum over a patient, such as the number of correct utterances.
        counts: ``(seed, patient)``, number of summands; 0 where a seed did not test a patient.

    Example:
        >>> seed_scores(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
        array([0.6])
    """
    total = counts.sum(1)
    return np.divide(sums.sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def bootstrap_interval(
    sums: Array, counts: Array, *, resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of ``seed_scores``, when seeds and patients are resampled.

    Seeds and patients are drawn independently of one another, each with replacement, and a patient keeps its weight in
    every seed that tested it (the pigeonhole bootstrap of Owen 2007, https://doi.org/10.1214/07-AOAS122): a hard
    patient is hard for all seeds, and must not count as many patients.

    Args:
        sums: ``(seed, patient)``, see ``seed_scores``.
        counts: ``(seed, patient)``.
        resamples: how many.
        seed: of the random numbers.
        level: share of the resamples inside the interval.

    Returns:
        Lower and upper end.
    """
    random = np.random.Generator(np.random.Philox(seed))
    seeds, patients = counts.shape
    means: list[Array] = []
    for done in range(0, resamples, 500):  # in parts, since weights of 3,000 patients take memory
        n = min(500, resamples - done)
        seed_weight, weights = _drawn(random, n, seeds), _drawn(random, n, patients)
        total = weights @ counts.T
        score = np.divide(weights @ sums.T, total, out=np.zeros_like(total), where=total > 0)
        weight = seed_weight * (total > 0)
        kept = weight.sum(1) > 0
        means.append((weight * score).sum(1)[kept] / weight.sum(1)[kept])
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn(random: np.random.Generator, times: int, count: int) -> Array:
    """How often each of ``count`` is among ``count`` draws with replacement, ``(time, count)``."""
    drawn = random.integers(count, size=(times, count)) + np.arange(times)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=times * count).reshape(times, count).astype(float)


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty; interval and p-values come from the same distribution.

    Attributes:
        mean: of what was measured.
        error: its standard error.
        freedom: degrees of freedom of that error.
        drawn: sorted means of the resamples if it is a bootstrap; None: a t-distribution.
    """

    mean: float
    error: float
    freedom: int
    drawn: Array | None = field(default=None, repr=False, compare=False)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The range that holds the truth in this share of all experiments."""
        t = float(stats.t.isf((1 - level) / 2, self.freedom))
        if self.drawn is None:
            return self.mean - t * self.error, self.mean + t * self.error
        tail = stats.norm.sf(t * self._widening)
        low, high = np.quantile(self.drawn, [tail, 1 - tail])
        return float(low), float(high)

    def p_at_most(self, bound: float) -> float:
        """One-sided p-value of the hypothesis that the truth is at most ``bound``."""
        if self.drawn is None:
            return float(stats.t.sf((self.mean - bound) / self.error, self.freedom))
        # Half of the resamples that lie on the bound, so that both sides add up to 1; and never 0 or 1.
        below, ends = (np.searchsorted(self.drawn, bound, side=side) for side in ("left", "right"))
        share = np.clip((below + ends) / 2 / len(self.drawn), 0.5 / len(self.drawn), 1 - 0.5 / len(self.drawn))
        return float(stats.t.cdf(stats.norm.ppf(share) / self._widening, self.freedom))

    @property
    def p(self) -> float:
        """Two-sided p-value of the hypothesis that the truth is 0."""
        if self.error == 0:
            return 1.0
        below = self.p_at_most(0.0)
        return 2 * min(below, 1 - below)

    @property
    def _widening(self) -> float:
        """By which percentiles of a bootstrap of few patients reach as far as a t-interval (Hesterberg 2015)."""
        return math.sqrt((self.freedom + 1) / self.freedom)


def t_estimate(sums: ArrayLike, counts: ArrayLike = 1.0, test_share: float = 0.0) -> Estimate | None:
    """The mean of independent units with the standard error of a t-test, corrected for what runs share.

    Runs on random splits or folds of one data set are not independent, and the plain test finds differences where there
    are none. Nadeau and Bengio 2003 (https://doi.org/10.1023/A:1024068626366) multiply the variance by
    ``1 / n + n_test / n_train`` instead of ``1 / n``; Bouckaert and Frank 2004 recommend it for repeated
    cross-validation.

    Args:
        sums: ``(unit,)``, a run's or a patient's values, such as differences of two methods on the same seed and split.
        counts: ``(unit,)``, of how many values each is the sum.
        test_share: number of test cases over number of training cases where the runs divide the same cases in several
            ways; 0 for independent units, which gives the plain t-test.

    Returns:
        None for fewer than two units, and where all values are the same but not 0, which no test can judge.

    Example:
        >>> plain, careful = t_estimate([0.1, 0.3, 0.2]), t_estimate([0.1, 0.3, 0.2], test_share=0.25)
        >>> round(plain.p, 4), round(careful.p, 4), careful.interval()[0] < 0
        (0.0742, 0.1201, True)
    """
    x = np.asarray(sums, dtype=float)
    n, units = np.broadcast_to(np.asarray(counts, dtype=float), x.shape), len(x)
    if units < 2:
        return None
    mean = float(x.sum() / n.sum())
    residual = x - mean * n
    if _is_zero(residual, x):
        return Estimate(0.0, 0.0, units - 1) if mean == 0 else None
    variance = float((residual**2).sum()) / (units - 1) / float(n.mean()) ** 2
    return Estimate(mean, math.sqrt((1 / units + test_share) * variance), units - 1)


def bootstrap_estimate(sums: Array, counts: Array, *, resamples: int = 10_000, seed: int = 0) -> Estimate | None:
    """The mean over patients, and how it varies when other patients are drawn: a bootstrap over whole patients.

    The percentiles of the interval lie as far out as those of a t-distribution, since plain percentiles of few patients
    are too near (the expanded percentile interval of Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789).

    Args:
        sums: ``(patient,)``, sum over all values of a patient, such as differences of Dice, averaged over seeds.
        counts: ``(patient,)``, of how many values.
        resamples: how many.
        seed: of the random numbers.

    Returns:
        None for fewer than ``MIN_PATIENTS``, and where all are the same but not 0.

    Example:
        >>> estimate = bootstrap_estimate(np.array([0.1, 0.2, 0.1, 0.3, 0.3]), np.ones(5))
        >>> estimate.mean, estimate.freedom, estimate.interval()[0] > 0
        (0.2, 4, True)
    """
    patients = len(sums)
    if patients < MIN_PATIENTS:
        return None
    mean, random = float(sums.sum() / counts.sum()), np.random.Generator(np.random.Philox(seed))
    if _is_zero(sums - mean * counts, sums):
        return Estimate(0.0, 0.0, patients - 1) if mean == 0 else None
    drawn = []
    for done in range(0, resamples, 500):  # in parts, since weights of 3,000 patients take memory
        weights = _drawn(random, min(500, resamples - done), patients)
        drawn.append(weights @ sums / (weights @ counts))
    means = np.sort(np.concatenate(drawn))
    error = float(means.std()) * math.sqrt(patients / (patients - 1))
    return Estimate(mean, error, patients - 1, means)


def _is_zero(residual: Array, values: Array) -> bool:
    """Whether only rounding is left of values that are all the same."""
    return bool((np.abs(residual) <= 1e-12 * np.abs(values).max()).all())


def detectable(error: float, freedom: int, critical: float | None = None) -> float:
    """The smallest true difference that a two-sided t-test at 5 % finds with a power of 80 %.

    Args:
        error: standard error of the difference.
        freedom: its degrees of freedom.
        critical: the t that a result has to exceed; default: that of a single test.

    Example:
        >>> round(detectable(1.0, 10_000), 2)  # of a normal distribution: 1.96 + 0.84
        2.8
    """
    if error == 0:  # then the t to exceed may be 0 as well, with any power
        return 0.0
    needed = float(stats.t.isf((1 - LEVEL) / 2, freedom)) if critical is None else critical
    # What the error may be, at the middles of 4,000 equally likely ranges, since scipy's noncentral t lacks the tails.
    errors = np.sqrt(stats.chi2.ppf((np.arange(4_000) + 0.5) / 4_000, freedom) / freedom)

    def lacking(true: float) -> float:
        return float(np.mean(stats.norm.cdf(true - needed * errors) + stats.norm.cdf(-true - needed * errors))) - POWER

    return error * float(optimize.brentq(lacking, 0.0, 3 * needed + 10))


def ranks(scores: Mapping[str, float], lower_is_better: bool) -> dict[str, float]:
    """Rank of each score, 1 for the best; equal scores share the mean of their ranks.

    Example:
        >>> ranks({"a": 0.5, "b": 0.7, "c": 0.5}, lower_is_better=False)
        {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    values = np.array(list(scores.values()))
    return dict(zip(scores, stats.rankdata(values if lower_is_better else -values).tolist(), strict=True))
