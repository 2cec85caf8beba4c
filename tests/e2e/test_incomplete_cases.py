"""Cases that lack modalities, from the folder to the table: trained, scored, segmented and told apart."""

import csv
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command, same_values, set_options
from helpers.processes import run_together
from helpers.small_runs import small_config, small_settings, trained_run

from cggm_med.errors import DataError, UnknownName
from cggm_med.inference.batch import find_images
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.settings import instantiate

LACKING = {0: ("t1",), 1: ("t1", "t2"), 2: ("flair", "t1", "t1ce"), 5: ("t1ce",)}
SPLITS = {"train": (0, 1, 4), "validation": (3,), "test": (2, 5)}


def name(number):
    return f"BraTS2021_{number:05d}"


@pytest.fixture(scope="module")
def folder(phantom, tmp_path_factory):
    """The phantom without some files."""
    copy = tmp_path_factory.mktemp("incomplete") / "scans"
    for case in sorted(path for path in phantom.iterdir() if path.is_dir()):
        (copy / case.name).mkdir(parents=True)
        for file in case.iterdir():
            lost = any(
                case.name == name(n) and file.name.endswith(f"_{m}.nii.gz") for n, of in LACKING.items() for m in of
            )
            if not lost:
                os.link(file, copy / case.name / file.name)
    return copy


@pytest.fixture(scope="module")
def run(folder, cache, tmp_path_factory):
    where = tmp_path_factory.mktemp("run")
    splits = {split: [name(number) for number in numbers] for split, numbers in SPLITS.items()}
    (where / "splits.json").write_text(json.dumps(splits))
    options = {"data__allow_missing": "true", "data__splits": str(where / "splits.json"), "train__epochs": "1"}
    return trained_run(where / "run", folder, cache, **options, train__log_shapley="true")


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, "cpu")


def test_without_the_option_they_are_refused_and_the_option_is_named(folder, cache, tmp_path):
    task, _ = instantiate(small_config(folder, cache))
    with pytest.raises(DataError) as error:
        task.find(lambda text: None)
    first, *cases = str(error.value).splitlines()
    assert first.endswith("fix or leave out these cases, or use what they have with --set data.allow_missing=true:")
    assert [line.split()[0].rstrip(":") for line in cases] == [name(n) for n in LACKING]
    assert "no t1 (expected BraTS2021_00000_t1.nii.gz)" in cases[0]


def test_what_is_required_is_still_refused(folder, cache):
    config = small_config(folder, cache, data__allow_missing="true", data__required="[t2]")
    with pytest.raises(DataError, match=r"BraTS2021_00001: no t2 \(expected"):
        instantiate(config)[0].find(lambda text: None)
    config = small_config(folder, cache, data__allow_missing="true", data__required="[ct]")
    with pytest.raises(UnknownName, match="no modality to require 'ct'"):
        instantiate(config)[0].find(lambda text: None)


