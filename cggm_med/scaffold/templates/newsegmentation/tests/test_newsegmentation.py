"""The task newsegmentation: it keeps the laws of all tasks, reads its layout, and refuses what is damaged."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from cggm_med import DataError, make_config
from cggm_med.testing import check_task

from newsegmentation_task.task import NewsegmentationTask


def task(data: Path | None = None) -> NewsegmentationTask:
    path = {} if data is None else {"data": {"path": str(data)}}
    return NewsegmentationTask(make_config("newsegmentation", [path], preset="tiny"))


def change(folder: Path) -> str:
    """Another voxel in the FLAIR of one case; its id."""
    image = nib.load(folder / "case07_flair.nii.gz")
    voxels = image.get_fdata(dtype=np.float32).copy()
    voxels[12, 12, 6] += 1
    nib.save(nib.Nifti1Image(voxels, image.affine), folder / "case07_flair.nii.gz")
    return "case07"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    task().generate(folder)
    return folder


def test_it_keeps_the_laws_of_all_tasks() -> None:
    """With the data that it makes itself: it is found, read, trained, scored and resumed as it should be."""
    check_task("newsegmentation", settings=["data.patch_size=[8,8,8]", "model.channels=[4,8]"], change=change)


def test_cases_are_those_of_the_table(data: Path) -> None:
    with (data / "scans.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    cases = task(data).find_scans(data).cases
    assert {case.id for case in cases} == set(rows)
    for case in cases:
        assert case.patient == rows[case.id]["patient"]
        assert case.images["t1"].path == data / rows[case.id]["t1"]
        assert case.label == data / rows[case.id]["lesion"]


def test_a_case_may_lack_a_modality_and_to_be_predicted_a_label(data: Path) -> None:
    table = (data / "scans.csv").read_text()
    (data / "scans.csv").write_text(table.replace("case03_t1.nii.gz", "").replace("case04_lesion.nii.gz", ""))
    cases = {case.id: case for case in task().find_scans(data, need_labels=False).cases}
    assert set(cases["case03"].images) == {"flair"}
    assert cases["case04"].label is None
    with pytest.raises(DataError, match="case04: no label"):
        task().find_scans(data)


def test_a_missing_file_is_named(data: Path) -> None:
    (data / "case07_t1.nii.gz").unlink()
    with pytest.raises(DataError, match="case07: t1 does not exist"):
        task().find_scans(data)


def test_a_table_without_a_column_is_refused(data: Path) -> None:
    (data / "scans.csv").write_text("case,flair\n")
    with pytest.raises(DataError, match=r"no column patient, t1, lesion; expected scans\.csv"):
        task().find_scans(data)
