"""DGS: the axioms of Shapley values, brute force over all orders, what coalitions predict, and what a step does."""

import copy
import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import ConfigError
from cggm_med.models.heads import UnimodalHeads, VectorHead
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.objectives.balance_scores import mean_score, soft_dice_sums, true_class_sums
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies import dgs
from cggm_med.strategies.dgs import dgs_factors
from cggm_med.strategies.parts.shapley import (
    MAX_EXACT,
    coalition_sums,
    exact_plan,
    sampled_plan,
    shapley_plan,
    shapley_shares,
)
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
    trained,
)
from cggm_med.types import Batch, Features

PLAIN_SGD = OptimConfig(name="sgd", lr=0.01, momentum=0, weight_decay=0)
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
games = st.integers(1, 5).flatmap(lambda n: st.lists(st.floats(-1, 1), min_size=2**n, max_size=2**n))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def game_of(values):
    """A game from a list of 2^M values: what each coalition, a tuple of booleans, is worth."""
    players = int(math.log2(len(values)))
    keys = [tuple(bool(i >> player & 1) for player in range(players)) for i in range(len(values))]
    return players, dict(zip(keys, values, strict=True))


def by_plan(game, plan):
    coalitions, weights = plan
    worth = torch.tensor([game[tuple(row)] for row in coalitions.tolist()], dtype=torch.float64)
    return (weights.double() @ worth).tolist()


def by_orders(game, players):
    """What each player adds when it joins, averaged over all orders of joining."""
    added = [0.0] * players
    for order in permutations(range(players)):
        members = [False] * players
        for player in order:
            before = game[tuple(members)]
            members[player] = True
            added[player] += (game[tuple(members)] - before) / math.factorial(players)
    return added


# Shapley values


@given(games)
def test_exact_values_are_the_mean_over_all_orders(values):
    players, game = game_of(values)
    assert by_plan(game, exact_plan(players)) == pytest.approx(by_orders(game, players), abs=1e-6)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 6])
def test_the_exact_plan_has_every_coalition_once_from_nobody_to_everyone(players):
    coalitions, weights = exact_plan(players)
    assert len(coalitions) == len(set(map(tuple, coalitions.tolist()))) == 2**players
    assert not coalitions[0].any()
    assert coalitions[-1].all()
    assert weights.shape == (players, 2**players)


