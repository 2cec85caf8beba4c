"""Every strategy on two processes: equal bits on both, and the update of one process with the whole batch."""

from pathlib import Path

import pytest
import torch
from helpers import processes
from helpers.spread import OVERLAPPED, labels, train_all

from cggm_med.testing.problems import PROBLEMS

CASES = [f"{kind}, {label}" for kind in PROBLEMS for label in labels()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("spread")
    for done in processes.run_together(2, Path(__file__).parents[1] / "helpers" / "spread.py", out):
        assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: torch.load(path, weights_only=True) for path in out.iterdir()}


@pytest.fixture(scope="module")
def one():
    return train_all(0, 1)


def same(a, b):
    return torch.equal(a.nan_to_num(9), b.nan_to_num(9))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_same_bits(two, case):
    first, second = two["process0"][case], two["process1"][case]
    assert first.keys() == second.keys()
    assert [name for name in first if not same(first[name], second[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("label", labels())
def test_gradients_in_buckets_train_the_same_bits(two, label):
    case = f"{OVERLAPPED}, {label}"
    at_once = two["process0"][case]
    for rank in range(2):
        in_buckets = two[f"buckets{rank}"][case]
        assert at_once.keys() == in_buckets.keys()
        assert [name for name in at_once if not same(at_once[name], in_buckets[name])] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:cggm.* mode=")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does_with_the_whole_batch(two, one, case):
    assert one[case].keys() == two["process0"][case].keys()
    for name, expected in one[case].items():
        torch.testing.assert_close(
            two["process0"][case][name], expected, rtol=2e-3, atol=1e-4, equal_nan=True, msg=name
        )
