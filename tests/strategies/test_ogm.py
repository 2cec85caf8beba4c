"""OGM and OGM-GE: the laws of the ratio, the factor and the noise, hand values, and the paper's formulas in NumPy."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cggm_med.config import OptimConfig
from cggm_med.errors import ConfigError
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.ogm import ogm_factors
from cggm_med.strategies.parts.gradient_noise import add_gradient_noise, gradient_spreads
from cggm_med.strategies.parts.ratios import score_ratios
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    SEGMENTATION,
    STEPS,
    make,
    one_step,
    same_bits,
    set_up,
    small_batch,
    small_model,
    trained,
    vector_batch,
    vector_model,
)
from cggm_med.types import Batch

PAIR = MODALITIES[:2]
forms = pytest.mark.parametrize("form", ["paper", "continuous"])
score = st.floats(0, 1, width=32)
some_score = st.floats(2**-4, 1, width=32)
scores = st.lists(score, min_size=1, max_size=6).map(torch.tensor)
alphas = st.floats(0, 5)
PLAIN_SGD = OptimConfig(name="sgd", lr=0.1, momentum=0, weight_decay=0)


# The ratio


@given(some_score, some_score)
def test_the_ratio_of_two_modalities_is_the_papers(a, b):
    assert score_ratios(torch.tensor([a, b])).tolist() == pytest.approx([a / b, b / a], rel=1e-4)


@given(st.lists(some_score, min_size=2, max_size=6))
def test_the_ratio_is_to_the_mean_of_the_others(values):
    expected = [x / np.mean(values[:i] + values[i + 1 :]) for i, x in enumerate(values)]
    assert score_ratios(torch.tensor(values)).tolist() == pytest.approx(expected, rel=1e-4)


@given(st.integers(1, 7), score)
def test_equal_scores_have_a_ratio_of_exactly_one_or_within_what_counts_as_a_tie(count, value):
    ratios = score_ratios(torch.full((count,), value))
    assert (ratios - 1).abs().max() < 1e-6
    assert ogm_factors(torch.full((count,), value), 5.0, "paper").tolist() == [1] * count


def test_ratios_by_hand():
    """0.9 over (0.3 + 0.6) / 2, and so on."""
    assert score_ratios(torch.tensor([0.9, 0.3, 0.6])).tolist() == pytest.approx([2, 0.4, 1], rel=1e-5)
    assert score_ratios(torch.tensor([0.0, 0.0])).tolist() == [1, 1]
    assert score_ratios(torch.tensor([0.7])).tolist() == [1]


# The factor


@forms
@given(values=scores, alpha=alphas)
def test_factors_lie_between_zero_and_one_and_the_weakest_has_one(form, values, alpha):
    factors = ogm_factors(values, alpha, form)
    assert ((factors >= 0) & (factors <= 1)).all()
    assert factors[values.argmin()].item() == pytest.approx(1, abs=1e-5)


@forms
@given(values=st.lists(some_score, min_size=2, max_size=5), gain=st.floats(0, 1, width=32), alpha=alphas)
def test_a_better_score_never_raises_its_own_factor_nor_lowers_anothers(form, values, gain, alpha):
    before = ogm_factors(torch.tensor(values), alpha, form)
    after = ogm_factors(torch.tensor([values[0] + gain, *values[1:]]), alpha, form)
    assert after[0] <= before[0] + 1e-5
    assert (after[1:] >= before[1:] - 1e-5).all()


@forms
@pytest.mark.parametrize("size", [1.0, 0.1, 0.01])
def test_only_the_ratio_of_scores_counts(form, size):
    values = torch.tensor([0.9, 0.3, 0.7])
    torch.testing.assert_close(
        ogm_factors(size * values, 0.8, form), ogm_factors(values, 0.8, form), rtol=1e-3, atol=1e-4
    )


def test_the_papers_form_jumps_at_a_tie_and_the_continuous_one_does_not():
    """Just above a tie the paper's factor is 1 - tanh(0.8) = 0.336 at once."""
    for lead in (1e-4, 1e-3):
        values = torch.tensor([0.5 * (1 + lead), 0.5])
        paper, continuous = (ogm_factors(values, 0.8, form) for form in ("paper", "continuous"))
        assert paper.tolist() == pytest.approx([0.336, 1], abs=1e-3)
        assert continuous.tolist() == pytest.approx([1 - 0.8 * lead, 1], abs=1e-6)
    assert ogm_factors(torch.tensor([0.5, 0.5]), 0.8, "paper").tolist() == [1, 1]


