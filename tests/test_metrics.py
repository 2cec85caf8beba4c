"""Dice and HD95: laws, hand values, and agreement with SimpleITK and a search over all pairs of surface voxels."""

import math

import numpy as np
import pytest
import SimpleITK
import torch
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from cggm_med.metrics import dice, empty_region, hausdorff95

SPACING = (0.8, 1.5, 3.0)
PENALTY = 374.0


def hd95(prediction, target, spacing=SPACING):
    return hausdorff95(prediction, target, spacing, empty_mm=PENALTY)


def random_pairs(number):
    """Small masks with at least one voxel, sparse to dense, many of them at the border of the volume."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        shape = rng.integers(1, 8, size=3)
        pair = [rng.random(shape) < rng.uniform(0.02, 0.98) for _ in range(2)]
        for mask in pair:
            mask.flat[rng.integers(mask.size)] = True
        yield tuple(torch.from_numpy(mask) for mask in pair)


def block(start, shape=(20, 20, 20), size=4):
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(s, s + size) for s in start)] = True
    return mask


def brute_force(prediction, target, spacing):
    """HD95 from the distances between all surface voxels; the surface is what an erosion takes away."""
    points = [np.argwhere(m & ~binary_erosion(m)) * spacing for m in (prediction.numpy(), target.numpy())]
    distances = cdist(*points)
    return max(np.percentile(distances.min(axis), 95) for axis in (0, 1))


def test_scores_of_a_mask_with_itself_and_symmetry():
    for a, b in random_pairs(20):
        assert dice(a, a) == 1
        assert hd95(a, a) == 0
        assert dice(a, b) == dice(b, a)
        assert hd95(a, b) == hd95(b, a)


def test_hd95_scales_with_the_spacing_and_dice_has_none():
    for a, b in random_pairs(20):
        assert hd95(a, b, [2.5 * s for s in SPACING]) == pytest.approx(2.5 * hd95(a, b), rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [1, 3, 9])
def test_a_block_moved_along_an_axis_is_that_far_away(axis, voxels):
    start = [2, 2, 2]
    start[axis] += voxels
    assert hd95(block(start), block([2, 2, 2])) == pytest.approx(voxels * SPACING[axis], rel=1e-6)


def test_empty_surroundings_change_nothing():
    for a, b in random_pairs(20):
        wide = [torch.nn.functional.pad(mask, (3, 1, 0, 4, 2, 2)) for mask in (a, b)]
        assert hd95(*wide) == hd95(a, b)
        assert dice(*wide) == dice(a, b)


def test_a_missed_or_made_up_region_counts_against():
    some, nothing = block([2, 2, 2]), torch.zeros(20, 20, 20, dtype=torch.bool)
    for prediction, target, expected in [
        (some, some, ("none", 1, 0)),
        (nothing, some, ("missed", 0, PENALTY)),
        (some, nothing, ("false", 0, PENALTY)),
        (nothing, nothing, ("both", 1, 0)),
    ]:
        assert (empty_region(prediction, target), dice(prediction, target), hd95(prediction, target)) == expected


def test_two_single_voxels_by_hand():
    """1 voxel of 1 mm, 2 of 2 mm and 3 of 0.5 mm: sqrt(1 + 16 + 2.25)."""
    a, b = torch.zeros(2, 6, 5, 5, dtype=torch.bool)
    a[0, 0, 0] = b[1, 2, 3] = True
    assert hd95(a, b, (1, 2, 0.5)) == pytest.approx(math.sqrt(19.25))
    assert dice(a, b) == 0


def test_an_outlier_by_hand():
    """Ten voxels agree, the eleventh is 4 mm off: the 95th percentile of ten zeros and a 4 is half way, 2 mm."""
    target = torch.zeros(14, 1, 1, dtype=torch.bool)
    target[:10] = True
    prediction = target.clone()
    prediction[13] = True
    assert hd95(prediction, target, (1, 1, 1)) == 2
    assert dice(prediction, target) == 20 / 21


def test_hd95_against_a_search_over_all_surface_voxels():
    rng = np.random.default_rng(1)
    for prediction, target in random_pairs(150):
        spacing = rng.uniform(0.4, 5, size=3)
        assert hd95(prediction, target, spacing) == pytest.approx(brute_force(prediction, target, spacing), rel=1e-5)


def test_dice_against_simpleitk():
    for prediction, target in random_pairs(50):
        images = [SimpleITK.GetImageFromArray(mask.numpy().astype(np.uint8)) for mask in (prediction, target)]
        overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert dice(prediction, target) == pytest.approx(overlap.GetDiceCoefficient(), rel=1e-12)


@pytest.mark.parametrize("score", [dice, hd95])
def test_other_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and target \(2, 3, 5\) differ"):
        score(torch.zeros(2, 3, 4, dtype=torch.bool), torch.zeros(2, 3, 5, dtype=torch.bool))
