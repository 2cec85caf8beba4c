"""AGM: the laws of the factor, hand values, and the paper's running rule in NumPy."""

import copy
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.config import OptimConfig
from cggm_med.errors import ConfigError
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.agm import agm_factors
from cggm_med.strategies.parts.shapley import shapley_responses
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    SEGMENTATION,
    make,
    one_step,
    set_up,
    small_batch,
    small_model,
    vector_batch,
    vector_model,
)
from cggm_med.types import Batch

score = st.floats(0, 1, width=32)
pairs = st.lists(st.tuples(score, score), min_size=1, max_size=6).map(lambda x: torch.tensor(x).unbind(1))
alphas = st.floats(0, 2)


def numpy_factors(score, habitual, alpha):
    """As the paper writes it: ``r_m = exp(1 / (M - 1) sum_k (s_m - s_k))``."""

    def ratio(s):
        return np.array([np.exp(sum(a - b for b in s) / (len(s) - 1)) for a in s])

    return np.exp(alpha * (ratio(habitual) - ratio(score)))


def observed(strategy, values, present=MODALITIES, usable=True, number=0):
    strategy.observe(strategy.rows(present), torch.tensor(values), torch.tensor(usable), Step(number, 100))
    return strategy.factor.tolist()


# The factor


@given(pairs, alphas)
def test_the_formula_in_numpy(scores, alpha):
    now, habitual = scores
    if len(now) > 1:
        expected = numpy_factors(now.double().numpy(), habitual.double().numpy(), alpha)
        np.testing.assert_allclose(agm_factors(now, habitual, alpha).numpy(), expected, rtol=1e-4)


@given(pairs, alphas)
def test_factors_are_bounded(scores, alpha):
    """Leads lie in [-1, 1], ratios between 1/e and e, and e - 1/e = 2.3504."""
    factors = agm_factors(*scores, alpha)
    bound = math.exp(alpha * (math.e - 1 / math.e))
    assert ((factors >= 0.999 / bound) & (factors <= 1.001 * bound)).all()


def test_the_bound_is_met():
    factors = agm_factors(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), 1.0)
    assert factors.tolist() == pytest.approx([10.489, 1 / 10.489], rel=1e-3)


@given(pairs, alphas)
def test_who_is_further_ahead_than_usual_is_slowed_and_who_is_less_far_is_sped_up(scores, alpha):
    now, habitual = scores
    lead, usual = (x - x.mean() for x in scores)
    factors = agm_factors(now, habitual, alpha)
    assert (factors[lead > usual + 1e-4] <= 1).all()
    assert (factors[lead < usual - 1e-4] >= 1).all()


@given(pairs, st.floats(-0.5, 0.5, width=32), alphas)
def test_what_all_modalities_share_such_as_a_hard_batch_does_not_count(scores, shift, alpha):
    now, habitual = scores
    expected = agm_factors(now, habitual, alpha)
    torch.testing.assert_close(agm_factors(now + shift, habitual, alpha), expected, rtol=1e-3, atol=1e-4)


@given(st.lists(score, min_size=1, max_size=6).map(torch.tensor), alphas)
def test_a_habitual_lead_is_left_as_it_is(values, alpha):
    assert agm_factors(values, values, alpha).tolist() == [1] * len(values)


def test_factors_by_hand():
    """Leads 0.4 and -0.4 where 0.2 and -0.2 are usual: exp(e^0.2 - e^0.4) and exp(e^-0.2 - e^-0.4)."""
    factors = agm_factors(torch.tensor([0.6, 0.2]), torch.tensor([0.4, 0.2]), 1.0)
    assert factors.tolist() == pytest.approx([0.7631, 1.1600], abs=1e-4)
    # Three modalities: the lead of the first is 0.9 - 0.3 = 0.6 instead of 0.5 - 0.3 = 0.2, that of each other one
    # 0.3 - 0.6 = -0.3 instead of 0.3 - 0.4 = -0.1.
    factors = agm_factors(torch.tensor([0.9, 0.3, 0.3]), torch.tensor([0.5, 0.3, 0.3]), 0.5)
    first = math.exp(0.5 * (math.exp(0.2) - math.exp(0.6)))
    other = math.exp(0.5 * (math.exp(-0.1) - math.exp(-0.3)))
    assert factors.tolist() == pytest.approx([first, other, other], rel=1e-5)


# The running rule


def by_heads(**settings):
    """Scored by classifier heads, so that tests can name the scores."""
    return make("agm", score="head", **settings)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("habit", ["before", "with"])
