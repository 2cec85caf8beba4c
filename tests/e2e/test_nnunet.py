"""From scans through nnU-Net to masks: export, plan, train, kill, resume, predict, and nnU-Net's own trainer."""

import json
import os
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import processes
from helpers.command_line import set_options

TRAINER = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerShort(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 1, 1, 1
"""
# nnU-Net takes a thread a core, which would wait for one another while other tests run.
ONE_THREAD = """
import multiprocessing
from cggm_med.cli.app import main
multiprocessing.cpu_count = lambda: 1
main()
"""
SHORT = set_options(
    {"train.epochs": 3, "train.steps_per_epoch": 2, "train.validation_steps": 1, "train.checkpoint_every": 1}
)


@pytest.fixture(scope="module")
def nnunet(phantom, tmp_path_factory):
    """A data set of two modalities, planned, with a network small enough for a test; and a way to run commands."""
    root = tmp_path_factory.mktemp("nnunet")
    (root / "theirs").mkdir()
    (root / "theirs" / "short.py").write_text(TRAINER)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")},
        "nnUNet_def_n_proc": "1",
        "nnUNet_extTrainer": str(root / "theirs"),
    }

    def start(command, *words, **more):
        line = ["-c", ONE_THREAD, "nnunet", command, "--folder", root, *words]
        with (root / "log.txt").open("w") as log:
            return processes.Popen(line, stdout=log, stderr=log, env={**environment, **more})

    def run(*words, **more):
        status = start(*words, **more).wait()
        said = (root / "log.txt").read_text()
        assert status == 0, said
        return said

    run("export", "--data", phantom, "--set", "task.modalities=[flair,t1ce]")
    run("plan", "-d", "900", "-c", "3d_fullres", "-np", "1", "-npfp", "1", "--verify_dataset_integrity")
    file = root / "preprocessed" / "Dataset900_brats2021" / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 8, 8, 8]
    file.write_text(json.dumps(plans))
    run.start, run.root = start, root
    return run


def results(root, trainer) -> Path:
    return root / "results" / "Dataset900_brats2021" / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"


@pytest.mark.slow
def test_train_kill_resume_predict(nnunet):
    words = ("900", "3d_fullres", "0", "-tr", "nnUNetTrainerCGGM", "-device", "cpu")
    alone = {"nnUNet_n_proc_DA": "0"}
    fold = results(nnunet.root, "nnUNetTrainerCGGM")
    process = nnunet.start("train", *words, *SHORT, **alone)
    while process.poll() is None and not (fold / "checkpoint_latest.pth").exists():
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (fold / "checkpoint_final.pth").exists()

    said = nnunet("train", *words, "--c", **alone)  # with the settings of the checkpoint
    assert "Epoch 1" in said
    assert "Epoch 0" not in said
    assert "factor: flair" in said
    assert (fold / "checkpoint_final.pth").exists()
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["mean"]) == {"(1, 2, 3)", "(1, 3)", "(3,)"}

    raw = nnunet.root / "raw" / "Dataset900_brats2021"
    scans = shutil.copytree(raw / "imagesTs", nnunet.root / "scans")
    next(scans.glob("*_0001.nii.gz")).unlink()
    where = ("-i", scans, "-o", nnunet.root / "masks", "-d", "900", "-c", "3d_fullres", "-f", "0", "--allow-missing")
    said = nnunet(
        "predict", *where, "-tr", "nnUNetTrainerCGGM", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"
    )
    assert "t1ce is absent in 1 of " in said
    for truth in (raw / "labelsTs").iterdir():
        mask, label = nib.load(nnunet.root / "masks" / truth.name), nib.load(truth)
        assert mask.shape == label.shape
        np.testing.assert_allclose(mask.affine, label.affine)
        assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 3}


@pytest.mark.slow
def test_a_trainer_of_nnunet_and_of_a_stranger_through_the_same_command(nnunet):
    words = ("900", "3d_fullres", "0", "-tr", "nnUNetTrainerShort", "-device", "cpu")
    nnunet("train", *words, nnUNet_n_proc_DA="0")
    assert (results(nnunet.root, "nnUNetTrainerShort") / "validation" / "summary.json").exists()
