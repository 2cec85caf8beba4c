"""The MONAI transforms of a scan: the numbers of preprocessing, a way back through a data loader, plain refusals."""

from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.volume_cases import CONVENTION, LPS, RSA, write_case
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import LoadImage, SaveImaged

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.layouts import NamedFiles
from cggm_med.data.monai_items import case_items
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.data.volumes.preprocess import Preprocessing, prepare
from cggm_med.data.volumes.transforms import (
    LabelsToRegionsd,
    PrepareScand,
    RegionsToLabelsd,
    SameGridWriter,
    ToNativeGridd,
)
from cggm_med.errors import DataError

MODALITIES = ("flair", "t1ce")
PLAIN = {**asdict(CONVENTION), "meanings": {str(k): v for k, v in CONVENTION.meanings.items()}}


def loaded(case):
    """Both files as one image, with an affine in double precision, as MONAI's reader has it."""
    images = [nib.load(case.images[m].path) for m in MODALITIES]
    return MetaTensor(
        torch.from_numpy(np.stack([np.asarray(image.dataobj, dtype=np.float32) for image in images])),
        meta={"affine": torch.from_numpy(images[0].affine), "filename_or_obj": "/scans/a_flair.nii.gz"},
    )


def as_predict_does(case, spacing=None):
    """The image and the way back, as ``Predictor.read`` has them."""
    found = inspect(case, None)
    affine = next(iter(found.affines.values()))
    moved, grid, _ = to_network([found.volumes[m] for m in MODALITIES], affine, spacing)
    return moved["image"].as_tensor(), grid


