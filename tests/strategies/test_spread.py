"""Every strategy on two processes: equal bits on both, and the update of one process with the whole batch."""

from pathlib import Path

import pytest
import torch
from helpers import processes
from helpers.spread import labels, train_all

from cggm_med.testing.problems import PROBLEMS

CASES = [f"{kind}, {label}" for kind in PROBLEMS for label in labels()]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    out = tmp_path_factory.mktemp("spread")
    for done in processes.run_together(2, Path(__file__).parents[1] / "helpers" / "spread.py", out):
        assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"process{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    return train_all(0, 1)


def same(a, b):
    return torch.equal(a.nan_to_num(9), b.nan_to_num(9))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_both_processes_end_with_the_same_bits(two, case):
    first, second = (states[case] for states in two)
    assert first.keys() == second.keys()
    assert [name for name in first if not same(first[name], second[name])] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:cggm.* mode=")
@pytest.mark.parametrize("case", CASES)
def test_two_processes_do_what_one_does_with_the_whole_batch(two, one, case):
    assert one[case].keys() == two[0][case].keys()
    for name, expected in one[case].items():
        torch.testing.assert_close(two[0][case][name], expected, rtol=2e-3, atol=1e-4, equal_nan=True, msg=name)
