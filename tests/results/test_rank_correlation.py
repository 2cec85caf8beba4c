"""Rank correlation: scipy as authority, also for resamples, and when nothing or no interval can be said."""

import math

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from cggm_med.results.rank_correlation import _weighted_spearman, rank_correlation


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_spearmans(random, ties):
    x = random.normal(size=12)
    y = x + random.normal(size=12)
    x, y = (np.round(values) if ties else values for values in (x, y))
    found = rank_correlation(x.tolist(), y.tolist(), [*"abcdefghijkl"])
    assert found.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    # The order alone matters, and turning one of both turns the sign and the interval.
    turned = rank_correlation(np.exp(x).tolist(), (-y).tolist(), [*"abcdefghijkl"])
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low), abs=2e-2)


def test_a_resample_counts_a_case_as_often_as_it_was_drawn(random):
    x, y = random.integers(0, 5, size=(2, 8)).astype(float)
    times = random.integers(0, 4, size=(20, 8))
    expected = [spearmanr(np.repeat(x, of), np.repeat(y, of)).statistic for of in times]
    np.testing.assert_allclose(_weighted_spearman(x, y, times.astype(float)), expected, atol=1e-11)


def test_the_interval_of_many_cases_is_that_of_fishers_transformation(random):
    x = random.normal(size=400)
    y = x + random.normal(size=400)
    found = rank_correlation(x.tolist(), y.tolist(), [str(i) for i in range(400)])
    # Bonett and Wright 2000, https://doi.org/10.1007/BF02294183
    error = math.sqrt((1 + found.value**2 / 2) / (400 - 3)) * norm.ppf(0.975)
    expected = [math.tanh(math.atanh(found.value) + sign * error) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected, abs=0.02)


def test_cases_of_one_patient_are_drawn_together(random):
    """As many patients as before, each scanned four times: no more is known."""
    x = random.normal(size=20)
    y = x + random.normal(size=20)
    once = rank_correlation(x.tolist(), y.tolist(), [str(i) for i in range(20)])
    four = rank_correlation(np.tile(x, 4).tolist(), np.tile(y, 4).tolist(), [str(i) for i in range(20)] * 4)
    assert four.value == pytest.approx(once.value)
    assert four.high - four.low == pytest.approx(once.high - once.low, abs=0.03)
    assert four.cases == 80


@pytest.mark.parametrize(
    ("x", "y", "patients", "value"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "abcd", None),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5], "aabbcd", None),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0], "abcde", None),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], "abcde", -1.0),
    ],
    ids=["few cases", "few patients", "no order", "the perfect order"],
)
def test_no_interval_where_it_would_say_too_much(x, y, patients, value):
    found = rank_correlation(x, y, patients)
    assert (found.value, found.low, found.high, found.cases) == (value, None, None, len(x))
