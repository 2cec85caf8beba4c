"""OPM: the paper's rates in NumPy and by hand, what is left out of the fusion, how often, and what it knows by then."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.config import OptimConfig
from cggm_med.errors import ConfigError
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.opm import drop_rates
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
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
from cggm_med.types import Batch, Features

score = st.floats(0, 1, width=32)
AHEAD = (0.8, 0.4, 0.6)  # ratios 1.6, 4/7 and 1: the first alone is ahead


def opm(model, recent, problem=CLASSIFICATION, **settings):
    """A strategy that has seen every modality once, with these scores."""
    strategy = set_up(make("opm", **{"warmup": 0.0, "probability": 1.0, **settings}), model, problem=problem)
    strategy.observe = lambda *_: None
    strategy.recent = 0.1 * torch.tensor(recent)
    strategy.seen = torch.ones(len(recent))
    return strategy


def vectors(samples, modalities=MODALITIES):
    return {m: Features((torch.ones(samples, 1),)) for m in modalities}


def kept(features):
    """Which sample keeps which modality, ``(batch, modality)``."""
    return torch.stack([f.present for f in features.values()], dim=1)


# The rates


@given(
    values=st.lists(score, min_size=2, max_size=6),
    base=st.floats(0, 1),
    growth=st.floats(0, 3),
)
def test_the_papers_rates_written_in_numpy(values, base, growth):
    s = np.array(values)
    rho = np.array([(x + 1e-6) / (np.delete(s, i).mean() + 1e-6) for i, x in enumerate(s)])
    r = np.tanh(np.maximum(rho - 1, 0))
    q = np.where(r > 0, np.clip(base * (1 + growth * r), 0, 1), 0)
    clear = abs(rho - 1) > 1e-4  # rounding decides closer to the tie
    rates = drop_rates(torch.tensor(values), base, growth).double().numpy()
    np.testing.assert_allclose(rates[clear], q[clear], rtol=1e-3, atol=1e-4)


@given(st.lists(score, min_size=1, max_size=6).map(torch.tensor), st.floats(0, 1), st.floats(0, 3))
def test_rates_are_probabilities_and_the_weakest_is_never_left_out(values, base, growth):
    rates = drop_rates(values, base, growth)
    assert ((rates >= 0) & (rates <= 1)).all()
    assert rates[values.argmin()] == 0


@given(st.integers(1, 6), score)
def test_nobody_is_left_out_at_a_tie(count, value):
    assert drop_rates(torch.full((count,), value), 1.0, 1.0).tolist() == [0] * count


def test_rates_by_hand():
    """Ratio 1.6: 0.5 (1 + 0.5 tanh 0.6) = 0.6343; a small lead has the base rate; beyond one it is one."""
    assert drop_rates(torch.tensor(AHEAD), 0.5, 0.5).tolist() == pytest.approx([0.6343, 0, 0], abs=1e-4)
    assert drop_rates(torch.tensor([0.5001, 0.5]), 0.5, 0.5).tolist() == pytest.approx([0.5, 0], abs=1e-3)
    assert drop_rates(torch.tensor([1.0, 0.0]), 0.8, 0.5).tolist() == [1, 0]
    # Two ahead of a third: 0.8 over 0.5 and 0.8 over 0.5.
    both = 0.5 * (1 + 0.5 * math.tanh(0.6))
    assert drop_rates(torch.tensor([0.8, 0.8, 0.2]), 0.5, 0.5).tolist() == pytest.approx([both, both, 0])


# How often


def test_every_modality_is_left_out_at_its_rate_and_independently():
    """Monte Carlo, 20 000 samples: four standard deviations."""
    samples = 20_000
    recent = (0.8, 0.9, 0.2)
    rates = drop_rates(torch.tensor(recent), 0.4, 0.5).numpy()
    gone = ~kept(opm(vector_model(), recent, drop_base=0.4).adapt_features(vectors(samples), Step(0, STEPS))).numpy()
    assert (np.abs(gone.mean(0) - rates) <= 4 * np.sqrt(rates * (1 - rates) / samples)).all()
    both = rates[0] * rates[1]
    assert (gone[:, 0] & gone[:, 1]).mean() == pytest.approx(both, abs=4 * math.sqrt(both * (1 - both) / samples))
    assert not gone[:, 2].any()


def test_it_acts_in_a_share_of_the_steps():
    """With a rate of 1, whatever acts leaves out: 0.7 of 1000 steps, within four standard deviations."""
    strategy = opm(vector_model(), AHEAD, drop_base=1.0, probability=0.7)
    features = vectors(2)
    acted = [strategy.adapt_features(features, Step(n, 1000)) is not features for n in range(1000)]
    assert np.mean(acted) == pytest.approx(0.7, abs=4 * math.sqrt(0.7 * 0.3 / 1000))


@pytest.mark.parametrize("part", [0, 1])
def test_it_acts_in_all_parts_of_a_batch_or_in_none(part):
    strategy = opm(vector_model(), AHEAD, drop_base=1.0, probability=0.5)
    features = vectors(2)
    for number in range(20):
        whole = strategy.adapt_features(features, Step(number, STEPS)) is features
        assert (strategy.adapt_features(features, Step(number, STEPS, part=part, parts=2)) is features) == whole


@pytest.mark.parametrize(
    ("settings", "number"),
    [({"warmup": 0.06}, 5), ({"warmup": 0.06}, 0), ({"probability": 0.0}, 50), ({"drop_base": 0.0}, 50)],
)
def test_nothing_is_left_out_in_the_warm_up_or_without_rate_or_probability(settings, number):
    strategy = opm(vector_model(), AHEAD, **settings)
    fused = strategy.adapt_features(vectors(1000), Step(number, STEPS))
    assert all(f.present is None or f.present.all() for f in fused.values())


def test_the_warm_up_ends_with_its_share_of_the_run():
    strategy = opm(vector_model(), AHEAD, warmup=0.06)
    assert not kept(strategy.adapt_features(vectors(100), Step(6, STEPS)))[:, 0].all()


# What


def test_every_sample_keeps_a_modality_also_one_that_has_only_the_strongest():
    strategy = opm(vector_model(), (0.9, 0.1, 0.1), drop_base=1.0)
    features = vectors(4)
    features["t1"] = Features(features["t1"].maps, torch.tensor([True, False, True, False]))
    features["t1ce"] = Features(features["t1ce"].maps, torch.tensor([True, True, False, False]))
    mask = kept(strategy.adapt_features(features, Step(0, STEPS)))
    # Present before and not the strongest, save in the last sample, which has nothing else.
    assert mask.tolist() == [[False, True, True], [False, False, True], [False, True, False], [True, False, False]]


def test_all_scales_of_a_modality_are_left_out_together():
    """Each sample's fused pyramid is that of a patient who was never scanned with what was left out."""
    model, batch = small_model().eval(), small_batch(samples=8)
    features = model.encode(batch.inputs)
    strategy = opm(model, (0.9, 0.8, 0.2), PROBLEMS["segmentation"])
    seen = strategy.adapt_features(features, Step(0, STEPS))
    mask = kept(seen)
    assert 0 < mask[:, :2].sum() < 16
    fused = model.fusion([seen])[0]
    assert len(fused) == 3
    for i, row in enumerate(mask):
        alone = {m: batch.inputs[m][i : i + 1] for m, here in zip(MODALITIES, row, strict=True) if here}
        for ours, expected in zip(fused, model.fusion([model.encode(alone)])[0], strict=True):
            torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-4, atol=1e-5)