def test_factors_by_hand():
    """Ratios 2, 0.4, 1: the first is damped by tanh(0.5) = 0.4621 or, in the paper's form, tanh(1) = 0.7616."""
    values = torch.tensor([0.9, 0.3, 0.6])
    assert ogm_factors(values, 0.5).tolist() == pytest.approx([0.2384, 1, 1], abs=1e-4)
    assert ogm_factors(values, 0.5, "continuous").tolist() == pytest.approx([0.5379, 1, 1], abs=1e-4)
    paper = ogm_factors(torch.tensor([0.9, 0.3, 0.58]), 0.5)
    assert paper.tolist() == pytest.approx([1 - math.tanh(0.5 * 0.9 / 0.44), 1, 1], abs=1e-4)


def test_a_modality_next_to_hopeless_ones_is_stopped():
    for form in ("continuous", "paper"):
        assert ogm_factors(torch.tensor([0.5, 0.0, 0.0]), 0.8, form).tolist() == [0, 1, 1]


# The whole rule, transcribed from the paper


def numpy_scores(model, batch):
    """True-class probability of each modality's slice of the head with its share of the bias, averaged."""
    weight = model.head.weight.detach().double().numpy()
    bias = model.head.bias.detach().double().numpy() / len(model.modalities)
    found, start = [], 0
    for m in model.modalities:
        with torch.no_grad():
            hidden = model.encoders[m](batch.inputs[m]).double().numpy()
        logits = hidden @ weight[:, start : start + 5].T + bias
        start += 5
        e = np.exp(logits - logits.max(1, keepdims=True))
        found.append((e / e.sum(1, keepdims=True))[np.arange(len(logits)), batch.target.numpy()].mean())
    return np.array(found)


def numpy_factors(values, alpha, form):
    factors = []
    for i, value in enumerate(values):
        rho = value / np.delete(values, i).mean()
        damped = 1 - np.tanh(alpha * rho) if form == "paper" else 1 - np.tanh(alpha * (rho - 1))
        factors.append(damped if rho > 1 else 1.0)
    return np.array(factors)


