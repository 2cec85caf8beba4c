"""Overlap, surface distance and volume: laws, hand values, SimpleITK, scikit-learn, searches over all surfaces."""

import math
import warnings

import numpy as np
import pytest
import SimpleITK
import torch
from helpers import reference_metrics
from sklearn.metrics import recall_score

from cggm_med.metrics.overlap import dice, empty_region, sensitivity, specificity, volume_error_ml
from cggm_med.metrics.surface_distance import hausdorff95, surface_dice

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


def test_scores_of_a_mask_with_itself_and_symmetry():
    for a, b in random_pairs(20):
        assert dice(a, a) == 1
        assert hd95(a, a) == 0
        assert dice(a, b) == dice(b, a)
        assert hd95(a, b) == hd95(b, a)


def test_hd95_scales_with_the_spacing_and_dice_has_none():
    for a, b in random_pairs(20):
        assert hd95(a, b, [2.5 * s for s in SPACING]) == pytest.approx(2.5 * hd95(a, b), rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [1, 3, 9])
def test_a_block_moved_along_an_axis_is_that_far_away(axis, voxels):
    start = [2, 2, 2]
    start[axis] += voxels
    assert hd95(block(start), block([2, 2, 2])) == pytest.approx(voxels * SPACING[axis], rel=1e-12)


def test_empty_surroundings_change_nothing():
    for a, b in random_pairs(20):
        wide = [torch.nn.functional.pad(mask, (3, 1, 0, 4, 2, 2)) for mask in (a, b)]
        assert hd95(*wide) == hd95(a, b)
        assert dice(*wide) == dice(a, b)


def test_a_missed_or_falsely_predicted_region_counts_against():
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
    assert hd95(a, b, (1, 2, 0.5)) == math.sqrt(19.25)
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
        expected = reference_metrics.hausdorff95(prediction.numpy(), target.numpy(), spacing)
        assert hd95(prediction, target, spacing) == pytest.approx(expected, abs=1e-9, rel=0)


def test_a_tree_and_a_distance_transform_find_the_same(monkeypatch):
    """Which of the two is quicker is told from the number of elements; it must not be told from the score."""
    pairs = list(random_pairs(60))
    values = []
    for voxels in (0, math.inf):
        monkeypatch.setattr("cggm_med.metrics.surface_distance.VOXELS_AN_ELEMENT", voxels)
        values.append([(hd95(a, b), nsd(a, b, 1.1)) for a, b in pairs])
    np.testing.assert_allclose(*values, rtol=0, atol=1e-12)


def test_hd95_and_surface_dice_against_monai():
    """Same definitions, in single precision there."""
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    for prediction, target in random_pairs(60):
        masks = [mask[None, None].float() for mask in (prediction, target)]
        known = {"include_background": True, "spacing": SPACING}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
            theirs = compute_hausdorff_distance(*masks, percentile=95, **known).item()
            shares = compute_surface_dice(*masks, class_thresholds=[1.1], use_subvoxels=True, **known).item()
        assert hd95(prediction, target) == pytest.approx(theirs, rel=1e-5)
        assert nsd(prediction, target, 1.1) == pytest.approx(shares, abs=1e-5)


def test_dice_against_simpleitk():
    for prediction, target in random_pairs(50):
        images = [SimpleITK.GetImageFromArray(mask.numpy().astype(np.uint8)) for mask in (prediction, target)]
        overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert dice(prediction, target) == pytest.approx(overlap.GetDiceCoefficient(), rel=1e-12)


def nsd(prediction, target, tolerance_mm, spacing=SPACING):
    return surface_dice(prediction, target, spacing, tolerance_mm=tolerance_mm)


def test_surface_dice_is_symmetric_grows_with_the_tolerance_and_scales_with_the_spacing():
    for a, b in random_pairs(20):
        assert nsd(a, a, 0) == 1
        steps = [nsd(a, b, mm) for mm in (0, 1, 2, 4, 40)]
        assert steps == sorted(steps)
        assert steps[-1] == 1
        assert nsd(b, a, 2) == pytest.approx(steps[2], rel=1e-12)
        assert nsd(a, b, 2.5 * 2.1, [2.5 * s for s in SPACING]) == pytest.approx(nsd(a, b, 2.1), rel=1e-6)


