"""Probes of whole runs: untrained means untrained, planted knowledge is found, nothing else is touched."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from helpers.pictures import drawn
from helpers.small_runs import quiet, trained_run
from matplotlib.image import imread
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from cggm_med.errors import DataError, OutputError
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.probe import question as probe
from cggm_med.evaluation.probe import samples as probe_samples
from cggm_med.evaluation.probe import table as probe_table
from cggm_med.evaluation.probe import volumes as probe_volumes
from cggm_med.evaluation.probe.question import ProbeQuestion
from cggm_med.runs.loaded_run import load_run
from cggm_med.strategies.joint import Joint, JointConfig
from cggm_med.training.build import build

MODALITIES = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="1")


@pytest.fixture(scope="module")
def found(run):
    with pytest.MonkeyPatch.context() as patch, drawn():
        command(patch, "probe", run)
    return run / "probe" / "test"


def small_run(folder, task, cache, *settings):
    words = [f"data.cache={cache}", *settings]
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--task", task, "--out", folder, *set_options(words))
    return folder


@pytest.fixture(scope="module")
def digits(cache, tmp_path_factory):
    folder = small_run(tmp_path_factory.mktemp("digits") / "run", "avdigits", cache)
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "probe", folder)
    return folder


def report_of(folder):
    return json.loads((folder / "results.json").read_text())


def value(report, score, **wanted):
    (row,) = (row for row in report["summary"] if row.items() >= wanted.items())
    return row[score]


def opened(run):
    return load_run(run, {}, lambda text: None, split=None)


def test_untrained_is_what_training_started_from(run, digits):
    for folder in (run, digits):
        x = opened(folder)
        start = build(x.task, Joint(JointConfig("joint")), x.config, x.device)
        found = probe_table.untrained(x)
        assert not found.training
        trained = x.model.state_dict()
        for name, weight in start.state_dict().items():
            assert torch.equal(weight, found.state_dict()[name])
        assert any(not torch.equal(weight, trained[name]) for name, weight in found.state_dict().items())


def test_every_row_of_volumes_is_there(found, run):
    assert {p.name for p in found.iterdir()} == {
        "findings.json",
        "results.json",
        "results.csv",
        "results.md",
        "probe.png",
    }
    report = report_of(found)
    assert len(report["summary"]) == (3 * 4 + 1) * 4
    with (found / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 * (3 * 4 + 1) * 3
    plain = json.loads((run / "results.json").read_text())
    for row in plain["summary"]:
        wanted = {"modality": "fused", "by": "fused", "region": row["region"]}
        assert value(report, "dice_mean", **wanted) == row["dice_mean"]
    for row in plain["heads"]:
        wanted = {"modality": row["modality"], "by": "head", "region": row["region"]}
        assert value(report, "dice_mean", **wanted) == row["dice"]
    for modality in MODALITIES:
        of_regions = [value(report, "dice_mean", modality=modality, by="probe", region=r) for r in ("WT", "TC", "ET")]
        mean = value(report, "dice_mean", modality=modality, by="probe", region="mean")
        assert mean == pytest.approx(np.mean(of_regions))
        assert report["headline"][f"Dice {modality}"] == mean
    assert report["rules"]["chosen by"].endswith("highest mean Dice of 1 validation cases")
    assert "fitted to: 16 patches of training cases" in (found / "results.md").read_text()
    assert imread(found / "probe.png").shape[2] == 4


def test_a_probe_is_the_same_twice(found, run, tmp_path):
    again = ask(ProbeQuestion(), run, {}, quiet(), split=None, out=tmp_path / "again")
    assert list(again.scores.cases) == report_of(found)["cases"]
    other = ask(ProbeQuestion(), run, {"train": {"seed": 5}}, quiet(), split=None, out=tmp_path / "other")
    assert list(other.scores.cases) != report_of(found)["cases"]


class _Seeing(nn.Module):
    """An encoder whose finest map is the truth, which it was told, and noise."""

    truth: torch.Tensor

    def forward(self, x):
        noise = torch.rand_like(x)
        return torch.cat([x, noise], dim=1), torch.nn.functional.avg_pool3d(noise, 2)


def test_an_encoder_that_knows_scores_and_one_that_does_not_does_not(run, monkeypatch):
    """The image of FLAIR is replaced by the whole tumour, its encoder by one that hands it on; T1's hands on noise."""
    x = opened(run)
    train = x.own("train", lambda text: None)
    for source in (x, train):
        for case in source.task.cases.values():
            image = np.array(case.image())
            image[0], image[1] = case.target()[0], np.random.default_rng(0).random(image[1].shape)
            np.save(case.folder / "planted.npy", image)
    monkeypatch.setattr(
        "cggm_med.data.volumes.prepared.PreparedCase.image", lambda self: np.load(self.folder / "planted.npy")
    )
    x.model.encoders["flair"], x.model.encoders["t1"] = _Seeing(), _Seeing()
    probed = probe_volumes.VolumeProbe(x, train, None)
    readouts = {m: probed._fit(x.model, m) for m in ("flair", "t1")}
    weight = readouts["flair"].weights[0][0, :, 0, 0, 0].abs()
    assert weight[0] > 10 * weight[1]
    monkeypatch.setattr("cggm_med.data.volumes.prepared.PreparedCase.modalities", ("flair", "t1"))
    case = x.cases[0]
    truth = probed._truth(x, case)[0]
    scores = [
        probe_volumes.dice_by_threshold(answer.probability[0], truth).max()
        for _, answer in probed._predict(x, x.model, readouts, case)
    ]
    # Half of the grid is seen, so the surface is uncertain, which is much of a tumour of a few voxels.
    assert scores[0] > 0.7
    assert scores[1] < 0.3


