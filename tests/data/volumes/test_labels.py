"""Label conventions: what goes in as labels comes back as labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cggm_med.data.volumes.labels import LabelConvention, detect_convention
from cggm_med.errors import DataError, UnknownName

BRATS2021 = LabelConvention(
    "brats2021",
    {1: "NCR", 2: "ED", 4: "ET"},
    {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    {"WT": 2, "TC": 1, "ET": 4},
)
BRATS2023 = LabelConvention(
    "brats2023",
    {1: "NCR", 2: "ED", 3: "ET"},
    {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
    {"WT": 2, "TC": 1, "ET": 3},
)
MSD = LabelConvention(
    "msd",
    {1: "oedema", 2: "non-enhancing", 3: "enhancing"},
    {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)},
    {"WT": 1, "TC": 2, "ET": 3},
)
BRATS2013 = LabelConvention(
    "brats2013",
    {1: "necrosis", 2: "oedema", 3: "non-enhancing", 4: "enhancing"},
    {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)},
    {"WT": 2, "TC": 1, "ET": 4},
)
CONVENTIONS = {c.name: c for c in (BRATS2021, BRATS2023, MSD, BRATS2013)}
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)


@pytest.mark.parametrize("convention", [BRATS2021, BRATS2023, MSD], ids=lambda c: c.name)
@given(data=st.data())
def test_labels_to_regions_to_labels_is_the_identity(convention: LabelConvention, data: st.DataObject) -> None:
    values = st.sampled_from([0, *convention.meanings])
    dtype = data.draw(st.sampled_from(["uint8", "int16", "float32", "float64"]))
    labels = data.draw(hnp.arrays(dtype, SHAPES, elements=values))
    back = convention.to_labels(convention.to_regions(labels))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=lambda c: c.name)
@given(depth=hnp.arrays(np.uint8, SHAPES, elements=st.integers(0, 3)))
def test_nested_regions_to_labels_to_regions_is_the_identity(convention: LabelConvention, depth: np.ndarray) -> None:
    regions = np.stack([depth >= k for k in (1, 2, 3)])
    np.testing.assert_array_equal(convention.to_regions(convention.to_labels(regions)), regions)


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=lambda c: c.name)
@given(data=st.data())
def test_any_prediction_becomes_declared_labels_with_the_innermost_region_kept(
    convention: LabelConvention, data: st.DataObject
) -> None:
    """A network may predict ET outside WT; painting then decides, by its order."""
    regions = data.draw(hnp.arrays(bool, (3, 2, 3, 2)))
    labels = convention.to_labels(regions)
    assert convention.undeclared(labels) == []
    np.testing.assert_array_equal(convention.to_regions(labels)[2], regions[2])
    np.testing.assert_array_equal(labels > 0, regions.any(axis=0))


@given(data=st.data())
def test_painting_is_done_once_and_keeps_nested_regions_in_every_convention(data: st.DataObject) -> None:
    regions = data.draw(hnp.arrays(bool, (3, 2, 3, 2)))
    painted = BRATS2021.painted(regions)
    np.testing.assert_array_equal(painted, BRATS2021.to_regions(BRATS2021.to_labels(regions)))
    np.testing.assert_array_equal(BRATS2021.painted(painted), painted)
    nested = np.logical_or.accumulate(regions[::-1], axis=0)[::-1]  # ET in TC in WT
    np.testing.assert_array_equal(BRATS2021.painted(nested), nested)
    # A mask may be written with other numbers than those of the truth that it is scored against.
    for other in CONVENTIONS.values():
        np.testing.assert_array_equal(other.painted(regions), painted)


def test_regions_by_hand() -> None:
    labels = np.array([0, 1, 2, 4]).reshape(1, 2, 2)
    regions = BRATS2021.to_regions(labels)
    assert regions.dtype == bool
    assert regions.shape == (3, 1, 2, 2)
    assert regions.reshape(3, 4).astype(int).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    same_numbers_other_meaning = np.array([1, 2, 3]).reshape(1, 1, 3)
    assert MSD.to_regions(same_numbers_other_meaning).reshape(3, 3).astype(int).tolist() == [
        [1, 1, 1],
        [0, 1, 1],
        [0, 0, 1],
    ]


def test_regions_match_monai() -> None:
    """MONAI's converter states the rule of BraTS 2018-2021 for the same arrays, in the order TC, WT, ET."""
    transforms = pytest.importorskip("monai.transforms")
    labels = np.random.default_rng(0).choice([0, 1, 2, 4], (7, 6, 5))
    theirs = transforms.ConvertToMultiChannelBasedOnBratsClasses()(labels)
    np.testing.assert_array_equal(BRATS2021.to_regions(labels)[[1, 0, 2]], np.asarray(theirs))


