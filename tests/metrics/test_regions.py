"""All scores of a region: the box that they are computed in changes none, and each is the metric of its name."""

import json
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console

from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import lesion_metrics
from cggm_med.metrics.overlap import dice, sensitivity, specificity, volume_error_ml
from cggm_med.metrics.regions import FACTS, METRICS, region_metrics, region_scores, score_region, summarise_regions
from cggm_med.metrics.surface_distance import hausdorff95, surface_dice
from cggm_med.results.results import Report, print_results

SPACING = (1.0, 1.5, 2.0)
PENALTY = 374.0
NO_RULES = LesionRules()


def scored(prediction, target, metrics=METRICS, spacing=SPACING):
    return score_region("a", "WT", prediction, target, spacing, metrics)


def uncropped(prediction, target, rules=NO_RULES, spacing=SPACING):
    """Each metric by itself, on the whole volume."""
    p, t = torch.from_numpy(prediction), torch.from_numpy(target)
    lesions = lesion_metrics(p, t, spacing, rules)
    return {
        "dice": dice(p, t),
        "hd95_mm": hausdorff95(p, t, spacing, empty_mm=PENALTY),
        "surface_dice": surface_dice(p, t, spacing, tolerance_mm=1.0),
        "sensitivity": sensitivity(p, t),
        "specificity": specificity(p, t),
        "volume_error_ml": volume_error_ml(p, t, spacing),
        "lesion_dice": lesions.dice,
        "lesion_hd95_mm": lesions.hd95_mm,
        "lesions": lesions.lesions,
        "missed_lesions": lesions.missed,
        "false_lesions": lesions.false,
    }


def blocks(rng, shape, number):
    """Boxes of 1 to 5 voxels a side, some of them at the border of the volume."""
    mask = np.zeros(shape, dtype=bool)
    for _ in range(number):
        corner, size = rng.integers(0, shape), rng.integers(1, 6, 3)
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


def test_the_box_changes_nothing():
    """Equal to the last bit: lesions, dilations and surfaces at the border of the volume and away from it."""
    rng = np.random.default_rng(0)
    seen_lesions = seen_smaller = 0
    for number in range(60):
        shape = tuple(int(n) for n in rng.integers(4, 26, 3))
        target, prediction = blocks(rng, shape, number % 5), blocks(rng, shape, number % 4)
        if number % 3 == 0:  # far from every border, in a box smaller than the volume
            target, prediction = (np.pad(mask, 1 + number % 8) for mask in (target, prediction | target))
        rules = LesionRules(*((3, 50.0), (0, 0.0, 6), (1, 2.0, 18, 0.3))[number % 3])
        expected = uncropped(prediction, target, rules)
        found = scored(prediction, target, metrics=region_metrics(PENALTY, 1.0, rules))
        assert {name: found[name] for name in expected} == expected
        seen_lesions += expected["lesions"] + expected["false_lesions"]
        union = np.argwhere(prediction | target)
        seen_smaller += bool(len(union)) and (np.ptp(union, axis=0) + 1 < prediction.shape).any()
    assert seen_lesions > 80
    assert seen_smaller > 30


@pytest.mark.parametrize(("predicted", "true"), [(False, False), (True, False), (False, True), (True, True)])
def test_empty_and_full_volumes(predicted, true):
    prediction, target = (np.full((7, 6, 5), value) for value in (predicted, true))
    expected = uncropped(prediction, target)
    found = scored(prediction, target)
    assert {name: found[name] for name in expected} == expected


def test_a_block_by_hand():
    """Truth: 5 x 5 x 5 voxels of 3 mm3, that is 0.375 ml; found are 4 layers of it, and 1 of 5 of a second is false."""
    target = np.zeros((20, 20, 20), dtype=bool)
    target[2:7, 2:7, 2:7] = True
    prediction = np.zeros_like(target)
    prediction[3:7, 2:7, 2:7] = True
    prediction[15, 15, 15] = True
    score = scored(prediction, target)
    assert score["target_ml"] == pytest.approx(0.375)
    assert score["volume_error_ml"] == pytest.approx((101 - 125) * 0.003)
    assert score["sensitivity"] == 100 / 125
    assert score["specificity"] == (8000 - 125 - 1) / (8000 - 125)
    assert (score["lesions"], score["missed_lesions"], score["false_lesions"]) == (1, 0, 1)
    assert score["lesion_dice"] == pytest.approx((200 / 225 + 0) / 2)
    assert score["lesion_hd95_mm"] == pytest.approx((1.0 + PENALTY) / 2)


