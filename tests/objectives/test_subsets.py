"""Seeing subsets: what is drawn and how often, and that both options do to a step what a computation by hand does."""

import copy
import itertools
from dataclasses import replace
from math import sqrt

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.objectives.subsets import (
    MAX_MODALITIES,
    draw_subset,
    drop_modalities,
    modality_dropout,
    subset_probabilities,
    subset_view,
    subset_view_weight,
    subsets,
)
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.runs.settings import instantiate, make_config
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    SEGMENTATION,
    STEPS,
    make,
    one_step,
    set_up,
    small_model,
)
from cggm_med.types import Features

MANY = 20000
PLAIN_SGD = OptimConfig(name="sgd", lr=1e-9, momentum=0, weight_decay=0)


def features_of(samples, modalities=3, masks=None, scales=1):
    """Features without content; ``masks`` ``(samples, modalities)`` says which sample has which modality."""
    columns = [None] * modalities if masks is None else torch.as_tensor(masks, dtype=torch.bool).unbind(1)
    maps = tuple(torch.zeros(samples, 1) for _ in range(scales))
    return {f"m{i}": Features(maps, column) for i, column in enumerate(columns)}


def masks_of(features):
    return torch.stack([f.present for f in features.values()], dim=1)


def near(rate, expected, samples=MANY):
    """Within four standard errors of a share."""
    return abs(float(rate) - expected) <= 4 * sqrt(max(expected * (1 - expected), 1e-9) / samples)


def shares_of_patterns(masks):
    """How often each combination of modalities was drawn."""
    patterns, counts = masks.unique(dim=0, return_counts=True)
    return {tuple(p): c / len(masks) for p, c in zip(patterns.tolist(), counts.tolist(), strict=True)}


# All subsets


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_table_has_every_proper_subset_once(count):
    expected = [
        tuple(i in chosen for i in range(count))
        for size in range(1, count)
        for chosen in itertools.combinations(range(count), size)
    ]
    assert sorted(map(tuple, subsets(count).tolist())) == sorted(expected)


def test_a_table_that_would_grow_too_long_is_refused():
    assert len(subsets(MAX_MODALITIES)) == 2**MAX_MODALITIES - 2
    with pytest.raises(ValueError, match=f"at most {MAX_MODALITIES} modalities"):
        subsets(MAX_MODALITIES + 1)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6))
def test_guided_subsets_lack_the_strongest_two_times_in_three_and_are_equal_otherwise(scores):
    assume(min(scores) < max(scores))
    table = subsets(len(scores))
    probability = subset_probabilities(table, torch.tensor(scores))
    strongest = table[:, scores.index(max(scores))]
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    assert probability[~strongest].sum().item() == pytest.approx(2 / 3, abs=1e-5)
    assert len(probability[strongest].unique()) == len(probability[~strongest].unique()) == 1


def test_guided_probabilities_by_hand():
    """Of three, m1 leads: three subsets have it (1/9 each), three do not (2/9 each)."""
    probability = subset_probabilities(subsets(3), torch.tensor([0.2, 0.9, 0.5]))
    found = dict(zip(map(tuple, subsets(3).int().tolist()), probability.tolist(), strict=True))
    for subset, value in found.items():
        assert value == pytest.approx(1 / 9 if subset[1] else 2 / 9)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_where_all_score_alike_nobody_is_strongest(value):
    """As before the first score, when all are zero."""
    assert torch.equal(subset_probabilities(subsets(3), torch.full((3,), value)), torch.full((6,), 1 / 6))


# Drawing a subset


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("guided", [False, True])
def test_drawn_subsets_come_as_often_as_they_should(count, guided):
    scores = torch.linspace(0.1, 0.9, count) if guided else None
    drawn = draw_subset(features_of(MANY, count), Step(0, STEPS), scores)
    probability = subset_probabilities(subsets(count), scores)
    found = shares_of_patterns(masks_of(drawn))
    assert len(found) == 2**count - 2  # proper and not empty
    for subset, expected in zip(subsets(count).tolist(), probability.tolist(), strict=True):
        assert near(found[tuple(subset)], expected)


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=8), st.integers(0, 99)
)
def test_a_subset_shows_no_sample_more_than_it_has_and_none_of_them_nothing(masks, number):
    masks = torch.tensor(masks)
    kept = masks_of(draw_subset(features_of(len(masks), masks=masks), Step(number, STEPS)))
    assert not (kept & ~masks).any()
    assert kept.any(1).all()
    assert not kept.all(1).any()