@given(games, st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_values_add_up_to_what_everyone_has_over_nobody(values, orders, seed):
    """Efficiency: exactly so, however few orders are drawn."""
    players, game = game_of(values)
    for plan in (exact_plan(players), sampled_plan(players, orders, seeded(seed))):
        gain = game[(True,) * players] - game[(False,) * players]
        assert sum(by_plan(game, plan)) == pytest.approx(gain, abs=1e-5)


@given(games.filter(lambda values: len(values) > 2))
def test_players_who_are_alike_get_alike(values):
    players, game = game_of(values)
    swapped = {key: game[(key[1], key[0], *key[2:])] for key in game}
    alike = {key: (game[key] + swapped[key]) / 2 for key in game}
    first, second, *_ = by_plan(alike, exact_plan(players))
    assert first == pytest.approx(second, abs=1e-6)


@given(games, st.integers(1, 30))
def test_a_player_who_adds_nothing_gets_nothing(values, orders):
    players, game = game_of(values)
    idle = {key: game[(False, *key[1:])] for key in game}
    for plan in (exact_plan(players), sampled_plan(players, orders, seeded())):
        assert by_plan(idle, plan)[0] == pytest.approx(0, abs=1e-6)


def test_the_glove_game_by_hand():
    """One has a left glove, two have a right one, a pair is worth 1: 2/3, 1/6, 1/6 (the textbook's example)."""
    game = {(a, b, c): float(a and (b or c)) for a in (False, True) for b in (False, True) for c in (False, True)}
    assert by_plan(game, exact_plan(3)) == pytest.approx([2 / 3, 1 / 6, 1 / 6])


def random_game(players, seed=0):
    return game_of(torch.rand(2**players, generator=seeded(seed)).tolist())[1]


def test_drawn_orders_are_right_on_average():
    """Five players, eight orders: the mean over 400 draws, within four standard errors."""
    game = random_game(5)
    found = torch.tensor([by_plan(game, sampled_plan(5, 8, seeded(seed))) for seed in range(400)])
    error = found.mean(0) - torch.tensor(by_orders(game, 5))
    assert (error.abs() <= 4 * found.std(0) / 400**0.5).all()
    assert found.std(0).min() > 0


def test_more_orders_come_closer():
    """The error of a mean falls as one over the root of the number: a quarter with 16 times as many."""
    game = random_game(6)
    exact = torch.tensor(by_orders(game, 6))

    def error(orders):
        found = [by_plan(game, sampled_plan(6, orders, seeded(seed))) for seed in range(16)]
        return (torch.tensor(found) - exact).square().mean().sqrt().item()

    assert error(320) == pytest.approx(error(20) / 4, rel=0.4)
    assert error(320) < 0.03


def test_with_as_many_orders_as_there_are_each_is_taken_once():
    game = random_game(5)
    assert by_plan(game, sampled_plan(5, 120, seeded())) == pytest.approx(by_orders(game, 5), abs=1e-6)
    assert by_plan(game, sampled_plan(5, 119, seeded())) != pytest.approx(by_orders(game, 5), abs=1e-6)


def test_values_are_exact_up_to_four_players_and_sampled_above():
    assert [len(shapley_plan(n, 1, seeded())[0]) for n in (3, MAX_EXACT, MAX_EXACT + 1)] == [8, 16, 6]


# What a coalition predicts


def network_with_memory():
    """A network whose last part has running statistics and dropout."""
    torch.manual_seed(0)
    encoders = {m: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)) for m in MODALITIES}
    model = LateFusionModel(encoders, dict.fromkeys(MODALITIES, 5), 4)
    model.head = nn.Sequential(nn.BatchNorm1d(15), nn.Dropout(0.5), nn.Linear(15, 4))
    for _ in range(3):
        model(CLASSIFICATION.batch().inputs)  # running means that are not zero
    return model


@every_problem
def test_each_coalition_scores_what_its_inputs_alone_predict(problem):
    model, batch = problem.model(), problem.batch()
    coalitions, _ = exact_plan(3)
    found = coalition_sums(model, model.encode(batch.inputs), batch.target, problem.score_sums, coalitions)
    for members, sums in zip(coalitions[1:].tolist(), found[1:], strict=True):
        given_inputs = {m: x for (m, x), member in zip(batch.inputs.items(), members, strict=True) if member}
        torch.testing.assert_close(sums, problem.score_sums(model(given_inputs), batch.target), rtol=1e-5, atol=1e-5)
    assert mean_score(found)[0].unique().numel() > 4


def test_nobody_predicts_the_bias_of_a_linear_head():
    model, batch = CLASSIFICATION.model(), CLASSIFICATION.batch()
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    (found,) = coalition_sums(model, model.encode(batch.inputs), batch.target, true_class_sums, nobody)
    expected = true_class_sums(model.head.bias.expand(len(batch.target), -1), batch.target)
    torch.testing.assert_close(found, expected)


def test_nobody_predicts_what_a_decoder_makes_of_nothing():
    problem = PROBLEMS["segmentation"]
    model, batch = problem.model(), problem.batch()
    features = model.encode(batch.inputs)
    nobody = torch.zeros(1, 3, dtype=torch.bool)
    (found,) = coalition_sums(model, features, batch.target, soft_dice_sums, nobody)
    nothing = tuple(torch.zeros_like(x) for x in features["t1"].maps)
    expected = soft_dice_sums(model.head(model.decoder(nothing)[0]), batch.target)
    torch.testing.assert_close(found, expected)


