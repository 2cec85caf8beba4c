"""Features that vary together tell images apart that no feature tells apart by itself."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from cggm_med.data.checks.looks import PAIR, SINGLE, ScanFeatures
from cggm_med.data.checks.together import MIN_CASES, Together, _in_orders, _orders, judge_each, together

USUAL = (np.full(SINGLE, 0.2), np.full(PAIR, 0.2))


def cases(count, seed=0):
    """Three images: in the second a feature follows another, in the third it opposes it; each alone tells nothing."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        single, pair = 0.1 * draw.normal(size=(3, SINGLE)), 0.1 * draw.normal(size=(3, 3, PAIR))
        level = draw.uniform(1, 3, size=3) * draw.choice((-1, 1), size=3)
        for k, sign in enumerate((0, 1, -1)):
            single[k, :4] += level[k]
            single[k, 4:8] += sign * level[k]
        single[0, 8] += 3
        found.append(ScanFeatures(single, pair))
    return found


def exchanged(features, order):
    return ScanFeatures(features.single[list(order)], features.pair[np.ix_(order, order)])


def test_an_exchange_is_found_that_no_feature_shows():
    known = together(cases(40), USUAL)
    for features in cases(6, seed=1):
        assert known.judge(features, (0, 1, 2)).advantage < 0
        found = known.judge(exchanged(features, (0, 2, 1)), (0, 1, 2))
        assert (found.order, found.advantage > found.margin, found.alike) == ((0, 2, 1), True, True)
        # The same as if the names had been given in another order.
        assert known.judge(features, (0, 2, 1)).advantage == pytest.approx(found.advantage)


def test_each_case_is_judged_by_the_others_and_only_the_odd_one_is_found():
    odd = [exchanged(f, (0, 2, 1)) if k == 5 else f for k, f in enumerate(cases(40))]
    assert [k for k, of in enumerate(judge_each(odd, USUAL)) if of.advantage > of.margin] == [5]


def test_what_fits_no_order_is_not_alike():
    known = together(cases(40), USUAL)
    far = cases(1, seed=2)[0]
    assert not known.judge(replace(far, single=far.single + 5), (0, 1, 2)).alike


def test_costs_differ_by_the_density_of_a_multivariate_t():
    """Independent authority: scipy, with the covariance that the factors stand for."""
    known = together(cases(40), USUAL)
    values = _in_orders(cases(1, seed=3)[0], _orders(3))
    spread, factors = np.array(known.spread), np.array(known.factors)
    own = np.maximum(1 - (factors**2).sum(0), 0.1)
    covariance = (factors.T @ factors + np.diag(own)) * np.outer(spread, spread) * (1 + 1 / 40)
    density = stats.multivariate_t(np.array(known.mean), covariance, df=40).logpdf(values)
    costs, _ = known.costs(values)
    np.testing.assert_allclose(costs - costs[0], density[0] - density, atol=1e-6)


def test_few_cases_say_nothing_and_records_come_back():
    assert together(cases(MIN_CASES - 1), USUAL) is judge_each(cases(MIN_CASES - 1), USUAL) is None
    known = together(cases(MIN_CASES), USUAL)
    assert Together.of_record(asdict(known)) == known
    with pytest.raises(ValueError, match="different lengths"):
        Together.of_record({**asdict(known), "spread": known.spread[:-1]})
