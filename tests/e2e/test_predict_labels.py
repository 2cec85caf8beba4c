"""Labelling of samples: what ``predict`` writes is what ``evaluate`` scored, with fewer modalities, and bad input."""

import csv
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.command_line import command, set_options

from cggm_med.runs.finished_run import FinishedRun


def trained(folder, task, strategy="joint"):
    """A run of generated data, as short as it gets; and these data."""
    settings = (f"data.cache={folder / 'cache'}", "train.epochs=1", "train.steps_per_epoch=2", "train.device=cpu")
    flags = set_options(settings)
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--task", task, "--strategy", strategy, "--out", folder / "run", *flags)
    (data,) = (folder / "cache" / "generated").glob(f"{task}-v*")
    return folder / "run", data


@pytest.fixture(scope="module")
def mosi(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("mosi"), "mosi")


@pytest.fixture(scope="module")
def iemocap(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("iemocap"), "iemocap")


def refusal(monkeypatch, capsys, *words, code=1):
    command(monkeypatch, *words, code=code)
    return " ".join(capsys.readouterr().err.split())


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def unlabelled(data, out, **change):
    """The test sentences by themselves, without labels."""
    content = pickle.loads((data / "mosi.pkl").read_bytes())["test"]  # noqa: S301 - our own
    del content["labels"]
    out.write_bytes(pickle.dumps({**content, **change}, protocol=4))
    return out


def test_values_are_those_that_were_scored(mosi, tmp_path, monkeypatch, capsys):
    run, data = mosi
    command(monkeypatch, "predict", run, unlabelled(data, tmp_path / "new.pkl"), "-o", tmp_path / "new.csv")
    said = capsys.readouterr().out
    scored = {row["case"]: row["predicted"] for row in FinishedRun(run).report.scores.cases}
    rows = rows_of(tmp_path / "new.csv")
    assert list(rows[0]) == ["case", "present", "absent", "predicted", "failed"]
    assert {row["case"] for row in rows} == set(scored)
    for row in rows:
        assert float(row["predicted"]) == pytest.approx(scored[row["case"]], abs=1e-5)
        assert (row["present"], row["absent"], row["failed"]) == ("text+audio+vision", "", "")
    assert f"written: {tmp_path / 'new.csv'}" in said


def test_a_network_for_each_modality_labels_as_it_was_scored(tmp_path, monkeypatch):
    run, data = trained(tmp_path, "mosi", "unimodal_ensemble")
    command(monkeypatch, "predict", run, unlabelled(data, tmp_path / "new.pkl"), "-o", tmp_path / "new.csv")
    predicted = {row["case"]: float(row["predicted"]) for row in rows_of(tmp_path / "new.csv")}
    scored = {row["case"]: row["predicted"] for row in FinishedRun(run).report.scores.cases}
    assert predicted == pytest.approx(scored, abs=1e-5)


def test_absent_modalities_are_said(mosi, tmp_path, monkeypatch):
    """A file without vision, and the same as --modalities chooses of a whole one."""
    run, data = mosi
    content = pickle.loads((data / "mosi.pkl").read_bytes())["test"]  # noqa: S301 - our own
    (tmp_path / "deaf.pkl").write_bytes(pickle.dumps({"text": content["text"], "id": content["id"]}, protocol=4))
    command(monkeypatch, "predict", run, tmp_path / "deaf.pkl", "-o", tmp_path / "deaf.csv")
    whole = unlabelled(data, tmp_path / "new.pkl")
    command(monkeypatch, "predict", run, whole, "-o", tmp_path / "some.csv", "--modalities", "text")
    rows = rows_of(tmp_path / "deaf.csv")
    assert {(row["present"], row["absent"]) for row in rows} == {("text", "audio+vision")}
    assert rows == rows_of(tmp_path / "some.csv")
    command(monkeypatch, "predict", run, whole, "-o", tmp_path / "all.csv")
    assert [row["predicted"] for row in rows_of(tmp_path / "all.csv")] != [row["predicted"] for row in rows]


def test_classes_come_with_their_probabilities_and_each_case_with_what_it_has(iemocap, tmp_path, monkeypatch, capsys):
    """Utterances that lack vision are predicted from the others; the order is that of the file."""
    run, data = iemocap
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "target")
    with h5py.File(tmp_path / "data" / "V" / "denseface.h5", "a") as store:
        lacking = sorted(store)[:5]
        for name in lacking:
            del store[name]
    command(monkeypatch, "predict", run, tmp_path / "data", "-o", tmp_path / "new.csv")
    rows = rows_of(tmp_path / "new.csv")
    assert len(rows) == 320
    assert [row["case"] for row in rows if row["absent"] == "vision"] == lacking
    scored = {row["case"]: row for row in FinishedRun(run).report.scores.cases}
    for row in rows:
        probabilities = {name: float(row[f"probability {name}"]) for name in ("angry", "happy", "sad", "neutral")}
        assert sum(probabilities.values()) == pytest.approx(1)
        assert row["predicted"] == max(probabilities, key=probabilities.__getitem__)
        assert float(row["probability"]) == max(probabilities.values())
        if row["case"] in scored and row["case"] not in lacking:
            assert row["predicted"] == scored[row["case"]]["predicted"]
            assert float(row["probability"]) == pytest.approx(scored[row["case"]]["probability"], abs=1e-5)
    assert "text+audio" in capsys.readouterr().out


