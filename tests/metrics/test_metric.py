"""Metrics of other packages: they stand in every table with their rules; what is wrong with one is said in one line."""

import re

import numpy as np
import pytest

from cggm_med import ConfigError, Metric, PluginError, UnknownName, registry
from cggm_med.metrics.metric import load_metrics
from cggm_med.metrics.regions import (
    FACTS,
    METRICS,
    definitions,
    empty_rule,
    region_case_values,
    region_scores,
    score_region,
    summarise_regions,
)


def voxels_off(prediction, target, spacing_mm):
    return (prediction ^ target).sum()


def nothing(shape=(4, 4, 4)):
    return np.zeros(shape, dtype=bool)


OFF = Metric("wrong voxels", "wrong", voxels_off, "voxels in one mask only", better="lower", digits=0)
FAR = Metric("far", "far_mm", lambda p, t, mm: mm[2], "size along z", unit="mm", both_empty=0.0, one_empty=9.0)
DRIFT = Metric("drift", "drift_ml", lambda p, t, mm: -2.0, "drift", unit="ml", better="zero", both_empty=1.0)


@pytest.fixture
def registered(monkeypatch):
    """Registers metrics by their names."""

    def register(**metrics):
        of_metrics = {registry.METRICS: metrics}
        monkeypatch.setattr(registry, "load", lambda group, key: of_metrics[group][key])
        monkeypatch.setattr(registry, "package", lambda group, key: "somebody 1.5")

    return register


def test_the_rule_for_empty_regions_comes_before_the_function():
    some, none = np.ones((3, 3, 3), dtype=bool), nothing((3, 3, 3))
    pairs = [(a, b) for a in (some, none) for b in (some, none)]
    rows = {(bool(a.any()), bool(b.any())): score_region("a", "WT", a, b, (1, 1, 2.5), [FAR, OFF]) for a, b in pairs}
    assert {key: (row["far_mm"], row["wrong"]) for key, row in rows.items()} == {
        (True, True): (2.5, 0),
        (True, False): (9, 27),
        (False, True): (9, 27),
        (False, False): (0, 0),
    }


def test_a_cropped_metric_gets_the_smallest_box_and_any_other_the_whole():
    mask = nothing((9, 8, 7))
    mask[2:5, 3:5, 1:2] = True
    seen = []

    def look(prediction, target, spacing_mm):
        seen.append(tuple(prediction.shape))
        return 0.0

    both = [Metric("a", "a", look, "a"), Metric("b", "b", look, "b", cropped=True)]
    score_region("a", "WT", mask, mask, (1, 1, 1), both)
    assert seen == [(9, 8, 7), (3, 2, 1)]


def test_a_metric_of_another_package_stands_in_rows_summary_tables_and_definitions(registered):
    registered(wrong=OFF, drift_ml=DRIFT)
    metrics = (*METRICS, *load_metrics(["wrong", "drift_ml"], FACTS))
    one = nothing()
    one[0, 0, 0] = True
    rows = [score_region(case, r, one, nothing(), (1, 1, 1), metrics) for case in "ab" for r in ("WT", "TC")]
    assert [(row["wrong"], row["drift_ml"]) for row in rows] == [(1, -2)] * 4
    mean = summarise_regions(rows, metrics)[-1]
    assert (mean["wrong_mean"], mean["drift_ml_mean"]) == (1, None)  # regions lie inside one another
    table, cases = (t for t in region_scores(rows, (), metrics).tables if "chosen metrics" in t.title)
    assert table.header == ("region", "wrong voxels", "drift ml")
    assert table.rows == (("WT", "1", "-2.000"), ("TC", "1", "-2.000"), ("mean", "1", "-"))
    assert cases.rows[0] == ("a", "WT", "1", "-2.000")
    rules = definitions(metrics)
    assert rules["wrong voxels"] == "voxels in one mask only; lower is better (package somebody 1.5)"
    assert rules["drift"] == "drift; nearest to 0 is best (package somebody 1.5)"
    assert "Dice, NSD and sensitivity 1, HD95 0, drift 1 ml; missed" in empty_rule(metrics)


def test_values_for_comparisons_say_which_way_is_better():
    rows = [{"case": "a", "region": r, "dice": 0.5, "wrong": n, "drift_ml": -n} for r, n in (("WT", 3.0), ("TC", 1.0))]
    assert region_case_values(rows, [OFF, DRIFT]) == {
        "wrong voxels WT (lower is better)": {"a": (3, 1)},
        "wrong voxels TC (lower is better)": {"a": (1, 1)},
        "wrong voxels mean (lower is better)": {"a": (2, 1)},
        "absolute drift WT (lower is better)": {"a": (3, 1)},
        "absolute drift TC (lower is better)": {"a": (1, 1)},
    }


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda p, t, mm: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda p, t, mm: float("nan"), "the value is nan, expected a finite number"),
        (lambda p, t, mm: "high", "ValueError: could not convert string to float: 'high'"),
        (lambda p, t: 0.0, "TypeError: "),
    ],
)
def test_a_metric_that_fails_is_named_with_its_package_and_the_case(function, said, registered):
    registered(bad=Metric("bad", "bad", function, "none"))
    with pytest.raises(PluginError, match=re.escape(said)) as caught:
        score_region("case 7", "TC", nothing(), nothing(), (1, 1, 1), load_metrics(["bad"], FACTS))
    message = str(caught.value)
    assert message.startswith("metric 'bad' of package somebody 1.5, case case 7, region TC: ")
    assert message.endswith("; fix the package, or leave it out of task.metrics")
    assert "\n" not in message


def test_a_failure_of_our_own_is_no_plug_in_s():
    with pytest.raises(ZeroDivisionError):
        score_region("a", "WT", nothing(), nothing(), (1, 1, 1), [Metric("bad", "bad", lambda p, t, mm: 1 / 0, "none")])


def test_keys_that_are_refused(registered):
    with pytest.raises(UnknownName, match="metric 'assd'"):
        load_metrics(["assd"], FACTS)
    registered(wrong=OFF, dice=OFF, other=OFF)
    with pytest.raises(ConfigError, match="task.metrics: 'dice' is always there"):
        load_metrics(["dice"], [m.key for m in METRICS])
    with pytest.raises(ConfigError, match="task.metrics: 'wrong' is named twice"):
        load_metrics(["wrong", "wrong"], FACTS)
    with pytest.raises(PluginError, match="metric 'other' of package somebody 1.5 has the key 'wrong'"):
        load_metrics(["other"], FACTS)
