"""The task newtask: it is installed, reads its layout, refuses what is damaged, trains and is scored."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cggm_med import DataError, make_config

from newtask_task.task import NewtaskTask


def task() -> NewtaskTask:
    return NewtaskTask(make_config("newtask", []))


def command(*words: object) -> str:
    """What a command of cggm-med says; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "cggm_med.cli", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    task().generate(folder)
    return folder


def test_samples_are_those_of_the_table(data: Path) -> None:
    with (data / "labels.csv").open(newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    reader = task()
    samples = reader.read(data, print).samples
    assert {sample.id for sample in samples} == set(rows)
    for sample in samples:
        assert reader.targets[sample.target] == rows[sample.id]["label"]
        assert sample.group == rows[sample.id]["group"]


def test_the_network_sees_what_is_in_the_files(data: Path) -> None:
    reader = task()
    sample = reader.read(data, print).samples[0]
    for modality, seen in reader.load(sample, random=None).items():
        assert np.array_equal(seen.numpy(), np.load(data / modality / f"{sample.id}.npy"))


def test_nobody_is_trained_on_and_tested(data: Path) -> None:
    reader = NewtaskTask(make_config("newtask", [{"data": {"path": str(data)}}]))
    reader.find(print)
    group = {sample.id: sample.group for sample in reader.found.samples}
    groups = [{group[id] for id in ids} for _, ids in reader.default_splits().items()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "image" / "sample007.npy").unlink()
    with pytest.raises(DataError, match="sample007"):
        task().read(data, print)


def test_an_array_of_another_shape_is_named(data: Path) -> None:
    np.save(data / "sound" / "sample000.npy", np.zeros(3))
    reader = task()
    with pytest.raises(DataError, match=r"sample000.*expected numbers of shape"):
        reader.load(reader.read(data, print).samples[0], random=None)


def test_it_trains_and_is_scored(data: Path, tmp_path: Path) -> None:
    assert "newtask" in command("tasks")
    run = tmp_path / "run"
    short = ("--set", "train.epochs=1", "--set", "train.steps_per_epoch=2")
    command("train", "--task", "newtask", "--data", data, "--out", run, *short)
    command("evaluate", run)
    results = json.loads((run / "evaluations" / "test" / "results.json").read_text())
    tested = json.loads((run / "splits.json").read_text())["test"]
    assert {row["case"] for row in results["cases"]} == set(tested)
