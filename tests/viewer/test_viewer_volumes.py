"""Volumes inside a page: what is read back is what was put in, to the step that the page tells."""

import base64
import gzip

import nibabel as nib
import numpy as np
import pytest

from cggm_med.errors import DataError
from cggm_med.viewer.volumes import Layer, grey_window, image_text, layer_text, rounding_step

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 0, 3, -5], [0, 1, 0, 7], [0, 0, 0, 1]])


def read(text):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def volumes():
    rng = np.random.default_rng(0)
    head = np.zeros((9, 8, 7))
    head[2:7, 2:6, 1:6] = rng.normal(1000, 200, (5, 4, 5))
    return {
        "head": head,
        "z-scored": np.where(head > 0, (head - 1000) / 200, 0),
        "one voxel far out": np.where(np.arange(504).reshape(9, 8, 7) == 300, 1e6, head),
        "far from zero": head + 1e6,
        "whole numbers": np.rint(head),
        "negative": -np.rint(head),
    }


@pytest.mark.parametrize("name", volumes())
@pytest.mark.parametrize("levels", [255, 4096])
def test_an_image_is_read_back_to_half_a_step_on_its_own_grid(name, levels):
    volume = volumes()[name].astype(np.float32)
    step = rounding_step(volume, levels)
    image = read(image_text(volume, AFFINE, step))
    # float32 itself is not finer than this far from zero.
    tolerance = (step or 1e-6) / 2 + np.abs(volume).max() * 2e-7
    np.testing.assert_allclose(image.get_fdata(), volume, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.get_data_dtype() == np.int16
    low, high = grey_window(volume)
    assert step <= (high - low) / levels or name == "one voxel far out"


def test_whole_numbers_and_zero_stay_exactly_what_they_are():
    whole = np.rint(volumes()["head"]).astype(np.float32)
    assert rounding_step(whole, 4096) == 0
    np.testing.assert_array_equal(read(image_text(whole, AFFINE, 0)).get_fdata(), whole)
    scored = volumes()["z-scored"].astype(np.float32)
    shown = read(image_text(scored, AFFINE, rounding_step(scored, 255))).get_fdata()
    assert (shown[scored == 0] == 0).all()


def test_the_same_volume_has_the_same_text():
    head = volumes()["head"].astype(np.float32)
    assert image_text(head, AFFINE, 1.0) == image_text(head.copy(), AFFINE, 1.0)


def test_the_window_leaves_the_background_out():
    # 90 voxels of background, then 1 to 10: percentiles 1 and 99.5 of the ten.
    volume = np.r_[np.zeros(90), np.arange(1, 11)].reshape(10, 10, 1).astype(np.float32)
    assert grey_window(volume) == pytest.approx((1.09, 9.955))


def test_a_layer_holds_any_overlap():
    masks = np.random.default_rng(1).random((3, 6, 5, 4)) < 0.4
    layer = Layer.of_masks(masks)
    for region, mask in enumerate(masks):
        np.testing.assert_array_equal(layer.mask(region), mask)
    assert layer.members[0] == ()
    np.testing.assert_array_equal(read(layer_text(layer, AFFINE)).get_fdata(), layer.codes)


def test_a_layer_without_background_keeps_code_zero_for_none():
    layer = Layer.of_masks(np.ones((1, 2, 2, 2), bool))
    assert layer.members == ((), (0,))
    assert (layer.codes == 1).all()


def test_a_layer_of_labels_gives_each_its_region():
    labels = np.array([[[0, 1, 2, 4]]])
    layer = Layer.of_labels(labels, [1, 2, 4])
    assert [layer.mask(region).ravel().tolist().index(True) for region in range(3)] == [1, 2, 3]


def test_more_labels_than_a_byte_tells_apart_are_refused():
    with pytest.raises(DataError, match="300 labels.*at most 255"):
        Layer.of_labels(np.arange(301).reshape(301, 1, 1), range(1, 301))