@pytest.mark.parametrize("spacing", [None, (1.1, 1.1, 1.1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("affine", [LPS, RSA], ids=["LPS", "RSA"])
def test_the_transform_gives_the_bits_of_preprocessing_there_and_back(tmp_path, affine, spacing):
    """Also after a data loader has stacked the way back and taken it apart."""
    case = write_case(tmp_path / "a", affine=affine, background=-3.5)
    image, grid = as_predict_does(case, spacing)
    prepare = PrepareScand("image", MODALITIES, spacing)
    loader = DataLoader(Dataset([{"image": loaded(case), "case": "a"}], prepare), batch_size=1)
    (item,) = decollate_batch(next(iter(loader)))
    assert torch.equal(item["image"].as_tensor(), image)
    back = ToNativeGridd("pred")({**item, "pred": item["image"].as_tensor()})["pred"]
    np.testing.assert_array_equal(back.as_tensor().numpy(), grid.to_native(image))
    np.testing.assert_array_equal(back.affine.numpy(), nib.load(case.label).affine)


def with_holes(case, background):
    """Random voxels of both images become background, others of one image alone; returns where either shows something.

    One image of the two gets a border of its own, so that the crop is not the foreground's of any of them alone.
    """
    random, shown = np.random.default_rng(3), False
    shape = nib.load(case.label).shape
    both = random.random(shape) < 0.3
    for modality, file in case.images.items():
        image = nib.load(file.path)
        voxels = np.asarray(image.dataobj, dtype=np.float32).copy()
        voxels[both | (random.random(shape) < 0.3)] = background
        voxels[: 9 if modality == "flair" else 0] = background
        shown |= voxels != background
        nib.save(nib.Nifti1Image(voxels, image.affine), file.path)
    return shown


@pytest.mark.parametrize("background", [0.0, -3.5])
@pytest.mark.parametrize("spacing", [None, (1.1, 1.1, 1.1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("affine", [LPS, RSA], ids=["LPS", "RSA"])
def test_nothing_is_left_outside_the_foreground_to_the_voxel(tmp_path, affine, spacing, background):
    """A network that predicts everything everywhere is left with the foreground, exact although it was resampled."""
    case = write_case(tmp_path / "a", affine=affine, background=background)
    shown = with_holes(case, background)
    image, grid = as_predict_does(case, spacing)
    np.testing.assert_array_equal(grid.to_native(torch.ones(2, *image.shape[1:])), np.stack([shown, shown]))
    prepare_scan = PrepareScand("image", MODALITIES, spacing)
    (item,) = decollate_batch(next(iter(DataLoader(Dataset([{"image": loaded(case)}], prepare_scan), batch_size=1))))
    back = ToNativeGridd("pred")({**item, "pred": torch.ones(1, *image.shape[1:])})["pred"]
    np.testing.assert_array_equal(back[0].numpy(), shown)
    (cached,) = prepare([case], Preprocessing(MODALITIES, CONVENTION, spacing), tmp_path / "cache")
    np.testing.assert_array_equal(cached.grid.foreground, grid.foreground)
    assert cached.grid == grid
    assert (cached.folder / "foreground.npy").stat().st_size <= grid.foreground.size / 8 + 129  # bits, and a header


def test_the_foreground_by_hand():
    """One of 27 voxels is background in both images, another in one of them; an image of noise has none."""
    one, other = np.zeros((2, 7, 7, 7), np.float32)
    one[2:5, 2:5, 2:5] = other[2:5, 2:5, 2:5] = 5
    one[3, 3, 3] = other[3, 3, 3] = one[2, 2, 2] = 0
    noise = np.random.default_rng(0).normal(size=one.shape).astype(np.float32)
    for images, voxels in [([one, other], 26), ([one], 25), ([other], 26), ([one, noise], 343), ([noise], 343)]:
        moved, grid, _ = to_network(images, np.eye(4), None)
        assert grid.to_native(torch.ones(moved["image"].shape))[0].sum() == voxels


def test_images_and_regions_move_together(tmp_path):
    """A region that is where the image is bright stays there, whatever the axes are."""
    case = write_case(tmp_path / "a", affine=RSA)
    labels = np.asarray(nib.load(case.label).dataobj)
    bright = np.where(labels > 0, 9.0, np.asarray(nib.load(case.images["flair"].path).dataobj) > 0).astype(np.float32)
    moved, _, backgrounds = to_network([bright], RSA, None, (labels > 0)[None])
    assert backgrounds == [0.0]
    assert torch.equal(moved["image"].as_tensor() > 1, moved["target"].as_tensor() == 1)


def test_labels_and_regions_are_inverse():
    labels = np.array([[[0, 1, 2]]], np.uint8)
    data = {"label": MetaTensor(torch.from_numpy(labels)[None], affine=torch.eye(4))}
    regions = LabelsToRegionsd("label", PLAIN)(data)["label"]
    assert regions[:, 0, 0].tolist() == [[0, 1, 1], [0, 1, 0]]
    back = RegionsToLabelsd("label", PLAIN)({"label": regions})["label"]
    assert back.dtype == torch.uint8
    np.testing.assert_array_equal(back[0].numpy(), labels)


def test_a_region_begins_at_one_half():
    p = torch.tensor([0.5, 0.4999])[:, None, None, None]
    probabilities = MetaTensor(torch.stack([p.flatten(), torch.zeros(2)])[:, :, None, None], affine=torch.eye(4))
    labels = RegionsToLabelsd("pred", PLAIN)({"pred": probabilities})["pred"]
    assert labels.flatten().tolist() == [2, 0]


@pytest.mark.parametrize("affine", [LPS, RSA, RSA[:, [2, 0, 1, 3]]], ids=["axial", "coronal", "sagittal"])
def test_masks_of_any_slices_can_be_written(tmp_path, affine):
    mask = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 4)
    data = {"pred": MetaTensor(mask, meta={"affine": torch.from_numpy(affine), "filename_or_obj": "a.b.nii.gz"})}
    where = {"output_dir": tmp_path, "output_postfix": "", "separate_folder": False}
    SaveImaged("pred", writer=SameGridWriter, output_dtype="uint8", resample=False, print_log=False, **where)(data)
    written = nib.load(tmp_path / "a.b.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask[0].numpy())
    np.testing.assert_allclose(written.affine, affine, atol=1e-6)


@pytest.mark.parametrize(("keys", "expected"), [({"case": "b.1"}, "b.1.nii.gz"), ({}, "/scans/a_flair.nii.gz")])
def test_the_mask_is_called_after_its_case(tmp_path, keys, expected):
    data = PrepareScand("image", MODALITIES)({"image": loaded(write_case(tmp_path / "a")), **keys})
    pred = ToNativeGridd("pred")({**data, "pred": torch.zeros(data["image"].shape)})["pred"]
    assert pred.meta["filename_or_obj"] == expected
    assert "native_grid" not in pred.meta
    assert "native_grid" in data["image"].meta


def test_refusals(tmp_path):
    image = loaded(write_case(tmp_path / "a"))
    with pytest.raises(DataError, match=r"shape \(2, 30, 28, 26\).*channels flair, t1, t1ce"):
        PrepareScand("image", ["flair", "t1", "t1ce"])({"image": image})
    image[0, 3, 3, 3] = torch.nan
    with pytest.raises(DataError, match=r"not finite; fix or leave out /scans/a_flair\.nii\.gz"):
        PrepareScand("image", MODALITIES)({"image": image})
    odd = MetaTensor(torch.full((1, 2, 2, 2), 7), affine=torch.eye(4))
    with pytest.raises(DataError, match=r"labels \[7\]; expected 0 background, 1 core, 2 oedema"):
        LabelsToRegionsd("label", PLAIN)({"label": odd})


LAYOUT = NamedFiles("named", {"flair": "_flair", "t1ce": "_t1ce"}, "_seg", "test", "(.+)")


def found(path, modalities=MODALITIES, **labels):
    return case_items(
        path,
        modalities,
        [LAYOUT],
        decathlon_modalities={"flair": "flair", "t1gd": "t1ce"},
        decathlon_convention="msd",
        known_modalities=MODALITIES,
        **labels,
    )


def test_items_are_one_file_a_modality(tmp_path):
    case = write_case(tmp_path / "a", name="a")
    images = [str(case.images[m].path) for m in MODALITIES]
    assert found(tmp_path) == [{"image": images, "case": "a"}]
    assert found(tmp_path, labels="test") == [{"image": images, "case": "a", "label": str(case.label)}]
    with pytest.raises(DataError, match="labels as in test; expected brats2021"):
        found(tmp_path, labels="brats2021")


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # said wherever pydicom is and nvImageCodec is not
def test_items_of_four_dimensional_files(tmp_path):
    case = write_case(tmp_path / "a")
    stack = np.stack([np.asarray(nib.load(case.images[m].path).dataobj) for m in MODALITIES], axis=-1)
    nib.save(nib.Nifti1Image(stack, LPS), tmp_path / "b.nii.gz")
    listing = tmp_path / "dataset.json"
    listing.write_text('{"modality": {"0": "FLAIR", "1": "T1gd"}, "training": [{"image": "b.nii.gz"}]}')
    assert found(listing) == [{"image": str(tmp_path / "b.nii.gz"), "case": "b"}]
    load = LoadImage(ensure_channel_first=True)
    images = {m: ImageFile(tmp_path / "b.nii.gz", i) for i, m in enumerate(MODALITIES)}
    expected, _ = as_predict_does(Case("b", "b", images, None))
    got = PrepareScand("image", MODALITIES)({"image": load(tmp_path / "b.nii.gz")})["image"]
    assert torch.equal(got.as_tensor(), expected)
    with pytest.raises(DataError, match=r"holds t1ce, flair as channels \[1, 0\]"):
        found(listing, modalities=("t1ce", "flair"))


def test_items_of_cases_that_lack_modalities_name_those_that_they_have(tmp_path):
    case = write_case(tmp_path / "a", name="a")
    case.images["flair"].path.unlink()
    assert found(tmp_path) == [{"image": [str(case.images["t1ce"].path)], "case": "a", "modalities": "t1ce"}]


def test_absent_channels_are_nan_and_the_others_as_predict_prepares_them(tmp_path):
    case = write_case(tmp_path / "a")
    image = loaded(case)
    alone = PrepareScand("image", ["t1ce"])({"image": image[1:]})["image"]
    got = PrepareScand("image", MODALITIES)({"image": image[1:], "modalities": "t1ce"})["image"]
    assert torch.isnan(got[0]).all()
    assert torch.equal(got[1].as_tensor(), alone[0].as_tensor())
    with pytest.raises(DataError, match=r"expected \(channel, x, y, z\) with the channels t1ce: one file"):
        PrepareScand("image", MODALITIES)({"image": image, "modalities": "t1ce"})