def test_what_is_left_out_trains_no_encoder():
    """A rate of 1 for the strongest: its encoder gets no gradient from the fused loss, and the heads send none."""
    model, batch = vector_model(), vector_batch()
    strategy = opm(model, (1.0, 0.0, 0.0), drop_base=1.0)
    before = {m: [p.detach().clone() for p in model.modality_parameters(m)] for m in MODALITIES}
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", momentum=0, weight_decay=0), CPU)
    one_step(model, strategy, optimizer, batch, 0, CLASSIFICATION)
    still = {
        m: all(torch.equal(a, b) for a, b in zip(before[m], model.modality_parameters(m), strict=True))
        for m in MODALITIES
    }
    assert still == {"flair": True, "t1": False, "t1ce": False}


def unit_model(modalities):
    """Each modality's feature is 1, so that the fused vector is made of the weights with which they count."""
    return LateFusionModel({m: torch.nn.Linear(1, 1) for m in modalities}, dict.fromkeys(modalities, 1), targets=2)


@pytest.mark.parametrize("recent", [(0.8, 0.4), AHEAD, (0.8, 0.9, 0.2), (0.9, 0.8, 0.7, 0.1)])
def test_the_weights_of_a_sample_sum_to_the_number_of_modalities_as_the_papers_do_on_average(recent):
    """The paper multiplies what is kept by 1 / (1 - theta), theta the mean rate weighted by the features' widths."""
    names = tuple("abcd")[: len(recent)]
    model, samples = unit_model(names), 20_000
    seen = opm(model, recent).adapt_features(vectors(samples, names), Step(0, STEPS))
    weights = model.fuse(seen)[0]
    torch.testing.assert_close(weights.sum(1), torch.full((samples,), float(len(names))))
    theta = drop_rates(torch.tensor(recent), 0.5, 0.5).mean().item()
    paper = kept(seen).sum(1).double().numpy() / (1 - theta)
    assert paper.std() > 0.1
    assert paper.mean() == pytest.approx(len(names), abs=4 * paper.std() / math.sqrt(samples))


