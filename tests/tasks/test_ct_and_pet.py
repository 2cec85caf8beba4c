"""CT and PET, declared: intensities keep their unit from training to masks, whoever asks."""

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers.command_line import command, set_options
from helpers.nifti import write

from cggm_med.errors import CheckpointError, ConfigError
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.settings import instantiate, make_config

AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
SHAPE = (20, 18, 12)
UPTAKES = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0)  # of the lesions, SUV
SMALL = {
    "data.patch_size": "[8,8,8]",
    "data.workers": "0",
    "data.validation": "0.2",
    "data.test": "0.2",
    "data.augmentation": "light",
    "model.channels": "[4,8]",
    "train.epochs": "2",
    "train.steps_per_epoch": "3",
    "train.validate_every": "1",
    "train.log_every": "1",
}


def patients(folder):
    """Air around a body of water, with a lesion that takes up what it takes up."""
    entries = []
    for i, uptake in enumerate(UPTAKES):
        random = np.random.default_rng(i)
        body, label = np.zeros(SHAPE, bool), np.zeros(SHAPE, np.uint8)
        body[3:17, 3:15, 1:11] = True
        x, y = 5 + random.integers(4), 5 + random.integers(3)
        label[x : x + 5, y : y + 5, 3:8] = 1
        ct = np.where(body, 30, -1000) + label * 40 + random.normal(0, 15, SHAPE)
        pet = np.where(label > 0, uptake, body * 0.5)
        files = {"ct": ct.astype(np.int16), "pet": pet.astype(np.float32), "label": label}
        entries.append(
            {
                "id": f"p{i}",
                **{role: str(write(folder / role / f"p{i}.nii.gz", volume, AFFINE)) for role, volume in files.items()},
            }
        )
    content = {"name": "petct", "modalities": {"ct": "ct", "pet": "pet"}, "labels": {"1": "lesion"}}
    (folder / "dataset.json").write_text(json.dumps({**content, "training": entries}))
    return folder / "dataset.json"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("petct")
    data = patients(folder / "data")
    flags = set_options(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        cache = f"data.cache={folder / 'cache'}"
        train = ("train", "--task", "segmentation", "--data", data, "--out", folder / "run", "--set", cache, *flags)
        command(patch, *train)
    return folder / "run", data


def test_the_statistics_of_the_training_cases_are_part_of_the_run(run):
    """And of those alone; by numpy, from the files."""
    finished = FinishedRun(run[0])
    train = [int(id[1:]) for id in finished.splits.train]
    assert 2 <= len(train) < len(UPTAKES)
    volumes = {role: [np.asarray(nib.load(run[1].parent / role / f"p{i}.nii.gz").dataobj) for i in train] for role in
               ("ct", "pet", "label")}  # fmt: skip
    rescaling = finished.settings["data"]["rescaling"]
    lesions = np.concatenate([ct[label > 0] for ct, label in zip(volumes["ct"], volumes["label"], strict=True)])
    expected = {"mean": lesions.mean(), "deviation": lesions.std()}
    expected |= dict(zip(("low", "high"), np.percentile(lesions, (0.5, 99.5)), strict=True))
    assert rescaling["ct"] == pytest.approx(expected)
    shown = np.concatenate([pet[pet != 0] for pet in volumes["pet"]]).astype(np.float64)
    assert rescaling["pet"] == pytest.approx({"mean": 0, "deviation": np.sqrt((shown**2).mean())})


def test_one_uptake_is_one_input_of_the_network_in_training_and_prediction(run):
    task, _ = instantiate(make_config("segmentation", [FinishedRun(run[0]).settings]))
    task.find(print)
    task.prepare(FinishedRun(run[0]).splits, lambda line: None)
    predictor = Predictor(run[0], "cpu", trust_names=True)
    deviation = FinishedRun(run[0]).settings["data"]["rescaling"]["pet"]["deviation"]
    for i, uptake in enumerate(UPTAKES):
        case = task.cases[f"p{i}"]
        prepared = case.image()
        values = np.unique(prepared[1])
        np.testing.assert_allclose(values, np.array([0, 0.5, uptake]) / deviation, rtol=1e-6)
        scan = predictor.read_case(case.source)
        np.testing.assert_array_equal(scan.image.numpy(), prepared)
        # Without the CT, the PET alone is cropped to its uptake, and keeps its numbers.
        alone = predictor.read(case.id, {"pet": case.source.images["pet"].path})
        assert alone.image.shape == (1, 14, 12, 10)
        np.testing.assert_array_equal(np.unique(alone.image.numpy()), values[1:])


def test_evaluation_resuming_and_subsets_use_the_numbers_of_the_run(run, tmp_path, monkeypatch):
    def scores(*words):
        out = tmp_path / f"scores{len(list(tmp_path.iterdir()))}"
        command(monkeypatch, "evaluate", run[0], "--out", out, *words)
        return json.loads((out / "results.json").read_text())["cases"]

    trained = json.loads((run[0] / "results.json").read_text())["cases"]
    assert [row["dice"] for row in scores()] == [row["dice"] for row in trained]
    (both,) = [row for row in scores("--subsets", "ct+pet") if row["region"] == "lesion"][:1]
    assert both["dice"] == trained[0]["dice"]
    command(monkeypatch, "train", "--resume", run[0])
    assert json.loads((run[0] / "results.json").read_text())["cases"] == trained


def test_a_run_without_its_numbers_is_refused(run, tmp_path):
    settings = FinishedRun(run[0]).settings
    settings["data"]["rescaling"] = {"ct": settings["data"]["rescaling"]["ct"]}
    task, _ = instantiate(make_config("segmentation", [settings]))
    task.find(print)
    splits = FinishedRun(run[0]).splits
    with pytest.raises(CheckpointError, match=r"lack data\.rescaling of pet"):
        task.prepare(type(splits)(train=(), validation=(), test=splits.test), lambda line: None)
    settings["data"]["rescaling"]["pet"] = {"mean": 0, "deviation": 0}
    with pytest.raises(ConfigError, match=r"data\.rescaling\.pet is .*, expected finite numbers: mean, deviation"):
        make_config("segmentation", [settings])


def test_numbers_may_be_set_by_hand(run):
    settings = yaml.safe_load((run[0] / "config.yaml").read_text())
    settings["data"]["rescaling"] = {"pet": {"mean": 0.0, "deviation": 10.0}}
    task, _ = instantiate(make_config("segmentation", [settings]))
    task.find(print)
    task.prepare(FinishedRun(run[0]).splits, lambda line: None)
    assert task.config.data.rescaling["pet"] == {"mean": 0.0, "deviation": 10.0}
    assert set(task.config.data.rescaling) == {"ct", "pet"}
    assert task.cases["p0"].image()[1].max() == np.float32(UPTAKES[0] / 10)
