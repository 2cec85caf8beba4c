"""The kept gradients: few enough, true to the angles between them, and without a trace in training's random numbers."""

import json
from itertools import pairwise

import pytest
import torch

from cggm_med.training.gradient_log import MAX_STEPS, MAX_VALUES, GradientLog, sketch


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def pair(*values):
    return [torch.tensor([values]), torch.tensor([values]) + 1]


def test_short_vectors_are_kept_as_they_are():
    values = torch.randn(MAX_VALUES)
    assert torch.equal(sketch(values), values)


def test_sketches_keep_inner_products_on_average():
    """Of 200 pairs of long vectors the mean error is near 0 and its spread about 1 / sqrt(size), as theory has it."""
    generator = torch.Generator().manual_seed(1)
    errors = []
    for _ in range(200):
        a, noise = (torch.randn(2000, generator=generator, dtype=torch.float64) for _ in range(2))
        b = a + noise
        cosine = [torch.cosine_similarity(x, y, dim=0) for x, y in ((a, b), (sketch(a), sketch(b)))]
        errors.append(float(cosine[1] - cosine[0]))
    errors = torch.tensor(errors)
    assert abs(errors.mean()) < 0.01
    assert 0.3 / MAX_VALUES**0.5 < errors.std() < 1.5 / MAX_VALUES**0.5


def test_sketches_are_linear_and_the_same_each_time():
    a, b = torch.randn(2, 1000, dtype=torch.float64)
    torch.testing.assert_close(sketch(a + 2 * b), sketch(a) + 2 * sketch(b))


def test_nothing_is_drawn_from_the_random_numbers_of_training():
    before = torch.get_rng_state()
    sketch(torch.ones(12_345))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("steps", "log_every"), [(10, 1), (1000, 1), (100_000, 10), (7, 10)])
def test_at_most_so_many_steps_are_kept_evenly(tmp_path, steps, log_every):
    log = GradientLog(tmp_path / "g.jsonl", steps, log_every)
    for step in range(log_every, steps + 1, log_every):
        log(step, {"t1": pair(1.0, 2.0)})
    kept = [line["step"] for line in lines(tmp_path / "g.jsonl")] if steps >= log_every else []
    assert len(kept) <= MAX_STEPS
    assert len(kept) > MAX_STEPS / 2 or len(kept) == steps // log_every
    assert len({b - a for a, b in pairwise(kept)}) <= 1


def test_a_fused_gradient_that_modalities_share_is_kept_once(tmp_path):
    fused = torch.tensor([[0.12345, 0.0]])
    log = GradientLog(tmp_path / "g.jsonl", 10, 1)
    log(3, {"t1": [fused, torch.ones(1, 2)], "t2": [fused.clone(), torch.zeros(1, 2)], "t3": pair(5.0)})
    assert lines(tmp_path / "g.jsonl") == [
        {
            "step": 3,
            "own": {"t1": [1, 1], "t2": [0, 0], "t3": [6]},
            "fused": {"t1+t2": [0.1235, 0], "t3": [5]},
        }
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_or_absent_are_left_out(tmp_path, bad):
    log = GradientLog(tmp_path / "g.jsonl", 10, 1)
    log(1, {"t1": pair(bad)})
    log(2, {})
    assert not (tmp_path / "g.jsonl").exists()
