"""``share``: a folder that does what the run does, and in which nobody is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.command_line import command, set_options
from helpers.small_runs import small_settings, trained_run

from cggm_med.errors import CheckpointError, ConfigError, DataError, OutputError
from cggm_med.runs.ensemble import make_ensemble
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.shared import share

COMMIT = "0" * 40


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    folder = trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="1")
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "calibrate", folder, "--subsets", "flair+t1+t1ce+t2,t1ce")
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "glioma"
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "share", run, "-o", folder)
    return folder


@pytest.fixture
def hub(shared, tmp_path, monkeypatch):
    """The folder as the cache of the Hub holds it, under the name clinic/glioma."""
    stored = tmp_path / "models--clinic--glioma"
    shutil.copytree(shared, stored / "snapshots" / COMMIT)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return "hf://clinic/glioma"


def masks(monkeypatch, run, scans, folder):
    """The masks of a folder of scans, by name, and what is said beside them."""
    command(monkeypatch, "predict", run, scans, "-o", folder)
    return {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}


def test_it_segments_as_the_run_does(run, shared, phantom, hub, monkeypatch, tmp_path):
    case = FinishedRun(run).splits.test[0]
    expected = masks(monkeypatch, run, phantom / case, tmp_path / "of_run")
    assert len(expected) == 1
    assert masks(monkeypatch, shared, phantom / case, tmp_path / "of_shared") == expected
    assert masks(monkeypatch, hub, phantom / case, tmp_path / "of_hub") == expected
    own, passed = (json.loads(next((tmp_path / of).glob("*.json")).read_text()) for of in ("of_run", "of_shared"))
    for key in ("expected_dice", "temperature", "measured_on"):  # what was measured of these modalities goes along
        assert passed[key] == own[key] is not None


def test_nobody_is_named(run, shared, phantom):
    ids = [id for _, of in FinishedRun(run).splits.items() for id in of]
    said = [path.read_bytes() for path in shared.rglob("*") if path.is_file()]
    for word in (*ids, str(phantom), str(run), str(Path.home())):
        assert not any(word.encode() in content for content in said), word


def test_the_card_says_what_was_measured(run, shared):
    card = (shared / "README.md").read_text()
    scores = FinishedRun(run).report.scores.headline
    assert f"| Dice mean | {scores['Dice mean']:.3f} |" in card
    assert "| flair+t1+t1ce+t2 | " in card
    assert "| 4 | enhancing tumour |" in card
    assert card.startswith("---\nlibrary_name: cggm-med\nlicense: other\n")


def test_scans_that_it_was_trained_on_are_known_again(shared, phantom, monkeypatch, capsys):
    command(monkeypatch, "evaluate", shared, "--data", phantom, code=1)
    assert "were used to train this run" in capsys.readouterr().err
    command(monkeypatch, "evaluate", shared, code=1)
    assert "was passed on without its cases; name scans with --data" in capsys.readouterr().err
    command(monkeypatch, "train", "--resume", shared, code=1)
    assert "was passed on without its checkpoints; start a new run with --init" in capsys.readouterr().err
    command(monkeypatch, "report", shared, code=1)
    assert "was passed on without its scores; score it with 'cggm-med evaluate" in capsys.readouterr().err


def test_results_of_a_run_of_the_hub_need_a_place(hub, phantom, monkeypatch, capsys):
    command(monkeypatch, "evaluate", hub, "--data", phantom, "--split", "all", code=1)
    assert "say where to write them with --out" in capsys.readouterr().err


def test_another_run_starts_from_it_as_from_the_run(run, shared, phantom, cache, monkeypatch, tmp_path):
    """On data of which none is held out, since it was trained on these; with the heads, in every parameter."""
    words = set_options(small_settings(phantom, cache, train__epochs="1", data__validation="0", data__test="0"))
    for name, of in (("a", run), ("b", shared)):
        command(monkeypatch, "train", "--preset", "tiny", "--init", of, "--out", tmp_path / name, *words)
    weights = [torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["model"] for name in "ab"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    started = json.loads((tmp_path / "b" / "initial_weights.json").read_text())
    assert started["values"][0] == started["values"][1] > 0


def test_one_of_an_ensemble(run, shared, tmp_path):
    make_ensemble([shared, run], tmp_path / "both")
    first = FinishedRun(tmp_path / "both").members[0]
    device = torch.device("cpu")
    weights = [x.network(x.make_task({}), device).state_dict() for x in (first, FinishedRun(run))]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ConfigError, match="share its runs, each by itself"):
        share(tmp_path / "both", tmp_path / "shared")


def test_what_cannot_be(run, shared, tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="choose another folder"):
        share(run, shared)
    broken = tmp_path / "broken"
    shutil.copytree(shared, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    task = FinishedRun(broken).make_task({})
    with pytest.raises(CheckpointError, match="is damaged, or was not written by 'cggm-med share'"):
        FinishedRun(broken).network(task, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="hf://nobody/nothing cannot be fetched"):
        RunFolder("hf:/nobody/nothing")
    with pytest.raises(DataError, match="passed on without"):
        command(monkeypatch, "evaluate", shared, "--debug", code=1)