@forms
@pytest.mark.parametrize("modalities", [PAIR, MODALITIES])
def test_a_step_of_sgd_moves_each_encoder_by_its_factor_times_the_joint_gradient(form, modalities):
    batch = vector_batch(modalities=modalities, samples=16)
    strategy, model, twin = make("ogm", form=form), vector_model(modalities), vector_model(modalities)
    with torch.no_grad():  # a head that is sure of itself, so that scores are far apart
        for each in (model, twin):
            each.head.weight *= 10
    values = numpy_scores(model, batch)
    expected = numpy_factors(values, 0.8, form)
    assert expected.min() < 0.95
    set_up(strategy, model, problem=CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    one_step(model, strategy, optimizer, batch, 0, CLASSIFICATION, clip_norm=1e9)
    CLASSIFICATION.criterion(twin(batch.inputs), batch.target).backward()

    assert strategy.score.numpy() == pytest.approx(values, rel=1e-5)
    assert strategy.factor.numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for m, factor in zip(modalities, expected, strict=True):
        for new, old in zip(model.modality_parameters(m), twin.modality_parameters(m), strict=True):
            torch.testing.assert_close(new, old - 0.1 * float(factor) * old.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.head.weight, twin.head.weight - 0.1 * twin.head.weight.grad)


def test_a_network_whose_head_is_not_linear_is_scored_by_soft_dice_of_the_classifier_heads():
    strategy, model, batch = make("ogm"), small_model(), small_batch()
    set_up(strategy, model)
    truth = batch.target.numpy()[:, :, ::2, ::2, ::2].astype(float)
    values = []
    with torch.no_grad():
        logits = {m: out.logits.double().numpy() for m, out in strategy.heads(model.encode(batch.inputs)).items()}
    for m in MODALITIES:
        p = 1 / (1 + np.exp(-logits[m]))
        overlap, size = (p * truth).sum((0, 2, 3, 4)), (p + truth).sum((0, 2, 3, 4))
        values.append((2 * overlap / size).mean())
    one_step(model, strategy, make_optimizer(model, strategy, PLAIN_SGD, CPU), batch)
    assert strategy.score.numpy() == pytest.approx(np.array(values), rel=1e-5)
    assert strategy.factor.numpy() == pytest.approx(numpy_factors(np.array(values), 0.8, "paper"), rel=1e-4)


@pytest.mark.parametrize("name", ["ogm", "ogm_ge"])
@pytest.mark.parametrize("number", [29, 30, 59, 60])
def test_outside_its_part_of_the_run_the_update_is_joint(name, number):
    """From 30 % of the run up to, but not including, 60 % of it."""
    strategy = make(name, start=0.3, end=0.6)
    model = trained(strategy, 1, PLAIN_SGD, problem=CLASSIFICATION, first=number)
    joint = trained(make("joint"), 1, PLAIN_SGD, problem=CLASSIFICATION, first=number)
    ours, theirs = (list(x.encoders.parameters()) for x in (model, joint))
    same = all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert same == (number not in (30, 59))
    assert (strategy.factor == 1).all() == (number not in (30, 59))


@pytest.mark.parametrize("name", ["ogm", "ogm_ge"])
@pytest.mark.parametrize(("schedule", "first", "last"), [("whole", 0, 99), ("cvpr", 0, 50), ("tpami", 6, 60)])
def test_the_schedules_of_the_papers(name, schedule, first, last):
    """Of 100 epochs with 7 steps each; the papers' code includes both ends."""
    strategy = make(name, schedule=schedule)
    active = [number // 7 for number in range(700) if strategy.active(Step(number, 700))]
    assert active == [epoch for epoch in range(first, last + 1) for _ in range(7)]
    assert (strategy.config.start, strategy.config.end) == (first / 100, (last + 1) / 100)


def test_start_and_end_take_precedence_over_the_schedule():
    config = make("ogm", schedule="tpami", end=0.5).config
    assert (config.start, config.end) == (0.06, 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": -0.1}, r"strategy\.alpha is -0\.1"),
        ({"alpha": float("nan")}, r"strategy\.alpha is nan"),
        ({"start": 1.0}, r"strategy\.start is 1\.0"),
        ({"start": 0.5, "end": 0.5}, r"strategy\.end is 0\.5"),
        ({"end": 1.1}, r"strategy\.end is 1\.1"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make("ogm", **settings)


# The noise of GE

WIDTH = 300


def wide_model(dtype=torch.float32):
    """Made-up gradients, whose spread is another for each tensor."""
    torch.manual_seed(0)
    encoders = {m: nn.Linear(WIDTH, WIDTH) for m in PAIR}
    model = LateFusionModel(encoders, dict.fromkeys(PAIR, WIDTH), targets=2).to(dtype)
    for size, p in enumerate(model.parameters(), start=1):
        p.grad = (size * torch.randn(p.shape)).to(dtype)
    return model


def modulated(factor, number=0, dtype=torch.float32, seed=0):
    """Gradients before and after, of each tensor of the encoders."""
    model, strategy = wide_model(dtype), make("ogm_ge")
    set_up(strategy, model, problem=CLASSIFICATION)
    strategy.factor = torch.tensor(factor)
    before = [p.grad.clone() for p in model.encoders.parameters()]
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    strategy.modulate(model, optimizer, Step(number, STEPS, seed))
    return before, [p.grad for p in model.encoders.parameters()]


def test_the_noise_has_the_spread_of_each_unmodulated_gradient_also_where_the_factor_is_one():
    """A weight has 90 000 elements, so its spread is known to a quarter of a per cent; a bias has 300."""
    factor = (0.25, 1.0)
    before, after = modulated(factor)
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        noise = (new.double() - factor[i // 2] * old.double()).numpy() / np.std(old.double().numpy())
        deviations = 4 / math.sqrt(old.numel())
        assert abs(noise.mean()) < deviations
        assert abs(noise.std() - 1) < deviations / math.sqrt(2)
        assert abs((noise**4).mean() - 3) < deviations * math.sqrt(96)  # a normal distribution's
        assert abs(np.corrcoef(noise.ravel(), old.numpy().ravel())[0, 1]) < deviations


def test_modalities_do_not_share_their_noise():
    _, after = modulated((0.0, 0.0))
    assert abs(np.corrcoef(after[0].numpy().ravel(), after[2].numpy().ravel())[0, 1]) < 4 / WIDTH


def test_the_update_is_the_factor_times_the_gradient_plus_noise_that_does_not_depend_on_the_factor():
    before, plain = modulated((1.0, 1.0))
    _, damped = modulated((0.25, 0.0))
    for i, (old, a, b) in enumerate(zip(before, plain, damped, strict=True)):
        torch.testing.assert_close(a - b, (1 - (0.25, 0.0)[i // 2]) * old, rtol=1e-5, atol=1e-4)


def test_the_noise_belongs_to_the_step():
    _, first = modulated((0.5, 1.0), number=3)
    _, again = modulated((0.5, 1.0), number=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (modulated((0.5, 1.0), number=4), modulated((0.5, 1.0), number=3, seed=1)):
        assert not any(torch.equal(a, b) for a, b in zip(first, other[1], strict=True))


def test_noise_is_drawn_in_float32_whatever_the_gradient_is():
    """The same draws: added to gradients that a factor of 0 removed, they differ by their last rounding alone."""
    models = [wide_model(torch.bfloat16), wide_model()]
    for half, full in zip(*(m.parameters() for m in models), strict=True):
        full.grad = half.grad.float()
    for model in models:
        spreads = gradient_spreads(model)
        assert all(spread.dtype == torch.float32 for each in spreads.values() for spread in each)
        for p in model.parameters():
            p.grad.zero_()
        add_gradient_noise(model, spreads, Step(0, STEPS))
    for half, full in zip(models[0].encoders.parameters(), models[1].encoders.parameters(), strict=True):
        assert half.grad.dtype == torch.bfloat16
        assert torch.equal(half.grad, full.grad.bfloat16())


def test_spreads_by_hand():
    """The values 1 and 3 lie 1 from their mean; a lone value has no spread but the floor of 1e-8."""
    model = LateFusionModel({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}, {"a": 1, "b": 1}, targets=2)
    for p in model.encoders.parameters():
        p.grad = torch.tensor([[1.0, 3.0]]) if p.ndim == 2 else torch.tensor([7.0])
    for spreads in gradient_spreads(model).values():
        assert [s.item() for s in spreads] == pytest.approx([1, 1e-8])


def test_noise_leaves_what_modalities_share_alone():
    """Head and fused part have the gradient of OGM, and a frozen or absent encoder gets no gradient from noise."""
    batch = vector_batch(modalities=PAIR)
    models = {}
    for name in ("ogm", "ogm_ge"):
        strategy, model = make(name), vector_model()
        set_up(strategy, model, problem=CLASSIFICATION)
        optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
        one_step(model, strategy, optimizer, batch, 0, CLASSIFICATION)
        models[name] = model
    plain, noisy = models["ogm"], models["ogm_ge"]
    assert all(torch.equal(a, b) for a, b in zip(plain.head.parameters(), noisy.head.parameters(), strict=True))
    assert all(p.grad is None for p in noisy.encoders["t1ce"].parameters())
    for m in PAIR:
        assert not torch.equal(plain.encoders[m][0].weight, noisy.encoders[m][0].weight)


@pytest.mark.parametrize("problem", [SEGMENTATION, CLASSIFICATION], ids=["segmentation", "classification"])
def test_in_a_step_of_sgd_the_noise_is_that_of_the_clipped_gradient(problem):
    """A clipped gradient is smaller by one number for all tensors, and so is all that SGD does with it."""
    updates = {}
    for clip in (1e-3, 1e-2):
        strategy, model = make("ogm_ge"), problem.model()
        start = [p.detach().clone().double() for p in model.encoders.parameters()]
        set_up(strategy, model, problem=problem)
        optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=10.0, momentum=0, weight_decay=0), CPU)
        one_step(model, strategy, optimizer, problem.batch(), 0, problem, clip_norm=clip)
        moved = [(p.detach().double() - q).flatten() for p, q in zip(model.encoders.parameters(), start, strict=True)]
        updates[clip] = torch.cat(moved)
    torch.testing.assert_close(10 * updates[1e-3], updates[1e-2], rtol=1e-2, atol=1e-5)
    assert updates[1e-2].norm() > 1e-2


def test_after_the_end_nothing_is_scaled_even_where_a_step_cannot_be_scored():
    strategy, model = make("ogm", end=0.5), small_model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", momentum=0, weight_decay=0), CPU)
    one_step(model, strategy, optimizer, small_batch(0), 49)
    assert strategy.factor.min() < 1
    twin, joint = copy.deepcopy(model), make("joint")
    batch = small_batch(1)
    empty = Batch(batch.inputs, torch.zeros_like(batch.target), batch.ids)
    one_step(model, strategy, optimizer, empty, 50)
    set_up(joint, twin)
    plain = make_optimizer(twin, joint, OptimConfig(name="sgd", momentum=0, weight_decay=0), CPU)
    one_step(twin, joint, plain, empty, 50)
    assert same_bits(model, twin)
