"""Reports: numbers checked by hand, strict JSON there and back, tables that people can read."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from cggm_med.metrics.regions import METRICS, head_summary, region_scores, summarise_regions
from cggm_med.results.results import Report, print_results


def case_row(*values):
    return dict(zip(("case", "region", "dice", "hd95_mm", "empty", "target_ml", "predicted_ml"), values, strict=True))


def summarise(rows):
    return summarise_regions(rows, METRICS[:2])


CASES = (
    case_row("a", "WT", 0.8, 2.0, "none", 100.0, 90.0),
    case_row("a", "TC", 0.6, 4.0, "none", 50.0, 60.0),
    case_row("b", "WT", 0.4, 6.0, "none", 80.0, 20.0),
    case_row("b", "TC", 0.0, 374.0, "missed", 12.5, 0.0),
    case_row("c", "WT", 0.9, 1.0, "none", 70.0, 71.0),
    case_row("c", "TC", 1.0, 0.0, "both", 0.0, 0.0),
)
HEADS = tuple(
    {"case": case, "modality": modality, "region": region, "dice": dice}
    for modality, dices in {"flair": (0.5, 0.1), "t1": (0.25, 0.75)}.items()
    for region, dice in zip(("WT", "TC"), dices, strict=True)
    for case in "abc"
)
REPORT = Report(
    task="brats2021",
    strategy="cggm",
    split="test",
    scores=region_scores(CASES, HEADS),
    rules={"empty region": "missed: Dice 0, HD95 374 mm"},
    provenance={"seed": "0"},
)
ONE_CASE = replace(REPORT, scores=region_scores(CASES[:2], ()))


def printed(report, width=80):
    console = Console(width=width, record=True, file=StringIO())
    print_results(report, console)
    return console.export_text()


def test_summary_by_hand():
    wt, tc, mean = summarise(CASES)
    assert [row["region"] for row in (wt, tc, mean)] == ["WT", "TC", "mean"]
    assert [row["cases"] for row in (wt, tc, mean)] == [3, 3, 3]
    # WT 0.8, 0.4, 0.9: squared deviations from 0.7 are 0.01, 0.09, 0.04; half their sum is 0.07
    assert (wt["dice_mean"], wt["dice_sd"], wt["dice_median"]) == pytest.approx((0.7, 0.07**0.5, 0.8))
    assert (wt["hd95_mean"], wt["hd95_median"]) == (3, 2)
    assert tc["dice_mean"] == pytest.approx(1.6 / 3)
    assert (tc["hd95_mean"], tc["hd95_median"]) == (126, 4)


def test_the_mean_row_summarises_each_cases_average():
    """Averages of a, b, c: Dice 0.7, 0.2, 0.95 and HD95 3, 190, 0.5; the spread is that between patients."""
    mean = summarise(CASES)[-1]
    averages = [0.7, 0.2, 0.95]
    expected = (np.mean(averages), np.std(averages, ddof=1), 0.7)
    assert (mean["dice_mean"], mean["dice_sd"], mean["dice_median"]) == pytest.approx(expected)
    assert (mean["hd95_mean"], mean["hd95_median"]) == (64.5, 3)


def test_a_missed_region_lowers_the_mean_and_is_counted():
    found = {**CASES[3], "dice": 0.5, "hd95_mm": 5.0, "empty": "none"}
    better = summarise((*CASES[:3], found, *CASES[4:]))[1]
    missed = summarise(CASES)[1]
    assert missed["dice_mean"] == pytest.approx(better["dice_mean"] - 0.5 / 3)
    assert missed["hd95_mean"] > better["hd95_mean"]
    assert missed["cases"] == better["cases"] == 3
    assert (missed["empty"], better["empty"]) == ({"missed": 1, "both": 1}, {"both": 1})


def test_heads_by_hand():
    assert head_summary(HEADS) == {
        "flair": pytest.approx({"WT": 0.5, "TC": 0.1, "mean": 0.3}),
        "t1": pytest.approx({"WT": 0.25, "TC": 0.75, "mean": 0.5}),
    }


@pytest.mark.parametrize("report", [REPORT, ONE_CASE])
def test_json_there_and_back(report):
    text = json.dumps(report.to_json(), allow_nan=False)
    back = Report.from_json(json.loads(text))
    assert back == report
    assert back.to_markdown() == report.to_markdown()
    assert json.dumps(back.to_json(), allow_nan=False) == text


def test_json_says_what_the_summary_says():
    content = json.loads(json.dumps(REPORT.to_json()))
    assert content["summary"][1]["dice_mean"] == summarise(CASES)[1]["dice_mean"]
    assert content["headline"]["Dice TC"] == summarise(CASES)[1]["dice_mean"]
    assert content["heads"][0] == {"case": "a", "modality": "flair", "region": "WT", "dice": 0.5}


def test_one_case_has_no_standard_deviation():
    assert [row["dice_sd"] for row in ONE_CASE.to_json()["summary"]] == [None, None, None]
    assert "| WT | 0.800 | 2.0 (2.0) | 1 | - |" in ONE_CASE.to_markdown()


def test_markdown_holds_the_numbers():
    lines = REPORT.to_markdown().splitlines()
    assert lines[0] == "# brats2021, cggm: 3 cases, split test"
    assert "| WT | 0.700 ± 0.265 | 3.0 (2.0) | 3 | - |" in lines
    assert "| TC | 0.533 ± 0.503 | 126.0 (4.0) | 3 | 1 missed, 1 rightly empty |" in lines
    assert "| mean | 0.617 ± 0.382 | 64.5 (3.0) | 3 | - |" in lines
    assert "| t1 | 0.250 | 0.750 | 0.500 |" in lines
    assert "| b | TC | 0.000 | 374.0 | 12.5 | 0.0 | missed |" in lines
    assert "- empty region: missed: Dice 0, HD95 374 mm" in lines
    assert "- seed: 0" in lines


def test_markdown_tables_have_equally_many_columns():
    for table in REPORT.to_markdown().split("\n\n"):
        if table.startswith("|"):
            assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_terminal_table_fits_eighty_columns():
    false = case_row("d", "TC", 0.0, 374.0, "false", 0.0, 3.0)
    text = printed(replace(REPORT, scores=region_scores((*CASES, false), HEADS)))
    assert max(map(len, text.splitlines())) <= 80
    for number in (
        "0.700 ± 0.265",
        "3.0 (2.0)",
        "188.0 (189.0)",
        "1 missed, 1 falsely",
        "predicted, 1 rightly",
        "0.750",
    ):
        assert number in text


def test_the_terminal_shows_heads_only_if_there_are_any():
    assert "own head" in printed(REPORT)
    assert "own head" not in printed(ONE_CASE)


def test_a_long_table_is_cut_in_markdown_and_whole_in_json():
    many = [{**CASES[0], "case": f"case{i}"} for i in range(250)]
    report = replace(REPORT, scores=region_scores(many, ()))
    lines = report.to_markdown().splitlines()
    assert sum(line.startswith("| case") for line in lines) == 1 + 200
    assert "The first 200 of 250 rows; `results.json` has them all." in lines
    assert len(report.to_json()["cases"]) == 250
