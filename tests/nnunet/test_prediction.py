"""nnU-Net's prediction of cases that lack channels: the network is told, and nobody is fed zeros."""

import copy
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.plans import PATCH, plans

from cggm_med.errors import CheckpointError, ConfigError, DataError, NonFiniteLoss, UnknownName
from cggm_med.nnunet.settings import VARIABLE

prediction = pytest.importorskip("cggm_med.nnunet.prediction")
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor  # noqa: E402
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: E402

from cggm_med.nnunet import trainer as trainers  # noqa: E402
from cggm_med.nnunet.preprocessing import IncompleteConfiguration  # noqa: E402

DATASET = {
    "channel_names": {"0": "FLAIR", "1": "T1"},
    "labels": {"background": 0, "a": 1, "b": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path):
    """A folder with two cases of two channels, of the size of a patch, with air around."""
    folder, generator = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for case in ("p1", "p2"):
        for channel in range(2):
            image = generator.normal(100, 10, PATCH[::-1]).astype(np.float32)  # nnU-Net reads z, y, x
            image[:2] = image[:, -2:] = 0
            if channel == 1:
                image[:4] = 0
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{case}_{channel:04d}.nii.gz")
    return folder


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The folder of a trained model, as nnU-Net leaves it, and its network."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    prepared = tmp_path / "preprocessed" / "Dataset900_x" / "nnUNetPlans_3d_fullres"
    prepared.mkdir(parents=True)
    (prepared / "case.b2nd").touch()
    found = "nnunetv2.inference.predict_from_raw_data.recursive_find_trainer_class_by_name"
    monkeypatch.setattr(found, lambda name: getattr(trainers, name))

    def train(kind):
        monkeypatch.setenv(VARIABLE, "{}")
        torch.manual_seed(0)
        trainer = kind(plans(), "3d_fullres", 0, copy.deepcopy(DATASET), CPU)
        trainer.initialize()
        folder = tmp_path / f"{kind.__name__}__nnUNetPlans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
        (folder / "plans.json").write_text(json.dumps(trainer.plans_manager.plans))
        (folder / "dataset.json").write_text(json.dumps(DATASET))
        return folder, trainer.planned.model.eval()

    return train


def predict(model, images, out, absent=(), allow_missing=False, predictor=prediction.IncompletePredictor):
    """Masks by case, without any other process; and what was said."""
    said = []
    asked = prediction.Asked(absent, allow_missing, said.append)
    made = type("Predictor", (predictor,), {"asked": asked})(use_mirroring=False, use_gaussian=False, device=CPU)
    made.initialize_from_trained_model_folder(str(model), (0,))
    out.mkdir()
    made.predict_from_files_sequential(str(images), str(out))
    return {f.name[:2]: np.asarray(nib.load(f).dataobj) for f in out.glob("*.nii.gz")}, said


def test_folds_that_were_not_trained_are_named(model, images, tmp_path):
    folder, _ = model(trainers.nnUNetTrainerSubsets)
    made = type("Predictor", (prediction.IncompletePredictor,), {"asked": prediction.Asked((), False, print)})()
    with pytest.raises(ConfigError, match=r"no checkpoint_final\.pth of fold 1, 2; name the folds that were trained"):
        made.initialize_from_trained_model_folder(str(folder), (0, 1, 2))


def test_nothing_in_a_checkpoint_of_ours_is_executed(model, images, tmp_path):
    folder, _ = model(trainers.nnUNetTrainerSubsets)
    file = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=True), "more": Touch(tmp_path / "touched")}, file)
    with pytest.raises(CheckpointError, match="holds more than tensors and numbers"):
        predict(folder, images, tmp_path / "masks")
    assert not (tmp_path / "touched").exists()
    torch.load(file, weights_only=False)  # as nnU-Net reads it
    assert (tmp_path / "touched").exists()


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def managed():
    made = {key: value for key, value in plans().items() if key != "continue_training"}
    manager = PlansManager(made)
    return manager, manager.get_configuration("3d_fullres")


def test_the_channels_that_there_are_have_the_bits_of_a_data_set_without_the_others(images):
    manager, planned = managed()
    incomplete = IncompleteConfiguration(planned.configuration)
    reader = manager.image_reader_writer_class()
    for held in ([0, 1], [1], [0]):
        files = [str(images / f"p1_{channel:04d}.nii.gz") for channel in held]
        found, _, properties = incomplete.preprocessor_class(verbose=False).run_case(
            files, None, manager, incomplete, DATASET
        )
        data, about = reader.read_images(files)
        own, _, expected = DefaultPreprocessor(verbose=False).run_case_npy(data, None, about, manager, planned, DATASET)
        np.testing.assert_array_equal(found[held], own)
        assert properties["bbox_used_for_cropping"] == expected["bbox_used_for_cropping"]
        assert np.isnan(found[[c for c in (0, 1) if c not in held]]).all()
        assert len(found) == 2


