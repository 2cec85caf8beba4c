"""The task newclassification: it keeps the laws of all tasks, reads its layout, and refuses what is damaged."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from cggm_med import DataError, make_config
from cggm_med.testing import check_task

from newclassification_task.task import NewclassificationTask


def task() -> NewclassificationTask:
    return NewclassificationTask(make_config("newclassification", []))


def change(folder: Path) -> str:
    """Another sound for one sample; its id."""
    file = folder / "sound" / "sample007.npy"
    np.save(file, np.load(file) + 1)
    return "sample007"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    task().generate(folder)
    return folder


def test_it_keeps_the_laws_of_all_tasks() -> None:
    """With the data that it makes itself: it is found, read, trained, scored and resumed as it should be."""
    check_task("newclassification", change=change)


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


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "image" / "sample007.npy").unlink()
    with pytest.raises(DataError, match="sample007"):
        task().read(data, print)


def test_an_array_of_another_shape_is_named(data: Path) -> None:
    np.save(data / "sound" / "sample000.npy", np.zeros(3))
    reader = task()
    with pytest.raises(DataError, match=r"sample000.*expected numbers of shape"):
        reader.load(reader.read(data, print).samples[0], random=None)
