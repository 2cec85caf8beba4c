"""Cells of a paper's table, from runs made up by hand."""

import csv
import dataclasses
import json
import statistics

import pytest
from helpers.finished import finished_run

from cggm_med.reproduction import written
from cggm_med.reproduction.catalogue import TABLES
from cggm_med.reproduction.cells import cells
from cggm_med.reproduction.outcome import MARK, Outcome
from cggm_med.reproduction.paper_table import ADDED_MEGABYTES, Column, PaperTable, Published, Row
from cggm_med.runs.finished_run import Excluded, FinishedRun

BRATS = TABLES["cggm/brats2021"]
WT = Column("WT", "Dice WT", percent=True)


def table(rows, columns, **others):
    return PaperTable("p/t", BRATS.paper, "Dice", "brats2021", BRATS.data, rows, columns, **others)


def change(folder, file, **values):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))


def seeds_of(tmp_path, name, *dice, **settings):
    return [
        FinishedRun(finished_run(tmp_path / f"{name}{seed}", values, seed=seed, **settings))
        for seed, values in enumerate(dice)
    ]


def test_mean_and_spread_are_over_seeds_in_the_unit_of_the_paper(tmp_path):
    runs = seeds_of(tmp_path, "joint", {"a": 0.5, "b": 0.7}, {"a": 0.8, "b": 0.8})
    published = {("CGGM", "WT"): Published("76.94", "https://example.org")}
    (cell,) = cells(table((Row("CGGM", "joint"),), (WT,), published=published), {"joint": runs})
    assert cell.mean == pytest.approx(70)
    assert cell.sd == pytest.approx(100 * statistics.stdev([0.6, 0.8]))
    low, high = cell.interval
    assert 50 <= low < 70 < high <= 80
    assert (cell.runs, cell.published) == (2, "76.94")
    assert cell.text(1).startswith("70.0 ± 14.1 [")


def test_folds_of_a_seed_are_one_value(tmp_path):
    runs = [FinishedRun(finished_run(tmp_path / c, {c: dice}, train=("t",))) for c, dice in (("a", 0.4), ("b", 0.8))]
    (cell,) = cells(table((Row("joint", "joint"),), (WT,)), {"joint": runs})
    assert (cell.mean, cell.sd, cell.runs) == (pytest.approx(60), None, 2)


def test_a_row_without_a_run_says_so(tmp_path):
    (cell,) = cells(table((Row("AGM", "agm"),), (WT,)), {})
    assert (cell.mean, cell.text(2), cell.published) == (None, "no run", "not known here")


def test_a_metric_that_is_no_mean_over_cases_has_no_interval(tmp_path):
    run = finished_run(tmp_path / "run", {"a": 0.5})
    change(run, "results.json", headline={"AUC": 0.25})
    (cell,) = cells(
        table((Row("joint", "joint"),), (Column("AUC", "AUC", percent=True),)), {"joint": [FinishedRun(run)]}
    )
    assert (cell.mean, cell.interval, cell.text(2)) == (25, None, "25.00")


def test_a_classifier_head_is_scored_where_the_column_names_its_modality(tmp_path):
    heads = [
        {"case": case, "modality": m, "region": r, "dice": dice}
        for m, dice in (("flair", 0.25), ("t1", 0.75))
        for case in ("a", "b")
        for r in ("WT", "ET")
    ]
    run, alone = (finished_run(tmp_path / name, {"a": 0.5, "b": 0.5}) for name in ("all", "alone"))
    change(run, "results.json", heads=heads)
    columns = (Column("f1", "Dice WT", of="flair"), Column("f2", "Dice WT", of="t1"))
    rows = (Row("joint", "joint"), Row("alone", "joint[task.modalities=[{modality}]]"))
    runs = {"joint": [FinishedRun(run)], "joint[task.modalities=[flair]]": [FinishedRun(alone)]}
    found = cells(table(rows, columns), runs)
    assert [cell.mean for cell in found] == [0.25, 0.75, 0.5, None]


def test_memory_is_that_of_the_baseline_with_the_same_seed_less(tmp_path):
    base = seeds_of(tmp_path, "base", {"a": 0.5}, {"a": 0.5})
    own = seeds_of(tmp_path, "own", {"a": 0.5}, {"a": 0.5}, strategy="cggm")
    for run, more in zip(own, (8_000_000, 24_000_000), strict=True):
        change(run.path, "cost.json", step_memory_bytes=10**8 + more)
    column = Column("MB", ADDED_MEGABYTES)
    (cell,) = cells(table((Row("CGGM", "cggm"),), (column,)), {"joint": base, "cggm": own})
    assert (cell.mean, cell.sd) == (16, pytest.approx(statistics.stdev([8, 24])))
    change(own[0].path, "cost.json", step_memory_bytes=None)
    interrupted = [FinishedRun(run.path) for run in own]
    (cell,) = cells(table((Row("CGGM", "cggm"),), (column,)), {"joint": base, "cggm": interrupted})
    assert (cell.mean, cell.text(1)) == (None, "not defined")


@pytest.fixture
def outcome(tmp_path):
    rows = (Row("CGGM", "joint"), Row("own", "agm", added=True))
    published = {("CGGM", "WT"): Published("76.94", "https://example.org/page")}
    made = table(rows, (WT,), published=published, differs=("another network",))
    runs = {"joint": seeds_of(tmp_path, "joint", {"a": 0.5}, {"a": 0.7})}
    return Outcome(
        table=made,
        cells=tuple(cells(made, runs)),
        seeds=(0, 1),
        folds=0,
        changed=("train.device=cpu",),
        phantom=False,
        excluded=(Excluded("out/agm", "failed: no memory"),),
        figures=(),
        provenance={"command": "cggm-med"},
    )


def test_the_page_has_both_figures_the_source_and_what_is_missing(outcome):
    page = written.markdown(outcome)
    assert "| CGGM | 60.00 ± 14.14 [50.00, 70.00] | 76.94 |" in page
    assert "| own * | no run | not in the paper |" in page
    for text in ("another network", "https://example.org/page", "out/agm: failed: no memory", "train.device=cpu"):
        assert text in page
    assert MARK not in page.lower()


def test_the_numbers_are_the_same_in_all_files(outcome, tmp_path):
    written.write(tmp_path / "out", outcome)
    with (tmp_path / "out" / "table.csv").open() as file:
        first, second = csv.DictReader(file)
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    assert float(first["mean"]) == content["cells"][0]["mean"] == pytest.approx(60)
    assert (first["published"], first["source"]) == ("76.94", "https://example.org/page")
    assert (second["mean"], second["published"], second["source"]) == ("", "not in the paper", "")


def test_generated_data_are_marked_in_every_file(outcome, tmp_path):
    marked = dataclasses.replace(outcome, phantom=True)
    written.write(tmp_path / "out", marked)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["table.csv", "table.json", "table.md"]
    for path in (tmp_path / "out").iterdir():
        assert MARK in path.read_text().lower()
    assert MARK in written.shown_in_terminal(marked).title
    assert written.shown(marked).header == ("", f"WT (%), {MARK}", "WT (%), published")
