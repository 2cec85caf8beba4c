"""Every command on runs of declared data: exclusive classes with numbers above 255 and voxels to ignore; overlap."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from helpers import processes
from helpers.command_line import command, same_values, set_options
from helpers.declared_cohort import SMALL, cohort

from cggm_med import registry
from cggm_med.data.volumes.io import write_volume
from cggm_med.errors import DataError
from cggm_med.inference.predictor import Predictor
from cggm_med.nnunet.export import export_dataset
from cggm_med.runs.settings import make_config

FLAGS = set_options(SMALL)
NUMBERS = (300, 2, 9)  # rim, core, not annotated
EXCLUSIVE = {"numbers": NUMBERS, "colours": {"core": "#123456"}}
OVERLAPPING = {"numbers": (1, 700), "regions": {"core": [700], "all": [1, 700]}, "reference": "t1"}
ALONE = {"numbers": (3, 3), "labels": {"3": "lesion"}}


def trained(folder, **declared):
    data = cohort(folder / "data", **declared)
    with pytest.MonkeyPatch.context() as patch:
        words = ("--task", "segmentation", "--data", data, "--set", f"data.cache={folder / 'cache'}")
        command(patch, "train", *words, "--out", folder / "run", *FLAGS)
    return folder / "run", data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("exclusive"), **EXCLUSIVE)


@pytest.fixture(scope="module")
def nested(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("overlapping"), **OVERLAPPING)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), **ALONE)


def files(data, case="p0", modalities=("flair", "t1")):
    return {m: data.parent / m / f"{case}.nii.gz" for m in modalities}


def as_words(images):
    return [word for modality, path in images.items() for word in (f"--{modality}", path)]


def results(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("kind", ["run", "nested", "alone"])
def test_questions_about_a_run(kind, request, tmp_path, monkeypatch):
    path, _ = request.getfixturevalue(kind)
    regions = {row["region"] for row in results(path)["cases"]}
    for name, flags in {
        "subsets": ("--subsets", "all"),
        "calibration": ("--calibration",),
        "robustness": ("--corrupt", "noise,missing:flair", "--severity", "1"),
    }.items():
        command(monkeypatch, "evaluate", path, *flags, "--out", tmp_path / name)
        assert {row["region"] for row in results(tmp_path / name)["cases"]} >= regions
    command(monkeypatch, "probe", path, "--out", tmp_path / "probe")
    assert regions <= {row["region"] for row in results(tmp_path / "probe")["cases"]}
    command(monkeypatch, "report", path, "-o", tmp_path / "report.html")
    assert all(region in (tmp_path / "report.html").read_text() for region in regions)


def test_a_file_for_each_region_is_the_label_map_of_them(nested, tmp_path, monkeypatch):
    """Trained, scored, exported and compared with masks, they give what one map gives, to the last digit."""
    path, data = trained(tmp_path / "parts", in_parts=True, **OVERLAPPING)
    assert results(path)["cases"] == results(nested[0])["cases"]
    masks = nested[1].parent / "labels"
    for written in exported(data, tmp_path / "raw").glob("labels*/*.nii.gz"):
        whole = np.asarray(nib.load(masks / written.name).dataobj)
        assert np.array_equal(np.asarray(nib.load(written).dataobj), np.searchsorted([0, 1, 700], whole))
    command(
        monkeypatch, "evaluate", "--masks", masks, "--data", data, "--task", "segmentation", "--out", tmp_path / "same"
    )
    assert {row["dice"] for row in results(tmp_path / "same")["cases"]} == {1.0}


def test_calibration_leaves_out_voxels_that_nobody_annotated(run, tmp_path, monkeypatch):
    command(monkeypatch, "evaluate", run[0], "--calibration", "--out", tmp_path / "out")
    (case,) = results(run[0])["cases"][:1]
    label = np.asarray(nib.load(run[1].parent / "labels" / f"{case['case']}.nii.gz").dataobj)
    whole = next(
        row
        for row in results(tmp_path / "out")["summary"]
        if (row["voxels"], row["region"]) == ("whole", "rim") and row["stage"] == "before"
    )
    assert whole["count"] == (label != NUMBERS[2]).sum()


@pytest.mark.parametrize("kind", ["run", "nested", "alone"])
def test_one_mask_from_files_from_a_cohort_and_in_the_viewer(kind, request, tmp_path, monkeypatch):
    path, data = request.getfixturevalue(kind)
    command(monkeypatch, "predict", path, "--trust-names", *as_words(files(data)), "-o", tmp_path / "one.nii.gz")
    command(monkeypatch, "predict", path, data, "--trust-names", "-o", tmp_path / "all")
    one, same = (np.asarray(nib.load(tmp_path / name).dataobj) for name in ("one.nii.gz", "all/p0.nii.gz"))
    np.testing.assert_array_equal(one, same)
    (case,) = {row["case"] for row in results(path)["cases"]}
    mask = np.asarray(nib.load(tmp_path / "all" / f"{case}.nii.gz").dataobj)
    command(monkeypatch, "view", path, case, "-o", tmp_path / "page.html")
    told = json.loads(re.search(r'id="content">(.*?)</script>', (tmp_path / "page.html").read_text(), re.DOTALL)[1])
    shown = {region["name"]: region for region in told["regions"]}
    truth = np.asarray(nib.load(data.parent / "labels" / f"{case}.nii.gz").dataobj)
    declared = results(path)["rules"]["regions"]
    for row in (row for row in results(path)["cases"] if row["case"] == case):
        numbers = json.loads(re.search(rf"\b{row['region']} = (\[.*?\])", declared)[1])
        predicted, true = np.isin(mask, numbers), np.isin(truth, numbers)
        predicted &= truth != NUMBERS[2]
        dice = 2 * (predicted & true).sum() / max(1, predicted.sum() + true.sum())
        assert row["dice"] == pytest.approx(dice)
        assert shown[row["region"]]["dice"] == pytest.approx(dice, abs=1e-6)
    if kind == "run":
        assert (shown["core"]["colour"], shown["rim"]["colour"]) == ("#123456", "#56B4E9")
        assert "nobody annotated" in told["notes"][-1]


def test_files_are_shown_with_the_meanings_of_their_list(run, tmp_path, monkeypatch, capsys):
    label = run[1].parent / "labels" / "p0.nii.gz"
    shown = ("view", "--flair", files(run[1])["flair"], "--truth", label, "-o", tmp_path / "page.html")
    command(monkeypatch, *shown, "--labels", run[1])
    text = (tmp_path / "page.html").read_text()
    assert all(word in text for word in ('"rim"', '"core"', "#123456"))
    command(monkeypatch, *shown, "--task", "segmentation", "--labels", "lesions", code=1)
    assert "its label conventions are those of its data" in capsys.readouterr().err


@pytest.mark.slow
def test_strategies_are_compared(run, tmp_path, monkeypatch):
    words = ("--task", "segmentation", "--data", run[1], "--strategies", "joint,uniform", "--seeds", "1")
    cache, shown = ("--set", f"data.cache={tmp_path / 'cache'}"), ("--json", tmp_path / "a.json")
    command(monkeypatch, "compare", *words, "--out", tmp_path / "out", *shown, *cache, *FLAGS)
    assert same_values(tmp_path / "a.json", tmp_path / "out" / "comparison.json", "compare")
    assert "Dice rim" in (tmp_path / "out" / "comparison.md").read_text()


def copied(file, target, finer=1):
    """The same image in the format that the ending of ``target`` says, on a grid that is finer along x."""
    image = nib.load(file)
    voxels = np.repeat(np.asarray(image.dataobj), finer, axis=0)
    affine = image.affine @ np.diag([1 / finer, 1, 1, 1])
    affine[:3, 3] -= image.affine[:3, 0] * (1 - 1 / finer) / 2
    target.parent.mkdir(exist_ok=True)
    if target.suffix in (".mgz", ".hdr"):
        kind = nib.MGHImage if target.suffix == ".mgz" else nib.Nifti1Pair
        nib.save(kind(voxels.astype(np.float32), affine), target)
    else:
        write_volume(target, voxels, affine)


# ---- bundles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "nested"])
def test_a_bundle_gives_the_masks_of_predict(kind, request, tmp_path, monkeypatch):
    """In every format, named by modality or by channel, whole or with one of the modalities, on grids that differ."""
    path, data = request.getfixturevalue(kind)
    command(monkeypatch, "bundle", "export", path, "-o", tmp_path / "bundle")
    predictor, seen = Predictor(path, "cpu", trust_names=True), set()
    fine = {("p1", "flair")} if predictor.volumes.reference == "t1" else set()
    for pattern, cases in (
        ("{case}_{name}", {"p0": {"flair": ".nrrd", "t1": ".mha"}, "p2": {"t1": ".mgz"}}),
        ("{case}_{number:04d}", {"p1": {"flair": ".nii.gz", "t1": ".hdr"}, "p3": {"flair": ".nii"}}),
    ):
        given = {}
        for case, endings in cases.items():
            for name, ending in endings.items():
                stem = pattern.format(case=case, name=name, number=["flair", "t1"].index(name))
                file = tmp_path / pattern / f"{stem}{ending}"
                copied(files(data, case)[name], file, 2 if (case, name) in fine else 1)
                given.setdefault(case, {})[name] = file
        words = ("--dataset_dir", tmp_path / pattern, "--output_dir", tmp_path / "out", "--device", "cpu")
        config = ("--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json")
        done = processes.run("-m", "monai.bundle", "run", *map(str, (*config, *words)), cwd=tmp_path / "bundle")
        assert done.returncode == 0, done.stderr[-3000:]
        for case, images in given.items():
            mask = nib.load(tmp_path / "out" / f"{case}.nii.gz")
            assert mask.get_data_dtype() == np.uint16
            np.testing.assert_allclose(mask.affine, nib.load(files(data, case)["t1"]).affine)
            same = predictor.predict(case, images)
            np.testing.assert_array_equal(mask.dataobj, same.labels)
            seen |= set(np.unique(mask.dataobj).tolist())
    assert len(seen) > 1
    meta = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    declared = {"run": {"0": "background", "2": "core", "300": "rim"}}
    declared["nested"] = {"0": "background", "1": "rim", "700": "core"}
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == declared[kind]
    readme = (tmp_path / "bundle" / "docs" / "README.md").read_text()
    # A score without the voxels to ignore, or of labels on grids of their own, is not what MONAI's handler computes.
    assert not (tmp_path / "bundle" / "configs" / "evaluate.json").exists()
    assert "evaluate.json" not in readme
    assert "CASE_0000.nii.gz" in readme


def test_scans_alone_are_predicted_from_any_folder_for_the_run_knows_its_labels(run, tmp_path, monkeypatch):
    path, data = run
    for case in ("p0", "p1"):
        for name, image in files(data, case).items():
            copied(image, tmp_path / "new" / f"{case}_{name}.nii.gz")
    command(monkeypatch, "predict", path, tmp_path / "new", "-o", tmp_path / "masks", "--trust-names")
    expected = Predictor(path, "cpu", trust_names=True).predict("p1", files(data, "p1")).labels
    np.testing.assert_array_equal(nib.load(tmp_path / "masks" / "p1.nii.gz").dataobj, expected)


# ---- nnU-Net ---------------------------------------------------------------------------------------------------------


def task_of(data):
    kind = registry.load(registry.TASKS, "segmentation")
    small = {"data": {"path": str(data), "workers": 0, "patch_size": [8, 8, 8]}, "model": {"channels": [4, 8]}}
    return kind(make_config("segmentation", [small]))


def exported(data, raw):
    return export_dataset(task_of(data), raw, 7, "x", say=lambda text: None)


@pytest.mark.parametrize(
    ("declared", "labels"),
    [
        (EXCLUSIVE, {"background": 0, "core": 1, "rim": 2, "ignore": 3}),
        (OVERLAPPING, {"background": 0, "all": [1, 2], "core": [2]}),
        (ALONE, {"background": 0, "lesion": 1}),
        ({"numbers": (1, 400), "regions": {"all": [1, 400]}}, {"background": 0, "all": 1}),
    ],
)
def test_an_exported_data_set_is_read_back_as_the_same_regions(declared, labels, tmp_path):
    data = cohort(tmp_path / "data", **declared)
    folder = exported(data, tmp_path / "raw")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == labels
    before, after = task_of(data), task_of(folder)
    for task in (before, after):
        task.find(lambda text: None)
    assert set(after.targets) == set(before.targets)
    assert after.exclusive == (before.exclusive or len(before.targets) == 1)
    theirs = {case.id: case for case in after.found.cases}
    for case in before.found.cases:
        mine, other = (
            task.convention_of(c).to_regions(np.asarray(nib.load(c.label).dataobj))
            for task, c in ((before, case), (after, theirs[case.id]))
        )
        order = [after.targets.index(region) for region in before.targets]
        np.testing.assert_array_equal(mine, other[order])
    ignored = [np.asarray(nib.load(case.label).dataobj) == 3 for case in theirs.values()]
    assert (np.sum(ignored) > 0) == ("ignore" in labels)


def test_cases_of_two_conventions_are_exported_under_common_numbers(tmp_path):
    entries, conventions = [], {}
    for name, numbers in (("a", (1, 2)), ("b", (500, 4))):
        content = json.loads(cohort(tmp_path / name, numbers, cases=3).read_text())
        rim, core = numbers
        conventions[name] = {"labels": content["labels"], "regions": {"all": [rim, core], "core": [core]}}
        entries += [{**entry, "id": name + entry["id"], "convention": name} for entry in content["training"]]
    both = tmp_path / "dataset.json"
    both.write_text(json.dumps({"modalities": ["flair", "t1"], "conventions": conventions, "training": entries}))
    folder = exported(both, tmp_path / "raw")
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "all": [1, 2], "core": [2]}
    assert content["label_meanings"] == {"1": "rim (1 in a), rim (500 in b)", "2": "core (2 in a), core (4 in b)"}
    labels = {path.name[:3]: np.asarray(nib.load(path).dataobj) for path in folder.glob("labelsT?/*")}
    for number in range(3):
        np.testing.assert_array_equal(labels[f"ap{number}"], labels[f"bp{number}"])


def test_what_nnunet_cannot_say_is_refused(tmp_path):
    data = cohort(tmp_path / "data", numbers=(1, 2), regions={"all": [1, 2], "core": [2]})
    content = json.loads(data.read_text())
    del content["training"][0]["t1"]
    content["training"][1]["not_drawn"] = ["core"]
    data.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        exported(data, tmp_path / "raw")
    assert "p0: no t1; nnU-Net needs every modality of every case" in str(caught.value)
    assert "p1: core not drawn; nnU-Net needs every region of every case" in str(caught.value)
    assert not list((tmp_path / "raw").glob("*"))
