"""Arrays from files: shape, kind and finite values are checked, padding is cut off, nothing else raises."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cggm_med.data.arrays import read_npy, require_finite, require_numbers, trim
from cggm_med.errors import DataError


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i2", "u1", "?"])
def test_numbers_of_any_kind_are_taken_as_they_are(kind):
    array = np.ones((2, 3), kind)
    assert require_numbers(array, ("time", "channel"), "x") is array


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": 1}, "dict"),
        (None, "NoneType"),
        (np.float32(1), "float32"),
        (np.array(["a"]), r"str32 of shape \(1,\)"),
        (np.array([None]), r"object of shape \(1,\)"),
        (np.zeros((2, 2), complex), r"complex128 of shape \(2, 2\)"),
        (np.zeros(3), r"float64 of shape \(3,\)"),
        (np.zeros((1, 2, 3)), r"float64 of shape \(1, 2, 3\)"),
    ],
)
def test_anything_else_is_told_in_one_line(value, found):
    with pytest.raises(DataError, match=rf"^a\.h5: x holds {found}, expected numbers \(time, channel\)$"):
        require_numbers(value, ("time", "channel"), "a.h5: x")


@given(hnp.arrays(np.float32, (6, 2), elements=st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])))
def test_the_first_row_that_is_not_finite_is_named(array):
    """Independent authority: Python's own numbers, one after the other."""
    finite = [[math.isfinite(value) for value in row] for row in array.tolist()]
    bad = [number for number, row in enumerate(finite) if not all(row)]
    if not bad:
        require_finite(array, "x")
        return
    count = sum(row.count(False) for row in finite)
    with pytest.raises(DataError, match=rf"^x: {count} values are not finite, the first in row {bad[0]}; fix"):
        require_finite(array, "x")


def test_integers_are_finite():
    require_finite(np.array([0, 2**62]), "x")


def test_npy_files_come_back(tmp_path):
    for array in (np.arange(6.0).reshape(2, 3), np.array(["a", "bc"]), np.array([b"x"]), np.zeros((0, 4), "f4")):
        np.save(tmp_path / "a.npy", array)
        again = read_npy(tmp_path / "a.npy")
        assert again.dtype == array.dtype
        np.testing.assert_array_equal(again, array)


def test_npy_files_with_objects_are_refused(tmp_path):
    """Objects are pickles; a pickle runs code."""
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="it holds Python objects; copy or make it anew"):
        read_npy(tmp_path / "a.npy")


def test_npy_files_that_are_missing_or_something_else_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.npy is missing$"):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(DataError, match="is damaged or no array of numbers or text: "):
        read_npy(tmp_path)
    np.savez(tmp_path / "b.npz", np.zeros(3))
    with pytest.raises(DataError, match=r"b\.npz is damaged or no array .* the magic string is not correct"):
        read_npy(tmp_path / "b.npz")


def test_damaged_npy_files_raise_nothing_but_one_line(tmp_path):
    """Cut off anywhere, and with any byte of the header changed; some changes leave an array, in another order."""
    stream = io.BytesIO()
    np.save(stream, np.arange(12.0).reshape(3, 4))
    whole = stream.getvalue()
    random = np.random.default_rng(0)
    changed = [bytearray(whole) for _ in range(600)]
    for number, content in enumerate(changed):
        content[number % 128] = random.integers(256)
    file, refused = tmp_path / "a.npy", []
    for content in [whole[:end] for end in range(0, len(whole), 5)] + changed:
        file.write_bytes(content)
        try:
            read_npy(file)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 500
    assert all(len(message.splitlines()) == 1 for message in refused)


def test_a_header_that_asks_for_too_much_memory_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="is damaged"):
        read_npy(tmp_path / "a.npy")


rows = hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=st.sampled_from([0.0, 1.0]))


@given(rows, st.integers(0, 4), st.integers(0, 4))
def test_trimming_undoes_padding_on_either_side(sequence, before, behind):
    padded = np.pad(sequence, ((before, behind), (0, 0)))
    kept = trim(padded)
    np.testing.assert_array_equal(kept, trim(sequence))
    np.testing.assert_array_equal(trim(kept), kept)
    if sequence.any():
        assert kept[0].any()
        assert kept[-1].any()
        np.testing.assert_array_equal(kept.sum(0), sequence.sum(0))
    else:
        np.testing.assert_array_equal(kept, np.zeros((1, sequence.shape[1])))


def test_rows_of_zeros_inside_and_of_nan_stay():
    assert trim(np.array([[0.0], [np.nan], [0.0], [2.0], [0.0]])).shape == (3, 1)
