"""Calibration of whole runs: the law of the temperature, an independent count of voxels, and what is refused."""

import contextlib
import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command
from helpers.pictures import drawn
from helpers.small_runs import quiet, trained_run
from matplotlib.image import imread
from scipy.ndimage import distance_transform_edt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.metrics import brier_score_loss, log_loss

from cggm_med.errors import ConfigError, NonFiniteLoss, OutputError
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.calibration import classes as calibration_classes
from cggm_med.evaluation.calibration import regions as calibration_regions
from cggm_med.evaluation.calibration import table as calibration_rows
from cggm_med.evaluation.calibration.question import CalibrationQuestion
from cggm_med.evaluation.calibration.scores import RegionPredictions
from cggm_med.evaluation.labelled import predict_labels
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.loaded_run import load_run
from cggm_med.task.capabilities import LabelledSamples

REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
MODALITIES = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="2")


@pytest.fixture(scope="module")
def found(run):
    with pytest.MonkeyPatch.context() as patch, drawn():
        command(patch, "evaluate", run, "--calibration")
    return run / "calibration" / "test"


@pytest.fixture(scope="module")
def digits(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    words = ["--task", "avdigits", "--set", f"data.cache={cache}", "--set", "train.epochs=6"]
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", *words, "--out", folder)
        command(patch, "evaluate", folder, "--calibration")
    return folder


def summary_of(folder, **wanted):
    rows = json.loads((folder / "results.json").read_text())["summary"]
    return [row for row in rows if row.items() >= wanted.items()]


def voxels_of(run, scans, split):
    """Independent path: each case is segmented as any scan, and its voxels are picked by hand."""
    predictor = Predictor(run, "cpu", trust_names=True)
    near = {region: [] for region in REGIONS}
    everywhere = {region: [] for region in REGIONS}
    for case in json.loads((run / "splits.json").read_text())[split]:
        files = {m: scans / case / f"{case}_{m}.nii.gz" for m in MODALITIES}
        label = nib.load(scans / case / f"{case}_seg.nii.gz")
        probability = predictor.predict(case, files).probability
        for region, p in zip(REGIONS, probability, strict=True):
            true = np.isin(np.asarray(label.dataobj), REGIONS[region])
            distance = distance_transform_edt(~(true | (p >= 0.5)), sampling=label.header.get_zooms())
            close = (distance <= 10) & (true | (p >= 0.5)).any()
            near[region].append((p[close], true[close]))
            everywhere[region].append((p.ravel(), true.ravel()))
    return tuple(
        {region: tuple(map(np.concatenate, zip(*parts, strict=True))) for region, parts in kind.items()}
        for kind in (near, everywhere)
    )


def test_scores_are_those_of_the_voxels_of_predicted_scans(found, run, phantom):
    for kind, voxels in zip(("near", "whole"), voxels_of(run, phantom, "test"), strict=True):
        for region, (p, true) in voxels.items():
            (row,) = summary_of(found, voxels=kind, region=region, stage="before")
            assert row["count"] == len(p)
            assert row["brier"] == pytest.approx(brier_score_loss(true, p), abs=1e-5)
            assert row["nll"] == pytest.approx(log_loss(true, p.astype(float), labels=[False, True]), abs=1e-4)
            # Log-odds are counted to the nearest 1/512, which takes voxels across the border of a bin.
            with np.errstate(divide="ignore"):
                counted = expit(np.rint(logit(p.astype(float)).clip(-16, 16) * 512) / 512)
            place = np.searchsorted(np.linspace(0, 1, 16)[1:-1], counted)
            gaps = [abs((true[place == i].astype(float) - counted[place == i]).sum()) for i in range(15)]
            assert row["ece"] == pytest.approx(sum(gaps) / len(p), abs=1e-9)


def test_the_temperature_is_the_best_of_the_validation_cases(found, run, phantom):
    near, _ = voxels_of(run, phantom, "validation")
    p, true = (np.concatenate(x) for x in zip(*near.values(), strict=True))
    with np.errstate(divide="ignore"):  # of a probability that is exactly 1 in single precision
        odds = np.log(p.astype(float) / (1 - p)).clip(-16, 16)

    def nll(temperature):
        return np.where(true, np.logaddexp(0, -odds / temperature), np.logaddexp(0, odds / temperature)).mean()

    blind = minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6}).x
    report = json.loads((found / "results.json").read_text())
    assert report["headline"]["temperature"] == pytest.approx(blind, rel=5e-3)
    assert f"{report['headline']['temperature']:.4f}, fitted to the run's 1 validation cases" in report["rules"]["T"]


