"""Random numbers of a step: the same however a batch is spread, different for every purpose, step and run."""

import re
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cggm_med.randomness import Step, Stream, random_seed

small = st.integers(1, 5)


def drawn(step, samples, columns=2, key="coin"):
    return step.uniform(key, samples, columns, "cpu")


def as_process(rank, processes):
    """Pretend to be one of several processes."""
    return mock.patch.multiple("cggm_med.distributed", rank=lambda: rank, world_size=lambda: processes)


# However a batch is spread


@given(number=st.integers(0, 99), parts=small, samples=small, columns=small)
def test_parts_of_a_batch_are_consecutive_rows_of_the_whole(number, parts, samples, columns):
    whole = drawn(Step(number, 100), parts * samples, columns)
    rows = [drawn(Step(number, 100, part=i, parts=parts), samples, columns) for i in range(parts)]
    assert torch.equal(torch.cat(rows), whole)


@given(processes=small, parts=small, samples=small)
def test_processes_take_every_nth_row_and_share_them_out_among_their_parts(processes, parts, samples):
    whole = drawn(Step(3, 100), processes * parts * samples)
    together = torch.full_like(whole, -1)
    for rank in range(processes):
        with as_process(rank, processes):
            rows = [drawn(Step(3, 100, part=i, parts=parts), samples) for i in range(parts)]
        together[rank::processes] = torch.cat(rows)
    assert torch.equal(together, whole)


def test_a_generator_is_equal_in_all_processes_and_parts():
    """It serves draws that concern the whole batch, such as whether a step drops anything at all."""
    expected = torch.rand(4, generator=Step(3, 100).generator("coin"))
    for rank in range(2):
        with as_process(rank, 2):
            for part in range(2):
                generator = Step(3, 100, part=part, parts=2).generator("coin")
                assert torch.equal(torch.rand(4, generator=generator), expected)


# Equal for equal keys, different otherwise


def test_numbers_depend_on_seed_step_and_purpose_and_on_nothing_else():
    base = drawn(Step(3, 100, seed=7), 4)
    torch.manual_seed(1)
    torch.rand(5)
    assert torch.equal(drawn(Step(3, 100, seed=7), 4), base)
    assert torch.equal(drawn(Step(3, 5000, seed=7), 4), base)  # a run may be made longer
    others = [
        drawn(Step(3, 100, seed=8), 4),
        drawn(Step(4, 100, seed=7), 4),
        drawn(Step(3, 100, seed=7), 4, key="dice"),
    ]
    assert not any(torch.equal(other, base) for other in others)


def test_drawing_leaves_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    drawn(Step(3, 100), 4)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_of_a_purpose_is_that_of_numpys_seed_sequence():
    """Written out, so that nobody changes the numbers of existing runs unnoticed; CRC-32, as Python salts ``hash``."""
    key = zlib.crc32(b"coin")
    (expected,) = np.random.SeedSequence((7, 5, 3, key)).generate_state(1, np.uint64)
    assert Step(3, 100, seed=7).generator("coin").initial_seed() == int(expected) // 2


def test_the_numbers_of_existing_runs_stay():
    """A renumbered or renamed stream would change every run; written out by NumPy's own hand."""
    written = {
        0: Stream.CASE_ORDER,
        1: Stream.PATCH_PLACE,
        2: Stream.AUGMENTATION,
        3: Stream.MODEL_IN_STEP,
        4: Stream.HEAD_WEIGHTS,
        5: Stream.STEP,
        6: Stream.ARTEFACT,
        8: Stream.PROBED_SAMPLES,
        9: Stream.PROBED_VOXELS,
        10: Stream.MEASURED_PATCH,
        11: Stream.OTHER_WEIGHTS,
        zlib.crc32(b"modality dropout"): Stream.MODALITY_DROPOUT,
        zlib.crc32(b"dropped to subset"): Stream.DROPPED_TO_SUBSET,
        zlib.crc32(b"subset view"): Stream.SUBSET_VIEW,
        zlib.crc32(b"shapley"): Stream.SHAPLEY_ORDERS,
        zlib.crc32(b"opm"): Stream.OPM_STEPS,
        zlib.crc32(b"opm features"): Stream.OPM_FEATURES,
        zlib.crc32(b"gradient noise"): Stream.GRADIENT_NOISE,
    }
    assert set(written.values()) == set(Stream)
    for number, stream in written.items():
        (expected,) = np.random.SeedSequence((7, number, 3)).generate_state(1, np.uint64)
        assert random_seed(7, stream, 3) == int(expected) // 2


def test_every_seed_names_its_stream():
    """No number stands in the code for what it means: each call of ``random_seed`` begins with a seed and a stream."""
    root = Path(__file__).parents[1]
    code = [path.read_text() for path in (root / "cggm_med").rglob("*.py") if path.name != "randomness.py"]
    calls = [call for text in code for call in re.findall(r"random_seed\(([^()]*)\)", text)]
    assert len(calls) >= 8
    assert all(re.match(r"[\w.]+, Stream\.[A-Z_]+", call) for call in calls)


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_seeds_fit_what_torch_takes(key):
    assert 0 <= random_seed(*key) < 2**63


def test_seeds_of_neighbouring_keys_do_not_meet():
    seeds = {random_seed(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(seeds) == 12**3


# Authority: tests of distribution


@pytest.mark.parametrize("which", ["first of each step", "all of one step", "first of each seed"])
def test_numbers_are_uniform(which):
    """Kolmogorov and Smirnov's test; the numbers are fixed, so it passes always or never."""
    numbers = {
        "first of each step": lambda: torch.cat([drawn(Step(n, 2000), 1, 1) for n in range(2000)]),
        "all of one step": lambda: drawn(Step(0, 2000), 2000, 1),
        "first of each seed": lambda: torch.cat([drawn(Step(0, 2000, seed=s), 1, 1) for s in range(2000)]),
    }[which]()
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert stats.kstest(numbers.flatten().double().numpy(), "uniform").pvalue > 0.01


def test_neither_steps_nor_purposes_nor_columns_are_correlated():
    coin = torch.cat([drawn(Step(n, 2000), 1, 2) for n in range(2000)]).numpy()
    dice = torch.cat([drawn(Step(n, 2000), 1, 1, key="dice") for n in range(2000)]).numpy()
    pairs = [(coin[:-1, 0], coin[1:, 0]), (coin[:, 0], coin[:, 1]), (coin[:, 0], dice[:, 0])]
    assert all(stats.pearsonr(a, b).pvalue > 0.01 for a, b in pairs)


# The rest of a step


def test_progress_and_last_part_by_hand():
    assert [Step(n, 50).progress for n in (0, 10, 49)] == [0, 0.2, 0.98]
    assert [Step(0, 50, part=i, parts=3).last for i in range(3)] == [False, False, True]
    assert Step(0, 50).last
