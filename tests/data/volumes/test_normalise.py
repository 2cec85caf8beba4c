"""Normalisation by statistics of the training cases: numbers by hand, and beside nnU-Net's for CT."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.volume_cases import CONVENTION, LPS, RSA, write_case
from monai.data import MetaTensor

from cggm_med.data.cases import ImageFile
from cggm_med.data.volumes.background import background_of
from cggm_med.data.volumes.intensities import training_rescalings
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.data.volumes.normalise import Rescaling, rescaling_of, sampled
from cggm_med.data.volumes.preprocess import Preprocessing, prepare
from cggm_med.data.volumes.transforms import PrepareScand
from cggm_med.errors import DataError

PREPROCESSING = Preprocessing(("ct", "pet", "flair"), CONVENTION)
KINDS = {"ct": "training_statistics", "pet": "keep_scale", "flair": "z_score"}


def patient(folder, seed, uptake, *, affine=LPS):
    """A case whose CT is air around a body, whose PET has one uptake in the whole body, and an MRI."""
    case = write_case(folder, seed=seed, affine=affine)
    flair = np.asarray(nib.load(case.images["flair"].path).dataobj)
    random = np.random.default_rng(seed)
    ct = np.where(flair != 0, 40, -1000) + random.normal(0, 20, flair.shape)
    pet = np.where(flair != 0, uptake, 0)
    images = {"flair": case.images["flair"]}
    for name, volume in (("ct", ct), ("pet", pet)):
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), folder / f"{name}.nii.gz")
        images[name] = ImageFile(folder / f"{name}.nii.gz")
    return replace(case, images=images)


def volume_of(case, modality):
    return np.asarray(nib.load(case.images[modality].path).dataobj)


def label_of(case):
    return np.asarray(nib.load(case.label).dataobj)


def test_numbers_by_hand():
    """Of 0, 1, ..., 200: mean 100, deviation sqrt((201^2 - 1) / 12) = 58.0229, percentiles 1 and 199."""
    found = rescaling_of("training_statistics", [np.arange(100.0), np.arange(100.0, 201.0)])
    assert (found.mean, found.low, found.high) == (100, 1, 199)
    assert found.deviation == pytest.approx(58.02298)
    assert found(np.array([-50, 100, 400], np.float32)) == pytest.approx([-1.70622, 0, 1.70622], abs=1e-5)
    # sqrt((9 + 16 + 25 + 0) / 4)
    kept = rescaling_of("keep_scale", [np.array([3.0, 4.0]), np.array([5.0, 0.0])])
    assert kept == Rescaling(0, pytest.approx(3.535534))
    assert kept(np.array([0, 3.535534, -7.071068], np.float32)) == pytest.approx([0, 1, -2])
    assert (kept.keeps_zero, found.keeps_zero) == (True, False)


def test_a_sample_is_all_voxels_or_evenly_spread():
    volume = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    labelled = volume % 2 == 0
    assert sampled("training_statistics", volume, labelled, 100).tolist() == list(range(0, 24, 2))
    assert sampled("keep_scale", volume, labelled, 100).tolist() == list(range(1, 24))
    assert sampled("training_statistics", volume, labelled, 3).tolist() == [0, 10, 22]


def test_statistics_are_those_of_numpy_over_the_training_cases(tmp_path):
    cases = [patient(tmp_path / str(i), i, uptake) for i, uptake in enumerate((2.0, 6.0))]
    found = training_rescalings(cases, PREPROCESSING, KINDS, tmp_path / "cache")
    assert set(found) == {"ct", "pet"}
    voxels = np.concatenate([volume_of(case, "ct")[label_of(case) > 0] for case in cases]).astype(np.float64)
    assert found["ct"].mean == pytest.approx(voxels.mean())
    assert found["ct"].deviation == pytest.approx(voxels.std())
    assert (found["ct"].low, found["ct"].high) == pytest.approx(np.percentile(voxels, (0.5, 99.5)))
    # Both bodies are of one size: sqrt((2^2 + 6^2) / 2)
    assert found["pet"].settings == {"mean": 0.0, "deviation": pytest.approx(20**0.5)}
    # The same from the cache, whatever the number of processes.
    assert training_rescalings(cases, PREPROCESSING, KINDS, tmp_path / "cache", workers=2) == found
    assert training_rescalings(cases[:1], PREPROCESSING, KINDS, tmp_path / "cache") != found


def test_ct_is_normalised_as_in_nnunet(tmp_path):
    """Bit for bit, given the same statistics, which nnU-Net draws at random from the same voxels."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization

    case = patient(tmp_path / "a", 0, 2.0)
    (mine,) = training_rescalings([case], PREPROCESSING, {"ct": KINDS["ct"]}, tmp_path / "cache").values()
    ct, label = volume_of(case, "ct"), label_of(case)
    (drawn,), (theirs,) = DatasetFingerprintExtractor.collect_foreground_intensities(
        label[None], ct[None], num_samples=100_000
    )
    assert theirs["percentile_00_5"] == pytest.approx(mine.low)
    assert theirs["percentile_99_5"] == pytest.approx(mine.high)
    assert theirs["mean"] == pytest.approx(mine.mean, rel=1e-5)
    assert np.std(drawn) == pytest.approx(mine.deviation, rel=0.02)
    statistics = {
        "mean": mine.mean, "std": mine.deviation, "percentile_00_5": mine.low, "percentile_99_5": mine.high
    }  # fmt: skip
    expected = CTNormalization(intensityproperties=statistics).run(ct.copy())
    np.testing.assert_array_equal(mine(ct), expected)


