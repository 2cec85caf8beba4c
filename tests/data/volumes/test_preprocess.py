"""Preprocessing: what it does, that its way back is exact, and that the cache never serves another file's numbers."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from helpers.volume_cases import CONVENTION, LPS, RSA, write_case

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes.background import background_value
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.prepared import common_spacing
from cggm_med.data.volumes.preprocess import VERSION, Preprocessing, digests, prepare
from cggm_med.errors import DataError


def preprocessing(spacing=None, modalities=("flair", "t1ce")):
    return Preprocessing(modalities, CONVENTION, spacing)


def test_the_brain_is_cropped_and_has_mean_zero_and_deviation_one(tmp_path):
    (case,) = prepare([write_case(tmp_path / "a")], preprocessing(), tmp_path / "cache")
    image = np.array(case.image())
    assert image.shape == (2, 16, 19, 16)
    assert image.mean(axis=(1, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert image.std(axis=(1, 2, 3)) == pytest.approx([1, 1], abs=1e-3)
    assert case.target().sum(axis=(1, 2, 3)).tolist() == [6**3, 3**3]


def test_a_constant_background_of_any_value_is_background(tmp_path):
    """Copies that were z-scored elsewhere have a background such as -3.6."""
    zero = prepare([write_case(tmp_path / "a")], preprocessing(), tmp_path / "cache")[0]
    shifted = prepare([write_case(tmp_path / "b", background=-3.5)], preprocessing(), tmp_path / "cache")[0]
    assert shifted.facts["background"] == {"flair": -3.5, "t1ce": -3.5}
    np.testing.assert_allclose(shifted.image(), zero.image(), atol=1e-4)


def test_without_a_constant_background_nothing_is_cropped(tmp_path):
    case = write_case(tmp_path / "a")
    noise = np.random.default_rng(1).normal(size=(30, 28, 26)).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, LPS), case.images["flair"].path)
    (prepared,) = prepare([case], preprocessing(), tmp_path / "cache")
    assert background_value(noise) is None
    assert prepared.facts["background"]["flair"] is None
    assert prepared.image().shape == (2, 30, 28, 26)


def test_the_axes_become_right_anterior_superior(tmp_path):
    """Independent authority: SimpleITK's own reorientation of the same file."""
    case = write_case(tmp_path / "a", affine=RSA)
    (prepared,) = prepare([case], preprocessing(), tmp_path / "cache")
    turned = sitk.DICOMOrient(sitk.ReadImage(str(case.label)), "RAS")
    expected = sitk.GetArrayFromImage(turned).transpose(2, 1, 0)
    start, stop = prepared.facts["crop_start"], prepared.facts["crop_stop"]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_array_equal(prepared.target()[0], expected[window] > 0)
    np.testing.assert_allclose(prepared.grid.spacing, (0.8, 1.5, 2.0))


@pytest.mark.parametrize("affine", [LPS, RSA], ids=["LPS", "RSA"])
def test_there_and_back_is_the_identity(tmp_path, affine):
    (case,) = prepare([write_case(tmp_path / "a", affine=affine)], preprocessing(), tmp_path / "cache")
    native = case.grid.to_native(torch.from_numpy(np.array(case.target())).float())
    np.testing.assert_array_equal(native > 0.5, case.native_target())


@pytest.mark.parametrize("affine", [LPS, RSA], ids=["LPS", "RSA"])
def test_resampling_there_and_back_keeps_regions_in_place(tmp_path, affine):
    (case,) = prepare([write_case(tmp_path / "a", affine=affine)], preprocessing((1.1, 1.1, 1.1)), tmp_path / "cache")
    native = case.grid.to_native(torch.from_numpy(np.array(case.target())).float()) >= 0.5
    truth = case.native_target()
    assert native.shape == truth.shape
    dice = 2 * (native & truth).sum() / (native.sum() + truth.sum())
    assert dice > 0.85
    for mine, true in zip(native, truth, strict=True):
        offset = np.argwhere(mine).mean(0) - np.argwhere(true).mean(0)
        assert np.abs(offset).max() <= 0.5  # voxels


