"""What was put into a store comes out of it, in this and in the next process, and damage is told."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cggm_med.errors import DataError
from cggm_med_tasks.food101.feature_store import INDEX, VALUES, Computed, FeatureStore


def computed(*lengths):
    start = np.cumsum([0, *lengths])
    rows = np.arange(start[-1] * 2, dtype=np.float16).reshape(-1, 2)
    return {f"k{a}": Computed(rows[a:b], f"content {a}") for a, b in pairwise(start)}


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=3))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_in_comes_out(tmp_path_factory, blocks):
    folder = tmp_path_factory.mktemp("store")
    store, expected = FeatureStore(folder), {}
    for number, lengths in enumerate(blocks):
        block = {f"{number} {key}": value for key, value in computed(*lengths).items()}
        store.add(block)
        expected |= block
    for reader in (store, FeatureStore(folder)):
        for key, (values, content) in expected.items():
            assert key in reader
            assert np.array_equal(reader[key], values)
            assert reader.content(key) == content


def test_by_hand(tmp_path):
    """Two samples of 1 and 2 steps: the second one's rows are the last two of the file."""
    store = FeatureStore(tmp_path)
    store.add(computed(1, 2))
    assert store["k1"].tolist() == [[2, 3], [4, 5]]
    assert "k2" not in store
    assert isinstance(store["k1"], np.memmap)


def test_a_block_that_is_not_whole_is_not_there(tmp_path):
    """A killed writer leaves its temporary folder behind, whose values come before the index."""
    store = FeatureStore(tmp_path)
    store.add(computed(1, 2))
    (block,) = tmp_path.iterdir()
    (block / INDEX).rename(tmp_path / "elsewhere")
    assert "k1" not in FeatureStore(tmp_path)


@pytest.mark.parametrize("text", ["[", "[1]", '{"k0": [0]}', '{"k0": ["a", "b", "c"]}', '{"k0": 1}'])
def test_a_damaged_index_is_told(tmp_path, text):
    FeatureStore(tmp_path).add(computed(1))
    (block,) = tmp_path.iterdir()
    (block / INDEX).write_text(text)
    with pytest.raises(DataError, match=f"{block.name} holds damaged features .*delete it"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "pickle", "shape", "gone"])
def test_damaged_values_are_told(tmp_path, damage):
    store = FeatureStore(tmp_path)
    store.add(computed(4))
    (block,) = tmp_path.iterdir()
    file = block / VALUES
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "pickle":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "shape":
        np.save(file, np.zeros((3, 2), np.float16))
    else:
        file.unlink()
    with pytest.raises(DataError, match="holds damaged features"):
        store["k0"]
