"""Component filters: what is left is part of what was there and a label map, and is what ITK and a hand count say."""

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import KeepLargestConnectedComponent

from cggm_med.data.volumes.components import ComponentFilter, Components
from cggm_med.data.volumes.labels import LabelConvention

NESTED = LabelConvention(
    "nested",
    {1: "core", 2: "oedema", 4: "enhancing"},
    {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    {"WT": 2, "TC": 1, "ET": 4},
)
EXCLUSIVE = LabelConvention("two", {1: "a", 2: "b"}, {"a": (1,), "b": (2,)}, {"a": 1, "b": 2}, exclusive=True)
CROSSING = LabelConvention("crossing", {1: "a", 2: "b", 3: "a and b"}, {"a": (1, 3), "b": (2, 3)}, {"a": 1, "b": 2})


def filtered(labels, kept, convention=NESTED, voxel_mm3=1.0):
    """The label map that is left of ``(x, y, z)``."""
    masks = ComponentFilter(kept)(convention.to_regions(np.array(labels)), convention, voxel_mm3)
    return convention.to_labels(masks).tolist()


@given(st.integers(0, 999), st.sampled_from([NESTED, EXCLUSIVE, CROSSING]), st.sampled_from([2.0, 5.0, "largest"]))
def test_what_is_left_is_a_label_map_and_part_of_what_was_there(seed, convention, rule):
    random = np.random.default_rng(seed)
    labels = random.choice(
        [0, *convention.meanings], size=(4, 5, 6), p=[0.7, *[0.3 / len(convention.meanings)] * len(convention.meanings)]
    )
    before = convention.to_regions(labels)
    for kept in ({name: rule} for name in convention.regions):
        after = ComponentFilter(kept)(before, convention, 1.0)
        assert np.array_equal(after, convention.painted(after))
        assert not (after & ~before).any()
        assert np.array_equal(ComponentFilter(kept)(after, convention, 1.0), after)
        (region,) = kept
        mm3 = Components(after[list(convention.regions).index(region)], 1.0).mm3
        assert (mm3 >= rule).all() if rule != "largest" else len(set(mm3)) <= 1
    assert np.array_equal(ComponentFilter()(before, convention, 1.0), before)


def test_what_is_removed_becomes_what_lies_around_it():
    assert filtered([[[4, 1, 2, 2, 4, 4]]], {"ET": 2.0}) == [[[1, 1, 2, 2, 4, 4]]]
    assert filtered([[[4, 2, 0, 4, 1, 4]]], {"TC": 2.0}) == [[[2, 2, 0, 4, 1, 4]]]
    assert filtered([[[4, 2, 0, 4, 1, 4]]], {"WT": "largest"}) == [[[0, 0, 0, 4, 1, 4]]]
    assert filtered([[[1, 0, 2, 2]]], {"a": 2.0, "b": 2.0}, EXCLUSIVE) == [[[0, 0, 2, 2]]]
    assert filtered([[[3, 1, 1, 0, 2, 2]]], {"b": 2.0}, CROSSING) == [[[1, 1, 1, 0, 2, 2]]]


def test_volumes_count_corners_touch_and_equals_stay():
    corner = [[[2, 0], [0, 2]], [[0, 0], [0, 0]]]
    assert filtered(corner, {"WT": 2.0}) == corner
    assert filtered([[[2, 0, 2, 2]]], {"WT": 12.0}, voxel_mm3=6.0 * (1 - 1e-12)) == [[[0, 0, 2, 2]]]
    assert filtered([[[2, 0, 2]]], {"WT": "largest"}) == [[[2, 0, 2]]]


def test_one_region_is_filtered_as_by_itk_and_monai():
    mask = np.random.default_rng(0).random((12, 14, 16)) < 0.08
    one = LabelConvention("one", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1})
    parts = SimpleITK.ConnectedComponent(SimpleITK.GetImageFromArray(mask.astype(np.uint8)), True)
    large = SimpleITK.GetArrayFromImage(SimpleITK.RelabelComponent(parts, minimumObjectSize=5)) > 0
    assert 0 < large.sum() < mask.sum()
    assert np.array_equal(ComponentFilter({"lesion": 50.0})(mask[None], one, 10.0)[0], large)
    image = torch.from_numpy(mask[None].astype(np.uint8))
    largest = KeepLargestConnectedComponent(connectivity=3)(image).numpy().astype(bool)
    assert np.array_equal(ComponentFilter({"lesion": "largest"})(mask[None], one, 10.0), largest)


@pytest.mark.parametrize("rule", [0, -1.0, "smallest"])
def test_other_rules_are_refused(rule):
    with pytest.raises(ValueError, match="WT keeps"):
        ComponentFilter({"WT": rule})
