"""``cggm-med new-task --kind segmentation``: what it writes is installed with pip, trained, tested, and predicts."""

import csv
import json

import numpy as np
import pytest
from helpers.command_line import set_options
from helpers.nifti import write
from helpers.packages import (
    ROOT,
    assert_its_own_tests_pass,
    assert_keeps_the_rules_of_this_project,
    assert_template_with_another_name,
    cggm_med,
    installed,
    listed,
    new_package,
    python_blocks,
)

from cggm_med.scaffold.packages import SEGMENTATION

NAME = "ms_lesions"
SHAPE, AFFINE = (20, 18, 10), np.diag([1.0, 1.0, 3.0, 1.0])
COLUMNS = ("case", "patient", "flair", "t1", "lesion")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return new_package(SEGMENTATION, NAME, tmp_path_factory.mktemp("new") / "package", "--kind", "segmentation")


@pytest.fixture(scope="module")
def environment(package, tmp_path_factory):
    return installed(package, tmp_path_factory.mktemp("installed"))


def test_it_is_the_template_with_another_name(package):
    assert_template_with_another_name(SEGMENTATION, package, NAME, "MsLesions")


def test_it_keeps_the_rules_of_this_project(package):
    assert_keeps_the_rules_of_this_project(package)


def test_the_guide_shows_the_listing_that_is_written(package):
    blocks = python_blocks(ROOT / "docs" / "how-to" / "add-a-task.md")
    (shown,) = (block for block in blocks if "def listing(" in block)
    assert f"\n\n{shown}\n" in (package / f"{NAME}_task" / "task.py").read_text()


def scans(folder, *, labels):
    """Five patients in the layout of the package; the last lacks T1."""
    rows = []
    for number in range(5):
        row = {"case": f"a{number}", "patient": f"p{number}"}
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[6 : 10 + number, 6:12, 3:7] = 1
        noise = np.random.default_rng(number).normal(100, 10, (2, *SHAPE)).astype(np.float32)
        volumes = {"flair": noise[0] + 40 * lesion, "t1": noise[1] - 20 * lesion, "lesion": lesion}
        for column, volume in volumes.items():
            if (labels or column != "lesion") and (number, column) != (4, "t1"):
                row[column] = f"{column}/{number}.nii.gz"  # names that say nothing of the case
                write(folder / row[column], volume, AFFINE)
        rows.append(row)
    with (folder / "scans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.mark.slow
def test_it_is_planned_and_trained_on_scans_of_its_layout_and_predicts_others(environment, tmp_path):
    assert listed(environment, "tasks", NAME).endswith(f"[flair,t1]  ({NAME}_task 0.1.0)")

    small = ["data.patch_size=[16,16,8]", "model.channels=[4,8]", "train.epochs=1", "train.steps_per_epoch=2"]
    small += ["train.batch_size=2", "data.validation=0.2", "data.test=0.2", "data.workers=0"]
    data = scans(tmp_path / "data", labels=True)
    words = ["train", "--task", NAME, "--data", data, *set_options(small)]
    said = cggm_med(environment, *words, "--out", tmp_path / "run")
    assert "cases that lack a modality" in said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["region"] for row in results["cases"]} == {"lesion"}
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in steps) == 2

    new = scans(tmp_path / "new", labels=False)
    cggm_med(environment, "predict", tmp_path / "run", new, "--trust-names", "-o", tmp_path / "masks")
    assert {f"a{number}.nii.gz" for number in range(5)} <= {path.name for path in (tmp_path / "masks").iterdir()}


@pytest.mark.slow
def test_its_own_tests_pass(package, environment):
    assert_its_own_tests_pass(package, environment, count=5)
