"""Aggregates: numbers by hand and by numpy, groups in their order, and nothing averaged over what is not known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.results.aggregate import STATISTICS, aggregate, grouped, mean, mean_absolute, median, sd, with_mean

ROWS = [
    {"case": case, "region": region, "dice": dice}
    for case, region, dice in [("a", "WT", 0.8), ("a", "TC", 0.6), ("b", "WT", 0.4), ("b", "TC", 0.0)]
]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_statistics_agree_with_numpy(values):
    assert mean(values) == pytest.approx(np.mean(values), abs=1e-9)
    assert sd(values) == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert median(values) == pytest.approx(np.median(values), abs=1e-9)
    assert mean_absolute(values) == pytest.approx(np.mean(np.abs(values)), abs=1e-9)


@pytest.mark.parametrize("values", [[], [None], [1.0, 2.0, None]])
def test_what_is_not_known_is_not_averaged(values):
    assert {name: of(values) for name, of in STATISTICS.items()} == dict.fromkeys(STATISTICS)


def test_one_value_has_no_spread():
    assert (mean([3.0]), median([3.0]), sd([3.0])) == (3, 3, None)


def test_groups_keep_the_order_of_the_rows():
    found = grouped(reversed(ROWS), ["region"])
    assert list(found) == [("TC",), ("WT",)]
    assert [row["case"] for row in found["TC",]] == ["b", "a"]


def test_the_mean_over_regions_stands_after_each_case():
    rows = with_mean(ROWS, ["case"], "region", ["dice"])
    assert [(row["case"], row["region"]) for row in rows] == [
        *(("a", "WT"), ("a", "TC"), ("a", "mean")),
        *(("b", "WT"), ("b", "TC"), ("b", "mean")),
    ]
    assert [row["dice"] for row in rows if row["region"] == "mean"] == pytest.approx([0.7, 0.2])
    assert with_mean([{**ROWS[0], "dice": None}, ROWS[1]], ["case"], "region", ["dice"])[-1]["dice"] is None
    assert with_mean([], ["case"], "region", ["dice"]) == []


def test_aggregates_by_hand():
    """WT 0.8 and 0.4: the squared deviations from 0.6 are 0.04 and 0.04, over n - 1 = 1."""
    wt, tc = aggregate(ROWS, ["region"], "dice")
    assert list(wt) == ["region", "dice_mean", "dice_sd", "cases"]
    assert wt == {"region": "WT", "dice_mean": pytest.approx(0.6), "dice_sd": pytest.approx(0.08**0.5), "cases": 2}
    assert (tc["region"], tc["dice_mean"]) == ("TC", pytest.approx(0.3))