def test_declared_order_is_kept_even_if_painting_differs() -> None:
    shuffled = replace(BRATS2021, regions={"ET": (4,), "WT": (1, 2, 4), "TC": (1, 4)})
    labels = np.array([0, 1, 2, 4]).reshape(1, 2, 2)
    np.testing.assert_array_equal(shuffled.to_regions(labels), BRATS2021.to_regions(labels)[[2, 0, 1]])
    np.testing.assert_array_equal(shuffled.to_labels(shuffled.to_regions(labels)), labels)


def test_undeclared_values() -> None:
    labels = np.array([0, 1, 2, 4, 4.0, 0.5, 3, -1, np.inf])
    assert BRATS2021.undeclared(labels) == [-1, 0.5, 3, np.inf]
    assert np.isnan(BRATS2021.undeclared(np.array([0, np.nan, np.nan]))).tolist() == [True]
    assert BRATS2021.undeclared(np.array([0.0, 1.0, 2.0, 4.0], np.float32)) == []
    assert BRATS2021.undeclared(np.array([0, 255, 3], np.uint8)) == [3, 255]
    assert BRATS2023.undeclared(np.array([4])) == [4], "a 2021 label in 2023 data"


@given(hnp.arrays(np.float32, 20, elements=st.sampled_from([0, 1, 2, 4, 3, 0.25, -2])))
def test_undeclared_matches_python_sets(labels: np.ndarray) -> None:
    assert BRATS2021.undeclared(labels) == sorted(set(labels.tolist()) - {0, 1, 2, 4})


def test_masks_that_are_no_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float64 masks of shape \(3, 1, 1, 1\); expected bool"):
        BRATS2021.to_labels(np.ones((3, 1, 1, 1)))
    with pytest.raises(ValueError, match="one mask for each of WT, TC, ET"):
        BRATS2021.to_labels(np.ones((2, 1, 1, 1), bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": {}, "paint": {}}, "no regions"),
        ({"meanings": {0: "air", 1: "NCR", 2: "ED", 4: "ET"}}, "between 1 and 65535"),
        ({"meanings": {65536: "x", 1: "NCR", 2: "ED", 4: "ET"}}, "between 1 and 65535"),
        ({"meanings": {1: "NCR", 2: "ED"}}, "expected known labels"),
        ({"regions": {"WT": (1, 2, 4), "TC": (1, 4), "ET": ()}}, "expected known labels"),
        ({"paint": {"WT": 2, "TC": 1}}, "paint names"),
        ({"paint": {"WT": 2, "TC": 2, "ET": 4}}, "TC is painted 2, which lies outside it"),
        ({"paint": {"WT": 1, "TC": 1, "ET": 4}}, "WT is painted 1, which makes it TC as well"),
        ({"paint": {"ET": 4, "TC": 1, "WT": 2}}, "ET is painted 4, which makes it TC as well"),
    ],
)
def test_contradictory_conventions_cannot_be_made(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(BRATS2021, **changes)


def test_what_was_asked_for_wins_over_the_layout() -> None:
    assert detect_convention("brats2021", None, CONVENTIONS) is BRATS2021
    assert detect_convention("brats2021", "msd", CONVENTIONS) is MSD
    assert detect_convention(None, "msd", CONVENTIONS) is MSD


def test_a_convention_is_never_guessed() -> None:
    with pytest.raises(DataError) as caught:
        detect_convention(None, None, CONVENTIONS)
    assert "--set task.labels=NAME" in str(caught.value)
    assert "brats2023: 0 background, 1 NCR, 2 ED, 3 ET" in caught.value.problems
    assert len(caught.value.problems) == len(CONVENTIONS)
    with pytest.raises(UnknownName, match="Did you mean 'brats2021'"):
        detect_convention(None, "brats21", CONVENTIONS)
