"""What is logged about a step: norms, counters, cosines and shares, each against a computation of its own."""

import copy
import math

import pytest
import torch

from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.objectives.balance_scores import true_class_sums
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.parts.shapley import exact_plan
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
    make,
    one_step,
    set_up,
    small_batch,
    small_model,
    vector_batch,
    vector_model,
)
from cggm_med.training.monitor import ModalityComparison, Monitor, coverage
from cggm_med.types import Batch


def compared(problem, batch, name="joint", accumulate=1, shapley=True, **own):
    strategy, model = make(name, **own), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=1e-9), CPU)
    before = copy.deepcopy(model), copy.deepcopy(strategy)
    comparison = ModalityComparison(shapley=shapley)
    one_step(
        model,
        strategy,
        optimizer,
        batch,
        0,
        problem,
        comparison=comparison,
        settings=TrainConfig(accumulate=accumulate),
    )
    return comparison.values(), *before


def test_counters():
    monitor = Monitor(2)
    for total in (0.5, 2.0, float("nan"), 3.0, float("inf")):
        clipped, taken = torch.tensor(total > 1), torch.tensor(math.isfinite(total))
        monitor.record(torch.tensor([0.1, 0.2]), torch.tensor(0.3), clipped, taken)
    values = monitor.values()
    assert values["clipped_steps"] == 2
    assert values["skipped_steps"] == 2
    assert values["gradient_norm"].tolist() == pytest.approx([0.1, 0.2])
    restored = Monitor(2)
    restored.load_state_dict(monitor.state_dict())
    assert restored.values()["clipped_steps"] == 2


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_cosines_are_those_of_the_gradients_of_the_weights(problem):
    values, model, strategy = compared(problem, problem.batch())
    batch = problem.batch()
    features = model.encode(batch.inputs)
    weight = next(p for p in model.head.parameters() if p.ndim > 1)
    loss = problem.criterion(model.predict([features])[0].logits, batch.target)
    (fused,) = torch.autograd.grad(loss, weight)
    expected = []
    for i, m in enumerate(MODALITIES):
        last = strategy.heads.heads[m].last.weight
        own = problem.criterion(strategy.heads(features)[m].logits, batch.target)
        (own,) = torch.autograd.grad(own, last)
        part = fused if fused.shape[1] == own.shape[1] else fused[:, 5 * i : 5 * i + 5]
        expected.append(torch.cosine_similarity(part.flatten(), own.flatten(), dim=0))
    torch.testing.assert_close(values["cosine"], torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert ((values["cosine"] >= -1) & (values["cosine"] <= 1)).all()


def test_the_fused_score_is_the_mean_probability_of_the_true_class():
    values, model, _ = compared(CLASSIFICATION, vector_batch())
    batch = vector_batch()
    expected = torch.softmax(model(batch.inputs), dim=1)[range(4), batch.target].mean()
    torch.testing.assert_close(values["fused_score"], expected.detach())


def test_shapley_shares_are_those_of_every_subset():
    values, model, _ = compared(CLASSIFICATION, vector_batch())
    batch = vector_batch()
    coalitions, weights = exact_plan(3)
    scores = []
    for members in coalitions.tolist():
        given = {m: x for (m, x), member in zip(batch.inputs.items(), members, strict=True) if member}
        logits = model(given) if given else model.head.bias.expand(4, -1)
        scores.append(true_class_sums(logits, batch.target)[0, 0] / 4)
    phi = weights @ torch.stack(scores)
    torch.testing.assert_close(values["shapley_share"], phi / phi.abs().sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_batch_in_parts_compares_alike(problem):
    batch = problem.batch(samples=4)
    whole, *_ = compared(problem, batch)
    parts, *_ = compared(problem, batch, accumulate=4)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_missing_modality_is_not_a_number():
    batch = small_batch()
    lacking = Batch({m: batch.inputs[m] for m in ("flair", "t1ce")}, batch.target, batch.ids)
    values, *_ = compared(PROBLEMS["segmentation"], lacking)
    for key in ("cosine", "shapley_share"):
        assert torch.isnan(values[key]).tolist() == [False, True, False]


def test_without_heads_there_are_no_cosines():
    values, *_ = compared(PROBLEMS["segmentation"], small_batch(), heads=False, shapley=False)
    assert set(values) == {"fused_score"}


def test_comparing_changes_nothing():
    models = []
    for comparison in (None, ModalityComparison(shapley=True)):
        strategy, model = make("cggm"), small_model()
        set_up(strategy, model)
        optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
        one_step(model, strategy, optimizer, small_batch(), comparison=comparison)
        models.append(model)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


def test_coverage_says_what_belongs_to_whom():
    model = vector_model()
    found = coverage(model, set_up(make("ogm"), model, problem=CLASSIFICATION))
    assert found["modulates"]
    assert found["modalities"]["t1"][0] == "encoders.t1.0.weight"
    assert found["shared"] == ["head.weight", "head.bias"]