def test_the_habit_is_the_plain_mean_of_all_scores_so_far(alpha, habit):
    """Transcribed in the paper's recursive form, ``tau(t) = tau(t-1) (t-1)/t + s(t)/t``, from tau(0) = 0."""
    strategy = set_up(by_heads(alpha=alpha, habit=habit), small_model())
    random = np.random.default_rng(0)
    mean = np.zeros(3)
    for t in range(1, 30):
        now = random.uniform(0.1, 0.9, 3)
        before, mean = mean, mean * (t - 1) / t + now / t
        ours = observed(strategy, now.astype(np.float32).tolist(), number=t)
        expected = numpy_factors(now, before if habit == "before" else mean, alpha)
        assert ours == pytest.approx(expected, rel=1e-4)


def test_three_steps_by_hand():
    """Nobody is used to any lead in the first step. Then leads of 0.4 where 0.2 is usual, and 0 where 0.3 is."""
    strategy = set_up(by_heads(), small_model(("flair", "t1")))
    pair = ("flair", "t1")
    for scores, lead, usual in (([0.6, 0.4], 0.2, 0.0), ([0.7, 0.3], 0.4, 0.2), ([0.5, 0.5], 0.0, 0.3)):
        expected = [math.exp(math.exp(sign * usual) - math.exp(sign * lead)) for sign in (1, -1)]
        assert observed(strategy, scores, pair) == pytest.approx(expected, rel=1e-5)


def test_the_excess_is_capped():
    """Used to a lead of 3 and level now: exp(3) - 1 = 19.1, of which 10 count, or 2."""
    level, used = torch.zeros(2), torch.tensor([1.5, -1.5])
    assert agm_factors(level, used, 0.1)[0].item() == pytest.approx(math.e)
    assert agm_factors(level, used, 0.1, cap=2.0)[0].item() == pytest.approx(math.exp(0.2))
    assert agm_factors(level, used, 0.1, cap=100.0)[0].item() == pytest.approx(math.exp(0.1 * (math.exp(3) - 1)))


def test_a_missing_modality_keeps_factor_and_habit_and_others_are_compared_among_themselves():
    strategy = set_up(by_heads(), small_model())
    observed(strategy, [0.5, 0.3, 0.4])
    before = observed(strategy, [0.6, 0.2, 0.7])
    present = ("flair", "t1ce")
    after = observed(strategy, [0.9, 0.4], present)
    habit = [(0.5 + 0.6) / 2, (0.4 + 0.7) / 2]
    assert after[1] == before[1]
    assert [after[0], after[2]] == pytest.approx(numpy_factors([0.9, 0.4], habit, 1.0), rel=1e-4)
    # Its habit is the mean of the two steps in which it was there.
    habit = [(0.5 + 0.6 + 0.9) / 3, (0.3 + 0.2) / 2, (0.4 + 0.7 + 0.4) / 3]
    assert observed(strategy, [0.5, 0.5, 0.5]) == pytest.approx(numpy_factors([0.5] * 3, habit, 1.0), rel=1e-4)


def test_nobody_is_used_to_a_lead_over_a_modality_that_was_never_there():
    strategy = set_up(by_heads(), small_model())
    observed(strategy, [0.9, 0.4], ("flair", "t1ce"))
    assert observed(strategy, [0.5, 0.5, 0.5]) == [1, 1, 1]


def test_a_lone_modality_is_not_compared():
    strategy = set_up(by_heads(), small_model())
    before = observed(strategy, [0.6, 0.2, 0.7])
    observed(strategy, [0.2], ("t1",))
    assert strategy.factor.tolist() == pytest.approx([before[0], 1, before[2]])


def test_a_step_that_cannot_be_used_is_no_part_of_the_habit():
    strategy, other = (set_up(by_heads(), small_model()) for _ in range(2))
    for each in (strategy, other):
        observed(each, [0.5, 0.3, 0.4])
    observed(other, [float("nan"), 0.9, 0.9], usable=False)
    assert observed(strategy, [0.6, 0.2, 0.7]) == observed(other, [0.6, 0.2, 0.7])