@pytest.mark.parametrize("affine", [LPS, RSA], ids=["LPS", "RSA"])
def test_the_same_uptake_is_the_same_input_in_every_patient(tmp_path, affine):
    """SUV 2 and 6 stay 1 to 3, 0 stays 0; an MRI beside them has the bits that it has alone."""
    cases = [patient(tmp_path / str(i), i, uptake, affine=affine) for i, uptake in enumerate((2.0, 6.0))]
    rescalings = {"ct": Rescaling(40, 20, -100, 200), "pet": Rescaling(0, 4)}
    prepared = prepare(cases, replace(PREPROCESSING, rescalings=rescalings), tmp_path / "cache")
    for case, uptake in zip(prepared, (2.0, 6.0), strict=True):
        ct, pet, flair = case.image()
        assert set(np.unique(pet)) == {0, np.float32(uptake / 4)}
        assert ct.min() == -7  # air, clipped: (-100 - 40) / 20
        assert ct[pet > 0].mean() == pytest.approx(0, abs=0.05)
        assert ct.shape == case.image().shape[1:] == tuple(case.facts["oriented_shape"])  # air is no background
        (alone,) = prepare([case.source], replace(PREPROCESSING, modalities=("flair",)), tmp_path / "cache")
        start, stop = alone.facts["crop_start"], alone.facts["crop_stop"]
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        np.testing.assert_array_equal(flair[window], alone.image()[0])


def test_what_is_background():
    volume = np.full((6, 6, 6), -1024, np.float32)
    volume[1:5, 1:5, 1:5] = 30
    pet = np.where(volume > 0, 2, 0.1)
    assert background_of(volume, Rescaling(0, 100, -100, 250)) == -1024  # padding around a scanner's circle
    assert background_of(pet, Rescaling(0, 2)) == 0
    moved, grid, _ = to_network([volume], np.eye(4), None, rescalings=[Rescaling(0, 100, -100, 250)])
    assert moved["image"].shape == (1, 4, 4, 4)
    _, whole, _ = to_network([pet], np.eye(4), None, rescalings=[Rescaling(0, 2)])
    assert (grid.foreground.shape, whole.foreground.shape) == ((4, 4, 4), (6, 6, 6))


def test_a_bundle_normalises_alike(tmp_path):
    case = patient(tmp_path / "a", 0, 2.0)
    volumes = [volume_of(case, m).astype(np.float32) for m in KINDS]
    rescaling = {
        "ct": {"mean": 40.0, "deviation": 20.0, "low": -100.0, "high": 200.0},
        "pet": {"mean": 0.0, "deviation": 4},
    }
    scan = MetaTensor(torch.from_numpy(np.stack(volumes)), affine=torch.from_numpy(LPS))
    got = PrepareScand("image", list(KINDS), rescaling=rescaling)({"image": scan})["image"]
    rescalings = [Rescaling(**rescaling["ct"]), Rescaling(**rescaling["pet"]), None]
    moved, _, _ = to_network(volumes, LPS, None, rescalings=rescalings)
    assert torch.equal(got.as_tensor(), moved["image"].as_tensor())


def test_other_rescalings_are_other_cache_entries(tmp_path):
    case = patient(tmp_path / "a", 0, 2.0)
    folders = {
        prepare([case], replace(PREPROCESSING, rescalings=rescalings), tmp_path / "cache")[0].folder
        for rescalings in ({}, {"pet": Rescaling(0, 4)}, {"pet": Rescaling(0, 5)}, {"ct": Rescaling(0, 4)})
    }
    assert len(folders) == 4
    # What a case lacks does not count.
    alone = replace(case, images={"flair": case.images["flair"]})
    only = replace(PREPROCESSING, rescalings={"pet": Rescaling(0, 4)})
    assert prepare([alone], only, tmp_path / "cache") == prepare([alone], PREPROCESSING, tmp_path / "cache")


def test_modalities_of_which_nothing_is_known(tmp_path):
    case = patient(tmp_path / "a", 0, 2.0)
    nib.save(nib.Nifti1Image(np.zeros(label_of(case).shape, np.uint8), LPS), case.label)
    with pytest.raises(
        DataError, match=r"no training case has a labelled voxel in ct, from which .*leave this modality"
    ):
        training_rescalings([case], PREPROCESSING, KINDS, tmp_path / "cache")
    # Cases that cannot be read are reported together, by the check of all of them.
    case.images["pet"].path.write_bytes(b"")
    assert training_rescalings([case], PREPROCESSING, KINDS, tmp_path / "cache") == {}
