"""Every command's score of a case is the score of the mask that is written for it, bit for bit."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command
from helpers.small_runs import trained_run

from cggm_med.metrics.overlap import dice
from cggm_med.task import scan_to_mask
from cggm_med.viewer.case import RunCases

MODALITIES = ("flair", "t1", "t1ce", "t2")
LABELS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}  # of BraTS 2021, the convention of the phantom


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="1")


@pytest.fixture(params=["as trained", "cores poke out"])
def pokes_out(request, monkeypatch):
    """The network as it is; and one that misses every third slab of the whole tumour, where cores then poke out."""
    if request.param == "as trained":
        return False
    predict = scan_to_mask.predict_volume

    def missing(*args, **options):
        volume = predict(*args, **options)
        volume[:: len(LABELS), ::3] = 0
        return volume

    monkeypatch.setattr(scan_to_mask, "predict_volume", missing)
    return True


def of_region(rows, region, case):
    return next(row for row in rows if row["region"] == region and row["case"] == case)


def test_the_score_in_every_table_is_that_of_the_written_mask(run, phantom, pokes_out, tmp_path, monkeypatch):
    case = json.loads((run / "splits.json").read_text())["test"][0]
    files = {m: phantom / case / f"{case}_{m}.nii.gz" for m in MODALITIES}
    words = [word for modality, file in files.items() for word in (f"--{modality}", file)]
    mask = tmp_path / "mask.nii.gz"
    command(monkeypatch, "predict", run, *words, "-o", mask, "--extra", "probabilities")

    tables = {}
    for name, options in {
        "evaluate": [],
        "subsets": ["--subsets", "+".join(MODALITIES)],
        "robustness": ["--corrupt", "missing:t2"],
    }.items():
        command(monkeypatch, "evaluate", run, *options, "--out", tmp_path / name)
        tables[name] = json.loads((tmp_path / name / "results.json").read_text())["cases"]
    tables["robustness"] = [row for row in tables["robustness"] if row["artefact"] == "clean"]
    command(monkeypatch, "probe", run, "--out", tmp_path / "probe")
    fused = json.loads((tmp_path / "probe" / "results.json").read_text())["cases"]
    tables["probe"] = [row for row in fused if row["by"] == "fused"]
    if not pokes_out:
        tables["train"] = json.loads((run / "results.json").read_text())["cases"]

    image = nib.load(mask)
    written = np.asarray(image.dataobj)
    truth = np.asarray(nib.load(phantom / case / f"{case}_seg.nii.gz").dataobj)
    shown = np.any([np.asarray(nib.load(file).dataobj) != 0 for file in files.values()], axis=0)
    assert not written[~shown].any()
    voxel_ml = float(np.prod(image.header.get_zooms(), dtype=float)) / 1000
    probabilities = np.asarray(nib.load(tmp_path / "mask_probabilities.nii.gz").dataobj)
    assert not probabilities[~shown].any()
    viewed = RunCases(run, say=lambda line: None).view(case)
    for channel, (region, labels) in enumerate(LABELS.items()):
        predicted, true = np.isin(written, labels), np.isin(truth, labels)
        expected = dice(torch.from_numpy(predicted), torch.from_numpy(true))
        for name, rows in tables.items():
            assert of_region(rows, region, case)["dice"] == expected, (name, region)
        row = of_region(tables["evaluate"], region, case)
        assert row["predicted_ml"] == np.count_nonzero(predicted) * voxel_ml
        assert row["target_ml"] == np.count_nonzero(true) * voxel_ml
        assert np.array_equal(viewed.prediction.mask(list(viewed.regions).index(region)), predicted)
        if pokes_out and region == "WT":
            assert np.count_nonzero(predicted) > np.count_nonzero(probabilities[..., channel] >= 0.5)
