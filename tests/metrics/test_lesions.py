"""Lesion-wise scores: laws, hand values, and the rules transcribed as distances between pairs of voxels."""

from collections import Counter

import numpy as np
import pytest
import SimpleITK
import torch
from helpers.reference_metrics import lesion_reference, random_masks

from cggm_med.metrics import lesions as lesions_module
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import LesionMetrics

MM = (1, 1, 1)
GLIOMA = LesionRules(dilations=3, min_mm3=50.0)
SHAPE = (40, 14, 14)


def volume(*boxes, shape=SHAPE):
    """Boolean volume with boxes given as (start, size)."""
    mask = torch.zeros(shape, dtype=torch.bool)
    for start, size in boxes:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def lesion_metrics(prediction, target, spacing, rules=GLIOMA, **penalty):
    return lesions_module.lesion_metrics(prediction, target, spacing, rules, **penalty)


CUBE = (4, 4, 4)
LEFT, RIGHT = ((4, 5, 5), CUBE), ((28, 5, 5), CUBE)
SMALL = ((4, 5, 5), (2, 5, 5))  # 50 voxels
ENOUGH = (0.0, 374.0)


def test_the_transcribed_rules_on_random_volumes():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(1800):
        prediction, target, spacing, rules = random_masks(rng)
        (expected, least, greatest), counts = lesion_reference(prediction, target, spacing, rules, 374.0, seen)
        scores = lesion_metrics(torch.from_numpy(prediction), torch.from_numpy(target), spacing, rules)
        assert (scores.lesions, scores.missed, scores.false) == counts
        assert scores.dice == pytest.approx(expected, abs=1e-12)
        assert least - 1e-4 <= scores.hd95_mm <= greatest + 1e-4
    assert len(seen) == 11
    assert min(seen.values()) >= 20, seen


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (volume(), volume(), LesionMetrics(1, 0, 0, 0, 0)),
        (volume(LEFT), volume(), LesionMetrics(*ENOUGH, 0, 0, 1)),
        (volume(LEFT, RIGHT), volume(), LesionMetrics(*ENOUGH, 0, 0, 2)),
        (volume(), volume(LEFT), LesionMetrics(*ENOUGH, 1, 1, 0)),
        (volume(), volume(LEFT, RIGHT), LesionMetrics(*ENOUGH, 2, 2, 0)),
        (volume(RIGHT), volume(LEFT), LesionMetrics(*ENOUGH, 1, 1, 1)),
        (volume(), volume(SMALL), LesionMetrics(1, 0, 0, 0, 0)),
        (volume(SMALL), volume(SMALL), LesionMetrics(1, 0, 0, 0, 0)),
        (volume(RIGHT), volume(SMALL), LesionMetrics(*ENOUGH, 0, 0, 1)),
        (volume(LEFT), volume(LEFT), LesionMetrics(1, 0, 1, 0, 0)),
        (volume(LEFT), volume(LEFT, RIGHT), LesionMetrics(0.5, 187, 2, 1, 0)),
        (volume(LEFT, RIGHT), volume(LEFT), LesionMetrics(0.5, 187, 1, 0, 1)),
    ],
    ids=lambda value: "" if isinstance(value, torch.Tensor) else str(value),
)
def test_empty_missed_and_false_by_hand(prediction, target, expected):
    assert lesion_metrics(prediction, target, MM) == expected


def test_volumes_without_a_voxel():
    nothing = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert lesion_metrics(nothing, nothing, MM) == LesionMetrics(1, 0, 0, 0, 0)


@pytest.mark.parametrize(("gap", "lesions"), [(0, 1), (6, 1), (7, 2)])
def test_lesions_up_to_six_voxels_apart_are_one(gap, lesions):
    target = volume(LEFT, ((8 + gap, 5, 5), CUBE))
    assert lesion_metrics(target, target, MM).lesions == lesions


@pytest.mark.parametrize(("offset", "lesions"), [((5, 5, 5), 1), ((6, 5, 5), 2), ((7, 7, 1), 1), ((8, 1, 1), 2)])
def test_corners_of_the_dilation_are_cut(offset, lesions):
    """Three steps of the 18-neighbourhood go 3 along two axes, or 2 along three, never 3 along three."""
    target = volume(((2, 2, 2), (1, 1, 1)), (tuple(2 + d for d in offset), (1, 1, 1)))
    assert lesion_metrics(target, target, MM, LesionRules(dilations=3)).lesions == lesions


