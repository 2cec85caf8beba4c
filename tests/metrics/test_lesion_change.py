"""Lesions of two time points: laws, hand values, and pairs found voxel by voxel."""

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import label

from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesion_change import STATUSES, lesion_changes
from cggm_med.metrics.lesion_list import number_lesions

MIRRORED = {"new": "gone", "gone": "new", "grown": "shrunk", "shrunk": "grown", "same": "same"}


def volume(*boxes, shape=(24, 12, 12)):
    mask = np.zeros(shape, bool)
    for start, size in boxes:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def changes(earlier, later, rules=None, affine=None, **options):
    """``affine`` is that of the later mask."""
    rules, mm = rules or LesionRules(), np.eye(4)
    numbered = number_lesions(earlier, mm, rules), number_lesions(later, mm if affine is None else affine, rules)
    return lesion_changes(*numbered, **options)


def random_pair(seed):
    rng = np.random.default_rng(seed)
    first = volume(*((rng.integers(0, [20, 9, 9]), rng.integers(1, 4, 3)) for _ in range(6)))
    second = np.roll(first, rng.integers(-1, 2, 3), (0, 1, 2)) & (rng.random(first.shape) < 0.8)
    return first, second | volume((rng.integers(0, [20, 9, 9]), (3, 2, 2)))


def test_by_hand():
    """One grows from 8 to 12 voxels, two of 8 join to one of 20, one of 4 is gone, one of 1 is new."""
    earlier = volume(((0, 0, 0), (2, 2, 2)), ((6, 0, 0), (2, 2, 2)), ((9, 0, 0), (2, 2, 2)), ((16, 0, 0), (2, 2, 1)))
    later = volume(((0, 0, 0), (3, 2, 2)), ((6, 0, 0), (5, 2, 2)), ((20, 8, 8), (1, 1, 1)))
    found = changes(earlier, later)
    assert [(of.status, of.earlier_ml, of.later_ml) for of in found.changes] == [
        ("grown", pytest.approx(0.016), pytest.approx(0.020)),
        ("grown", pytest.approx(0.008), pytest.approx(0.012)),
        ("gone", pytest.approx(0.004), 0.0),
        ("new", 0.0, pytest.approx(0.001)),
    ]
    assert (found.changes[0].earlier, found.changes[0].later) == ((2, 3), (1,))
    assert found.changes[1].record()["change_percent"] == 50.0
    assert found.changes[3].record()["right_mm"] == 20.0
    assert found.changes[2].record()["later_longest_axial_mm"] is None
    assert (found.earlier_ml, found.later_ml) == (pytest.approx(0.028), pytest.approx(0.033))
    assert changes(earlier, later, same_percent=25).counts["same"] == 1


def test_what_is_too_small_to_count_may_grow_and_what_stays_of_a_lesion_is_not_gone():
    rules = LesionRules(min_mm3=4)
    small, large = volume(((4, 4, 4), (1, 1, 2))), volume(((4, 4, 4), (2, 2, 2)))
    assert [of.status for of in changes(small, large, rules).changes] == ["grown"]
    assert [of.status for of in changes(large, small, rules).changes] == ["shrunk"]
    assert changes(small, small, rules).changes == ()


def test_dilations_of_the_rules_reach_what_moved_a_little():
    one, beside = volume(((4, 4, 4), (2, 2, 2))), volume(((7, 4, 4), (2, 2, 2)))
    assert {of.status for of in changes(one, beside).changes} == {"gone", "new"}
    assert [of.status for of in changes(one, beside, LesionRules(dilations=2)).changes] == ["same"]


@pytest.mark.parametrize("seed", range(5))
def test_time_runs_both_ways_and_nothing_changes_by_itself(seed):
    earlier, later = random_pair(seed)
    there, back = changes(earlier, later), changes(later, earlier)
    mirrored = sorted((MIRRORED[of.status], of.later, of.earlier) for of in back.changes)
    assert mirrored == sorted((of.status, of.earlier, of.later) for of in there.changes)
    same = changes(earlier, earlier)
    assert same.counts == {**dict.fromkeys(STATUSES, 0), "same": len(same.changes)}


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_that_share_a_voxel(seed):
    earlier, later = random_pair(seed)
    parts = [label(mask, np.ones((3, 3, 3))) for mask in (earlier, later)]
    pairs = {(int(a), int(b)) for a, b in zip(parts[0][0].flat, parts[1][0].flat, strict=True) if a and b}
    found = changes(earlier, later)
    alone = [n - len({pair[i] for pair in pairs}) for i, (_, n) in enumerate(parts)]
    assert [found.counts["gone"], found.counts["new"]] == alone
    assert found.touching == 2 * len(pairs)
    assert sum(of.earlier_ml for of in found.changes) == pytest.approx(found.earlier_ml)


@pytest.mark.parametrize("seed", range(3))
def test_another_grid_of_the_same_space_changes_nothing(seed):
    """The later mask turned, and on a grid of half the voxel size."""
    earlier, later = random_pair(seed)
    half = nib.Nifti1Image(later.repeat(2, 0).repeat(2, 1).repeat(2, 2).astype(np.uint8), np.diag([0.5, 0.5, 0.5, 1]))
    half.affine[:3, 3] = -0.25
    turned = half.as_reoriented(nib.orientations.axcodes2ornt("PIL"))
    one = changes(earlier, later)
    other = changes(earlier, np.asarray(turned.dataobj) > 0, affine=turned.affine)
    assert other.counts == one.counts
    # Numbers of equally large ones depend on the order of the axes.
    found, expected = (
        sorted((of.status, of.earlier, round(of.later_ml, 9)) for of in some.changes) for some in (other, one)
    )
    assert found == expected


def test_nothing_is_said_of_what_the_other_grid_does_not_reach():
    earlier, later = volume(((0, 0, 0), (2, 2, 2)), shape=(12, 12, 12)), volume(((20, 0, 0), (2, 2, 2)))
    assert changes(earlier, later).counts == {**dict.fromkeys(STATUSES, 0), "gone": 1, "outside": 1}