def test_the_draw_belongs_to_the_step():
    strategy, features = opm(vector_model(), AHEAD), vectors(64)
    first, again, later, other = (
        kept(strategy.adapt_features(features, step))
        for step in (Step(3, STEPS), Step(3, STEPS), Step(4, STEPS), Step(3, STEPS, seed=1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, other)


def test_two_parts_of_a_batch_leave_out_what_the_whole_would():
    strategy = opm(vector_model(), AHEAD)
    whole = kept(strategy.adapt_features(vectors(64), Step(0, STEPS)))
    halves = [kept(strategy.adapt_features(vectors(32), Step(0, STEPS, part=i, parts=2))) for i in range(2)]
    assert torch.equal(torch.cat(halves), whole)


# What it knows


def test_rates_come_from_the_steps_before_as_a_running_mean_of_the_papers_scores():
    """Transcribed: the mean of past scores with weights 0.9 ** age. Rates seen at each step, against NumPy."""
    strategy, model = make("opm", warmup=0.0, probability=1.0), vector_model()
    set_up(strategy, model, problem=CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, OptimConfig(lr=0.05), CPU)
    past = []
    for number in range(6):
        if past:
            ages = 0.9 ** np.arange(len(past))[::-1]
            s = (ages[:, None] * np.array(past)).sum(0) / ages.sum()
            rho = np.array([x / np.delete(s, i).mean() for i, x in enumerate(s)])
            expected = np.where(rho > 1, 0.5 * (1 + 0.5 * np.tanh(rho - 1)), 0)
        else:
            expected = np.zeros(3)
        assert strategy.diagnostics()["drop_rate"].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-5)
        batch = vector_batch(number, samples=8)
        past.append(true_class_scores(model, batch))
        one_step(model, strategy, optimizer, batch, number, CLASSIFICATION)
        assert strategy.score.numpy() == pytest.approx(past[-1], rel=1e-4)


def test_a_modality_that_was_often_missing_does_not_look_weak():
    """Seen once with 0.5, its running mean is 0.05; that of the others, seen three times, 0.1355."""
    strategy = opm(vector_model(), (0.5, 0.5, 0.5), drop_base=1.0)
    strategy.seen = torch.tensor([3.0, 1.0, 3.0])
    strategy.recent = torch.tensor([0.1355, 0.05, 0.1355])
    assert kept(strategy.adapt_features(vectors(100), Step(0, STEPS))).all()


def true_class_scores(model, batch):
    """Softmax of each modality's slice of the head with a third of its bias, at the true class; all of them seen."""
    weight, bias = (x.detach().double().numpy() for x in (model.head.weight, model.head.bias))
    found = []
    for i, m in enumerate(MODALITIES):
        with torch.no_grad():
            hidden = model.encoders[m](batch.inputs[m]).double().numpy()
        e = np.exp(hidden @ weight[:, 5 * i : 5 * i + 5].T + bias / 3)
        found.append((e[np.arange(len(e)), batch.target.numpy()] / e.sum(1)).mean())
    return np.array(found)


def test_what_is_left_out_of_a_batch_does_not_depend_on_its_target():
    masks = []
    for target in (torch.zeros(4, dtype=torch.long), torch.tensor([3, 2, 1, 0])):
        strategy, model = opm(vector_model(), AHEAD), vector_model()
        fuse_views, seen = model.fuse_views, []
        model.fuse_views = lambda views, fuse_views=fuse_views, seen=seen: (seen.extend(views), fuse_views(views))[1]
        optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
        batch = vector_batch()
        one_step(model, strategy, optimizer, Batch(batch.inputs, target, batch.ids), 0, CLASSIFICATION)
        masks.append(kept(seen[0]))
    assert torch.equal(*masks)


def test_left_out_modalities_are_scored_all_the_same():
    """Otherwise the strongest would look weak because it was left out."""
    model, batch = vector_model(), vector_batch()
    expected = true_class_scores(model, batch)
    strategy = opm(model, (1.0, 0.0, 0.0), drop_base=1.0)
    one_step(model, strategy, make_optimizer(model, strategy, OptimConfig(), CPU), batch, 0, CLASSIFICATION)
    assert strategy.score.numpy() == pytest.approx(expected, rel=1e-4)


def test_the_first_step_has_nothing_to_compare():
    first = trained(make("opm", warmup=0.0, probability=1.0, drop_base=1.0), steps=1, problem=CLASSIFICATION)
    assert same_bits(first, trained(make("joint"), steps=1, problem=CLASSIFICATION))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_base": 1.1}, r"strategy\.drop_base is 1\.1"),
        ({"growth": -1.0}, r"strategy\.growth is -1\.0"),
        ({"probability": -0.1}, r"strategy\.probability is -0\.1"),
        ({"warmup": 1.0}, r"strategy\.warmup is 1\.0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        make("opm", **settings)


def test_nobody_is_ahead_of_a_modality_that_was_never_seen():
    strategy, model = make("opm", warmup=0.0, probability=1.0), vector_model()
    set_up(strategy, model, problem=CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    for number in range(3):
        batch = vector_batch(number)
        lacking = Batch({m: batch.inputs[m] for m in ("flair", "t1")}, batch.target, batch.ids)
        one_step(model, strategy, optimizer, lacking, number, CLASSIFICATION)
    features = model.encode(vector_batch(3, samples=64).inputs)
    adapted = strategy.adapt_features(features, Step(3, 100))
    assert all(f.present is None or f.present.all() for f in adapted.values())
    strategy.seen.clamp_min_(1)
    assert not strategy.adapt_features(features, Step(3, 100))["flair"].present.all()