def test_a_sample_that_lacks_the_whole_subset_is_seen_with_what_it_has():
    """With one modality of three, half of the subsets miss it; either way that one is seen."""
    only = torch.zeros(64, 3, dtype=torch.bool)
    only[:, 1] = True
    assert torch.equal(masks_of(draw_subset(features_of(64, masks=only), Step(0, STEPS))), only)


def test_a_view_has_the_maps_of_the_features_themselves():
    """So that encoders run once, and all scales of a modality go together."""
    features = features_of(4, scales=3)
    for view in (draw_subset(features, Step(0, STEPS)), drop_modalities(features, 0.5, Step(0, STEPS), "key")):
        assert list(view) == list(features)
        assert all(view[m].maps is features[m].maps for m in features)


# Whether a step has a view


def viewed(number=0, count=3, **settings):
    return subset_view(features_of(4, count), TrainConfig(**settings), Step(number, STEPS), None)


def test_a_view_is_taken_every_so_many_steps():
    taken = [n for n in range(10) if viewed(n, subset_view=0.5, subset_view_every=4) is not None]
    assert taken == [0, 4, 8]


def test_there_is_no_view_of_one_modality_or_without_weight():
    assert viewed(count=1, subset_view=0.5) is None
    assert viewed() is None
    assert viewed(count=2, subset_view=0.5) is not None


def test_scores_guide_only_if_asked():
    """They say m1 is strongest; it is then in a third of the subsets, and otherwise in half of them."""
    scores, features = torch.tensor([0.1, 0.9, 0.2]), features_of(MANY)
    for guided, expected in ((False, 1 / 2), (True, 1 / 3)):
        settings = TrainConfig(subset_view=1.0, subset_view_guided=guided)
        view = subset_view(features, settings, Step(0, STEPS), scores)
        assert near(masks_of(view)[:, 1].float().mean(), expected)


def test_a_guide_without_scores_is_an_error():
    with pytest.raises(ConfigError, match=r"subset_view_guided .* set strategy\.heads=true"):
        viewed(subset_view=1.0, subset_view_guided=True)


def test_the_weight_of_a_view_may_fall_linearly_to_zero():
    constant, annealed = (TrainConfig(subset_view=0.5, subset_view_schedule=x) for x in ("constant", "annealed"))
    assert [subset_view_weight(constant, Step(n, STEPS)) for n in (0, 99)] == [0.5, 0.5]
    assert [subset_view_weight(annealed, Step(n, STEPS)) for n in (0, 25, 99)] == pytest.approx([0.5, 0.375, 0.005])


# Modality dropout


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3).filter(any), min_size=1, max_size=8),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_dropout_leaves_every_sample_something_it_has(masks, rate, number):
    masks = torch.tensor(masks)
    kept = masks_of(drop_modalities(features_of(len(masks), masks=masks), rate, Step(number, STEPS), "key"))
    assert not (kept & ~masks).any()
    assert kept.any(1).all()


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("rate", [0.25, 0.6, 1.0])
def test_dropout_rates(count, rate):
    """Each pattern by itself: independent coins, and where all fall, one modality is kept, each as often."""
    found = shares_of_patterns(masks_of(drop_modalities(features_of(MANY, count), rate, Step(0, STEPS), "key")))
    for pattern in itertools.product((False, True), repeat=count):
        kept = sum(pattern)
        expected = rate ** (count - kept) * (1 - rate) ** kept if kept else 0.0
        if kept == 1:
            expected += rate**count / count
        assert near(found.get(pattern, 0), expected), pattern


def test_each_modality_may_have_a_rate_of_its_own():
    kept = masks_of(drop_modalities(features_of(MANY), torch.tensor([0.7, 0.0, 0.2]), Step(0, STEPS), "key"))
    for column, rate in zip(kept.unbind(1), (0.7, 0.0, 0.2), strict=True):
        assert near(1 - column.float().mean(), rate)


def test_a_rate_of_zero_keeps_all_and_a_rate_of_one_keeps_one():
    features, step = features_of(64), Step(0, STEPS)
    assert masks_of(drop_modalities(features, 0.0, step, "key")).all()
    assert (masks_of(drop_modalities(features, 1.0, step, "key")).sum(1) == 1).all()
    assert modality_dropout(features, TrainConfig(), step) is features


def test_the_only_modality_is_never_dropped():
    features = features_of(4, 1)
    assert drop_modalities(features, 1.0, Step(0, STEPS), "key") == features