def test_dialogues_have_a_row_for_each_utterance(tmp_path, monkeypatch):
    """Without the file of audio and vision, and with empty fields for labels and splits."""
    pytest.importorskip("torch_geometric")
    run, data = trained(tmp_path, "meld")
    (tmp_path / "new").mkdir()
    file = "meld_features_roberta.pkl"
    content = list(pickle.loads((data / file).read_bytes()))  # noqa: S301 - our own
    speakers = content[0]
    content[1], content[-3:] = {}, [[], [], []]
    (tmp_path / "new" / file).write_bytes(pickle.dumps(tuple(content), protocol=2))
    command(monkeypatch, "predict", run, tmp_path / "new", "-o", tmp_path / "new.csv")
    rows = rows_of(tmp_path / "new.csv")
    assert {row["present"] for row in rows} == {"text"}
    counted = {str(id): len(said) for id, said in speakers.items()}
    assert {case: sum(row["case"] == case for row in rows) for case in counted} == counted
    assert [row["utterance"] for row in rows[:3]] == ["0", "1", "2"]


def test_recordings_of_any_name_are_heard(tmp_path, monkeypatch):
    run, data = trained(tmp_path, "avdigits")
    (tmp_path / "new").mkdir()
    first = sorted((data / "recordings").glob("*.wav"))[0]
    shutil.copy(first, tmp_path / "new" / "who knows.wav")
    (tmp_path / "new" / "broken.wav").write_bytes(first.read_bytes())
    command(monkeypatch, "predict", run, tmp_path / "new", "-o", tmp_path / "new.csv")
    rows = rows_of(tmp_path / "new.csv")
    assert [row["case"] for row in rows] == ["broken", "who knows"]
    assert {row["absent"] for row in rows} == {"image"}


def test_a_clip_that_cannot_be_read_fails_alone(tmp_path, monkeypatch, capsys):
    """Clips need no list: each has what files there are of it."""
    run, data = trained(tmp_path, "cremad")
    new = tmp_path / "new"
    (new / "AudioWAV").mkdir(parents=True)
    sounds = sorted((data / "AudioWAV").glob("*.wav"))[:3]
    for sound in sounds[:2]:
        shutil.copy(sound, new / "AudioWAV" / sound.name)
    for sound in sounds[1:]:
        shutil.copytree(data / "Image-01-FPS" / sound.stem, new / "Image-01-FPS" / sound.stem)
    (new / "AudioWAV" / sounds[0].name).write_bytes(b"no sound")
    command(monkeypatch, "predict", run, new, "-o", tmp_path / "new.csv", code=1)
    rows = {row["case"]: row for row in rows_of(tmp_path / "new.csv")}
    assert {case: row["present"] for case, row in rows.items()} == {
        sounds[0].stem: "audio",
        sounds[1].stem: "audio+visual",
        sounds[2].stem: "visual",
    }
    assert rows[sounds[0].stem]["predicted"] == ""
    assert sounds[0].name in rows[sounds[0].stem]["failed"]
    assert all(row["predicted"] in ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG") for row in list(rows.values())[1:])
    assert "1 of 3 cases failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["-o", "mask.nii.gz"], 2, "this run writes a table; expected a name such as mask.csv"),
        (["-o", "new.csv", "--flips"], 2, "--flips: for runs that segment"),
        (["-o", "new.csv", "--modalities", "text,smell"], 1, "no modality in this run 'smell'"),
        (["-o", "new.csv", "--modalities", "text", "--require", "audio"], 1, "no modality to require 'audio'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(mosi, tmp_path, monkeypatch, capsys, words, code, says):
    run, data = mosi
    monkeypatch.chdir(tmp_path)
    assert says in refusal(
        monkeypatch, capsys, "predict", run, unlabelled(data, tmp_path / "new.pkl"), *words, code=code
    )
    assert not Path("new.csv").exists()


def test_features_of_another_kind_are_refused(mosi, tmp_path, monkeypatch, capsys):
    run, data = mosi
    wrong = unlabelled(data, tmp_path / "new.pkl", text=np.ones((64, 20, 50), np.float32))
    said = refusal(monkeypatch, capsys, "predict", run, wrong, "-o", tmp_path / "new.csv")
    assert "text has 50 channels at a time step, the network was made for 300" in said


def test_what_is_required_must_be_there(mosi, tmp_path, monkeypatch, capsys):
    run, data = mosi
    content = pickle.loads((data / "mosi.pkl").read_bytes())["test"]  # noqa: S301 - our own
    (tmp_path / "new.pkl").write_bytes(pickle.dumps({"text": content["text"]}, protocol=4))
    words = (tmp_path / "new.pkl", "-o", tmp_path / "new.csv", "--require", "audio")
    assert "64 required modalities are missing" in refusal(monkeypatch, capsys, "predict", run, *words)