def test_every_row_is_there(found):
    assert {p.name for p in found.iterdir()} == {
        *("findings.json", "results.json", "results.csv", "results.md", "calibration.png")
    }
    report = json.loads((found / "results.json").read_text())
    assert len(report["summary"]) == 2 * 2 * 4
    with (found / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 * 2 * 3 * 2
    assert set(rows[0]) == {"case", "voxels", "region", "stage", "ece", "mce", "brier", "nll", "count"}
    for kind in ("near", "whole"):
        mean, *_ = summary_of(found, voxels=kind, stage="after", region="mean")
        of_regions = [row["ece"] for row in summary_of(found, voxels=kind, stage="after") if row["region"] != "mean"]
        assert mean["ece"] == pytest.approx(np.mean(of_regions))
        # One case: its row is the row of all cases.
        for row in summary_of(found, voxels=kind, stage="before"):
            if row["region"] != "mean":
                mine = next(r for r in rows if all(r[k] == row[k] for k in ("voxels", "region", "stage")))
                assert float(mine["ece"]) == row["ece"]
    assert report["headline"]["ECE before"] == summary_of(found, voxels="near", stage="before", region="mean")[0]["ece"]
    text = (found / "results.md").read_text()
    assert "## Voxels within 10 mm of the region" in text
    assert "## Voxels in the whole image" in text
    assert "Guo et al. 2017" in text
    assert imread(found / "calibration.png").shape[2] == 4


def test_no_voxels_are_kept(run, monkeypatch):
    """However many cases, one count is in memory; and counts of cases add up."""
    x = load_run(run, {}, lambda text: None, split="all")
    whole = calibration_regions.RegionCalibration(x)
    parts = []
    whole._count(lambda case, found: parts.append(found["near", "WT"]))
    assert len(parts) == 6
    total = type(parts[0])(np.sum([p.counts for p in parts], axis=0))
    assert np.array_equal(total.counts, whole.pooled["near", "WT"].counts)
    assert total.scores().count == sum(p.scores().count for p in parts)


def test_without_validation_nothing_is_fitted_and_the_reason_is_said(run, phantom, cache, tmp_path, monkeypatch):
    for words, reason in (
        (["--split", "validation"], "cases of the validation split are scored here"),
        (["--split", "all"], "cases of the validation split are scored here"),
    ):
        out = tmp_path / words[-1]
        command(monkeypatch, "evaluate", run, "--calibration", *words, "--out", out)
        report = json.loads((out / "results.json").read_text())
        assert report["headline"]["temperature"] is None
        assert reason in report["rules"]["T"]
        assert {row["stage"] for row in report["summary"]} == {"before"}
    none = trained_run(tmp_path / "none", phantom, cache, train__epochs="1", data__validation="0")
    command(monkeypatch, "evaluate", none, "--calibration")
    report = json.loads((none / "calibration" / "test" / "results.json").read_text())
    assert "the run has no validation split" in report["rules"]["T"]


def test_other_scans_get_the_temperature_of_the_run(found, run, phantom, tmp_path, monkeypatch):
    case = json.loads((run / "splits.json").read_text())["test"][0]
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / case).symlink_to(phantom / case)
    command(monkeypatch, "evaluate", run, "--calibration", "--data", other)
    mine = run / "calibration" / "elsewhere" / "results.json"
    assert json.loads(mine.read_text())["summary"] == json.loads((found / "results.json").read_text())["summary"]

    validated = json.loads((run / "splits.json").read_text())["validation"][0]
    (other / validated).symlink_to(phantom / validated)
    command(monkeypatch, "evaluate", run, "--calibration", "--data", other, "--split", "all", "--out", tmp_path / "b")
    report = json.loads((tmp_path / "b" / "results.json").read_text())
    assert "cases of the validation split are scored here" in report["rules"]["T"]