@pytest.mark.parametrize(
    ("voxels", "spacing", "lesions"), [(50, MM, 0), (51, MM, 1), (6, (2, 2, 2), 0), (7, (2, 2, 2), 1)]
)
def test_a_lesion_counts_from_more_than_50_mm3(voxels, spacing, lesions):
    target = torch.zeros(60, 1, 1, dtype=torch.bool)
    target[:voxels] = True
    assert lesion_metrics(target, target, spacing) == LesionMetrics(1, 0, lesions, 0, 0)


def test_gathered_parts_count_with_their_common_volume():
    """Two parts of 32 mm3, five voxels apart: 64 mm3 together."""
    target = volume(((4, 5, 5), (2, 4, 4)), ((11, 5, 5), (2, 4, 4)))
    assert lesion_metrics(target, target, MM).lesions == 1


def test_one_false_voxel_counts_as_a_lesion_unless_it_is_near_a_negligible_one():
    speck = ((20, 5, 5), (1, 1, 1))
    assert lesion_metrics(volume(LEFT, speck), volume(LEFT), MM) == LesionMetrics(0.5, 187, 1, 0, 1)
    negligible = ((22, 5, 5), (1, 1, 1))
    assert lesion_metrics(volume(LEFT, speck), volume(LEFT, negligible), MM) == LesionMetrics(1, 0, 1, 0, 0)


def test_a_part_that_joins_two_lesions_belongs_to_each_whole():
    """A bar of 28 x 4 x 4 through two cubes of 64: 2 * 64 / (448 + 64) for each; the far end is 20 voxels away."""
    bar = volume(((4, 5, 5), (28, 4, 4)))
    scores = lesion_metrics(bar, volume(LEFT, RIGHT), MM)
    assert (scores.dice, scores.lesions, scores.missed, scores.false) == (0.25, 2, 0, 0)
    assert 20 <= scores.hd95_mm <= 24


@pytest.mark.parametrize(("gap", "found"), [(2, True), (3, False)])
def test_a_part_in_the_dilated_rim_is_found_without_overlap(gap, found):
    """Moved by its length and a gap, 4 + gap voxels of 2 mm: the front and back faces are that far away."""
    prediction = volume(((8 + gap, 5, 5), CUBE))
    scores = lesion_metrics(prediction, volume(LEFT), (2, 1, 1))
    if found:
        assert scores == LesionMetrics(0, 2 * (4 + gap), 1, 0, 0)
    else:
        assert scores == LesionMetrics(*ENOUGH, 1, 1, 1)


def test_area_weighs_in_the_percentile():
    """A plate and the same plate with a rod of one voxel: hundreds of elements, and the rod's few tell nothing."""
    plate = ((2, 2, 2), (2, 12, 12))
    rod = ((4, 6, 6), (3, 1, 1))
    assert lesion_metrics(volume(plate, rod), volume(plate), MM).hd95_mm == 0
    assert lesion_metrics(volume(plate, rod), volume(plate), (6, 0.5, 0.5)).hd95_mm > 0


def test_exactly_95_of_100_mm2_are_enough():
    distances, areas = np.array([2.0, 1.0]), np.array([5.0, 95.0])
    assert lesions_module._percentile95(distances, areas) == 1
    assert lesions_module._percentile95(distances, np.array([6.0, 94.0])) == 2


def test_surroundings_mirrors_and_order_of_axes_change_nothing():
    rng = np.random.default_rng(1)
    for _ in range(30):
        prediction, target, spacing, _ = random_masks(rng)
        prediction, target = torch.from_numpy(prediction), torch.from_numpy(target)
        scores = lesion_metrics(prediction, target, spacing)
        wide = [torch.nn.functional.pad(mask, (9, 1, 0, 8, 2, 7)) for mask in (prediction, target)]
        assert lesion_metrics(*wide, spacing) == scores
        turned = lesion_metrics(prediction.permute(2, 0, 1), target.permute(2, 0, 1), np.roll(spacing, 1))
        mirrored = lesion_metrics(prediction.flip(0, 2), target.flip(0, 2), spacing)
        for other in (turned, mirrored):
            assert (other.lesions, other.missed, other.false) == (scores.lesions, scores.missed, scores.false)
            assert other.dice == pytest.approx(scores.dice)