def test_samples_that_lack_a_modality_lack_it_in_every_coalition():
    model, batch = CLASSIFICATION.model(), CLASSIFICATION.batch()
    features = model.encode(batch.inputs)
    lacking = torch.tensor([True, False, True, False])
    features["t1"] = Features(features["t1"].maps, lacking)
    pair = torch.tensor([[True, True, False]])
    (found,) = coalition_sums(model, features, batch.target, true_class_sums, pair)
    logits = torch.stack(
        [
            model({m: batch.inputs[m][i : i + 1] for m in (("flair", "t1") if lacking[i] else ("flair",))})[0]
            for i in range(4)
        ]
    )
    torch.testing.assert_close(found, true_class_sums(logits, batch.target))


@pytest.mark.parametrize("training", [True, False])
def test_valuing_predicts_as_in_use_and_leaves_no_trace(training):
    model, batch = network_with_memory().train(training), CLASSIFICATION.batch()
    features = model.encode(batch.inputs)
    before, everyone = copy.deepcopy(model), torch.ones(2, 3, dtype=torch.bool)
    random = torch.get_rng_state()
    first, second = coalition_sums(model, features, batch.target, true_class_sums, everyone)
    assert torch.equal(torch.get_rng_state(), random)
    assert same_bits(model, before)
    assert [m.training for m in model.modules()] == [training] * len(list(model.modules()))
    assert not first.requires_grad
    assert torch.equal(first, second)
    expected = true_class_sums(before.eval().head(before.fuse(features)[0]), batch.target)
    torch.testing.assert_close(first, expected)


def test_valuing_records_nothing_for_a_gradient():
    model, batch, seen = CLASSIFICATION.model(), CLASSIFICATION.batch(), []

    def spy(logits, target):
        seen.append(logits.requires_grad)
        return true_class_sums(logits, target)

    coalition_sums(model, model.encode(batch.inputs), batch.target, spy, exact_plan(3)[0])
    assert seen == [False] * 8


# Shares and factors


values_of = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=6).map(torch.tensor)


@given(values_of)
def test_magnitudes_of_shares_sum_to_one_and_signs_stay(values):
    share = shapley_shares(values)
    assert share.abs().sum().item() == pytest.approx(1, abs=1e-5)
    if values.abs().sum() > 1e-6:
        assert (share * values >= 0).all()


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0, 0.0], [1e-10, -1e-10, 0.0, 0.0]])
def test_values_next_to_nothing_are_equal_shares(values):
    share = shapley_shares(torch.tensor(values))
    assert share.tolist() == [0.25] * 4
    assert dgs_factors(share, 0.6).tolist() == [1] * 4


@given(values_of, st.floats(0, 5), st.randoms())
def test_factors_are_bounded_fall_with_the_share_and_follow_their_modality(values, alpha, random):
    share = shapley_shares(values)
    factors = dgs_factors(share, alpha)
    assert ((factors >= 0) & (factors <= 1)).all()
    assert (factors[share <= 1 / len(share)] >= 1 - 1e-5).all()
    order = share.argsort()
    assert (factors[order].diff() <= 1e-6).all()
    random.shuffle(indices := list(range(len(share))))
    assert torch.equal(dgs_factors(share[indices], alpha), factors[indices])


def test_factors_by_hand():
    """Three modalities: 3 * .6 - 1 = .8, and 1 - tanh(.6 * .8) = .5538; an equal share or less is left alone."""
    assert dgs_factors(torch.tensor([0.6, 0.3, -0.1]), 0.6).tolist() == pytest.approx([0.5538, 1, 1], abs=1e-4)
    assert dgs_factors(torch.tensor([1.0, 0.0]), 2.0).tolist() == pytest.approx([1 - math.tanh(2), 1])
    assert dgs_factors(torch.tensor([1.0]), 2.0).tolist() == [1]


# In a training step


def stepped(name, problem, batch, number=0, options=None, before=None, **settings):
    strategy, model = make(name, **settings), problem.model()
    set_up(strategy, model, problem=problem)
    if before is not None:
        before(strategy)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    one_step(model, strategy, optimizer, batch, number, problem, clip_norm=1e9, settings=options or TrainConfig())
    return strategy, model