def test_the_table_before_the_first_step_says_who_lacks_what(folder, cache, tmp_path, monkeypatch, capsys):
    words = [*set_options(small_settings(folder, cache, train__epochs="1")), "--json", tmp_path / "a.json"]
    command(monkeypatch, "train", "--preset", "tiny", "--allow-missing", *words, "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert said.index("cases that lack a modality") < said.index("step 1/")
    assert same_values(tmp_path / "a.json", tmp_path / "run" / "results.json", "train")
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    lacking = json.loads((tmp_path / "run" / "facts.json").read_text())["lacking"]
    expected = {
        split: {name(n): list(of) for n, of in LACKING.items() if name(n) in ids} for split, ids in splits.items()
    }
    assert lacking == expected
    t1 = sum("t1" in of for of in expected["train"].values())
    assert f"{t1} of {len(splits['train'])}" in said


def test_a_complete_run_says_nothing_of_it(phantom, cache):
    task, _ = instantiate(small_config(phantom, cache))
    task.find(lambda text: None)
    task.prepare(task.default_splits(), lambda text: None)
    assert task.overview() == ()
    assert "lacking" not in task.facts()


def test_the_run_logs_and_scores_them(run):
    finished = FinishedRun(run)
    records = [r for r in finished.records if r["kind"] == "train"]
    assert all(np.isfinite(r["loss"]) for r in records)
    cases = finished.report.scores.cases
    present = {row["case"]: row["present"] for row in cases}
    for number, of in LACKING.items():
        if name(number) in present:
            assert present[name(number)] == "+".join(m for m in ("flair", "t1", "t1ce", "t2") if m not in of)
    assert len(set(present.values())) > 1
    (table,) = [t for t in finished.report.scores.tables if t.title == "Dice by the modalities that a case has"]
    assert {row[0]: int(row[1]) for row in table.rows} == {p: list(present.values()).count(p) for p in present.values()}
    for shown, _, wt, *_ in table.rows:
        mine = [row["dice"] for row in cases if row["present"] == shown and row["region"] == "WT"]
        assert float(wt) == pytest.approx(sum(mine) / len(mine), abs=6e-4)
    assert table.title in (run / "results.md").read_text()


def test_a_case_is_scored_by_the_mask_that_predict_writes(run, predictor, folder):
    """Its Dice in the table is that of a prediction from the files that it has."""
    cases = FinishedRun(run).report.scores.cases
    (case,) = sorted({row["case"] for row in cases if row["present"] != "flair+t1+t1ce+t2"})[:1]
    images = find_images(predictor, folder)[case]
    predicted = predictor.predict(case, images)
    truth = predictor.task.conventions["brats2021"].to_regions(
        np.asarray(nib.load(folder / case / f"{case}_seg.nii.gz").dataobj)
    )
    regions = predictor.task.conventions["brats2021"].to_regions(predicted.labels)
    for row, p, t in zip([r for r in cases if r["case"] == case], regions, truth, strict=True):
        total = p.sum() + t.sum()
        assert row["dice"] == pytest.approx(1.0 if total == 0 else 2 * (p & t).sum() / total, abs=1e-6)


def test_other_data_are_scored_with_what_they_have(run, folder, tmp_path, monkeypatch):
    """Also by all other questions."""
    options = ["--data", folder, "--split", "all"]
    command(monkeypatch, "evaluate", run, *options, "--out", tmp_path / "all", "--json", tmp_path / "a.json")
    assert same_values(tmp_path / "a.json", tmp_path / "all" / "results.json", "evaluate")
    rows = json.loads((tmp_path / "all" / "results.json").read_text())["cases"]
    assert {row["case"]: row["present"] for row in rows}[name(2)] == "t2"
    command(monkeypatch, "evaluate", run, *options, "--require", "t2", code=1)
    command(monkeypatch, "evaluate", run, "--require", "t2", code=2)


def test_subsets_use_what_a_case_has_of_them(run, tmp_path, monkeypatch):
    words = ["--out", tmp_path / "subsets", "--json", tmp_path / "a.json"]
    command(monkeypatch, "evaluate", run, "--subsets", "flair+t2,t1", *words)
    assert same_values(tmp_path / "a.json", tmp_path / "subsets" / "results.json", "evaluate")
    rows = json.loads((tmp_path / "subsets" / "results.json").read_text())["cases"]
    present = {row["case"]: row["present"].split("+") for row in FinishedRun(run).report.scores.cases}
    without = [row for row in rows if row["subset"] == "t1" and "t1" not in present[row["case"]]]
    assert without
    assert {row["dice"] for row in without} == {0.0}  # nothing is predicted from nothing
    rules = json.loads((tmp_path / "subsets" / "results.json").read_text())["rules"]
    assert "has none of them as empty" in rules["incomplete cases"]


def test_all_other_questions_are_answered(run, tmp_path, monkeypatch):
    command(monkeypatch, "evaluate", run, "--corrupt", "noise,missing:t2", "--severity", "1", "--out", tmp_path / "a")
    command(monkeypatch, "evaluate", run, "--calibration", "--out", tmp_path / "b")
    command(monkeypatch, "probe", run, "--out", tmp_path / "c", "--json", tmp_path / "probe.json")
    assert same_values(tmp_path / "probe.json", tmp_path / "c" / "results.json", "probe")
    assert all((tmp_path / sub / "results.json").exists() for sub in "abc")


def test_nnunet_is_given_no_case_that_lacks_a_channel(folder, tmp_path, monkeypatch, capsys):
    words = ["--data", folder, "--set", "data.allow_missing=true", "--folder", tmp_path]
    command(monkeypatch, "nnunet", "export", *words, code=1)
    assert "BraTS2021_00001: no t1, t2; nnU-Net needs every modality of every case" in capsys.readouterr().err


def test_a_cohort_is_segmented_with_what_each_case_has(run, folder, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "predict", run, folder, "-o", tmp_path / "masks")
    with (tmp_path / "masks" / "cohort.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert set(rows) == {path.name for path in folder.iterdir()}
    for number, of in LACKING.items():
        assert rows[name(number)]["absent"] == "+".join(of)
        assert rows[name(number)]["failed"] == ""
        side_car = json.loads((tmp_path / "masks" / f"{name(number)}.json").read_text())
        assert side_car["absent"] == list(of)
    said = capsys.readouterr().out
    assert "predicted from" in said
    assert "flair+t1+t1ce" in said


def test_what_a_cohort_must_have_can_be_demanded(run, predictor, folder, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "predict", run, folder, "-o", tmp_path / "masks", "--require", "flair,t2", code=1)
    said = capsys.readouterr().err
    assert all(f"{name(n)}: no" in said for n in (1, 2))
    assert f"{name(0)}: no" not in said
    assert not (tmp_path / "masks").exists()
    with pytest.raises(UnknownName, match="no modality to require 't2'"):
        find_images(predictor, folder, ["flair"], ["t2"])
    with pytest.raises(DataError, match=f"{name(2)}: no flair"):  # it has nothing else to be segmented from
        find_images(predictor, folder, ["flair"])


# Imposed


def test_imposed_absence_is_that_of_training_cases_alone(phantom, cache):
    config = small_config(phantom, cache, data__missing="2-4-6-8")
    task, _ = instantiate(config)
    task.find(lambda text: None)
    task.prepare(task.default_splits(), lambda text: None)
    lacking = task.facts()["lacking"]
    assert lacking["test"] == lacking["validation"] == {}
    count, total = len(task.splits.train), dict.fromkeys(task.modalities, 0)
    for of in lacking["train"].values():
        for modality in of:
            total[modality] += 1
    assert total == {m: round(rate * count) for m, rate in zip(task.modalities, (0.2, 0.4, 0.6, 0.8), strict=True)}
    assert all(task.cases[id].modalities for id in task.splits.train)


@pytest.mark.slow
def test_two_processes_train_incomplete_cases_as_one_does(phantom, cache, tmp_path):
    """Though one may have none of what the other has; both end with the same bits."""
    changes = {
        "data__missing": "2-4-6-8",
        "optim__name": "sgd",
        "optim__lr": "0.05",
        "train__epochs": "1",
        "train__batch_size": "2",
        "train__log_shapley": "true",
        "train__subset_view": "0.5",
        "train__modality_dropout": "{flair: 0.3}",
    }
    script = Path(__file__).parents[1] / "helpers" / "two_processes.py"
    for strategy in ("cggm", "mmpareto"):
        named = {**changes, "strategy__name": strategy}
        named |= {"strategy__warmup_steps": "0"} if strategy == "cggm" else {}
        ends = {}
        for processes in (1, 2):
            out = tmp_path / f"{strategy}{processes}"
            out.mkdir()
            for done in run_together(processes, script, out, *small_settings(phantom, cache, **named)):
                assert done.returncode == 0, done.stderr[-3000:]
            ends[processes] = [torch.load(file, weights_only=True) for file in sorted(out.glob("process*.pt"))]
        one, two = ends[2]
        for module in ("model", "strategy"):
            for key, value in one[module].items():
                assert torch.equal(value, two[module][key]), key
                torch.testing.assert_close(value, ends[1][0][module][key], rtol=1e-3, atol=1e-4, msg=key)