def test_an_annealed_rate_falls_linearly_to_zero():
    """Of 100 steps, 0.8 at the first, 0.6 after 25, 0.4 after 50, 0.008 at the last."""
    features = features_of(MANY)
    settings = TrainConfig(modality_dropout=0.8, modality_dropout_schedule="annealed")
    for number, rate in ((0, 0.8), (25, 0.6), (50, 0.4), (99, 0.008)):
        step = Step(number, STEPS)
        kept = masks_of(modality_dropout(features, settings, step))
        assert near(1 - kept[:, 0].float().mean(), rate - rate**3 / 3)
        expected = drop_modalities(features, rate + 1e-12, step, "modality dropout")
        assert (kept == masks_of(expected)).float().mean() > 0.999
    constant = modality_dropout(features, TrainConfig(modality_dropout=0.8), Step(99, STEPS))
    assert near(1 - masks_of(constant)[:, 0].float().mean(), 0.8 - 0.8**3 / 3)


def drawn_by(draw, features, step):
    """Features of a random draw of one of three kinds."""
    if draw == "view":
        return draw_subset(features, step)
    return modality_dropout(features, TrainConfig(modality_dropout=0.5, modality_dropout_draw=draw), step)


def test_with_a_probability_a_sample_is_left_a_subset():
    """Half of the samples keep all; each of the six proper subsets is left to a twelfth."""
    found = shares_of_patterns(masks_of(drawn_by("subset", features_of(MANY), Step(0, STEPS))))
    for pattern in itertools.product((False, True), repeat=3):
        assert near(found.get(pattern, 0), 1 / 2 if all(pattern) else 1 / 12 if any(pattern) else 0), pattern
    features = features_of(4, 1)
    assert drawn_by("subset", features, Step(0, STEPS)) == features
    view = masks_of(draw_subset(features_of(MANY), Step(0, STEPS)))  # draws of its own
    dropped = masks_of(drawn_by("subset", features_of(MANY), Step(0, STEPS)))
    assert near((view == dropped).all(1)[~dropped.all(1)].float().mean(), 1 / 6)


def test_the_probability_of_a_subset_may_fall_too_and_is_one_for_all():
    settings = TrainConfig(modality_dropout=0.5, modality_dropout_draw="subset", modality_dropout_schedule="annealed")
    for number, rate in ((0, 0.5), (50, 0.25), (99, 0.005)):
        kept = masks_of(modality_dropout(features_of(MANY), settings, Step(number, STEPS)))
        assert near(1 - kept.all(1).float().mean(), rate)
    with pytest.raises(ConfigError, match=r"train\.modality_dropout is .*m1.*, expected one rate with .*_draw subset"):
        TrainConfig(modality_dropout={"m1": 0.4}, modality_dropout_draw="subset")


