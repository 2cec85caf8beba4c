"""Task segmentation: what the data declare is learned, written and scored, from list to mask, without a program."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from helpers.declared_cohort import AFFINE, SHAPE, SMALL, cohort
from helpers.nifti import write

from cggm_med import registry
from cggm_med.config import to_tree
from cggm_med.errors import DataError
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.settings import instantiate, make_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on exclusive classes with voxels to ignore, and the list that it was trained on."""
    folder = tmp_path_factory.mktemp("declared")
    data = cohort(folder / "data")
    flags = set_options(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        cache = f"data.cache={folder / 'cache'}"
        train = ("train", "--task", "segmentation", "--data", data, "--out", folder / "run", "--set", cache, *flags)
        command(patch, *train)
    return folder / "run", data, folder / "cache"


def test_the_declaration_is_part_of_the_run(run):
    finished = FinishedRun(run[0])
    assert finished.settings["task"]["modalities"] == ["flair", "t1"]
    assert finished.settings["task"]["declaration"]["labels"] == {"1": "rim", "2": "core"}
    assert {row["region"] for row in finished.report.scores.cases} == {"rim", "core"}


def test_lesions_are_counted_by_the_declared_rules(run, tmp_path):
    """Rim and core of one lesion in six: without rules each connected part is a lesion, and the table says so."""
    report = FinishedRun(run[0]).report
    assert {row["lesions"] for row in report.scores.cases} == {1}
    assert "each 26-connected part of the true mask is a lesion, which is found if" in json.dumps(report.rules)
    data = cohort(tmp_path, lesion_rules={"dilations": 2, "min_mm3": 60, "connectivity": 18, "min_overlap": 0.1})
    kind = registry.load(registry.TASKS, "segmentation")
    small = {"data": {"patch_size": [8, 8, 8], "path": str(data)}, "model": {"channels": [4, 8]}}
    settings = [
        small,
        kind.settings_of_data(data, small),
    ]
    task, _ = instantiate(make_config("segmentation", settings))
    task.find(print)
    said = next(rule for name, rule in task.rules().items() if name.startswith("lesion Dice"))
    assert "18-connected part of the mask dilated 2 times are a lesion" in said
    assert "does not count up to 60 mm3 and is found if at least 10 % of it is predicted" in said
    (metric,) = (m for m in task.metrics if m.key == "lesions")
    assert metric.function(*2 * [torch.ones(3, 4, 5, dtype=torch.bool)], (1, 1, 1)) == 0
    assert metric.function(*2 * [torch.ones(3, 4, 6, dtype=torch.bool)], (1, 1, 1)) == 1


def test_a_voxel_has_one_class_and_ignored_voxels_are_not_scored(run):
    config = make_config("segmentation", [FinishedRun(run[0]).settings])
    task, _ = instantiate(config)
    task.find(print)
    assert task.exclusive
    task.prepare(FinishedRun(run[0]).splits, lambda line: None)
    case = task.cases["p0"]
    target = np.asarray(case.target())
    assert set(np.unique(target)) == {0, 1, 255}
    assert ((target == 255).any(0) == (target == 255).all(0)).all()
    everything = np.ones((2, *SHAPE), bool)
    assert (~case.scored(everything)).sum() == 2 * (2 * 14 * 6)
    predicted = np.random.default_rng(0).random((2, 5, 5, 5)) / 2
    masks = task.convention.chosen(predicted)
    assert masks.sum(0).max() == 1
    background = 1 - predicted.sum(0)
    best = np.stack([background, *predicted]).argmax(0)  # an independent reading of the rule
    np.testing.assert_array_equal(masks, [best == 1, best == 2])


def test_predict_writes_the_declared_numbers(run, tmp_path, monkeypatch):
    source = run[1].parent
    images = [word for m in ("flair", "t1") for word in (f"--{m}", source / m / "p0.nii.gz")]
    command(monkeypatch, "predict", run[0], "--trust-names", *images, "-o", tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert set(np.unique(mask.dataobj)) <= {0, 1, 2}
    np.testing.assert_allclose(mask.affine, AFFINE)


def test_other_numbers_and_names_that_mean_the_same_are_scored_alike(run, tmp_path, monkeypatch):
    same = cohort(tmp_path, numbers=(300, 7, 9), names=("T2 FLAIR", "t1"))
    content = json.loads(same.read_text())
    content["modalities"] = {"T2 FLAIR": {"kind": "mri", "shows": "flair"}, "t1": "mri"}
    same.write_text(json.dumps(content))
    results = []
    for data in (run[1], same):
        out = tmp_path / f"scores{len(results)}"
        command(monkeypatch, "evaluate", run[0], "--data", data, "--split", "all", "--out", out)
        found = json.loads((out / "results.json").read_text())
        results.append([{k: v for k, v in row.items() if k != "seconds"} for row in found["cases"]])
    assert results[0] == results[1]


def test_other_meanings_are_refused(run, tmp_path):
    other = cohort(tmp_path, numbers=(1, 2), labels={"1": "oedema", "2": "core"})
    task, _ = instantiate(make_config("segmentation", [FinishedRun(run[0]).settings]))
    with pytest.raises(DataError, match="neither a region rim nor labels that mean rim"):
        task.find_scans(other)


def test_cases_of_two_conventions_are_one_data_set(tmp_path):
    """The same anatomy under the numbers (1, 2) and (5, 4): prepared targets are equal, bit for bit."""
    files = {name: cohort(tmp_path / name, numbers) for name, numbers in (("a", (1, 2)), ("b", (5, 4)))}
    entries, conventions = [], {}
    for name, file in files.items():
        content = json.loads(file.read_text())
        conventions[name] = {"labels": content["labels"]}
        same = [{**entry, "id": name + entry["id"], "patient": entry["id"]} for entry in content["training"]]
        entries += [{**entry, "convention": name} for entry in same]
    conventions["b"]["regions"] = {"rim": [5], "core": [4]}
    both = tmp_path / "dataset.json"
    both.write_text(json.dumps({"modalities": ["flair", "t1"], "conventions": conventions, "training": entries}))
    small = {"data": {"path": str(both), "cache": str(tmp_path / "cache"), "workers": 0, "patch_size": [8, 8, 8]}}
    task, _ = instantiate(make_config("segmentation", [small, {"model": {"channels": [4, 8]}}]))
    task.find(print)
    task.prepare(task.default_splits(), lambda line: None)
    np.testing.assert_array_equal(task.cases["ap0"].target(), task.cases["bp0"].target())
    assert task.cases["ap0"].target().any()


def test_several_readers_are_one_truth_and_scored_one_by_one(tmp_path, monkeypatch):
    """Two of three readers drew the lesion: what most drew is learned; the score against the third is another."""
    file = cohort(tmp_path, numbers=(1, 2), cases=5)
    content = json.loads(file.read_text())
    for entry in content["training"]:
        label = entry.pop("label")
        nobody = write(tmp_path / "empty" / f"{entry['id']}.nii.gz", np.zeros(SHAPE, np.uint8), AFFINE)
        copy = write(tmp_path / "again" / f"{entry['id']}.nii.gz", np.asarray(nib.load(label).dataobj), AFFINE)
        entry["raters"] = {"A": label, "B": str(copy), "C": str(nobody)}
    file.write_text(json.dumps(content))
    flags = set_options(SMALL)
    flags += ["--set", f"data.cache={tmp_path / 'cache'}", "--set", "data.raters=soft"]
    train = ("train", "--task", "segmentation", "--data", file, "--out", tmp_path / "run", *flags)
    command(monkeypatch, *train)
    rows = FinishedRun(tmp_path / "run").report.scores.cases
    for row in rows:
        assert row["raters"]["A"] == row["raters"]["B"] == row["dice"]
        assert row["raters"]["C"] == (1.0 if row["predicted_ml"] == 0 else 0.0)
    assert "gainst each reader (Dice)" in (tmp_path / "run" / "results.md").read_text()
    task, _ = instantiate(make_config("segmentation", [FinishedRun(tmp_path / "run").settings]))
    task.find(print)
    task.prepare(FinishedRun(tmp_path / "run").splits, lambda line: None)
    assert np.unique(task.cases["p0"].target()).tolist() == pytest.approx([0, 2 / 3])


def test_the_plan_stands_in_the_settings_below_preset_and_set(tmp_path):
    data = {"path": str(cohort(tmp_path, names=("flair",)))}
    planned = make_config("segmentation", [{"data": data}])
    assert planned.data.spacing == (2.0, 2.0, 6.0)
    # 18 is halved twice, to 9 and 5, so it is padded to a multiple of 4. Slices of 6 mm join once the others have 4 mm.
    assert planned.data.patch_size == (20, 20, 8)
    assert planned.model.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2))
    assert planned.train.steps == 1000, "as long as a CPU can"
    assert planned.train.batch_size == 2
    # A preset says otherwise, and --set more than that.
    tiny = make_config("segmentation", [{"data": data}], preset="tiny")
    assert (tiny.data.patch_size, tiny.train.batch_size, tiny.data.spacing) == ((32, 32, 32), 4, (2.0, 2.0, 6.0))
    chosen = make_config("segmentation", [{"data": {**data, "patch_size": [16, 16, 8]}, "train": {"batch_size": 3}}])
    assert (chosen.data.patch_size, chosen.train.batch_size) == ((16, 16, 8), 3)
    instantiate(chosen)  # strides that suit the patch
    # For a GPU that is not here: the width of nnU-Net.
    gpu = make_config("segmentation", [{"data": data, "task": {"memory_gb": 8}}])
    assert gpu.model.channels[:2] == (32, 64)
    assert gpu.train.steps == 25000
    # A run keeps its plan, wherever it is used.
    assert make_config("segmentation", [to_tree(gpu)]) == gpu


def test_plan_shows_what_train_would_do(tmp_path, monkeypatch, capfd):
    data = cohort(tmp_path)
    command(monkeypatch, "plan", data, "--set", "model.channels=[2,4]", "--set", "data.patch_size=[8,8,8]")
    shown = capfd.readouterr().out
    for said in (
        "6 cases along right",
        "20 x 18 x 8",
        "8 x 8 x 8",
        "2 x 2 x 6",
        "flair, t1",
        "1,000",
        "expected time",
        "GB",
    ):
        assert said in shown, said
    command(monkeypatch, "plan", data, "--gpu-memory", "8")
    shown = capfd.readouterr().out
    assert "Training on a GPU" in shown
    assert "25,000" in shown
    assert not list(tmp_path.glob("runs"))