def test_nothing_is_overwritten_and_a_mistake_leaves_nothing(found, run, tmp_path, monkeypatch):
    before = (found / "results.csv").read_bytes()
    command(monkeypatch, "evaluate", run, "--calibration", "--split", "validation")
    command(monkeypatch, "evaluate", run, "--calibration", "--split", "validation")
    assert {p.name for p in found.parent.iterdir()} >= {"test", "validation", "validation-2"}
    assert (found / "results.csv").read_bytes() == before
    with pytest.raises(OutputError, match="already exists; choose another folder with --out"):
        ask(CalibrationQuestion(), run, {}, quiet(), split=None, out=found)
    monkeypatch.setattr(calibration_regions, "reliability_figure", lambda *args, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(CalibrationQuestion(), run, {}, quiet(), split="validation", out=tmp_path / "x" / "y")
    assert list((tmp_path / "x").iterdir()) == []


def test_a_prediction_that_is_no_number_is_named(run, monkeypatch):
    def predict_nothing(predict, image, *args, **rest):
        return torch.full((3, *image.shape[1:]), float("nan"))

    monkeypatch.setattr("cggm_med.task.scan_to_mask.predict_volume", predict_nothing)
    with pytest.raises(NonFiniteLoss, match="the prediction of BraTS2021_0000. is NaN"):
        ask(CalibrationQuestion(), run, {}, quiet(), split="validation", out=None)


def test_classes_end_to_end(digits):
    report = json.loads((digits / "calibration" / "test" / "results.json").read_text())
    temperature = report["headline"]["temperature"]
    before, after = report["summary"]
    assert (before["stage"], after["stage"], after["temperature"]) == ("before", "after", temperature)
    plain = json.loads((digits / "results.json").read_text())
    assert [row["predicted"] for row in report["cases"]] == [row["predicted"] for row in plain["cases"]]
    mine = [row["probability_before"] for row in report["cases"]]
    assert mine == pytest.approx([row["probability"] for row in plain["cases"]], rel=1e-5)
    right = np.array([row["predicted"] == row["true"] for row in plain["cases"]])
    for stage, row in (("before", before), ("after", after)):
        p = np.array([r[f"probability_{stage}"] for r in report["cases"]])
        place = np.ceil(p * 15).clip(1) - 1  # as Guo et al. bin
        gaps = [abs((right[place == i] - p[place == i]).sum()) for i in range(15)]
        assert row["ece"] == pytest.approx(sum(gaps) / len(p))
        assert sum(b["share"] for b in row["bins"]) == pytest.approx(1)


def test_what_to_expect_of_masks_is_not_measured_of_classes(digits, monkeypatch, capsys):
    command(monkeypatch, "calibrate", digits, code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        f"ConfigError: {digits} is a run of task 'avdigits', which does not segment; calibrate measures"
    )


def test_logits_times_three_have_three_times_the_temperature(digits, monkeypatch):
    folder = digits / "calibration" / "test" / "results.json"
    plain = json.loads(folder.read_text())
    real = calibration_classes.predict_labels

    def overconfident(*args):
        found = real(*args)
        return replace(found, logits={"fused": 3 * found.logits["fused"]})

    monkeypatch.setattr(calibration_classes, "predict_labels", overconfident)
    report = ask(CalibrationQuestion(), digits, {}, quiet(), split=None, out=None)
    assert report.scores.headline["temperature"] == pytest.approx(3 * plain["headline"]["temperature"], rel=1e-6)
    assert report.scores.headline["ECE after"] == pytest.approx(plain["headline"]["ECE after"], rel=1e-6)


def test_values_and_mixed_questions_are_refused(tmp_path, run, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text("task: {name: mosi}\nstrategy: {name: joint}\n")
    with pytest.raises(ConfigError, match="predicts values without probabilities"):
        ask(CalibrationQuestion(), tmp_path, {}, quiet(), split=None, out=None)
    command(monkeypatch, "evaluate", tmp_path, "--calibration", code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("calibration needs a run that segments or tells classes apart")
    command(monkeypatch, "evaluate", run, "--calibration", "--corrupt", "noise", code=2)


def test_near_by_hand():
    mask = np.zeros((30, 9, 9), bool)
    mask[15, 4, 4] = True
    near = calibration_regions.nearby(mask, (1.0, 5.0, 5.0))
    assert near[5:26, 4, 4].all()
    assert near.sum(axis=(1, 2))[[4, 26]].tolist() == [0, 0]
    assert near[15, 2:7, 4].all()
    assert near.sum(axis=(0, 2))[[1, 7]].tolist() == [0, 0]
    assert near[21, 2, 4] == (6**2 + 10**2 <= 100)
    assert near[21, 3, 4] == (6**2 + 5**2 <= 100)
    assert not calibration_regions.nearby(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0)).any()


def test_a_case_without_region_has_no_voxels_near_it():
    found = RegionPredictions.count(np.full((4, 4), 0.1), np.zeros((4, 4), bool))
    empty = RegionPredictions(np.zeros_like(found.counts))
    assert calibration_rows.record(empty.scores()) == {
        **dict.fromkeys(("ece", "mce", "brier", "nll")),
        "count": 0,
        "bins": [],
    }
    rows = [
        {"region": "WT", "own_temperature": 1.0, **calibration_rows.record(found.scores())},
        {"region": "TC", "own_temperature": 1.0, **calibration_rows.record(empty.scores())},
    ]
    assert calibration_regions._mean(rows)["ece"] == pytest.approx(0.1, abs=1e-3)
    assert calibration_regions._mean(rows[1:])["ece"] is None


def test_utterances_each_count():
    """The last axis is time: rows come utterance by utterance, without those after the end."""

    class Model:
        def eval(self):
            return self

        def encode(self, inputs):
            return {}

        def fuse(self, features):
            return (None,)

        def head(self, fused):
            return torch.arange(12.0).view(2, 2, 3)  # (dialogue, class, utterance)

    class Batch:
        ids = ("a", "b")
        inputs = None
        target = torch.tensor([[0, 1, 0], [1, -100, -100]])

        def to(self, device):
            return self

    samples = LabelledSamples("classes", {}, lambda cases: [Batch()], group=str)
    x = SimpleNamespace(model=Model(), cases=("a", "b"), device="cpu", autocast=contextlib.nullcontext)
    found = predict_labels(x, samples)
    logits = found.logits["fused"]
    assert found.places == [{"case": c, "utterance": i} for c, i in (("a", 0), ("a", 1), ("a", 2), ("b", 0))]
    assert logits.tolist() == [[0, 3], [1, 4], [2, 5], [6, 9]]
    assert found.true.tolist() == [0, 1, 0, 1]
    assert softmax(logits, axis=1)[0, 1] == pytest.approx(expit(3))