@pytest.mark.parametrize("draw", ["modality", "subset", "view"])
def test_a_sample_meets_the_same_draw_in_parts_of_a_batch(draw):
    def masks(samples, step):
        return masks_of(drawn_by(draw, features_of(samples), step))

    whole = masks(12, Step(5, STEPS))
    for parts in (2, 3):
        pieces = [masks(12 // parts, Step(5, STEPS, part=i, parts=parts)) for i in range(parts)]
        assert torch.equal(torch.cat(pieces), whole)


# Samples that lack modalities, as a training step tells


def incomplete(masks, number=0, **part):
    """Features of samples that lack modalities, and a step that knows of it; a modality nobody has has no features."""
    masks = torch.as_tensor(masks, dtype=torch.bool)
    features = features_of(len(masks), masks.shape[1], masks)
    here = {m: f for (m, f), any_ in zip(features.items(), masks.any(0), strict=True) if any_}
    return here, Step(number, STEPS, counts={m: int(c.sum()) for m, c in zip(features, masks.T, strict=True)}, **part)


@pytest.mark.parametrize("scores", [None, torch.tensor([0.1, 0.9, 0.2])])
def test_a_subset_is_drawn_among_what_the_sample_has(scores):
    """Of two modalities one is seen, as often as its subsets have weight; of three a proper subset; of one that one."""
    for has, patterns in (
        ((True, True, False), {(True, False, False), (False, True, False)}),
        ((True, True, True), set(map(tuple, subsets(3).tolist()))),
        ((False, True, False), {(False, True, False)}),
    ):
        masks = [list(has)] * (MANY - 2) + [[True, False, True]] * 2  # so that the batch has all three
        features, step = incomplete(masks)
        kept = masks_of(draw_subset(features, step, scores))[:-2]
        found = shares_of_patterns(kept)
        assert set(found) == patterns
        weight = dict(
            zip(map(tuple, subsets(3).tolist()), subset_probabilities(subsets(3), scores).tolist(), strict=True)
        )
        whole = sum(weight.get(pattern, 1) for pattern in patterns)
        for pattern, share in found.items():
            assert near(share, weight.get(pattern, 1) / whole)


def test_complete_samples_draw_the_same_subsets_whether_or_not_others_could_lack_something():
    features = features_of(64)
    known = replace(Step(3, STEPS), counts=dict.fromkeys(features, 64))
    assert torch.equal(masks_of(draw_subset(features, known)), masks_of(draw_subset(features, Step(3, STEPS))))


@pytest.mark.parametrize("draw", ["modality", "subset", "view"])
def test_a_sample_that_lacks_something_meets_the_same_draw_in_parts_of_a_batch(draw):
    random = torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    masks = torch.where(random.any(1, keepdim=True), random, torch.tensor([True, False, False]))
    masks[4:8, 0] = False  # nobody of the second part has the first
    masks[4:8, 2] = True

    def kept(rows, **part):
        features, _ = incomplete(masks[rows])
        _, step = incomplete(masks, 5, **part)
        drawn = drawn_by(draw, features, step)
        columns = [
            drawn[m].present if m in drawn else torch.zeros(len(masks[rows]), dtype=torch.bool) for m in step.counts
        ]
        return torch.stack(columns, 1)

    whole = kept(slice(None))
    assert whole.any(1).all()
    pieces = [kept(slice(4 * i, 4 * i + 4), part=i, parts=3) for i in range(3)]
    assert torch.equal(torch.cat(pieces), whole)


def test_rates_by_modality():
    features = features_of(MANY)
    kept = masks_of(modality_dropout(features, TrainConfig(modality_dropout={"m1": 0.4}), Step(0, STEPS)))
    assert [bool(column.all()) for column in kept.unbind(1)] == [True, False, True]
    assert near(1 - kept[:, 1].float().mean(), 0.4)
    halfway = TrainConfig(modality_dropout={"m1": 0.4}, modality_dropout_schedule="annealed")
    kept = masks_of(modality_dropout(features, halfway, Step(50, STEPS)))
    assert near(1 - kept[:, 1].float().mean(), 0.2)


def test_the_same_rate_for_all_draws_what_one_rate_draws():
    features, step = features_of(64), Step(7, STEPS)
    one = modality_dropout(features, TrainConfig(modality_dropout=0.5), step)
    each = modality_dropout(features, TrainConfig(modality_dropout=dict.fromkeys(features, 0.5)), step)
    assert torch.equal(masks_of(one), masks_of(each))


def test_a_rate_for_a_modality_that_the_run_does_not_have_is_an_error():
    config = make_config("brats2021", [{"train": {"modality_dropout": {"flar": 0.4}}}])
    with pytest.raises(UnknownName, match=r"no modality of train.modality_dropout 'flar'. Did you mean 'flair'"):
        instantiate(config)


# In a training step


def stepped(problem, batch, number=0, name="joint", **options):
    """The losses of one step, the model after it (as it was but for its gradient), and the strategy."""
    strategy, model = make(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    before = copy.deepcopy(model)
    losses = one_step(
        model, strategy, optimizer, batch, number, problem, clip_norm=1e9, settings=TrainConfig(**options)
    )
    return losses, model, before


def predicted(model, inputs, masks):
    """Sample by sample, from the inputs that it is seen with and no others."""
    logits = []
    for i, row in enumerate(masks.tolist()):
        seen = {m: x[i : i + 1] for (m, x), kept in zip(inputs.items(), row, strict=True) if kept}
        logits.append(model(seen))
    return torch.cat(logits)


both = pytest.mark.parametrize("problem", [SEGMENTATION, CLASSIFICATION], ids=["segmentation", "classification"])


@both
@pytest.mark.parametrize("name", ["joint", "uniform", "cggm", "mmpareto"])
def test_a_subset_view_adds_the_weighted_loss_of_its_prediction(problem, name):
    batch = problem.batch(0, samples=4)
    plain, *_ = stepped(problem, batch, name=name)
    annealed = {"subset_view": 0.3, "subset_view_schedule": "annealed"}  # from 0.3 on
    losses, _, model = stepped(problem, batch, name=name, **annealed)
    masks = masks_of(draw_subset(model.encode(batch.inputs), Step(0, STEPS)))
    expected = 0.3 * problem.criterion(predicted(model, batch.inputs, masks), batch.target)
    torch.testing.assert_close(losses.pop("subset"), expected.detach(), rtol=1e-4, atol=1e-5)
    assert losses.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-6)


@both
def test_the_gradient_with_a_subset_view_is_that_of_both_losses(problem):
    batch = problem.batch(0, samples=4)
    _, trained, model = stepped(problem, batch, subset_view=0.3)
    masks = masks_of(draw_subset(model.encode(batch.inputs), Step(0, STEPS)))
    views = torch.ones_like(masks), masks
    full, subset = (problem.criterion(predicted(model, batch.inputs, view), batch.target) for view in views)
    (full + 0.3 * subset).backward()
    for (name, expected), parameter in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)


@both
def test_dropout_changes_what_is_fused_and_not_what_heads_see(problem):
    batch = problem.batch(0, samples=4)
    plain, *_ = stepped(problem, batch)
    losses, _, model = stepped(problem, batch, modality_dropout=0.5)
    masks = masks_of(drop_modalities(model.encode(batch.inputs), 0.5, Step(0, STEPS), "modality dropout"))
    assert not masks.all()
    expected = problem.criterion(predicted(model, batch.inputs, masks), batch.target)
    torch.testing.assert_close(losses.pop("task"), expected.detach(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(losses[m], plain[m]) for m in MODALITIES)


def test_both_options_together_are_both_by_themselves():
    """The view is one of all features: dropout does not thin it out."""
    batch = SEGMENTATION.batch(0, samples=4)
    dropped, *_ = stepped(SEGMENTATION, batch, modality_dropout=0.5)
    viewed, *_ = stepped(SEGMENTATION, batch, subset_view=0.3)
    together, *_ = stepped(SEGMENTATION, batch, modality_dropout=0.5, subset_view=0.3)
    assert together.keys() == viewed.keys()
    torch.testing.assert_close(together["task"], dropped["task"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together["subset"], viewed["subset"], rtol=1e-5, atol=1e-6)


def test_a_step_without_a_view_has_no_such_loss():
    losses, *_ = stepped(SEGMENTATION, SEGMENTATION.batch(1), number=1, subset_view=0.3, subset_view_every=2)
    assert "subset" not in losses


def test_heads_guide_the_subsets_that_are_seen(monkeypatch):
    """The strongest by its recent score is what the draw is told, in the order of the features."""
    told = []
    monkeypatch.setattr("cggm_med.objectives.subsets.draw_subset", lambda features, step, scores: told.append(scores))
    strategy, model = set_up(make("joint"), small_model()), small_model()
    strategy.recent.copy_(torch.tensor([0.02, 0.03, 0.09]))
    strategy.seen.fill_(1)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    settings = TrainConfig(subset_view=1.0, subset_view_guided=True)
    one_step(model, strategy, optimizer, SEGMENTATION.batch(0), settings=settings)
    assert told[0].tolist() == pytest.approx([0.2, 0.3, 0.9], rel=1e-5)


# As strategies


@pytest.mark.parametrize(("name", "value"), [("modality_dropout", 0.25), ("subset_view", 0.5)])
def test_strategies_bring_the_option_of_their_name_and_settings_override_it(name, value):
    def option(*layers, **choice):
        return getattr(make_config("brats2021", layers, **choice).train, name)

    assert option(strategy=name) == value
    assert option({"strategy": {"name": name}}) == value
    for preset in registry.load(registry.TASKS, "brats2021").presets:
        assert option(strategy=name, preset=preset) == value
    assert option({"train": {name: 0.1}}, strategy=name) == 0.1
    assert option(strategy="joint") == 0


def test_residual_dropout_is_uniform_with_its_three_options_and_its_network():
    dropout = {"modality_dropout": 0.5, "modality_dropout_draw": "subset", "modality_dropout_schedule": "annealed"}
    by_hand = make_config("brats2021", [{"model": {"fusion": "residual"}, "train": dropout}], strategy="uniform")
    named = make_config("brats2021", [], strategy="residual_dropout")
    assert (named.model, named.train) == (by_hand.model, by_hand.train)
    assert named.strategy.unimodal_weight == by_hand.strategy.unimodal_weight
    changed = make_config("brats2021", [{"model": {"fusion": "masked_mean"}}], strategy="residual_dropout")
    assert changed.model.fusion == "masked_mean"
    with pytest.raises(ConfigError, match="'residual_dropout' needs model.fusion, which task 'mosi' does not have"):
        make_config("mosi", [], strategy="residual_dropout")


@pytest.mark.parametrize(
    ("key", "value"),
    [("modality_dropout", 1.0), ("modality_dropout", -0.1), ("subset_view", -1.0), ("subset_view", float("inf")),
     ("subset_view_every", 0)],
)  # fmt: skip
def test_impossible_options_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"train\.{key}"):
        TrainConfig(**{key: value})
