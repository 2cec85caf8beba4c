"""Lesion-wise scores: laws, hand values, and the rules transcribed as distances between pairs of voxels.

The transcription labels and dilates nothing. Dilating n times with the 18-neighbourhood reaches every offset with
|d| <= n along each axis and <= 2n in sum; two such neighbourhoods touch when the offset, shortened by one voxel along
each axis that neighbours may differ in, is within twice that. What belongs together follows from offsets alone.
"""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import SimpleITK
import torch
from helpers.surface_elements import surface_elements
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from cggm_med.metrics import lesions as lesions_module
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import LesionMetrics

MM = (1, 1, 1)
GLIOMA = LesionRules(dilations=3, min_mm3=50.0)
RULES = (
    *(GLIOMA, LesionRules(1, 50.0), LesionRules(1, 2.0), LesionRules(2, 10.0)),
    *(LesionRules(), LesionRules(connectivity=6), LesionRules(connectivity=18, min_mm3=2.0, min_overlap=0.25)),
    *(LesionRules(1, 2.0, connectivity=6, min_overlap=0.5), LesionRules(2, connectivity=18)),
)
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


def random_case(rng):
    shape = rng.integers(4, [34, 18, 12])

    def boxes(number):
        mask = np.zeros(shape, dtype=bool)
        for _ in range(number):
            start = rng.integers(0, shape)
            mask[tuple(slice(a, a + n) for a, n in zip(start, rng.integers(1, 6, size=3), strict=True))] = True
        return mask & (rng.random(shape) < rng.choice([1, 0.8]))

    target = boxes(rng.integers(0, 4))
    if rng.random() < 0.1:  # single voxels, many of which meet at edges and corners
        target[:6] = rng.random(target[:6].shape) < 0.25
    shifted = np.roll(target, rng.integers(-4, 5, size=3), (0, 1, 2))
    prediction = (shifted if rng.random() < 0.7 else np.zeros_like(target)) ^ boxes(rng.integers(0, 3))
    if rng.random() < 0.2 and target.any():  # a bar along x, which may join lesions
        _, y, z = np.argwhere(target)[0]
        prediction[:, y, z] = True
    spacing = (1.0, 1.0, 1.0) if rng.random() < 0.5 else tuple(rng.choice([0.5, 0.8, 1.0, 2.5], size=3).tolist())
    return prediction, target, spacing, RULES[rng.integers(len(RULES))]


def groups(points, together):
    """Sets of rows of ``points`` whose pairs, chained, satisfy ``together`` of the offsets."""
    if not len(points):
        return []
    number, of = connected_components(together(np.abs(points[:, None] - points[None])), directed=False)
    return [points[of == k] for k in range(number)]


def hd95_between(prediction, target, spacing):
    """HD95 by area, as (least, greatest) where rounding decides which side of the 95 % a surface element lies."""
    (here, here_mm2), (there, there_mm2) = (surface_elements(mask, spacing) for mask in (prediction, target))
    between = cdist(here, there)
    bounds = []
    for share in (0.95 - 1e-6, 0.95 + 1e-6):
        percentiles = []
        for distance, mm2 in ((between.min(1), here_mm2), (between.min(0), there_mm2)):
            enough = (d for d in np.unique(distance) if mm2[distance <= d].sum() >= share * mm2.sum())
            percentiles.append(next(enough))
        bounds.append(max(percentiles))
    return bounds


def transcription(prediction, target, spacing, rules, penalty, seen):
    def near(offset, steps):
        return (offset.max(-1) <= steps) & (offset.sum(-1) <= 2 * steps)

    def touch(offset, steps):
        axes = {6: 1, 18: 2, 26: 3}[rules.connectivity]
        unit_steps = (step for step in product((0, 1), repeat=3) if sum(step) <= axes)
        return np.logical_or.reduce([near(np.maximum(offset - step, 0), steps) for step in unit_steps])

    lesions = groups(np.argwhere(target), lambda d: touch(d, 2 * rules.dilations))
    parts = groups(np.argwhere(prediction), lambda d: touch(d, 0))
    owners = [
        [near(np.abs(part[:, None] - lesion[None]), rules.dilations).any() for lesion in lesions] for part in parts
    ]
    table, missed = [], 0
    for k, lesion in enumerate(lesions):
        own = [part for part, owner in zip(parts, owners, strict=True) if owner[k]]
        if len(lesion) * np.prod(spacing) <= rules.min_mm3:
            seen["negligible, touched" if own else "negligible, not touched"] += 1
            continue
        enough = prediction[tuple(lesion.T)].mean() >= rules.min_overlap
        if not (own and enough):
            seen["too little overlap"] += bool(own)
            missed += 1
            table.append((0, penalty, penalty))
            continue
        masks = [np.zeros_like(target) for _ in range(2)]
        for mask, points in zip(masks, (np.concatenate(own), lesion), strict=True):
            mask[tuple(points.T)] = True
        common = (masks[0] & masks[1]).sum()
        table.append((2 * common / (masks[0].sum() + masks[1].sum()), *hd95_between(*masks, spacing)))
        seen["several parts"] += len(own) > 1
        seen["rim only"] += not common
        seen["gathered"] += len(groups(lesion, lambda d: d.max(-1) <= 1)) > 1
        seen["met by another"] += (np.abs(lesion[:, None] - np.argwhere(target & ~masks[1])).max(-1) <= 1).any()
    lesion_count, false = len(table), sum(not any(owner) for owner in owners)
    seen["one part, several lesions"] += sum(owner.count(True) > 1 for owner in owners)
    seen["missed"] += missed
    seen["false"] += false
    table += [(0, penalty, penalty)] * false
    if not table:
        seen["nothing to score"] += 1
        table = [(1, 0, 0)]
    return np.mean(table, axis=0), (lesion_count, missed, false)


def test_the_transcribed_rules_on_random_volumes():
    rng, seen = np.random.default_rng(0), Counter()
    for _ in range(1800):
        prediction, target, spacing, rules = random_case(rng)
        (expected, least, greatest), counts = transcription(prediction, target, spacing, rules, 374.0, seen)
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


def test_surroundings_mirrors_and_order_of_axes_change_nothing():
    rng = np.random.default_rng(1)
    for _ in range(30):
        prediction, target, spacing, _ = random_case(rng)
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
        prediction, target, spacing, _ = random_case(rng)
        masks = torch.from_numpy(prediction), torch.from_numpy(target)
        scores = [lesion_metrics(*masks, spacing, LesionRules(min_overlap=share)) for share in (0, 0.3, 0.6, 1)]
        assert len({(one.lesions, one.false) for one in scores}) == 1
        missed = [one.missed for one in scores]
        assert missed == sorted(missed)
        fewer += missed[0] < missed[-1]
    assert fewer > 10