@every_problem
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_values_what_subsets_of_the_inputs_predict(problem, accumulate):
    """Every coalition's score from a prediction of its own, Shapley values over all orders, the factor written out."""
    batch = problem.batch(4, samples=4)
    strategy, _ = stepped("dgs", problem, batch, options=TrainConfig(accumulate=accumulate))
    model = problem.model().eval()
    game = {}
    for members in exact_plan(3)[0].tolist():
        chosen = {m: x for (m, x), member in zip(batch.inputs.items(), members, strict=True) if member}
        if chosen:
            logits = model(chosen)
        else:
            features = model.encode(batch.inputs)
            nobody = torch.zeros(4, dtype=torch.bool)
            logits = model.predict([{m: Features(f.maps, nobody) for m, f in features.items()}])[0].logits
        game[tuple(members)] = mean_score(problem.score_sums(logits, batch.target))[0].item()
    phi = by_orders(game, 3)
    share = [value / sum(map(abs, phi)) for value in phi]
    assert strategy.share.tolist() == pytest.approx(share, rel=1e-3, abs=1e-4)
    expected = [1 - math.tanh(0.6 * max(3 * x - 1, 0)) for x in share]
    assert strategy.factor.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert min(expected) < 0.99
    values = strategy.diagnostics()
    assert torch.equal(values["shapley_share"], strategy.share)
    assert torch.equal(values["factor"], strategy.factor)


@every_problem
def test_updates_are_those_of_mmpareto_times_the_factor(problem):
    """Another strategy as authority, with the same gamma; the rest of the network learns as there."""
    batch = problem.batch(4, samples=4)
    strategy, model = stepped("dgs", problem, batch, gamma=1.2)
    _, other = stepped("mmpareto", problem, batch, gamma=1.2)
    factors = dict(zip(MODALITIES, strategy.factor.tolist(), strict=True))
    assert min(factors.values()) < 0.99
    owner = {id(p): m for m in MODALITIES for p in model.modality_parameters(m)}
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        factor = factors[owner[id(ours)]] if id(ours) in owner else 1.0
        torch.testing.assert_close(ours.grad, factor * theirs.grad, rtol=1e-5, atol=1e-7, msg=name)


@every_problem
def test_without_strength_it_is_mmpareto_bit_for_bit(problem):
    def end(name, **settings):
        return trained(make(name, gamma=1.3, **settings), problem=problem, first=4)

    ours = end("dgs", alpha=0.0, every=1)
    assert same_bits(ours, end("mmpareto"))
    assert not same_bits(ours, end("dgs", alpha=2.0, every=1))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_coalitions_are_valued_every_so_many_steps(monkeypatch, accumulate):
    real, valued, steps = dgs.coalition_sums, [], []
    monkeypatch.setattr(dgs, "coalition_sums", lambda *x: valued.append(steps[-1]) or real(*x))
    strategy, model = make("dgs", every=3), CLASSIFICATION.model()
    set_up(strategy, model, problem=CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    shares = []
    for number in range(8):
        steps.append(number)
        options = TrainConfig(accumulate=accumulate)
        one_step(model, strategy, optimizer, CLASSIFICATION.batch(number), number, CLASSIFICATION, settings=options)
        shares.append(strategy.share.tolist())
    assert valued == [n for n in (0, 3, 6) for _ in range(accumulate)]
    assert shares[0] == shares[1] == shares[2] != shares[3] == shares[4] == shares[5] != shares[6] == shares[7]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_valuation_is_of_its_own_batch(accumulate):
    strategy, model = make("dgs", every=1), CLASSIFICATION.model()
    set_up(strategy, model, problem=CLASSIFICATION)
    still = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=1e-9, weight_decay=0), CPU)
    for number in range(3):
        batch, options = CLASSIFICATION.batch(number), TrainConfig(accumulate=accumulate)
        one_step(model, strategy, still, batch, number, CLASSIFICATION, settings=options)
        alone, _ = stepped("dgs", CLASSIFICATION, batch)
        torch.testing.assert_close(strategy.share, alone.share, rtol=1e-4, atol=1e-5)


