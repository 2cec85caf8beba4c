"""Scores of subsets: which there are, mean and worst, and Shapley values by law, by hand and by brute force."""

import math
from itertools import permutations

import numpy as np
import pytest

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.evaluation.subsets.figure import subset_figure
from cggm_med.evaluation.subsets.question import draw_table
from cggm_med.evaluation.subsets.table import (
    SubsetTable,
    shapley_rows,
    shown_subsets,
    subset_report,
    subset_rows,
    wanted_subsets,
)
from cggm_med.results.order import nested_pairs, order_violations
from cggm_med.results.results import Scores
from cggm_med.runs.settings import make_config
from cggm_med.task.base import CaseResult
from cggm_med_tasks.affect.mosi import MOSI
from cggm_med_tasks.audiovisual.cremad import CREMAD

FOUR = ("flair", "t1", "t1ce", "t2")
TWO = ("audio", "image")


def table(modalities, score, columns=("Dice",), **options):
    rows = {s: {c: score(s) for c in columns} for s in wanted_subsets("all", modalities)}
    return SubsetTable(tuple(modalities), rows, **options)


def test_all_subsets_small_ones_first():
    found = wanted_subsets("all", FOUR)
    assert len(found) == len(set(found)) == 15
    assert [len(s) for s in found] == [1] * 4 + [2] * 6 + [3] * 4 + [4]
    assert found[:5] == (("flair",), ("t1",), ("t1ce",), ("t2",), ("flair", "t1"))
    assert len(wanted_subsets("all", [str(i) for i in range(12)])) == 4095


def test_named_subsets_in_the_order_of_the_run():
    assert wanted_subsets("t2+flair , t1,flair+t2", FOUR) == (("t1",), ("flair", "t2"))


@pytest.mark.parametrize("text", ["adc", "", "t1+", "t1,,t2", "all,t1"])
def test_unknown_modalities(text):
    with pytest.raises(UnknownName, match="no modality in this run"):
        wanted_subsets(text, FOUR)


def test_too_many_subsets():
    with pytest.raises(ConfigError, match="13 modalities have 8191 subsets, too many to score .*--subsets m0"):
        wanted_subsets("all", [f"m{i}" for i in range(13)])


def test_many_subsets_are_shown_in_part():
    twelve = [f"m{i}" for i in range(12)]
    assert shown_subsets(wanted_subsets("all", FOUR), FOUR) == wanted_subsets("all", FOUR)
    shown = shown_subsets(wanted_subsets("all", twelve), twelve)
    assert [len(s) for s in shown] == [1] * 12 + [11] * 12 + [12]


def test_mean_and_worst_by_hand():
    rows = {
        ("audio",): {"accuracy": 0.5, "MAE": 1.2, "Corr": None},
        ("image",): {"accuracy": 0.7, "MAE": 0.8, "Corr": 0.1},
        TWO: {"accuracy": 0.9, "MAE": 0.7, "Corr": 0.3},
    }
    closing = SubsetTable(TWO, rows, {"MAE"}).closing()
    assert closing["mean over subsets"] == {"accuracy": pytest.approx(0.7), "MAE": pytest.approx(0.9), "Corr": None}
    assert closing["worst"] == {"accuracy": 0.5, "MAE": 1.2, "Corr": None}


def test_shapley_values_of_two_by_hand():
    """Audio adds 0.5 - 0.1 to nothing and 0.9 - 0.7 to the image, 0.3 on average; the image 0.6 and 0.4."""
    score = {("audio",): 0.5, ("image",): 0.7, TWO: 0.9}.__getitem__
    found = table(TWO, score).shapley({"Dice": 0.1})
    assert found == {"audio": {"Dice": pytest.approx(0.3)}, "image": {"Dice": pytest.approx(0.5)}}
    rows = shapley_rows(found)
    assert [row["share"] for row in rows] == pytest.approx([0.375, 0.625])


def test_shapley_values_by_all_orders():
    """Brute force over the 24 orders of four modalities; the values sum to all minus nothing."""
    rng = np.random.default_rng(0)
    value = {s: float(v) for s, v in zip(wanted_subsets("all", FOUR), rng.random(15), strict=True)}
    value[()] = 0.0
    expected = dict.fromkeys(FOUR, 0.0)
    for order in permutations(FOUR):
        for i, modality in enumerate(order):
            before, after = (tuple(m for m in FOUR if m in order[:n]) for n in (i, i + 1))
            expected[modality] += (value[after] - value[before]) / math.factorial(4)
    found = {m: row["Dice"] for m, row in table(FOUR, value.__getitem__).shapley({"Dice": 0.0}).items()}
    assert found == pytest.approx(expected, abs=1e-7)
    assert sum(found.values()) == pytest.approx(value[FOUR], abs=1e-7)