def test_a_distance_that_is_the_tolerance_agrees_however_it_is_rounded():
    """Three voxels of 0.1 mm are 0.30000000000000004 mm, and agree within 0.3 mm; four do not."""
    target = block([2, 2, 2])
    assert nsd(target.roll(3, 0), target, 0.3, (0.1, 50, 50)) == 1
    assert nsd(target.roll(4, 0), target, 0.3, (0.1, 50, 50)) < 1


@pytest.mark.parametrize(("tolerance_mm", "expected"), [(1.9, 0), (2, 0.5), (2.9, 0.5), (3, 1)])
def test_surface_dice_of_two_voxels_by_hand(tolerance_mm, expected):
    """Voxels 3 mm apart: the corners that face the other are 2 mm from it, those that turn away 3 mm."""
    a, b = torch.zeros(2, 6, 3, 3, dtype=torch.bool)
    a[1, 1, 1] = b[4, 1, 1] = True
    assert nsd(a, b, tolerance_mm, (1, 1, 1)) == expected


def test_surface_dice_weighs_by_area():
    """A plate one voxel thicker: one of its two wide faces is off, half of the area as the sides are thin.

    By the number of elements it would be 0.60, as those of the sides would weigh as much as those of the faces.
    """
    target = torch.zeros(24, 24, 8, dtype=torch.bool)
    target[2:22, 2:22, 2:4] = True
    prediction = target | target.roll(1, 2)
    assert nsd(prediction, target, 0, (10, 10, 0.1)) == pytest.approx(0.5, abs=0.03)


def test_surface_dice_against_a_search_over_all_surface_elements():
    rng = np.random.default_rng(2)
    for prediction, target in random_pairs(100):
        spacing, tolerance_mm = rng.uniform(0.4, 5, size=3), rng.uniform(0.1, 6)
        expected = reference_metrics.surface_dice(prediction.numpy(), target.numpy(), spacing, tolerance_mm)
        assert nsd(prediction, target, tolerance_mm, spacing) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tolerance_mm", [-1, math.inf, math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance_mm):
    with pytest.raises(ValueError, match="expected a finite number of at least 0"):
        nsd(block([2, 2, 2]), block([2, 2, 2]), tolerance_mm)


def test_sensitivity_and_specificity_against_scikit_learn():
    for prediction, target in random_pairs(50):
        true, predicted = target.flatten().numpy(), prediction.flatten().numpy()
        assert sensitivity(prediction, target) == pytest.approx(recall_score(true, predicted))
        if not true.all():
            assert specificity(prediction, target) == pytest.approx(recall_score(true, predicted, pos_label=False))
        assert specificity(prediction, target) == sensitivity(~prediction, ~target) or true.all()


def test_volume_errors_by_hand():
    """64 voxels of 0.8 x 1.5 x 3 = 3.6 mm3 against 27: 0.1332 ml more."""
    large, small = block([2, 2, 2]), block([2, 2, 2], size=3)
    assert volume_error_ml(large, small, SPACING) == pytest.approx(0.1332)
    assert volume_error_ml(small, large, SPACING) == pytest.approx(-0.1332)


def test_the_other_scores_of_empty_regions():
    some, nothing, full = block([2, 2, 2]), block([0, 0, 0], size=0), block([0, 0, 0], size=20)
    for prediction, target, expected in [
        (some, some, (1, 1, 1, 0)),
        (nothing, some, (0, 0, 1, -0.2304)),
        (some, nothing, (0, 0, 1 - 64 / 8000, 0.2304)),
        (nothing, nothing, (1, 1, 1, 0)),
        (full, full, (1, 1, 1, 0)),
        (some, full, (None, 64 / 8000, 1, None)),
    ]:
        scores = (
            nsd(prediction, target, 1),
            sensitivity(prediction, target),
            specificity(prediction, target),
            volume_error_ml(prediction, target, SPACING),
        )
        for score, value in zip(scores, expected, strict=True):
            assert value is None or score == pytest.approx(value, rel=1e-12)


def nsd_1mm(prediction, target):
    return nsd(prediction, target, 1)


def volume_error(prediction, target):
    return volume_error_ml(prediction, target, SPACING)


@pytest.mark.parametrize("score", [dice, hd95, nsd_1mm, sensitivity, specificity, volume_error])
def test_other_shapes_are_refused(score):
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and target \(2, 3, 5\) differ"):
        score(torch.zeros(2, 3, 4, dtype=torch.bool), torch.zeros(2, 3, 5, dtype=torch.bool))
