"""T2 and ADC with their own grids, and labels drawn on the ADC: from one command to masks and scores on both."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from helpers.command_line import command, set_options
from helpers.nifti import write

from cggm_med.errors import DataError, UnknownName
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.settings import instantiate, make_config

T2, T2_SHAPE = np.array([[-1.0, 0, 0, 20], [0, -1, 0.3, 30], [0, 0.1, 3, -10], [0, 0, 0, 1]]), (24, 20, 8)
T2[:3, :3] = np.linalg.qr(T2[:3, :3])[0] * (2, 2, 6)  # without shear
ADC, ADC_SHAPE = T2 @ np.array([[2.0, 0, 0, -1], [0, 2, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]]), (13, 11, 8)
SMALL = {
    "data.patch_size": "[8,8,8]",
    "data.workers": "0",
    "data.spacing": "[2,2,6]",
    "model.channels": "[4,8]",
    "train.epochs": "2",
    "train.steps_per_epoch": "3",
    "train.validate_every": "1",
    "train.log_every": "1",
}


def ball(affine, shape, centre, radius):
    places = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
    middle = T2[:3, :3] @ centre + T2[:3, 3]
    return np.linalg.norm(places - middle[:, None, None, None], axis=0) < radius


def patients(folder):
    entries = []
    for i in range(6):
        random = np.random.default_rng(i)
        lesion = (12 + random.integers(-3, 4), 10 + random.integers(-2, 3), 4)
        entry = {"id": f"p{i}"}
        for name, affine, shape in (("t2", T2, T2_SHAPE), ("adc", ADC, ADC_SHAPE)):
            body, drawn = ball(affine, shape, (12, 10, 4), 18), ball(affine, shape, lesion, 8)
            volume = body * (100 + 3 * random.normal(size=shape)) + drawn * (60 if name == "t2" else -60)
            entry[name] = str(write(folder / name / f"p{i}.nii.gz", volume.astype(np.float32), affine))
        entry["label"] = str(write(folder / "label" / f"p{i}.nii.gz", drawn.astype(np.uint8), ADC))
        entries.append(entry)
    held_out, training = entries[:1], entries[1:]
    content = {"name": "prostate", "modalities": {"t2": "mri", "adc": "map"}, "labels": {"1": "lesion"}}
    sections = {"training": training[1:], "validation": training[:1], "test": held_out}
    (folder / "dataset.json").write_text(json.dumps({**content, **sections}))
    return folder / "dataset.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prostate")
    data = patients(folder / "data")
    flags = set_options(SMALL)
    flags += ["--set", f"data.cache={folder / 'cache'}", "--resample-to", "t2"]
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--task", "segmentation", "--data", data, "--out", folder / "run", *flags)
    return folder / "run", data


def test_without_the_option_it_is_named_before_anything_is_written(trained, tmp_path, monkeypatch, capsys):
    words = ("train", "--task", "segmentation", "--data", trained[1], "--out", tmp_path / "run")
    command(monkeypatch, *words, "--set", f"data.cache={tmp_path / 'cache'}", code=1)
    told = capsys.readouterr().err
    assert "(of several, choose one with --set data.resample_to=MODALITY)" in told
    assert not (tmp_path / "run").exists()


def as_nnunet(listing, folder):
    """The same cases as a raw folder of nnU-Net, which cannot name a reference, under other names and numbers."""
    content = json.loads(listing.read_text())
    for section in ("training", "validation", "test"):
        for entry in content[section]:
            for role, path in (("adc", "imagesTr/{}_0000"), ("t2", "imagesTr/{}_0001"), ("label", "labelsTr/{}")):
                target = folder / f"{path.format(entry['id'])}.nii.gz"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(entry[role], target)
    names = {"channel_names": {"0": "ADC", "1": "T2"}, "labels": {"background": 0, "lesion": 1}}
    (folder / "dataset.json").write_text(json.dumps({**names, "file_ending": ".nii.gz", "numTraining": 6}))
    return folder


def test_the_option_settles_the_grid_of_a_layout_that_cannot(trained, tmp_path):
    """Declared and as a raw folder of nnU-Net: the same images, channel by channel, and the same targets."""
    data = as_nnunet(trained[1], tmp_path / "raw")
    small = {"model": {"channels": [4, 8]}, "optim": {}, "task": {}}
    tasks = []
    for path, to in ((data, "T2"), (trained[1], "t2")):
        chosen = {"path": str(path), "cache": str(tmp_path / "cache"), "workers": 0, "patch_size": [8, 8, 8]}
        chosen |= {"resample_to": to, "spacing": [1, 1, 3]}
        task, _ = instantiate(make_config("segmentation", [{**small, "data": chosen}]))
        task.find(print)
        task.prepare(FinishedRun(trained[0]).splits, lambda line: None)
        tasks.append(task)
    raw, declared = tasks
    assert (raw.modalities, raw.reference) == (("ADC", "T2"), "T2")
    for id, case in declared.cases.items():
        np.testing.assert_array_equal(raw.cases[id].image()[::-1], case.image())
        np.testing.assert_array_equal(raw.cases[id].target(), case.target())
    with pytest.raises(DataError, match="grid to resample to: "):
        make_config("segmentation", [{**small, "data": {"path": str(data), "patch_size": [8, 8, 8]}}])


def test_a_run_reads_other_data_onto_the_grid_of_its_reference(trained, tmp_path):
    task, _ = instantiate(make_config("segmentation", [FinishedRun(trained[0]).settings]))
    found = task.find_scans(as_nnunet(trained[1], tmp_path))
    assert (len(found.cases), list(found.cases[0].images)) == (6, ["t2", "adc"])


def test_training_says_what_it_resampled(trained, tmp_path):
    """A case without T2 stays on the grid of its ADC, on which its label was drawn."""
    content = json.loads(trained[1].read_text())
    del content["training"][0]["t2"]
    lacking = content["training"][0]["id"]
    list_ = trained[1].with_name("lacking.json")
    list_.write_text(json.dumps(content))
    lines = []
    settings = FinishedRun(trained[0]).settings
    settings["data"]["path"] = str(list_)
    task, _ = instantiate(make_config("segmentation", [settings]))
    task.find(lines.append)
    task.prepare(FinishedRun(trained[0]).splits, lines.append)
    assert "resampled to the grid of t2: adc in 5 cases, label in 5 cases" in lines
    assert task.cases["p0"].grid.shape == T2_SHAPE
    assert task.cases["p0"].label_grid.shape == ADC_SHAPE
    assert task.cases[lacking].grid.shape == ADC_SHAPE
    assert task.cases[lacking].label_grid is None


def test_the_score_is_that_of_the_probabilities_on_the_grid_of_the_label(trained, tmp_path, monkeypatch):
    """By hand: probabilities that ``predict`` wrote on the T2, brought to the ADC with SimpleITK, at 0.5."""
    source = trained[1].parent
    images = [word for m in ("t2", "adc") for word in (f"--{m}", source / m / "p0.nii.gz")]
    out = tmp_path / "mask.nii.gz"
    command(monkeypatch, "predict", trained[0], *images, "-o", out, "--extra", "probabilities", "--trust-names")
    facts = json.loads((tmp_path / "mask.json").read_text())
    assert (facts["resampled"], facts["resampled_to"]) == (["adc"], "t2")
    assert nib.load(out).shape == T2_SHAPE
    np.testing.assert_allclose(nib.load(out).affine, T2, atol=1e-5)
    written = nib.load(tmp_path / "mask_probabilities.nii.gz")
    nib.save(nib.Nifti1Image(written.get_fdata(dtype=np.float32)[..., 0], written.affine), tmp_path / "p.nii.gz")
    label = sitk.ReadImage(str(source / "label" / "p0.nii.gz"))
    probability = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "p.nii.gz")), label, sitk.Transform(), sitk.sitkLinear, 0.0
    )
    predicted, true = sitk.GetArrayFromImage(probability) >= 0.5, sitk.GetArrayFromImage(label) > 0
    assert true.any()
    dice = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
    (row,) = json.loads((trained[0] / "results.json").read_text())["cases"]
    assert row["dice"] == pytest.approx(dice, abs=1e-6)
    volume = np.prod((4, 4, 6)) * (int(predicted.sum()) - int(true.sum())) / 1000
    assert row["volume_error_ml"] == pytest.approx(volume)


def test_all_questions_are_answered_on_the_grid_of_the_label(trained, tmp_path, monkeypatch):
    (trained_row,) = json.loads((trained[0] / "results.json").read_text())["cases"]

    def ask(name, *words):
        command(monkeypatch, "evaluate", trained[0], "--out", tmp_path / name, *words)
        return json.loads((tmp_path / name / "results.json").read_text())

    assert ask("again")["cases"][0]["dice"] == trained_row["dice"]
    subsets = ask("subsets", "--subsets", "t2+adc,adc")
    assert [row["dice"] for row in subsets["cases"] if row["subset"] == "t2+adc"] == [trained_row["dice"]]
    corrupted = ask("corrupt", "--corrupt", "noise", "--severity", "1")
    assert [row["dice"] for row in corrupted["cases"] if row["artefact"] == "clean"] == [trained_row["dice"]]
    calibrated = ask("calibration", "--calibration")
    whole = next(row for row in calibrated["cases"] if row["voxels"] == "whole")
    assert whole["count"] == np.prod(ADC_SHAPE)


def test_a_mask_lies_on_the_grid_that_there_is_or_that_was_asked_for(trained, tmp_path):
    source = trained[1].parent
    predictor = Predictor(trained[0], "cpu", trust_names=True)
    assert predictor.predict("p", {"adc": source / "adc" / "p1.nii.gz"}).labels.shape == ADC_SHAPE
    other = Predictor(trained[0], "cpu", trust_names=True, resample_to="adc")
    both = {m: source / m / "p1.nii.gz" for m in ("t2", "adc")}
    found = other.predict("p", both)
    assert found.labels.shape == ADC_SHAPE
    (partly,) = [finding for finding in found.findings if finding.kind.name == "partly_covered"]
    assert partly.seen == "covers 84% of the grid of adc"


def test_the_viewer_shows_everything_on_the_grid_of_the_prediction(trained, tmp_path, monkeypatch):
    command(monkeypatch, "view", trained[0], "p0", "--trust-names", "-o", tmp_path / "case.html")
    assert (tmp_path / "case.html").stat().st_size > 10_000


def test_a_declared_reference_is_a_setting(trained, tmp_path):
    content = json.loads(trained[1].read_text())
    declared = trained[1].with_name("declared.json")
    declared.write_text(json.dumps({**content, "reference": "adc"}))
    config = make_config("segmentation", [{"data": {"path": str(declared)}}])
    assert config.data.resample_to == "adc"
    config = make_config("segmentation", [{"data": {"path": str(declared), "resample_to": "flair"}}])
    with pytest.raises(UnknownName, match="no modality to resample to 'flair'"):
        instantiate(config)