def test_a_modality_that_changes_nothing_adds_nothing_and_equals_share_equally():
    found = table(FOUR, lambda s: 0.2 * len(set(s) - {"t1"})).shapley({"Dice": 0.0})
    assert found["t1"]["Dice"] == pytest.approx(0, abs=1e-7)
    for modality in ("flair", "t1ce", "t2"):
        assert found[modality]["Dice"] == pytest.approx(0.2, abs=1e-7)


def test_no_shapley_value_of_what_is_not_defined():
    found = table(TWO, lambda s: None if s == ("audio",) else 0.5).shapley({"Dice": 0.0})
    assert found == {"audio": {"Dice": None}, "image": {"Dice": None}}
    assert [row["share"] for row in shapley_rows(found)] == [None, None]


def scores(dice):
    headline = {"Dice WT": dice, "Dice mean": dice}
    summary = tuple({"region": r, "dice_mean": dice, "dice_sd": 0.1, "cases": 2} for r in ("WT", "mean"))
    cases = tuple({"case": c, "region": "WT", "dice": dice} for c in "ab")
    return Scores(headline, summary, cases, (), ())


def test_rows_of_a_segmentation():
    by_subset = {s: scores(0.3 * len(s)) for s in wanted_subsets("all", TWO)}
    found = SubsetTable(TWO, {s: x.headline for s, x in by_subset.items()})
    orders = {
        "Dice mean": order_violations({"audio": {"a": (1, 1)}, "image": {"a": (3, 1)}, "audio+image": {"a": (2, 1)}})
    }
    report = subset_report(by_subset, found, found.shapley({"Dice WT": 0.0, "Dice mean": 0.0}), orders)
    assert report.cases[0] == {"case": "a", "subset": "audio", "region": "WT", "dice": 0.3}
    assert report.summary[-1] == {
        **{"subset": "audio+image", "region": "mean"},
        **{"dice_mean": 0.6, "dice_sd": 0.1, "cases": 2},
    }
    assert (len(report.cases), len(report.summary)) == (6, 6)
    main, shapley, order = report.tables
    assert main.rows[-2:] == (("mean over subsets", "0.400", "0.400"), ("worst", "0.300", "0.300"))
    assert main.rows[0] == ("audio", "0.300", "0.300")
    assert shapley.rows == tuple((m, "0.300 (50 %)", "0.300 (50 %)") for m in TWO)
    assert order.rows == (("Dice mean", "50.0 %", "50.0 %", "audio (1.000)"),)
    assert report.headline["Dice mean, order violations"] == 0.5
    assert report.headline["Dice mean"] == 0.6
    assert report.headline["Dice mean, worst"] == 0.3
    assert report.headline["Dice WT, Shapley value of image"] == pytest.approx(0.3)
    assert [row["subset"] for row in subset_rows(found)] == ["audio", "image", "audio+image", *found.closing()]


def test_some_subsets_have_no_shapley_values():
    by_subset = {("audio",): scores(0.3)}
    found = SubsetTable(TWO, {s: x.headline for s, x in by_subset.items()})
    assert not found.complete()
    report = subset_report(by_subset, found, None, {})
    assert len(report.tables) == 1
    assert "Dice mean" not in report.headline


def test_order_violations_by_hand():
    """Two cases and four subsets of three modalities, with 5 nested pairs."""
    values = {
        "a": {"x": (0.5, 1.0), "y": (0.2, 1.0)},
        "b": {"x": (0.4, 1.0), "y": (0.9, 1.0)},
        "a+b": {"x": (0.495, 1.0), "y": (0.6, 1.0)},
        "a+b+c": {"x": (0.5, 1.0), "y": (0.7, 1.0)},
    }
    assert nested_pairs(list(values)) == ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    found = order_violations(values)
    assert found.any == {"x": 1, "y": 2}  # x: a over ab; y: b over ab and over abc; equal scores are no violation
    assert found.clear == {"x": 0, "y": 2}  # .005 is not clear
    assert (found.share, found.clear_share) == (pytest.approx(0.3), pytest.approx(0.2))
    assert (found.worst, found.worst_mean) == ("a", pytest.approx(0.35))


