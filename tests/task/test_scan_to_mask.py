"""From a preprocessed scan to masks: what a network says of a voxel stands at that voxel of the scan's own grid."""

import numpy as np
import pytest
import torch

from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.task.scan_to_mask import segment_scan

TWO = LabelConvention("two", {1: "inner", 2: "outer"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})
WINDOWS = {"patch_size": (4, 4, 4), "overlap": 0.5}


@pytest.fixture
def scan():
    """A scan in LPS+ of 6 x 7 x 8 voxels with a border of background."""
    volume = np.zeros((6, 7, 8), np.float32)
    volume[1:5, 1:6, 2:7] = np.random.default_rng(0).uniform(1, 9, (4, 5, 5))
    moved, grid, _ = to_network([volume], np.diag([-1.0, -1, 1, 1]), None)
    return volume, moved["image"].as_tensor(), grid


def brighter(windows):
    """A network of two regions: a voxel above the mean is of the first, one far above it of the second."""
    return torch.cat([20 * windows, 20 * (windows - 1)], dim=1)


def test_answers_lie_on_the_own_grid_and_background_is_no_region(scan):
    volume, image, grid = scan
    (found,) = segment_scan(brighter, image, grid, **WINDOWS)
    inside = volume != 0
    z = (volume - volume[inside].mean()) / volume[inside].std()
    expected = np.stack([inside / (1 + np.exp(-20 * (z - threshold))) for threshold in (0, 1)])
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert np.array_equal(found.regions(TWO), found.probability >= 0.5)  # since the second lies inside the first
    assert np.array_equal(found.labels(TWO), np.select([inside & (z >= 1), inside & (z >= 0)], [1, 2]))


def test_the_regions_are_those_of_the_labels_wherever_they_were_predicted(scan):
    """A core that pokes out of the whole tumour is painted there, and so makes it larger (law, then by hand)."""
    _, image, grid = scan
    (found,) = segment_scan(lambda windows: brighter(windows).flip(1), image, grid, **WINDOWS)
    whole, core = found.probability >= 0.5
    assert (core & ~whole).any()
    assert np.array_equal(found.regions(TWO), TWO.to_regions(found.labels(TWO)))
    assert np.array_equal(found.regions(TWO), np.stack([whole | core, core]))
    two = np.array([0.5, 0.9])
    assert np.array_equal(found.regions(TWO, two)[1], found.probability[1] >= 0.9)


def test_a_hole_in_the_head_is_no_region():
    volume = np.zeros((6, 7, 8), np.float32)
    volume[1:5, 1:6, 2:7] = 3 + np.random.default_rng(0).random((4, 5, 5))
    volume[2, 3, 4] = 0
    moved, grid, _ = to_network([volume], np.eye(4), None)
    (found,) = segment_scan(
        lambda windows: torch.full_like(windows, 9).repeat(1, 2, 1, 1, 1), moved["image"].as_tensor(), grid, **WINDOWS
    )
    for channel in found.probability:
        assert np.array_equal(channel > 0, volume > 0)
    assert np.count_nonzero(found.labels(TWO)) == np.count_nonzero(found.regions(TWO)[0]) == 99


def test_several_answers_come_one_after_the_other(scan):
    _, image, grid = scan
    (whole,) = segment_scan(brighter, image, grid, **WINDOWS)
    first, second = segment_scan(brighter, image, grid, answers=2, **WINDOWS)
    assert np.array_equal(np.concatenate([first.cropped, second.cropped]), whole.cropped)


def test_flips_average_eight_views(scan):
    """A network that knows right from left is averaged; one that does not gives the same with and without."""
    _, image, grid = scan
    (once,) = segment_scan(brighter, image, grid, **WINDOWS)
    (flipped,) = segment_scan(brighter, image, grid, flips=True, **WINDOWS)
    np.testing.assert_allclose(flipped.cropped, once.cropped, atol=1e-6)

    def ramp(windows):
        return torch.logit(torch.linspace(0.1, 0.4, windows.shape[2]))[:, None, None].expand(windows.shape)

    (flipped,) = segment_scan(ramp, image, grid, flips=True, patch_size=image.shape[1:], overlap=0.0)
    np.testing.assert_allclose(flipped.cropped, 0.25, atol=1e-6)
