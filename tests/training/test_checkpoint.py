"""Checkpoints: round trip, whole or not there, nothing executed, foreign ones refused by key."""

import dataclasses
import math
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from cggm_med.errors import CheckpointError, OutputError
from cggm_med.files import atomic_file, atomic_folder, write_json
from cggm_med.training import checkpoint as checkpoints

CPU = torch.device("cpu")
EXAMPLE = checkpoints.Checkpoint(
    step=7,
    config={"optim": {"lr": 0.1}, "data": {"path": "/a", "workers": 2}},
    data={"case": "abc"},
    best={"score": 0.5, "epoch": 1.0, "step": 6.0},
    model={"w": torch.arange(3.0)},
    strategy={"factor": torch.ones(2)},
    optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "modality": None}]},
    monitor={"clipped_steps": torch.tensor(3.0)},
)


def test_what_is_saved_is_loaded(tmp_path):
    checkpoints.save(tmp_path / "last.pt", EXAMPLE)
    loaded = checkpoints.load(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded.model["w"], EXAMPLE.model["w"])
    for field in ("step", "config", "data", "best"):
        assert getattr(loaded, field) == getattr(EXAMPLE, field)
    assert loaded.optimizer["param_groups"] == EXAMPLE.optimizer["param_groups"]


def test_every_state_is_put_back_into_its_own_object():
    saved = [torch.nn.Linear(1, 1) for _ in range(4)]
    states = [module.state_dict() for module in saved]
    optimizer = torch.optim.SGD(saved[0].parameters(), lr=0.25)
    names = ("model", "strategy", "monitor", "unaveraged")
    checkpoint = dataclasses.replace(EXAMPLE, optimizer=optimizer.state_dict(), **dict(zip(names, states, strict=True)))
    live = [torch.nn.Linear(1, 1) for _ in range(4)]
    other = torch.optim.SGD(live[0].parameters(), lr=1)
    model, strategy, monitor, average = live
    checkpoints.restore(checkpoint, model, strategy, "last.pt", other, monitor, average)
    assert [module.weight.item() for module in live] == [module.weight.item() for module in saved]
    assert other.param_groups[0]["lr"] == 0.25


def test_a_save_that_dies_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoints.save(path, EXAMPLE)
    before = path.read_bytes()

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        checkpoints.save(path, dataclasses.replace(EXAMPLE, step=8))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


def test_the_rename_comes_after_the_flush(tmp_path, monkeypatch):
    order = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), real_replace(a, b)))
    checkpoints.save(tmp_path / "last.pt", EXAMPLE)
    assert order == ["flush", "rename", "flush"]  # the file, its name, the folder


def test_a_new_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").write_text("x")
    with atomic_file(tmp_path / "atomic") as file:
        file.write(b"x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_take_its_place_is_told(tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OutputError, match="Disk quota exceeded"), atomic_folder(tmp_path / "data"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_not_written(number, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": number})
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "data") as folder:
        (folder / "half").write_text("x")
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    for content in ("first", "second"):  # whoever comes second keeps what is there
        with atomic_folder(tmp_path / "data") as folder:
            (folder / "file").write_text(content)
    assert (tmp_path / "data" / "file").read_text() == "first"
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoints.save(path, EXAMPLE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="last.pt is damaged"):
        checkpoints.load(path, CPU)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    witness = tmp_path / "executed"

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    for name, write in (
        ("torch.pt", lambda p: torch.save(Bomb(), p)),
        ("plain.pt", lambda p: p.write_bytes(pickle.dumps(Bomb(), protocol=2))),
    ):
        write(tmp_path / name)
        with pytest.raises(CheckpointError, match="more than tensors"):
            checkpoints.load(tmp_path / name, CPU)
    assert not witness.exists()


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(2**40), torch.zeros(2, device="meta"), torch.eye(3).to_sparse()]
)
def test_tensors_that_the_file_does_not_hold_are_refused(tensor, tmp_path):
    torch.save({"format": 1, "optimizer": {"state": [tensor]}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="more than tensors and numbers"):
        checkpoints.load(tmp_path / "a.pt", CPU)


def test_an_archive_that_grows_when_it_is_read_is_refused(tmp_path):
    torch.save({"format": 1}, tmp_path / "sound.pt")
    with zipfile.ZipFile(tmp_path / "sound.pt") as sound, zipfile.ZipFile(tmp_path / "a.pt", "w", 8) as packed:
        for name in sound.namelist():
            packed.writestr(name, sound.read(name))
    with pytest.raises(CheckpointError, match="damaged or holds more than"):
        checkpoints.load(tmp_path / "a.pt", CPU)


def test_other_files_and_versions_are_refused(tmp_path):
    torch.save({"format": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        checkpoints.load(tmp_path / "new.pt", CPU)
    torch.save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of a run"):
        checkpoints.load(tmp_path / "tensor.pt", CPU)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoints.load(tmp_path / "absent.pt", CPU)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not fit this model"):
        checkpoints.restore(EXAMPLE, torch.nn.Linear(2, 2), torch.nn.Module(), tmp_path)