def test_centres_lie_in_their_regions(tmp_path):
    (case,) = prepare([write_case(tmp_path / "a")], preprocessing(), tmp_path / "cache")
    region, x, y, z = case.centres.T
    assert case.target()[region, x, y, z].all()
    assert set(region) == {0, 1}


def test_the_cache_is_used_and_never_serves_other_numbers(tmp_path):
    case = write_case(tmp_path / "a")
    (first,) = prepare([case], preprocessing(), tmp_path / "cache")
    marker = first.folder / "case.json"
    stamp = marker.stat().st_mtime_ns
    (again,) = prepare([case], preprocessing(), tmp_path / "cache")
    assert again.folder == first.folder
    assert marker.stat().st_mtime_ns == stamp

    moved = write_case(tmp_path / "elsewhere", name="renamed")
    assert prepare([moved], preprocessing(), tmp_path / "cache")[0].folder == first.folder
    others = [
        prepare([write_case(tmp_path / "b", seed=1)], preprocessing(), tmp_path / "cache")[0],
        prepare([case], preprocessing(spacing=(2, 2, 2)), tmp_path / "cache")[0],
        prepare([case], preprocessing(modalities=("t1ce", "flair")), tmp_path / "cache")[0],
        prepare([case], preprocessing(modalities=("flair",)), tmp_path / "cache")[0],
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 5


def test_a_changed_version_is_another_key(tmp_path, monkeypatch):
    case = write_case(tmp_path / "a")
    before = preprocessing().key(case, digests(case))
    monkeypatch.setattr("cggm_med.data.volumes.preprocess.VERSION", VERSION + 1)
    assert preprocessing().key(case, digests(case)) != before


def test_a_write_that_dies_leaves_no_entry(tmp_path, monkeypatch):
    case = write_case(tmp_path / "a")

    def fail(*args, **kwargs):
        raise RuntimeError("killed")

    monkeypatch.setattr(json, "dumps", fail)
    monkeypatch.setattr("cggm_med.data.volumes.preprocess.Preprocessing.key", lambda self, case, files, findings: "key")
    with pytest.raises(DataError, match="killed"):
        prepare([case], preprocessing(), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_every_bad_case_is_listed_at_once(tmp_path):
    cases = [write_case(tmp_path / name, name=name) for name in ("a", "b", "c")]
    content = cases[0].images["flair"].path.read_bytes()
    cases[0].images["flair"].path.write_bytes(content[: len(content) // 2])
    nib.save(nib.Nifti1Image(np.full((30, 28, 26), 7, np.uint8), LPS), cases[2].label)
    with pytest.raises(DataError) as error:
        prepare(cases, preprocessing(), tmp_path / "cache")
    text = str(error.value)
    assert "a_flair.nii.gz" in text
    assert "c_seg.nii.gz" in text
    assert "b_" not in text


def test_voxel_sizes_that_differ_need_a_common_one(tmp_path):
    cases = [
        write_case(tmp_path / "a", name="a"),
        write_case(tmp_path / "b", name="b", affine=LPS @ np.diag([2, 2, 2, 1])),
    ]
    with pytest.raises(DataError, match=r"data\.spacing=\[1,1,1\]"):
        common_spacing(prepare(cases, preprocessing(), tmp_path / "cache"))
    one, two = prepare(cases, preprocessing((2, 2, 2)), tmp_path / "cache")
    assert one.image().shape[1] * 2 == pytest.approx(two.image().shape[1], abs=2)


def test_a_spacing_that_the_voxels_have_already_changes_nothing(tmp_path):
    """So that a run which wrote down what it found can be resumed and scored."""
    case = write_case(tmp_path / "a", affine=RSA)
    (own,) = prepare([case], preprocessing(), tmp_path / "cache")
    assert common_spacing([own]) == (0.8, 2.0, 1.5)  # along right, anterior, superior
    (same,) = prepare([case], preprocessing((0.8, 2.0, 1.5)), tmp_path / "cache")
    (other,) = prepare([case], preprocessing((0.8, 1.5, 2.0)), tmp_path / "cache")
    assert same.folder == own.folder
    assert other.folder != own.folder


def test_processes_that_share_the_work_change_nothing(tmp_path):
    cases = [write_case(tmp_path / name, name=name, seed=ord(name)) for name in "abc"]
    alone = prepare(cases, preprocessing(), tmp_path / "cache1")
    shared = prepare(cases, preprocessing(), tmp_path / "cache2", workers=2)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a.image(), b.image())


def test_a_four_dimensional_file_is_read_by_channel(tmp_path):
    case = write_case(tmp_path / "a")
    stack = np.stack([np.asarray(nib.load(case.images[m].path).dataobj) for m in ("t1ce", "flair")], axis=-1)
    nib.save(nib.Nifti1Image(stack, LPS), tmp_path / "all.nii.gz")
    images = {"flair": ImageFile(tmp_path / "all.nii.gz", 1), "t1ce": ImageFile(tmp_path / "all.nii.gz", 0)}
    joined = Case("case", "case", images, case.label)
    expected, got = prepare([case, joined], preprocessing(), tmp_path / "cache")
    np.testing.assert_array_equal(got.image(), expected.image())


def test_a_real_scan_with_a_shifted_background(tmp_path, shared_data):
    folder = shared_data("brats2013_3d") / "brats_2013_pat0001_1"
    convention = LabelConvention(
        "brats2013", {1: "a", 2: "b", 3: "c", 4: "d"}, {"WT": (1, 2, 3, 4), "ET": (4,)}, {"WT": 2, "ET": 4}
    )
    images = {"flair": ImageFile(folder / "Flair_subtrMeanDivStd.nii.gz")}
    case = Case("pat1", "pat1", images, folder / "OTMultiClass.nii.gz")
    (prepared,) = prepare([case], Preprocessing(("flair",), convention, (4, 4, 4)), tmp_path / "cache")
    brain = np.asarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0.5
    mm = np.array(prepared.image().shape[1:]) * 4
    box = [np.ptp(np.flatnonzero(brain.any(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    assert np.abs(mm - np.array(box)).max() < 12  # cropped to the brain, within a few mm


def test_a_case_that_lacks_a_modality_is_prepared_as_if_the_run_did_not_have_it(tmp_path):
    whole = write_case(tmp_path / "a")
    lacking = replace(whole, images={"t1ce": whole.images["t1ce"]})
    (here,) = prepare([lacking], preprocessing(), tmp_path / "cache")
    (alone,) = prepare([lacking], preprocessing(modalities=("t1ce",)), tmp_path / "other")
    assert here.modalities == ("t1ce",)
    np.testing.assert_array_equal(here.image(), alone.image())
    assert here.facts == alone.facts
    assert here.folder.name == alone.folder.name


def test_the_cache_tells_a_case_from_the_same_case_without_a_modality(tmp_path):
    whole = write_case(tmp_path / "a")
    images = [whole.images, *({m: whole.images[m]} for m in ("flair", "t1ce"))]
    cases = [replace(whole, images=held) for held in images]
    prepared = prepare(cases, preprocessing(), tmp_path / "cache")
    assert [case.modalities for case in prepared] == [("flair", "t1ce"), ("flair",), ("t1ce",)]
    assert len({case.folder for case in prepared}) == 3


def test_what_a_library_raises_about_one_case_is_one_line_and_the_others_are_looked_at(tmp_path, monkeypatch):
    cases = [write_case(tmp_path / name) for name in "ab"]

    def odd(*arguments):
        raise RuntimeError("itk::ERROR\nof 20 lines")

    monkeypatch.setattr("cggm_med.data.volumes.preprocess._preprocess", odd)
    with pytest.raises(DataError, match=r"2 problems in 2 cases(?s:.*)case: RuntimeError: itk::ERROR \(not foreseen"):
        prepare(cases, preprocessing(), tmp_path / "cache")
