"""``evaluate --subsets``: a row is what a prediction without the other files gives; modalities are encoded once."""

import csv
import json
import shutil
from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from helpers.pictures import drawn
from helpers.small_runs import quiet, trained_run
from matplotlib.image import imread

from cggm_med.errors import CheckpointError, ConfigError, OutputError, UnknownName
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.subsets import question as subset_evaluation
from cggm_med.evaluation.subsets.question import SubsetQuestion
from cggm_med.evaluation.subsets.table import wanted_subsets
from cggm_med.inference.predictor import Predictor
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.metrics.overlap import dice
from cggm_med.models.sliding_window import window_count
from cggm_med.runs.loaded_run import load_run
from cggm_med.task.base import CaseResult, Task

HOW = {"device": torch.device("cpu"), "autocast": nullcontext}
MODALITIES = ("flair", "t1", "t1ce", "t2")
FILES = {"findings.json", "results.json", "results.csv", "results.md", "subsets.csv", "subsets.png"}
FILES |= {"shapley.csv", "order.csv", "left_out.png"}


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="1", data__test="0.4")


@pytest.fixture(scope="module")
def folder(run):
    """What all subsets of the run's modalities give."""
    with pytest.MonkeyPatch.context() as patch, drawn():
        command(patch, "evaluate", run, "--subsets", "all")
    return run / "subsets" / "test"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run of the audio-visual digits on generated data."""
    base = tmp_path_factory.mktemp("digits")
    settings = [f"data.cache={base / 'cache'}", "train.epochs=2", "train.steps_per_epoch=8", "train.log_every=8"]
    words = set_options(settings)
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--task", "avdigits", "--strategy", "joint", "--out", base / "run", *words)
    return base / "run"


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_every_subset_case_and_region_is_there(folder):
    content = results(folder)
    names = ["+".join(s) for s in wanted_subsets("all", MODALITIES)]
    assert {p.name for p in folder.iterdir()} == FILES
    assert list(dict.fromkeys(row["subset"] for row in content["cases"])) == names
    assert len(content["cases"]) == 15 * 2 * 3
    assert set(content["cases"][0]) == {"case", "subset", "region", "dice"}
    assert len(content["summary"]) == 15 * 4
    assert set(content["summary"][0]) == {"subset", "region", "dice_mean", "dice_sd", "cases"}
    assert [row["subset"] for row in rows_of(folder / "subsets.csv")] == [*names, "mean over subsets", "worst"]
    assert len(rows_of(folder / "shapley.csv")) == 4 * 4
    assert imread(folder / "subsets.png").shape[2] == 4
    of_cases = rows_of(folder / "order.csv")
    assert {row["pairs"] for row in of_cases} == {"50"}
    found = sum(int(row["violations"]) for row in of_cases if row["score"] == "Dice mean")
    assert content["headline"]["Dice mean, order violations"] == found / (2 * 50)
    text = (folder / "results.md").read_text()
    assert "| flair+t1+t1ce+t2 |" in text
    assert "- Shapley value: what a modality adds" in text
    assert "without any modality: Dice 0" in text
    assert "HD95" not in text  # which is not computed here


def test_all_modalities_score_as_in_a_plain_evaluation(folder, run):
    plain, content = (json.loads((where / "results.json").read_text()) for where in (run, folder))
    expected = [(row["case"], row["region"], row["dice"]) for row in plain["cases"]]
    mine = [row for row in content["cases"] if row["subset"] == "+".join(MODALITIES)]
    assert [(row["case"], row["region"], row["dice"]) for row in mine] == expected
    assert content["headline"].items() >= plain["headline"].items()


def test_hd95_is_scored_if_asked_for_and_as_in_a_plain_evaluation(run, tmp_path, monkeypatch):
    words = ("--subsets", "t1,flair+t1+t1ce+t2", "--set", "task.subset_hd95=true", "--out", tmp_path / "out")
    command(monkeypatch, "evaluate", run, *words)
    plain, content = results(run), results(tmp_path / "out")
    columns = ("case", "region", "dice", "hd95_mm", "empty")
    mine = [row for row in content["cases"] if row["subset"] == "+".join(MODALITIES)]
    assert [[row[c] for c in columns] for row in mine] == [[row[c] for c in columns] for row in plain["cases"]]
    means = [row["hd95_mean"] for row in content["summary"] if row["subset"] == "+".join(MODALITIES)]
    assert means == [row["hd95_mean"] for row in plain["summary"]]
    assert "- HD95: larger of the two" in (tmp_path / "out" / "results.md").read_text()


def cut(scans, folder):
    """Copies of two cases whose T1 and T2 show less of the brain, so that subsets differ in their crop."""
    for case in ("BraTS2021_00000", "BraTS2021_00001"):
        shutil.copytree(scans / case, folder / case)
        for modality, axis in (("t1", 0), ("t2", 2)):
            path = folder / case / f"{case}_{modality}.nii.gz"
            scan = nib.load(path)
            voxels = np.asanyarray(scan.dataobj).copy()
            inside = np.flatnonzero((voxels != 0).any(axis=tuple(a for a in range(3) if a != axis)))
            index = [slice(None)] * 3
            index[axis] = slice(0, inside[0] + 5)
            voxels[tuple(index)] = 0
            nib.save(nib.Nifti1Image(voxels, scan.affine), path)
    return folder


def test_a_row_is_what_a_prediction_without_the_other_files_gives(run, phantom, tmp_path, monkeypatch):
    """Independent path, to the last bit: whatever is missing was never there, not even for the crop."""
    scans = cut(phantom, tmp_path / "scans")
    command(monkeypatch, "evaluate", run, "--subsets", "all", "--data", scans, "--split", "all")
    found = {(r["case"], r["subset"], r["region"]): r["dice"] for r in results(run / "subsets" / "scans")["cases"]}
    predictor = Predictor(run, "cpu", trust_names=True)
    boxes = set()
    for subset in wanted_subsets("flair,t1,t2,t1+t2,flair+t1,t1+t1ce+t2,flair+t1+t1ce+t2", MODALITIES):
        case = "BraTS2021_00001"
        files = {m: scans / case / f"{case}_{m}.nii.gz" for m in subset}
        predicted = predictor.predict(case, files)
        boxes.add((*predicted.segmented.grid.crop_start, *predicted.segmented.grid.crop_stop))
        labels = np.asarray(nib.load(scans / case / f"{case}_seg.nii.gz").dataobj)
        truth = predictor.convention.to_regions(labels)
        masks = torch.from_numpy(predictor.convention.to_regions(predicted.labels))
        for i, region in enumerate(predictor.task.targets):
            assert dice(masks[i], torch.from_numpy(truth[i])) == found[case, "+".join(subset), region], (subset, region)
    assert len(boxes) > 2
    assert len(set(found.values())) > 15


def test_each_modality_is_encoded_once_a_window(run, monkeypatch):
    x = load_run(run, {}, lambda text: None, split=None)
    case = x.task.cases[x.cases[0]]
    calls = dict.fromkeys((*MODALITIES, "head"), 0)
    for name in calls:
        module = x.model.head if name == "head" else x.model.encoders[name]

        def count(module, args, output, name=name):
            calls[name] += 1

        module.register_forward_hook(count)
    data = x.config.data
    windows = window_count(case.image().shape[1:], x.task.window_size, data.overlap)
    list(x.task.evaluate_subsets(x.model.eval(), wanted_subsets("all", MODALITIES), [case.id], **HOW))
    assert calls == {**dict.fromkeys(MODALITIES, windows), "head": 15 * windows}


def test_the_picture_shows_a_case_from_all_scans_and_without_each(run, folder, monkeypatch, tmp_path):
    """With the Dice that the table has of this case, over the scan that is left out."""
    x = load_run(run, {}, lambda text: None, split=None)
    drawn = []
    monkeypatch.setattr("cggm_med.plots.contours.contour_figure", lambda *given, **_: drawn.append(given))
    (result,) = x.task.evaluate_subsets(x.model.eval(), wanted_subsets("all", MODALITIES), x.cases[:1], **HOW)
    result.draw(tmp_path / "left_out.png")
    ((_, title, columns, *_),) = drawn
    assert title.startswith(x.cases[0])
    images = x.task.cases[x.cases[0]].scan().volumes
    for column, absent in zip(columns, (None, *MODALITIES), strict=True):
        subset = "+".join(m for m in MODALITIES if m != absent)
        rows = [row for row in results(folder)["cases"] if (row["case"], row["subset"]) == (x.cases[0], subset)]
        dice = "  ".join(f"{row['region']} {row['dice']:.2f}" for row in rows)
        assert column.title == f"{f'without {absent}' if absent else 'all'}\n{dice}"
        assert np.isclose(column.image.sum(), images[absent or "flair"].sum())


def test_a_few_at_a_time_give_the_same(run, monkeypatch):
    x = load_run(run, {}, lambda text: None, split=None)
    scan = x.task.cases[x.cases[0]].scan()
    todo = wanted_subsets("all", MODALITIES)
    whole = dict(x.task.segment_subsets(x.model.eval(), scan, todo, **HOW))
    monkeypatch.setattr("cggm_med.task.subset_segmentation.SUBSETS_AT_ONCE", 4)
    parts = dict(x.task.segment_subsets(x.model, scan, todo, **HOW))
    assert set(whole) == set(parts) == set(todo)
    assert all(np.array_equal(whole[s].cropped, parts[s].cropped) for s in todo)


def test_the_terminal_shows_both_tables(run, folder, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    command(monkeypatch, "evaluate", run, "--subsets", "all")
    shown = capsys.readouterr().out
    tables = [line for line in shown.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) == (15 + 2 + 4) + (4 + 4) + (4 + 4)
    assert max(map(len, tables)) <= 100
    assert "15 subsets of 4 modalities, 2 cases (test)" in shown
    again = run / "subsets" / "test-2"
    for name in FILES - {"subsets.png", "left_out.png", "results.json", "results.md"}:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_some_subsets(run, folder, tmp_path, monkeypatch):
    command(monkeypatch, "evaluate", run, "--subsets", "t2,t1+flair", "--out", tmp_path / "some")
    content = results(tmp_path / "some")
    whole = results(folder)["cases"]
    assert content["cases"] == [r for s in ("t2", "flair+t1") for r in whole if r["subset"] == s]
    assert {p.name for p in (tmp_path / "some").iterdir()} == FILES - {"shapley.csv", "order.csv", "left_out.png"}
    assert len(content["tables"]) == 1
    assert "Shapley" not in (tmp_path / "some" / "results.md").read_text()


def test_bad_requests(run, folder, monkeypatch, capsys):
    monkeypatch.setattr("cggm_med.task.segmentation.find_cases", lambda *args, **rest: pytest.fail("data were read"))
    with pytest.raises(UnknownName, match="no modality in this run 'adc'"):
        ask(SubsetQuestion("t1,adc"), run, {}, quiet(), split=None, out=None)
    with pytest.raises(OutputError, match="already exists; choose another folder with --out"):
        ask(SubsetQuestion("all"), run, {}, quiet(), split=None, out=folder)
    with pytest.raises(CheckpointError, match="is not a run folder"):
        ask(SubsetQuestion("all"), folder, {}, quiet(), split=None, out=None)
    command(monkeypatch, "evaluate", run, "--subsets", "all", "--corrupt", "noise", code=2)
    capsys.readouterr()
    command(monkeypatch, "evaluate", run, "--subsets", "t1x", code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("UnknownName: no modality in this run 't1x'. Did you mean")


def test_a_task_that_cannot_says_so(run):
    x = load_run(run, {}, lambda text: None, split=None)
    with pytest.raises(ConfigError, match="task 'brats2021' does not score subsets; it needs evaluate_subsets"):
        Task.evaluate_subsets(x.task, x.model, (), (), **HOW)
    with pytest.raises(ConfigError, match="task 'brats2021' does not say what is scored without any modality"):
        Task.chance(x.task, ())


def test_digits(digits, monkeypatch):
    """Against the network called without the other modality, the measures, and Shapley values by hand."""
    command(monkeypatch, "evaluate", digits, "--subsets", "all")
    folder = digits / "subsets" / "test"
    content = results(folder)
    assert {p.name for p in folder.iterdir()} == FILES - {"left_out.png"}
    plain = results(digits)
    mine = [row for row in content["cases"] if row["subset"] == "audio+image"]
    assert [{k: v for k, v in row.items() if k != "subset"} for row in mine] == plain["cases"]
    assert content["headline"].items() >= plain["headline"].items()

    x = load_run(digits, {}, lambda text: None, split=None)
    x.model.eval()
    found = {"audio+image": plain["headline"]}
    for modality in ("audio", "image"):
        results_alone = []
        for id in x.cases:
            sample = x.task.samples[id]
            batch = x.task.collate([(sample, x.task.load(sample, None))])
            with torch.no_grad():
                logits = x.model({modality: batch.inputs[modality]})
            results_alone.append(CaseResult(id, {FUSED: x.task.finding(logits[0].float(), batch.target[0])}))
        alone = x.task.summarise(results_alone)
        rows = [row for row in content["cases"] if row["subset"] == modality]
        assert [row["predicted"] for row in rows] == [row["predicted"] for row in alone.cases]
        assert content["summary"][("audio", "image").index(modality)] == {"subset": modality, **alone.headline}
        found[modality] = dict(alone.headline)

    true = [row["true"] for row in plain["cases"]]
    chance = max(true.count(c) for c in set(true)) / len(true)
    a, i, both = (found[name]["accuracy"] for name in ("audio", "image", "audio+image"))
    assert content["headline"]["accuracy, Shapley value of audio"] == pytest.approx(((a - chance) + (both - i)) / 2)
    assert content["headline"]["accuracy, Shapley value of image"] == pytest.approx(((i - chance) + (both - a)) / 2)
    assert content["headline"]["accuracy, worst"] == min(a, i, both)


def test_a_folder_is_whole_or_not_there(digits, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no pen")

    monkeypatch.setattr(subset_evaluation, "draw_table", fail)
    with pytest.raises(RuntimeError, match="no pen"):
        ask(SubsetQuestion("audio"), digits, {}, quiet(), split=None, out=tmp_path / "x" / "y")
    assert list((tmp_path / "x").iterdir()) == []