def test_five_modalities_are_valued_by_drawn_orders_that_still_add_up():
    names = tuple("abcde")
    torch.manual_seed(0)
    model = LateFusionModel({m: nn.Linear(6, 5) for m in names}, dict.fromkeys(names, 5), 4)
    strategy = make("dgs", orders=3)
    heads = UnimodalHeads({m: VectorHead(5, 4) for m in names})
    strategy.setup(model, lambda: heads, true_class_sums, 5)
    taken = []
    strategy.value = lambda rows, values, usable: taken.append(values)
    batch = Batch({m: torch.randn(8, 6) for m in names}, torch.arange(8) % 4, tuple("12345678"))
    nothing = model.head.bias.detach().expand(8, -1)
    everything, nobody = (true_class_sums(x, batch.target) for x in (model(batch.inputs), nothing))
    gain = mean_score(everything)[0] - mean_score(nobody)[0]
    one_step(model, strategy, make_optimizer(model, strategy, PLAIN_SGD, CPU), batch, 0, CLASSIFICATION)
    assert taken[0].shape == (5,)
    assert taken[0].sum().item() == pytest.approx(gain.item(), abs=1e-6)


def test_a_batch_without_a_modality_is_shared_out_among_the_others():
    batch = CLASSIFICATION.batch()
    pair = Batch({m: batch.inputs[m] for m in ("flair", "t1ce")}, batch.target, batch.ids)
    strategy, _ = stepped("dgs", CLASSIFICATION, pair)
    assert strategy.share[1].item() == pytest.approx(1 / 3)
    assert strategy.share[[0, 2]].abs().sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(strategy.factor[[0, 2]], dgs_factors(strategy.share[[0, 2]], 0.6))


def test_values_by_hand_and_those_that_are_not_usable():
    strategy = set_up(make("dgs"), PROBLEMS["segmentation"].model())
    yes, no = torch.tensor(True), torch.tensor(False)
    strategy.value(slice(None), torch.tensor([0.3, 0.15, -0.05]), yes)
    assert strategy.share.tolist() == pytest.approx([0.6, 0.3, -0.1])
    assert strategy.factor.tolist() == pytest.approx([0.5538, 1, 1], abs=1e-4)
    before = copy.deepcopy(strategy.state_dict())
    strategy.value(slice(None), torch.tensor([0.1, 0.9, 0.1]), no)
    assert all(torch.equal(value, before[key]) for key, value in strategy.state_dict().items())


def test_noise_is_as_wide_as_gradients_were_before_they_were_damped():
    """Written out: each tensor gets its own spread times numbers that are drawn for its modality."""
    batch = CLASSIFICATION.batch()

    def damp(strategy):
        strategy.set_factors(slice(None), torch.tensor([0.1, 1.0, 0.5]), torch.tensor(True))
        strategy.set_factors = lambda *_: None

    quiet, noisy, undamped = (
        stepped("dgs", CLASSIFICATION, batch, before=before, noise=noise)[1]
        for before, noise in (
            (damp, False),
            (damp, True),
            (lambda s: setattr(s, "set_factors", lambda *_: None), False),
        )
    )
    for m in MODALITIES:
        generator = Step(0, STEPS).generator(f"gradient noise {m}")
        models = (quiet, noisy, undamped)
        for q, n, u in zip(*(model.modality_parameters(m) for model in models), strict=True):
            noise = torch.randn(u.shape, generator=generator) * u.grad.std(correction=0)
            torch.testing.assert_close(n.grad - q.grad, noise, rtol=1e-3, atol=1e-6)
    assert torch.equal(noisy.head.weight.grad, quiet.head.weight.grad)


@pytest.mark.parametrize(("key", "value"), [("alpha", -0.1), ("gamma", 0.0), ("every", 0), ("orders", 0)])
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=rf"strategy\.{key}"):
        make("dgs", **{key: value})