def test_the_tolerance_is_the_caller_s():
    target = np.zeros((12, 12, 12), dtype=bool)
    target[3:8, 3:8, 3:8] = True
    shifted = np.roll(target, 1, axis=2)
    tolerant = [region_metrics(empty_mm=1, tolerance_mm=mm, lesion_rules=LesionRules()) for mm in (1, 2)]
    dices = [scored(shifted, target, metrics=metrics)["surface_dice"] for metrics in tolerant]
    assert dices[0] < 1 == dices[1]


def test_a_quick_score_has_dice_and_volumes_only():
    rng = np.random.default_rng(1)
    target, prediction = (blocks(rng, (20, 20, 20), 3) for _ in range(2))
    quick, full = scored(prediction, target, metrics=METRICS[:1]), scored(prediction, target)
    assert set(quick) == {*FACTS, "dice"}
    assert quick == {name: full[name] for name in quick}


CASES = [
    {
        **scored(np.zeros((3, 3, 3), dtype=bool), np.zeros((3, 3, 3), dtype=bool)),
        "case": case,
        "region": region,
        "surface_dice": nsd,
        "volume_error_ml": error,
        "lesion_hd95_mm": distance,
    }
    for case, region, nsd, error, distance in [
        ("a", "WT", 0.9, -12.0, 100.0),
        ("a", "TC", 0.7, 4.0, 4.0),
        ("b", "WT", 0.5, 2.0, 374.0),
        ("b", "TC", 0.1, 0.0, 0.0),
    ]
]


def report(cases):
    return Report("brats2021", "cggm", "test", region_scores(cases, ()), {}, {})


def printed(report, width):
    console = Console(width=width, record=True, file=StringIO())
    print_results(report, console)
    return console.export_text()


def test_the_summary_by_hand():
    """Errors without signs 12 and 2; each case's average of the regions' NSD is 0.8 and 0.3, of HD95 52 and 187."""
    wt, tc, mean = summarise_regions(CASES)
    assert (wt["surface_dice_mean"], tc["surface_dice_mean"], mean["surface_dice_mean"]) == pytest.approx(
        (0.7, 0.4, 0.55)
    )
    assert (wt["volume_error_ml_mean"], wt["volume_error_ml_mean_absolute"]) == (-5, 7)
    assert mean["volume_error_ml_mean"] is None
    assert (wt["lesion_hd95_mean"], wt["lesion_hd95_median"]) == (237, 237)
    assert (mean["lesion_hd95_mean"], mean["lesion_hd95_median"]) == (119.5, 119.5)
    half = summarise_regions([CASES[0], {**CASES[2], "surface_dice": None}])[0]
    assert half["surface_dice_mean"] is None  # of one case only, which says nothing of both
    assert half["sensitivity_mean"] == 1


def test_tables_fit_and_the_first_one_is_what_it_was():
    many = [{**row, "case": f"case{i}", "volume_error_ml": -123.45} for i in range(40) for row in CASES[:2]]
    quick = [{key: value for key, value in row.items() if key in (*FACTS, "dice", "hd95_mm")} for row in many]
    text = printed(report(many), 100)
    assert max(map(len, text.splitlines())) <= 100
    assert "-123.5 (123.5)" in text
    assert "case1" not in text  # details stay in files
    narrow = printed(report(many), 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert {"sensitivity", "specificity", "0.900"} <= set(narrow.split())
    first, second = report(many).scores.tables[:2]
    assert first == report(quick).scores.tables[0]
    assert second.header == (
        *("region", "NSD", "sensitivity", "specificity"),
        *("volume error ml", "lesion Dice", "lesion HD95 mm"),
    )
    assert "NSD" not in report(quick).to_markdown()
    lines = report(CASES).to_markdown().splitlines()
    assert "| WT | 0.700 | 1.000 | 1.0000 | -5.0 (7.0) | 1.000 | 237.0 |" in lines
    assert "| mean | 0.550 | 1.000 | 1.0000 | - | 1.000 | 119.5 |" in lines
    assert "| a | TC | 0.700 | 1.000 | 1.0000 | 4.0 | 1.000 | 4.0 | 0 | 0 | 0 |" in lines


def test_json_has_every_score():
    content = json.loads(json.dumps(report(CASES).to_json(), allow_nan=False))
    assert content["cases"][0] == CASES[0]
    assert content["summary"][0]["volume_error_ml_mean_absolute"] == 7