def test_the_penalty_is_the_caller_s():
    assert lesion_metrics(volume(), volume(LEFT), MM, penalty_mm=100).hd95_mm == 100


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and target \(2, 3, 5\); expected one shape"):
        lesion_metrics(volume(shape=(2, 3, 4)), volume(shape=(2, 3, 5)), MM)
    with pytest.raises(ValueError, match=r"\(2, 3\) and target \(2, 3\); expected one shape"):
        lesion_metrics(volume(shape=(2, 3)), volume(shape=(2, 3)), MM)
    for wrong in (
        *({"dilations": -1}, {"dilations": 1.0}, {"connectivity": 8}, {"min_mm3": float("nan")}),
        *({"min_overlap": 1.1}, {"min_mm3": "2"}, {"dilations": True}),
    ):
        with pytest.raises(ValueError, match="expected dilations at least 0, min_mm3 at least 0, connectivity 6, 18"):
            LesionRules(**wrong)


@pytest.mark.parametrize(
    ("offset", "lesions"),
    [((4, 0, 0), (1, 1, 1)), ((4, 4, 0), (2, 1, 1)), ((4, 4, 4), (2, 2, 1)), ((5, 0, 0), (2, 2, 2))],
)
def test_cubes_that_touch_by_face_edge_or_corner_are_one_as_connectivity_says(offset, lesions):
    target = volume(((4, 5, 5), CUBE), (tuple(a + d for a, d in zip((4, 5, 5), offset, strict=True)), CUBE))
    for connectivity, number in zip((6, 18, 26), lesions, strict=True):
        scores = lesion_metrics(target, target, MM, LesionRules(connectivity=connectivity))
        assert scores == LesionMetrics(1, 0, number, 0, 0)


@pytest.mark.parametrize(
    ("voxels", "predicted", "min_overlap", "found"),
    [
        (30, 3, 0.1, True),
        (30, 2, 0.1, False),
        (30, 30, 1, True),
        (30, 29, 1, False),
        (30, 1, 0, True),
        (7, 5, 0.7, True),
    ],
)
def test_a_lesion_is_found_from_the_share_that_the_rules_demand(voxels, predicted, min_overlap, found):
    """What lies on a lesion that is not found is not counted a second time, as a false one."""
    masks = torch.zeros(2, 40, 1, 1, dtype=torch.bool)
    masks[0, :predicted] = masks[1, :voxels] = True
    scores = lesion_metrics(*masks, MM, LesionRules(min_overlap=min_overlap))
    expected = (2 * predicted / (predicted + voxels), 0) if found else (0, 1)
    assert (scores.dice, scores.missed, scores.false) == (pytest.approx(expected[0]), expected[1], 0)


def test_the_number_of_lesions_is_that_of_itk_and_falls_as_rules_merge_more():
    rng = np.random.default_rng(2)
    for _ in range(20):
        mask = rng.random((9, 10, 11)) < rng.choice([0.05, 0.15, 0.3])
        target, itk = torch.from_numpy(mask), SimpleITK.GetImageFromArray(mask.astype(np.uint8))
        for connectivity in (6, 26):
            count = SimpleITK.ConnectedComponentImageFilter()
            count.SetFullyConnected(connectivity == 26)
            count.Execute(itk)
            alone = lesion_metrics(target, target, MM, LesionRules(connectivity=connectivity))
            assert alone == LesionMetrics(1, 0, count.GetObjectCount(), 0, 0)
        numbers = [lesion_metrics(target, target, MM, LesionRules(connectivity=c)).lesions for c in (6, 18, 26)]
        numbers += [lesion_metrics(target, target, MM, LesionRules(dilations=n)).lesions for n in (1, 2)]
        assert numbers == sorted(numbers, reverse=True)


def test_a_stricter_match_finds_fewer_lesions_and_makes_none_false():
    rng, fewer = np.random.default_rng(3), 0
    for _ in range(60):
        prediction, target, spacing, _ = random_masks(rng)
        masks = torch.from_numpy(prediction), torch.from_numpy(target)
        scores = [lesion_metrics(*masks, spacing, LesionRules(min_overlap=share)) for share in (0, 0.3, 0.6, 1)]
        assert len({(one.lesions, one.false) for one in scores}) == 1
        missed = [one.missed for one in scores]
        assert missed == sorted(missed)
        fewer += missed[0] < missed[-1]
    assert fewer > 10