def test_a_mask_is_what_the_network_says_of_the_other_modalities(model, images, tmp_path):
    """Whether the absent file is there, missing or rubbish; and by hand, of the one window that there is."""
    folder, network = model(trainers.nnUNetTrainerSubsets)
    complete, said = predict(folder, images, tmp_path / "complete")
    assert said == []
    without, said = predict(folder, images, tmp_path / "without", absent=["T1"])
    assert said == ["T1 is absent in 2 of 2 cases"]
    (images / "p1_0001.nii.gz").unlink()
    shutil.copy(images / "p2_0000.nii.gz", images / "p1_0001.nii.gz")
    again, _ = predict(folder, images, tmp_path / "again", absent=["T1"])
    (images / "p1_0001.nii.gz").unlink()
    mixed, said = predict(folder, images, tmp_path / "mixed", allow_missing=True)
    assert said == ["T1 is absent in 1 of 2 cases"]
    used = json.loads((tmp_path / "mixed" / "predict_from_raw_data_args.json").read_text())
    files = used["list_of_lists_or_source_folder"]
    assert [[f.rpartition("/")[2][:7] for f in case] for case in files] == [["p1_0000"], ["p2_0000", "p2_0001"]]

    np.testing.assert_array_equal(again["p1"], without["p1"])
    np.testing.assert_array_equal(mixed["p1"], without["p1"])
    np.testing.assert_array_equal(mixed["p2"], complete["p2"])
    assert (without["p1"] != complete["p1"]).any()

    manager, planned = managed()
    image, _, about = DefaultPreprocessor(verbose=False).run_case(
        [str(images / "p1_0000.nii.gz")], None, manager, planned, DATASET
    )
    before = [(int(low), PATCH[i] - int(high)) for i, (low, high) in enumerate(about["bbox_used_for_cropping"])]
    padding = [n - have for n, have in zip(PATCH, image.shape[1:], strict=True)]
    pads = [(p // 2, p - p // 2) for p in padding]  # as nnU-Net pads a window that sticks out
    with torch.inference_mode():
        logits = network({"FLAIR": torch.from_numpy(np.pad(image, [(0, 0), *pads]))[None]})[0]
    inside = logits[(slice(None), *(slice(low, low + n) for (low, _), n in zip(pads, image.shape[1:], strict=True)))]
    best = inside.topk(2, dim=0)
    clear = np.pad((best.values[0] - best.values[1] > 0.02).numpy(), before)  # nnU-Net keeps them in float16
    assert clear.mean() > 0.4
    expected = np.pad(best.indices[0].numpy(), before)
    np.testing.assert_array_equal(without["p1"].T[clear], expected[clear])


def test_a_trainer_that_never_saw_a_subset_is_told(model, images, tmp_path):
    folder, _ = model(trainers.nnUNetTrainerJoint)
    _, said = predict(folder, images, tmp_path / "out", absent=["FLAIR"])
    assert said[0].startswith("nnUNetTrainerJoint was trained without subsets of the modalities")


def test_nan_in_a_scan_is_no_absence(model, images, tmp_path):
    """With a reader that keeps them; that of SimpleITK makes them 0."""
    folder, _ = model(trainers.nnUNetTrainerSubsets)
    (folder / "plans.json").write_text((folder / "plans.json").read_text().replace("SimpleITKIO", "NibabelIO"))
    image = np.asarray(nib.load(images / "p1_0001.nii.gz").dataobj).copy()
    image[8, 8, 4] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), images / "p1_0001.nii.gz")
    for number, allow in enumerate((False, True)):
        with pytest.raises(NonFiniteLoss, match="the prediction is NaN or infinite"):
            predict(folder, images, tmp_path / f"out{number}", allow_missing=allow)


def test_what_cannot_be_predicted_is_refused_before_anything_is_written(model, images, tmp_path):
    folder, _ = model(trainers.nnUNetTrainerSubsets)
    out = tmp_path / "out"

    def refused(error, text, where=images, **asked):
        with pytest.raises(error, match=text) as raised:
            predict(folder, where, out, **asked)
        assert not out.exists() or not list(out.iterdir())
        shutil.rmtree(out, ignore_errors=True)
        return str(raised.value)

    refused(UnknownName, "no modality in this model 'T2'", absent=["T2"])
    refused(ConfigError, "--absent names all of FLAIR, T1", absent=["T1", "FLAIR"])
    refused(DataError, "holds no image of a channel, such as case_0000.nii.gz", where=tmp_path)
    (images / "p2_0001.nii.gz").unlink()
    said = refused(DataError, "which has FLAIR, T1; say with --absent what all lack")
    assert said.splitlines()[1:] == ["  p2: no T1"]
    assert refused(DataError, "do not fit", absent=["FLAIR"]).splitlines()[1:] == ["  p2: nothing of T1"]
    shutil.copy(images / "p1_0001.nii.gz", images / "p1_0002.nii.gz")
    refused(DataError, "p1: channel 0002, and the model has 2", allow_missing=True)


@pytest.mark.parametrize("asked", [{"absent": ["T1"]}, {"allow_missing": True}])
def test_a_model_that_needs_every_channel_is_refused(asked, images, tmp_path):
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    with pytest.raises(ConfigError, match="no model is in .*nnUNetTrainer__nnUNetPlans__3d_fullres"):
        predict(folder, images, tmp_path / "out", **asked)
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans()))
    with pytest.raises(ConfigError, match="a network of nnUNetTrainer needs every channel") as error:
        predict(folder, images, tmp_path / "out", **asked)
    assert "\n" not in str(error.value)
