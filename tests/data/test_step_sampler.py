"""Which sample each step takes: a function of the step alone, all of them once a round."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.data.step_sampler import StepSampler, visited


def pairs(sampler: StepSampler) -> list[tuple[int, int]]:
    return [pair for step in sampler for pair in step]


@given(count=st.integers(1, 40), rounds=st.integers(1, 4), seed=st.integers(0, 3))
def test_every_sample_comes_once_a_round(count: int, rounds: int, seed: int) -> None:
    numbers = [visited(seed, n, count) for n in range(rounds * count)]
    for start in range(0, len(numbers), count):
        assert sorted(numbers[start : start + count]) == list(range(count))


@given(count=st.integers(1, 30), batch=st.integers(1, 8), steps_per_epoch=st.integers(1, 9), epochs=st.integers(1, 4))
def test_any_epoch_size_visits_all_samples_equally_often(
    count: int, batch: int, steps_per_epoch: int, epochs: int
) -> None:
    """What an epoch leaves over comes first in the next: no sample is more than one visit ahead of another."""
    size = batch * steps_per_epoch
    sampler = StepSampler(0, epochs * steps_per_epoch, steps_per_epoch, batch)
    seen = Counter(visited(0, epoch * size + position, count) for epoch, position in pairs(sampler))
    times = [seen[i] for i in range(count)]
    assert sum(times) == epochs * size
    assert max(times) - min(times) <= 1


def test_each_round_and_each_seed_has_its_own_order() -> None:
    orders = {tuple(visited(seed, n, 20) for n in range(r * 20, r * 20 + 20)) for seed in range(3) for r in range(3)}
    assert len(orders) == 9


def test_the_order_is_frozen() -> None:
    """Published runs keep their samples: a changed draw is a new version, not a detail."""
    assert [visited(0, n, 7) for n in range(14)] == [1, 5, 0, 2, 4, 6, 3, 0, 2, 6, 1, 3, 5, 4]
    assert visited(0, 10**6, 22_000) == 4055


def test_any_order_of_asking_gives_the_same_answer() -> None:
    """The draw is kept between calls; a batch across the border of two rounds, or another data set, changes nothing."""
    straight = [visited(1, n, 5) for n in range(30)]
    for n in (29, 0, 14, 5, 4, 27):
        visited(2, n, 6)
        assert visited(1, n, 5) == straight[n]


@given(
    steps=st.integers(1, 12),
    steps_per_epoch=st.integers(1, 5),
    share=st.integers(1, 3),
    processes=st.integers(1, 4),
    first=st.integers(0, 12),
)
def test_processes_share_each_batch_and_resuming_skips_what_was_done(
    steps: int, steps_per_epoch: int, share: int, processes: int, first: int
) -> None:
    first = min(first, steps)
    batch = share * processes
    whole = list(StepSampler(0, steps, steps_per_epoch, batch))
    parts = [list(StepSampler(first, steps, steps_per_epoch, batch, rank, processes)) for rank in range(processes)]
    for rank, part in enumerate(parts):
        assert len(part) == len(StepSampler(first, steps, steps_per_epoch, batch, rank, processes)) == steps - first
    for number, expected in enumerate(whole[first:]):
        own = [part[number] for part in parts]
        assert all(len(mine) == share for mine in own)
        assert sorted(pair for mine in own for pair in mine) == sorted(expected)


def test_a_step_by_hand() -> None:
    """Five steps of two samples, two steps an epoch."""
    assert list(StepSampler(1, 5, 2, 2)) == [[(0, 2), (0, 3)], [(1, 0), (1, 1)], [(1, 2), (1, 3)], [(2, 0), (2, 1)]]
    assert list(StepSampler(1, 3, 2, 4, rank=1, world_size=2)) == [[(0, 5), (0, 7)], [(1, 1), (1, 3)]]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 5 cannot be shared by 2 processes"):
        StepSampler(0, 1, 1, 5, 0, 2)
