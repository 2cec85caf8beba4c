"""Several readers: their order does not matter, equal readers agree, and the majority is that of SimpleITK's voting."""

import numpy as np
import pytest
import SimpleITK

from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.raters import majority, shares

NESTED = LabelConvention("x", {1: "core", 2: "oedema"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})
CLASSES = LabelConvention("x", {1: "a", 2: "b"}, {"a": (1,), "b": (2,)}, {"a": 1, "b": 2}, exclusive=True, ignore=9)


def readers(number, labels=3, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, labels, (6, 5, 4)) for _ in range(number)]


@pytest.mark.parametrize("convention", [NESTED, CLASSES])
def test_order_and_repetition_change_nothing(convention):
    maps = readers(4)
    share = shares(maps, convention)
    np.testing.assert_array_equal(share, shares(maps[::-1], convention))
    np.testing.assert_array_equal(share, shares(maps * 2, convention))
    alike = shares([maps[0]] * 3, convention)
    np.testing.assert_array_equal(alike, convention.to_regions(maps[0]))
    np.testing.assert_array_equal(majority(alike, exclusive=convention.exclusive), alike)


def test_a_voxel_that_some_did_not_annotate_is_decided_by_the_others():
    maps = [np.full((1, 1, 3), label) for label in (1, 2, 2)]
    maps[0][..., 1:] = maps[1][..., 2] = maps[2][..., 2] = 9
    assert shares(maps, CLASSES)[:, 0, 0, 0].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert majority(shares(maps, CLASSES), exclusive=True)[:, 0, 0].tolist() == [[0, 0, 255], [1, 1, 255]]


def test_exclusive_majority_against_label_voting():
    """Where SimpleITK finds no winner it says so (7); there, and only there, is it a matter of the rule for ties."""
    maps = readers(5, seed=1)
    images = [SimpleITK.GetImageFromArray(m.astype(np.uint8)) for m in maps]
    voted = SimpleITK.GetArrayFromImage(SimpleITK.LabelVoting(images, 7))
    found = majority(shares(maps, CLASSES), exclusive=True)
    ours = np.zeros(voted.shape, np.uint8)
    for region, label in enumerate((1, 2)):
        ours[found[region] == 1] = label
    decided = voted != 7
    assert 0.6 < decided.mean() < 1
    np.testing.assert_array_equal(ours[decided], voted[decided])


def test_overlapping_majority_is_more_than_half():
    maps = readers(4, seed=2)
    drawn = np.stack([NESTED.to_regions(m) for m in maps]).sum(0)
    np.testing.assert_array_equal(majority(shares(maps, NESTED), exclusive=False), drawn > 2)