def test_samples_equal_a_probe_by_hand(digits):
    """Independent path: encoders are called one by one, and scikit-learn is asked without this package."""
    report = report_of(digits / "probe" / "test")
    x = opened(digits)
    train = x.own("train", lambda text: None)
    for modality in ("audio", "image"):
        encoder = x.model.encoders[modality].eval()

        def features(task, ids, encoder=encoder, modality=modality):
            with torch.no_grad():
                inputs = [task.load(task.samples[id], None)[modality] for id in ids]
                return encoder(torch.stack(inputs)).double().numpy(), [task.samples[id].target for id in ids]

        a, y = features(train.task, train.cases)
        b, z = features(x.task, x.cases)
        scaler = StandardScaler().fit(a)
        strength = value(report, "strength", modality=modality, by="probe")
        by_hand = LogisticRegression(C=strength, max_iter=1000).fit(scaler.transform(a), y)
        accuracy = by_hand.score(scaler.transform(b), z)
        assert value(report, "accuracy", modality=modality, by="probe") == pytest.approx(accuracy, abs=1 / len(z))
    plain = json.loads((digits / "results.json").read_text())
    for row in plain["summary"]:
        by = "fused" if row["predicted_by"] == "fused" else "head"
        assert value(report, "accuracy", modality=row["predicted_by"], by=by) == row["accuracy"]
    assert report["rules"]["chosen by"] == "the amount of regularisation: accuracy on the 60 validation cases"
    assert len(report["cases"]) == len(x.cases) * 2 * 2


def test_training_shows(digits):
    """Tones are told by a trained encoder, and better than by an untrained one."""
    report = report_of(digits / "probe" / "test")
    scores = {by: value(report, "accuracy", modality="audio", by=by) for by in ("untrained", "probe")}
    assert scores["probe"] > 0.5
    assert scores["probe"] >= scores["untrained"]


def test_without_validation_folds_of_training_choose(digits, tmp_path, monkeypatch):
    command(monkeypatch, "probe", digits, "--split", "validation", "--out", tmp_path / "a")
    rules = report_of(tmp_path / "a")["rules"]
    assert "5 folds of the training cases that divide no speaker" in rules["chosen by"]
    assert "cases of the validation split are scored here" in rules["chosen by"]


@pytest.mark.parametrize("task", ["mosi", "meld"])
def test_values_and_utterances(task, cache, tmp_path, monkeypatch):
    folder = small_run(tmp_path / "run", task, cache, "train.epochs=1", "train.steps_per_epoch=2")
    command(monkeypatch, "probe", folder)
    report = report_of(folder / "probe" / "test")
    plain = json.loads((folder / "results.json").read_text())
    modalities = plain["provenance"]["modalities"].split(", ")
    for row in plain["summary"]:
        who, score = row["predicted_by"], "MAE" if task == "mosi" else "weighted F1"
        assert value(report, score, modality=who, by="fused" if who == "fused" else "head") == row[score]
    assert len(report["cases"]) == len(plain["cases"]) * len(modalities) * 2
    one = [row for row in report["cases"] if (row["modality"], row["by"]) == (modalities[0], "probe")]
    keys = ("case", "true") if task == "mosi" else ("case", "utterance", "true")
    assert [[row[k] for k in keys] for row in one] == [[row[k] for k in keys] for row in plain["cases"]]


def test_one_class_cannot_be_told_apart(digits, monkeypatch):
    real = probe_samples.SampleProbe._rows

    def alike(self, source, model, cases):
        found, places = real(self, source, model, cases)
        for rows in found.values():
            rows.y[:] = 7
        return found, places

    monkeypatch.setattr(probe_samples.SampleProbe, "_rows", alike)
    with pytest.raises(DataError, match="all training cases are of class '7'; a probe needs at least two classes"):
        ask(ProbeQuestion(), digits, {}, quiet(), split=None, out=None)


def test_nothing_is_overwritten_and_a_mistake_leaves_nothing(found, run, digits, tmp_path, monkeypatch, capsys):
    with pytest.raises(OutputError, match="already exists; choose another folder with --out"):
        ask(ProbeQuestion(), run, {}, quiet(), split=None, out=found)
    monkeypatch.setattr(probe, "probe_figure", lambda *args, **rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ask(ProbeQuestion(), digits, {}, quiet(), split=None, out=tmp_path / "x" / "y")
    assert list((tmp_path / "x").iterdir()) == []
    capsys.readouterr()
    command(monkeypatch, "probe", tmp_path, code=1)
    assert "is not a run folder" in capsys.readouterr().err