def test_order_violations_where_lower_is_better_and_where_nothing_is_nested():
    errors = {"a": {"x": (2.0, 2.0)}, "a+b": {"x": (3.0, 2.0)}}  # a sum over two values each: 1 and 1.5
    found = order_violations(errors, lower_is_better=True)
    assert (found.share, found.worst, found.worst_mean) == (1.0, "a+b", 1.5)
    assert order_violations(errors).share == 0
    assert order_violations({"a": {"x": (1.0, 1.0)}, "b": {"x": (1.0, 1.0)}}) is None


def test_all_subsets_of_four_have_fifty_nested_pairs():
    names = ["+".join(subset) for subset in wanted_subsets("all", FOUR)]
    assert len(nested_pairs(names)) == (3**4 - 1) - 2 * 15  # of each larger one, all parts but two


def test_chance_of_classes_by_hand():
    """Of five samples three are of class 2: accuracy 3/5; mAP is the mean of the shares 3/5, 1/5 and 1/5."""
    task = CREMAD(make_config("cremad", [parse_overrides(["task.modalities=[audio]"])]))
    classes = len(task.targets)
    found = {"predicted": [0], "probability": [1.0], "probabilities": [[1.0] + [0.0] * (classes - 1)]}
    results = [CaseResult(str(i), {"fused": {"true": [c], **found}}) for i, c in enumerate((2, 2, 0, 1, 2))]
    assert task.chance(results) == {"accuracy": 0.6, "mAP": pytest.approx(1 / 3)}


def test_chance_of_values_by_hand():
    """The median of 0, 1, 1, 2, -2 is 1: errors 1, 0, 0, 1, 3; a constant has no correlation, which counts as 0."""
    task = MOSI(make_config("mosi", []))
    results = [
        CaseResult(str(i), {"fused": {"true": v, "predicted": 0.0}}) for i, v in enumerate((0.0, 1.0, 1.0, 2.0, -2.0))
    ]
    found = task.chance(results)
    assert found["MAE"] == 1
    assert found["Corr"] == 0
    assert found["Acc-7"] == 2 / 5


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def ticks(figure, side):
    return [label.get_text() for label in figure.axes[side].get_xticklabels()]


@pytest.mark.parametrize("modalities", [FOUR[:1], TWO, FOUR[:3], FOUR])
def test_the_picture_has_every_number(figure, tmp_path, modalities):
    found = table(modalities, lambda s: len(s) / 8 + ("t1" in s) / 50, ("Dice WT", "Dice mean"))
    subset_figure(tmp_path / "a.png", "title", modalities, found.values, found.closing())
    (drawn,) = figure
    assert ticks(drawn, 0) == list(modalities)
    assert ticks(drawn, 1) == ["Dice WT", "Dice mean"]
    shown = texts(drawn)
    assert {"mean over subsets", "worst"} < set(shown)
    numbers = [f"{row['Dice WT']:.3f}" for row in found.values.values() for _ in range(2)]
    assert [text for text in shown if text in numbers][: len(numbers)] == numbers
    # A row's dots are dark where the modality is there: the last row has all of them.
    dots = drawn.axes[0].collections
    assert len(dots) == len(found.values)
    assert {tuple(c) for c in dots[-1].get_facecolors()} == {(0.15, 0.15, 0.15, 1.0)}
    assert [label.get_text() for label in drawn.axes[2].get_yticklabels()][-1] == "1.0"


def test_columns_in_other_units_have_their_own_colours(figure, tmp_path):
    rows = {
        ("a",): {"MAE": 1.5, "Corr": None},
        ("b",): {"MAE": 0.5, "Corr": 0.2},
        ("a", "b"): {"MAE": 0.4, "Corr": 0.6},
    }
    found = SubsetTable(("a", "b"), rows, {"MAE"})
    subset_figure(tmp_path / "a.png", "t", "ab", rows, found.closing(), lower_is_better={"MAE"})
    (drawn,) = figure
    assert [label.get_text() for label in drawn.axes[2].get_yticklabels()] == ["worst", "best"]
    colours = [patch.get_facecolor() for patch in drawn.axes[1].patches]
    worst_mae, best_mae, best_corr = colours[0], colours[4], colours[5]
    assert best_mae == best_corr != worst_mae
    assert texts(drawn).count("-") == 3  # of the subset, and so of mean and worst


def test_a_picture_of_too_many_subsets_says_so(figure, tmp_path):
    twelve = tuple(f"m{i}" for i in range(12))
    found = table(twelve, lambda s: len(s) / 12)
    draw_table(tmp_path / "a.png", "title", found)
    (drawn,) = figure
    assert drawn.get_supxlabel().startswith("4095 subsets are too many to draw: here are each modality alone")
    assert len(drawn.axes[0].collections) == 25
    assert f"{found.closing()['mean over subsets']['Dice']:.3f}" in texts(drawn)