@pytest.mark.parametrize("score", ["loss", "head"])
def test_steps_of_sgd_move_each_encoder_by_its_factor_times_the_joint_gradient(score):
    """Scores are transcribed in NumPy; the heads only watch."""
    strategy, model = make("agm", alpha=2.0, score=score), vector_model()
    with torch.no_grad():  # a head that is sure of itself, so that losses are far apart
        model.head.weight *= 5
    set_up(strategy, model, problem=CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=0.5, momentum=0, weight_decay=0), CPU)
    total = np.zeros(3)
    for number in range(4):
        batch, twin = vector_batch(number, samples=16), vector_model()
        twin.load_state_dict(model.state_dict())
        now = head_scores(model, strategy, batch) if score == "head" else response_scores(model, batch)
        expected = numpy_factors(now, total / max(number, 1), 2.0)
        total += now
        one_step(model, strategy, optimizer, batch, number, CLASSIFICATION, clip_norm=1e9)
        CLASSIFICATION.criterion(twin(batch.inputs), batch.target).backward()
        assert strategy.factor.numpy() == pytest.approx(expected, rel=1e-4)
        for m, factor in zip(MODALITIES, expected, strict=True):
            for new, old in zip(model.modality_parameters(m), twin.modality_parameters(m), strict=True):
                torch.testing.assert_close(new, old - 0.5 * float(factor) * old.grad, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 0.05


# The part of the fused logits that is a modality's


def brute_force_responses(model, features, order):
    """By the definition: the mean over all orders of what a modality adds to those before it, from zeros."""
    found = dict.fromkeys(order, 0.0)
    orders = list(permutations(order))
    for joining in orders:
        before = torch.zeros(())
        for i, m in enumerate(joining):
            given = {
                n: f if n in joining[: i + 1] else f._replace(maps=tuple(torch.zeros_like(x) for x in f.maps))
                for n, f in features.items()
            }
            after = model.head(model.fuse(given)[0])
            found[m] = found[m] + (after - before) / len(orders)
            before = after
    return found


@pytest.mark.parametrize("modalities", [MODALITIES[:2], MODALITIES])
@pytest.mark.parametrize("kind", ["linear head", "decoder"])
def test_responses_are_shapley_values_of_the_logits(kind, modalities):
    """Against the definition, and they sum to the logits; a linear head's shares are the same without predicting."""
    model = vector_model(modalities) if kind == "linear head" else small_model(modalities)
    batch = (vector_batch if kind == "linear head" else small_batch)(modalities=modalities)
    features = model.encode(batch.inputs)
    found = shapley_responses(model, features, modalities, 8, torch.Generator())
    with torch.no_grad():
        expected = brute_force_responses(model.eval(), features, modalities)
        logits = model.head(model.fuse(features)[0])
    assert list(found) == list(modalities)
    for m in modalities:
        torch.testing.assert_close(found[m], expected[m], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(found.values()), logits, rtol=1e-4, atol=1e-5)


def test_scores_of_a_decoder_are_minus_the_loss_of_each_response():
    strategy, model, batch = make("agm"), small_model(), small_batch()
    set_up(strategy, model)
    with torch.no_grad():
        responses = brute_force_responses(copy.deepcopy(model).eval(), model.encode(batch.inputs), MODALITIES)
        losses = [SEGMENTATION.criterion(responses[m], batch.target).item() for m in MODALITIES]
    one_step(model, strategy, make_optimizer(model, strategy, OptimConfig(), CPU), batch)
    assert strategy.total.tolist() == pytest.approx([-loss for loss in losses], rel=1e-4)
    expected = numpy_factors([-loss for loss in losses], np.zeros(3), 1.0)
    assert strategy.factor.tolist() == pytest.approx(expected, rel=1e-4)
    assert model.training


def response_scores(model, batch: Batch):
    """Minus the cross-entropy of each modality's slice of the head with its share of the bias."""
    weight, bias = (p.detach().double().numpy() for p in (model.head.weight, model.head.bias))
    found = []
    for i, m in enumerate(model.modalities):
        with torch.no_grad():
            hidden = model.encoders[m](batch.inputs[m]).double().numpy()
        e = np.exp(hidden @ weight[:, 5 * i : 5 * i + 5].T + bias / len(model.modalities))
        found.append(np.log((e / e.sum(1, keepdims=True))[np.arange(len(e)), batch.target.numpy()]).mean())
    return np.array(found)


def head_scores(model, strategy, batch: Batch):
    found = []
    for m in MODALITIES:
        last = strategy.heads.heads[m].last
        with torch.no_grad():
            hidden = model.encoders[m](batch.inputs[m]).double().numpy()
        e = np.exp(hidden @ last.weight.detach().double().numpy().T + last.bias.detach().double().numpy())
        found.append((e[np.arange(len(e)), batch.target.numpy()] / e.sum(1)).mean())
    return np.array(found)


def test_an_impossible_cap_is_named():
    with pytest.raises(ConfigError, match=r"strategy\.cap is 0, expected more than 0"):
        make("agm", cap=0)


@pytest.mark.parametrize("alpha", [-0.1, 10.5, float("nan")])
def test_an_impossible_strength_is_named(alpha):
    with pytest.raises(ConfigError, match=r"strategy\.alpha is .*, expected from 0 to 10"):
        make("agm", alpha=alpha)
