"""The laws of CGGM's factors, values checked by hand, and an independent transcription of its formulas."""

import copy
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.models.heads import UnimodalHead
from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.objectives.targets import subsample
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.runs.settings import instantiate, make_config
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.strategies.joint import Joint
from cggm_med.strategies.parts.cggm_coefficients import (
    balancing_factors,
    paper_coefficients,
    released_coefficients,
    temper,
)
from cggm_med.strategies.parts.last_layer import cosines, guidance_loss, last_layer_gradients
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
    make,
    one_step,
    same_bits,
    set_up,
    small_batch,
    small_heads,
    small_model,
    trained,
    vector_batch,
    vector_heads,
    vector_model,
)

finite = st.floats(-1e3, 1e3, width=32)
improvements = st.lists(finite, min_size=1, max_size=5).map(torch.tensor)
noises = st.floats(2**-13, 10, width=32).map(torch.tensor)


def cggm(**settings) -> CGGM:
    return CGGM(CGGMConfig("cggm", **settings))


def observed(strategy, losses, present=MODALITIES, number=0, usable=True):
    """Feed one step in which the heads' losses (one minus their scores) are the given numbers."""
    score = 1 - torch.tensor(losses, dtype=torch.float32)
    strategy.observe(strategy.rows(present), score, torch.tensor(usable), Step(number, 1000))
    return strategy


# Laws


@given(improvements, noises)
def test_factors_have_mean_one_and_are_bounded(improvement, noise):
    factors = balancing_factors(improvement, noise)
    count = len(improvement)
    assert factors.mean().item() == pytest.approx(1, abs=1e-5)
    assert (factors >= 0).all()
    assert (factors <= count / max(count - 1, 1) + 1e-6).all()


@given(improvements, noises, st.randoms())
def test_permuting_modalities_permutes_factors(improvement, noise, random):
    order = list(range(len(improvement)))
    random.shuffle(order)
    expected = balancing_factors(improvement, noise)[order]
    torch.testing.assert_close(balancing_factors(improvement[order], noise), expected, rtol=1e-4, atol=1e-5)


@given(finite, noises, st.integers(1, 5))
def test_equal_improvements_give_ones(value, noise, count):
    torch.testing.assert_close(balancing_factors(torch.full((count,), value), noise), torch.ones(count))


def test_one_modality_is_left_alone():
    assert balancing_factors(torch.tensor([0.7]), torch.tensor(0.1)).tolist() == [1.0]


@given(improvements, noises, st.floats(0, 4), st.floats(0, 0.9), st.floats(1.1, 3))
def test_tempered_factors_keep_their_mean_order_and_bounds(improvement, noise, strength, low, high):
    factors = balancing_factors(improvement, noise)
    tempered = temper(factors, strength, low, high)
    assert tempered.mean().item() == pytest.approx(1, abs=1e-4)
    assert (tempered >= low - 1e-5).all()
    assert (tempered <= high + 1e-5).all()
    assert ((tempered.diff() * factors.diff()) >= -1e-6).all()


def test_the_modality_that_improves_least_gets_the_largest_factor():
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for step in range(60):
        observed(strategy, [math.exp(-step / 20), math.exp(-step / 400), math.exp(-step / 60)])
    fast, slow, middle = strategy.factor.tolist()
    assert slow > middle > fast
    assert min(strategy.factor) < 1 < max(strategy.factor)


def test_absolute_level_does_not_matter_only_improvement():
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for _ in range(100):
        observed(strategy, [0.9, 0.5, 0.1])
    torch.testing.assert_close(strategy.factor, torch.ones(3), rtol=0, atol=0.02)


def test_warm_up_keeps_factors_at_one():
    strategy = set_up(cggm(warmup_steps=10), small_model())
    for step in range(10):
        observed(strategy, [1 - 0.05 * step, 1.0, 1.0], number=step)
        assert strategy.factor.tolist() == [1, 1, 1]
    observed(strategy, [0.5, 1.0, 1.0], number=10)
    assert strategy.factor.tolist() != [1, 1, 1]


@pytest.mark.parametrize(("given", "steps_per_epoch", "expected"), [(None, 5, 50), (None, 80, 80), (3, 80, 3)])
def test_warm_up_lasts_fifty_steps_or_an_epoch_unless_said_otherwise(given, steps_per_epoch, expected):
    assert set_up(cggm(warmup_steps=given), small_model(), steps_per_epoch).warmup_steps == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.5])
def test_a_step_without_usable_scores_changes_nothing(bad):
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for step in range(30):
        observed(strategy, [1 - 0.02 * step, 1 - 0.01 * step, 1.0])
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    observed(strategy, [bad, 0.1, 0.9], usable=False)
    after = strategy.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_an_absent_modality_keeps_its_state_and_the_others_have_mean_one():
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for step in range(30):
        observed(strategy, [1 - 0.02 * step, 1 - 0.01 * step, 1.0])
    before = strategy.factor.clone(), strategy.coefficients.slow.clone()
    observed(strategy, [0.3, 0.9], present=("flair", "t1ce"))
    assert strategy.factor[1] == before[0][1]
    assert strategy.coefficients.slow[1] == before[1][1]
    assert strategy.factor[0] != before[0][0]
    assert strategy.factor[[0, 2]].mean().item() == pytest.approx(1, abs=1e-6)
    observed(strategy, [0.3], present=("flair",))
    assert strategy.factor[0] == 1


def test_with_heads_that_teach_or_with_strength_it_does_not_train_the_bits_of_joint():
    expected = trained(Joint(Joint.Config("joint")))
    assert not same_bits(trained(cggm(unimodal_weight=0.3, strength=0, warmup_steps=0)), expected)
    assert not same_bits(trained(cggm(unimodal_weight=0, strength=0.5, warmup_steps=0)), expected)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_without_strength_the_factor_leaves_no_trace(optimizer):
    optim = OptimConfig(name=optimizer)
    still_warming_up = trained(cggm(strength=0.5, warmup_steps=99), optim=optim)
    assert same_bits(trained(cggm(strength=0, warmup_steps=0), optim=optim), still_warming_up)


def test_heads_learn_at_full_weight_whatever_reaches_the_encoders():
    gradients = []
    for weight in (0.0, 0.3, 1.0):
        strategy, model = cggm(unimodal_weight=weight), small_model()
        trained(strategy, steps=1, model=model, optim=OptimConfig(name="sgd", momentum=0))
        gradients.append(strategy.heads.heads["t1"].scales[0].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_the_share_of_the_heads_that_reaches_an_encoder_is_the_weight():
    """Difference to joint training's gradient, against autograd of the head's loss alone."""
    batch, criterion, weight = small_batch(), RegionLoss(), 0.3

    def gradient(total) -> torch.Tensor:
        return torch.autograd.grad(total, model.encoders["flair"].scales[0].conv1.conv.weight, retain_graph=True)[0]

    model = small_model()
    heads = small_heads()
    features = model.encode(batch.inputs)
    alone = gradient(criterion(heads(features)["flair"].logits, batch.target))
    through = gradient(criterion(heads(features, encoder_weight=weight)["flair"].logits, batch.target))
    torch.testing.assert_close(through, weight * alone)
    assert alone.abs().max() > 0


# The factor reaches every encoder


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_the_factor_scales_the_update_of_every_encoder_and_of_nothing_else(optimizer, factor):
    """Adam cancels a factor on gradients, so what counts is how far the parameters really move."""
    moved = {}
    for scale in (1.0, factor):
        model = small_model()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        strategy = set_up(cggm(unimodal_weight=0), model)
        # Steps large enough that rounding the parameters does not blur them.
        config = OptimConfig(name=optimizer, weight_decay=0, momentum=0, lr=10.0)
        optimizer_ = make_optimizer(model, strategy, config, CPU)
        strategy.observe = lambda *_: None
        strategy.factor = torch.full((3,), scale)
        one_step(model, strategy, optimizer_, small_batch())
        moved[scale] = {name: (p - before[name]).norm().item() for name, p in model.named_parameters()}
    ratios = {name: moved[factor][name] / moved[1.0][name] for name in moved[1.0] if moved[1.0][name] > 1e-5}
    for modality in MODALITIES:
        own = {name: ratio for name, ratio in ratios.items() if f".{modality}." in f".{name}."}
        assert any(name.startswith("encoders") for name in own)
        assert any(name.startswith("fusion") for name in own)
        assert list(own.values()) == pytest.approx([factor] * len(own), rel=1e-3)
    shared = [ratio for name, ratio in ratios.items() if name.startswith(("decoder", "head"))]
    assert shared
    assert shared == pytest.approx([1.0] * len(shared))


# Values small enough to check by hand


def test_factors_of_two_modalities():
    """z = +-1.5 is squashed to +-1.5/sqrt(1.25) = +-1.34164; softplus gives 1.57432 and 0.23268."""
    u = [math.log(1 + math.exp(x)) for x in (1.34164, -1.34164)]
    expected = [2 * u[1] / sum(u), 2 * u[0] / sum(u)]
    got = balancing_factors(torch.tensor([0.4, 0.1]), torch.tensor(0.1)).tolist()
    assert got == pytest.approx(expected, abs=1e-4)
    assert got == pytest.approx([0.2575, 1.7425], abs=1e-3)


def test_clipping_moves_all_factors_alike():
    """Deviations -0.9, 0.3, 0.6 exceed 0.5 by 1.8, so each is divided by 1.8."""
    got = temper(torch.tensor([0.1, 1.3, 1.6]), strength=1, low=0.5, high=1.5).tolist()
    assert got == pytest.approx([0.5, 1 + 0.3 / 1.8, 1 + 0.6 / 1.8])


# Independent authority: the formulas of the analysis once more, in numpy and float64, over whole curves


def transcription(losses, strength=0.5, low=0.5, high=1.5):
    """Factors of each step from ``losses`` (step, modality), written from the formulas alone."""
    fast = slow = np.zeros(losses.shape[1])
    variance, out = 0.0, []
    for t, loss in enumerate(losses.astype(np.float64), start=1):
        fast = 0.9 * fast + 0.1 * loss
        slow = 0.99 * slow + 0.01 * loss
        f, s = fast / (1 - 0.9**t), slow / (1 - 0.99**t)
        e = (loss - s) / s.mean()
        variance = 0.99 * variance + 0.01 * np.mean((e - e.mean()) ** 2)
        eta = np.sqrt(variance / (1 - 0.99**t) * (1 - 0.9) / (1 + 0.9)) + 1e-4
        r = (s - f) / s.mean()
        z = (r - r.mean()) / eta
        z = z / np.sqrt(1 + z**2 / 9)
        u = np.log1p(np.exp(z))
        count = len(u)
        w = np.array([count / (count - 1) * (u.sum() - u[m]) / u.sum() for m in range(count)])
        out.append(np.clip(1 + strength * (w - 1), low, high))
    return np.array(out)


def test_factors_follow_an_independent_transcription():
    random = np.random.default_rng(3)
    steps = np.arange(200)[:, None]
    losses = 0.9 * np.exp(-steps / np.array([40, 150, 400])) + 0.05 + 0.02 * random.standard_normal((200, 3))
    strategy = set_up(cggm(warmup_steps=0), small_model())
    got = np.array([observed(strategy, row).factor.numpy().copy() for row in losses])
    np.testing.assert_allclose(got, transcription(losses), atol=2e-3)
    assert np.ptp(got) > 0.3


def ranking(**settings) -> float:
    """How often the slowest of four modalities has the largest factor, on noisy learning curves of known speeds.

    Time constants 120, 300, 500 and 700 steps, 12 % noise of which 30 % is common, steps 100 to 700.
    """
    random, hits, steps = np.random.default_rng(0), [], np.arange(700)[:, None]
    times = np.array([120, 300, 500, 700])
    clean = np.exp(-steps / times)
    slowest = (clean / times).argmin(1)  # of the true speeds, at each step
    for _ in range(4):
        common = random.standard_normal((700, 1))
        noise = math.sqrt(0.3) * common + math.sqrt(0.7) * random.standard_normal((700, 4))
        losses = clean * (1 + 0.12 * noise)
        modalities = ("a", "b", "c", "d")
        strategy = set_up(cggm(warmup_steps=0, **settings), small_model(modalities))
        largest = [observed(strategy, row, modalities).factor.argmax().item() for row in losses]
        hits += list(np.array(largest)[100:] == slowest[100:])
    return float(np.mean(hits))


def test_the_stable_rule_finds_the_slowest_modality_most_of_the_time():
    """Chance is a quarter; the analysis found .72."""
    assert ranking() >= 0.65


@pytest.mark.filterwarnings("ignore:cggm mode=released")
def test_the_released_rule_finds_it_as_often_as_chance():
    """The analysis found .27."""
    assert 0.15 <= ranking(mode="released") <= 0.35


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"strength": -1}, "strength"), ({"min_factor": 1.0}, "min_factor"), ({"max_factor": 0.9}, "max_factor"),
     ({"unimodal_weight": -0.1}, "unimodal_weight"), ({"warmup_steps": -1}, "warmup_steps")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, key):
    with pytest.raises(ConfigError, match=rf"strategy\.{key}"):
        cggm(**settings)


# The paper's rule taken literally, and the authors' code

ablation = pytest.mark.filterwarnings("ignore:cggm mode=(paper|released) is for comparison")
improvements_of_several = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=5).map(torch.tensor)


@given(improvements_of_several)
def test_the_papers_coefficients_sum_to_all_but_one(improvement):
    got = paper_coefficients(improvement.double())
    if abs(improvement.double().sum()) < 1e-8:
        assert got.tolist() == [1] * len(got)
    else:
        assert got.sum().item() == pytest.approx(len(improvement) - 1, rel=1e-6, abs=1e-6 * got.abs().max().item())


def test_the_papers_coefficients_by_hand():
    """d = (.3, .1, 0): S = .4, B = (.1/.4, .3/.4, .4/.4)."""
    assert paper_coefficients(torch.tensor([0.3, 0.1, 0.0])).tolist() == pytest.approx([0.25, 0.75, 1.0])


def test_where_improvements_cancel_the_released_rule_explodes_and_the_papers_does_not():
    """Accuracies move in steps of 1/64, and +1/64 -1/64 is exactly 0: the 1e-8 makes the spike."""
    improvement = torch.tensor([1 / 64, -1 / 64])
    assert released_coefficients(improvement).abs().min() > 1e5
    assert paper_coefficients(improvement).tolist() == [1, 1]


def test_released_coefficients_are_the_papers_where_nothing_cancels():
    improvement = torch.tensor([0.3, 0.1, -0.05], dtype=torch.float64)
    torch.testing.assert_close(released_coefficients(improvement), paper_coefficients(improvement), rtol=1e-6, atol=0)


@ablation
@pytest.mark.parametrize(("mode", "first"), [("paper", [1, 1, 1]), ("released", [0.5, 0.7, 0.8])])
def test_the_first_step_has_no_improvement_except_in_the_release(mode, first):
    """The release starts from scores of 0, so its first improvement is the score itself: (.5, .3, .2) of 1."""
    strategy = set_up(cggm(mode=mode), small_model())
    observed(strategy, [0.5, 0.7, 0.8])
    assert strategy.factor.tolist() == pytest.approx(first)


@ablation
@pytest.mark.parametrize("mode", ["paper", "released"])
def test_ratio_modes_multiply_by_rho_and_count_sign_flips(mode):
    """Second step: d = (-.1, .3, .1), B = (4/3, 0, 2/3); third: d = (.4, -.1, 0), B = (-1/3, 4/3, 1)."""
    strategy = set_up(cggm(mode=mode, rho=1.5), small_model())
    for losses in ([0.5, 0.7, 0.8], [0.6, 0.4, 0.7], [0.2, 0.5, 0.7]):
        observed(strategy, losses)
    assert strategy.factor.tolist() == pytest.approx([-0.5, 2.0, 1.5], abs=1e-4)
    assert strategy.sign_flips == 1
    values = strategy.diagnostics()
    assert values["largest_coefficient"].item() == pytest.approx(4 / 3, abs=1e-4)
    assert values["cancelled"] == 0
    observed(strategy, [0.2, 0.5, 0.7])  # nothing moved
    assert strategy.diagnostics()["cancelled"] == 1


@ablation
@pytest.mark.parametrize(("mode", "score"), [("stable", "soft"), ("paper", "hard"), ("released", "hard")])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_each_mode_compares_the_scores_of_its_source(mode, score, problem):
    """Accuracy, accuracy of the sign or Dice of masks in the authors' code; otherwise soft ones."""
    assert cggm(mode=mode).config.score == score
    for asked in (None, "soft", "hard"):
        strategy = set_up(cggm(mode=mode, score=asked), problem.model(), problem=problem)
        hard = (asked or score) == "hard"
        assert strategy.score_sums is (problem.hard_score_sums if hard else problem.score_sums)


@ablation
def test_changes_of_accuracy_that_cancel_do_so_whatever_float32_makes_of_them():
    """1/6 up and 1/6 down in three places; in float32 the sum is 1.5e-8 and not 0."""
    strategy = set_up(cggm(mode="paper", guidance_weight=0.0), small_model())
    for score in ([1 / 6, 3 / 6, 5 / 6], [2 / 6, 3 / 6, 4 / 6]):
        observed(strategy, [1 - x for x in score])
    assert strategy.factor.tolist() == [1, 1, 1]
    assert strategy.diagnostics()["cancelled"] == 1


def test_a_task_without_hard_scores_is_told_to_use_soft_ones():
    strategy = cggm(score="hard")
    with pytest.raises(ConfigError, match=r"strategy\.score is hard, .*; use strategy\.score=soft"):
        strategy.setup(vector_model(), vector_heads, CLASSIFICATION.score_sums, 5)


# Strategies named after the paper and its code

named = pytest.mark.filterwarnings("ignore:cggm_(paper|released) mode=")


@named
@pytest.mark.parametrize("name", ["cggm_paper", "cggm_released"])
@pytest.mark.parametrize(
    ("task", "rho", "guidance_weight", "clip_norm"),
    [("food101", 1.3, 0.05, 0.8), ("mosi", 1.3, 0.2, 0.8), ("iemocap", 1.3, 0.2, 0.8), ("brats2021", 1, 0.1, math.inf)],
)
def test_the_authors_settings_come_with_the_strategy_whatever_the_preset(name, task, rho, guidance_weight, clip_norm):
    for preset in registry.load(registry.TASKS, task).presets:
        config = make_config(task, [], preset=preset, strategy=name)
        assert config.strategy.mode == name.removeprefix("cggm_")
        assert config.strategy.score == "hard"
        assert (config.strategy.rho, config.strategy.guidance_weight) == (rho, guidance_weight)
        assert config.optim.clip_norm == clip_norm
        asked = [{"strategy": {"rho": 2.0}, "optim": {"clip_norm": 3.0}}]
        config = make_config(task, asked, preset=preset, strategy=name)
        assert (config.strategy.rho, config.optim.clip_norm) == (2, 3)


def test_a_preset_of_the_task_does_not_change_a_strategy():
    """Nor does the default strategy change the task's settings."""
    for task in registry.names(registry.TASKS):
        presets = registry.load(registry.TASKS, task).presets
        assert not [preset for preset, tree in presets.items() if "strategy" in tree]
    assert CGGM.settings_for("mosi") == {}


@named
@pytest.mark.parametrize("name", ["cggm_paper", "cggm_released"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_they_are_the_modes_bit_for_bit(name, problem):
    mode = name.removeprefix("cggm_")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [trained(make(name), problem=problem), trained(cggm(mode=mode), problem=problem)]
    assert same_bits(*models)
    with pytest.raises(UnknownName, match=r"strategy\.mode"):
        make_config("avdigits", [{"strategy": {"mode": "stable"}}], strategy=name)


@ablation
def test_modes_have_the_defaults_of_their_source():
    assert (cggm().config.unimodal_weight, cggm().config.guidance_weight) == (0.3, 0.0)
    for mode in ("paper", "released"):
        config = cggm(mode=mode).config
        assert (config.unimodal_weight, config.guidance_weight, config.warmup_steps, config.rho) == (0, 0.1, 0, 1)
    assert cggm(mode="paper", guidance_weight=0.0).config.guidance_weight == 0


@pytest.mark.parametrize("mode", ["paper", "released"])
def test_ablations_warn(mode):
    with pytest.warns(UserWarning, match=f"mode={mode} is for comparison"):
        cggm(mode=mode)


@ablation
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_released_multiplies_gradients_before_clipping_whatever_the_optimizer(optimizer):
    """So with Adam a constant factor cancels, and one large factor takes the whole norm that clipping leaves."""
    strategy, model = cggm(mode="released", guidance_weight=0.0), small_model()
    set_up(strategy, model)
    optimizer_ = make_optimizer(model, strategy, OptimConfig(name=optimizer), CPU)
    strategy.observe = lambda *_: None
    strategy.factor = torch.tensor([1e6, 1.0, 1.0])
    one_step(model, strategy, optimizer_, small_batch())
    norms = {m: torch.cat([p.grad.flatten() for p in model.modality_parameters(m)]).norm() for m in MODALITIES}
    assert norms["flair"].item() == pytest.approx(1, rel=1e-3)
    assert norms["t1"] < 1e-4


# The direction term


def cosine_of(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_last_layer_gradients_are_autograds(problem):
    """The closed form against autograd on the layers' own weights, in float64."""
    model, heads = problem.model().double(), problem.heads().double()
    batch = problem.batch()
    inputs = {m: x.double() for m, x in batch.inputs.items()}
    target = batch.target.double() if batch.target.is_floating_point() else batch.target
    # The segmentation loss computes in float32 by design; its formula, without that, is what is differentiated here.
    criterion = soft_dice_and_entropy if problem.model is small_model else problem.criterion
    features = model.encode(inputs)
    outputs = replace(model.predict([features])[0], unimodal=heads(features))
    pairs = last_layer_gradients(model, outputs, target, criterion)
    assert list(pairs) == list(MODALITIES)
    for modality, (fused, own) in pairs.items():
        weight = next(p for p in model.head.parameters() if p.ndim > 1)
        (expected,) = torch.autograd.grad(criterion(outputs.logits, target), weight, retain_graph=True)
        if problem.model is not small_model:  # the slice that belongs to the modality
            start = 5 * MODALITIES.index(modality)
            expected = expected[:, start : start + 5]
        torch.testing.assert_close(fused, expected.flatten(1), rtol=1e-10, atol=1e-12)
        weight = heads.heads[modality].last.weight
        loss = criterion(outputs.unimodal[modality].logits, target)
        (expected,) = torch.autograd.grad(loss, weight, retain_graph=True)
        torch.testing.assert_close(own, expected.flatten(1), rtol=1e-10, atol=1e-12)


def soft_dice_and_entropy(logits, target):
    target = subsample(target, logits)
    p = logits.sigmoid()
    overlap, size = (p * target).sum((2, 3, 4)), (p + target).sum((2, 3, 4))
    return (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean() - (target * p.log() + (1 - target) * (1 - p).log()).mean()


def test_the_direction_term_and_its_gradient_are_those_of_double_backward():
    """Authority: the loss written out with autograd's own gradient of the head's weight, kept differentiable."""
    model, heads, batch = vector_model().double(), vector_heads().double(), vector_batch()
    inputs = {m: x.double() for m, x in batch.inputs.items()}
    coefficients = torch.tensor([0.5, 1.5, -1.0], dtype=torch.float64)
    criterion = CLASSIFICATION.criterion

    def parameters():
        return [*model.encoders.parameters(), model.head.weight]

    features = model.encode(inputs)
    outputs = replace(model.predict([features])[0], unimodal=heads(features))
    pairs = last_layer_gradients(model, outputs, batch.target, criterion, differentiable=True)
    ours = guidance_loss(coefficients, cosines(pairs))
    our_gradient = torch.autograd.grad(ours, parameters())

    features = model.encode(inputs)
    loss = criterion(model.head(torch.cat([f.maps[0] for f in features.values()], dim=1)), batch.target)
    (g_fused,) = torch.autograd.grad(loss, model.head.weight, create_graph=True)
    theirs = 0.0
    for i, (m, b) in enumerate(zip(MODALITIES, coefficients, strict=True)):
        own = criterion(heads.heads[m].last(features[m].maps[0].detach()), batch.target)
        (g_own,) = torch.autograd.grad(own, heads.heads[m].last.weight)
        piece = g_fused[:, 5 * i : 5 * i + 5]
        theirs = theirs + (b.abs() - b * (piece * g_own).sum() / (piece.norm() * g_own.norm())) / 3
    their_gradient = torch.autograd.grad(theirs, parameters())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-10)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-8, atol=1e-10)
    assert max(g.abs().max() for g in our_gradient) > 0


@given(st.lists(st.tuples(st.floats(0, 4), st.floats(-1, 1)), min_size=1, max_size=5))
def test_with_positive_coefficients_the_direction_term_lies_between_zero_and_twice_the_largest(pairs):
    b, c = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    value = guidance_loss(b, c)
    assert -1e-9 <= value <= 2 * b.max() + 1e-9


@ablation
@pytest.mark.parametrize("mode", ["stable", "paper"])
def test_the_direction_term_takes_the_coefficients_without_rho(mode):
    """During the warm-up factors are 1, and the term takes them as they are."""
    batch, terms, factors = vector_batch(), [], []
    for rho, warmup in ((1.0, 0), (1.3, 0), (1.0, 5), (1.3, 5)):
        model = vector_model()
        strategy = set_up(
            cggm(mode=mode, guidance_weight=0.5, rho=rho, warmup_steps=warmup), model, problem=CLASSIFICATION
        )
        features = model.encode(batch.inputs)
        outputs = replace(model.predict([features])[0], features=features, unimodal=strategy.unimodal(features))
        step = Step(0, steps=10)
        strategy.watch(model, outputs, batch.target, step)
        losses = strategy.losses(model, outputs, batch.target, CLASSIFICATION.criterion, step)
        terms.append(losses["guidance"].item())
        factors.append(strategy.factor)
    torch.testing.assert_close(factors[1], 1.3 * factors[0])
    assert torch.equal(factors[2], factors[3])
    assert terms[1] == pytest.approx(terms[0], rel=1e-5)
    assert terms[3] == terms[2] != 0


@ablation
@pytest.mark.parametrize("mode", ["stable", "paper", "released"])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_direction_term_trains_and_resumes_in_every_mode(mode, problem):
    plain, guided = (cggm(mode=mode, guidance_weight=weight, warmup_steps=0) for weight in (0.0, 0.5))
    models = [trained(s, steps=4, problem=problem) for s in (plain, guided)]
    assert not same_bits(*models)
    assert all(torch.isfinite(p).all() for p in models[1].parameters())

    strategy, model = cggm(mode=mode, guidance_weight=0.5, warmup_steps=0), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    other, copied = (
        set_up(cggm(mode=mode, guidance_weight=0.5, warmup_steps=0), model, problem=problem),
        problem.model(),
    )
    for number in range(2):
        one_step(model, strategy, optimizer, problem.batch(number), number, problem)
    other.load_state_dict(strategy.state_dict())
    copied.load_state_dict(model.state_dict())
    resumed = make_optimizer(copied, other, OptimConfig(), CPU)
    resumed.load_state_dict(optimizer.state_dict())
    for number in range(2, 4):
        one_step(copied, other, resumed, problem.batch(number), number, problem)
    assert same_bits(copied, models[1])


@ablation
def test_the_released_direction_term_is_one_step_late_and_reaches_the_head_alone():
    """Its gradient is that of the weights of the step before; authority: autograd on a clone of them."""
    settings = {"mode": "released", "guidance_weight": 1.0, "rho": 1.3}
    strategy, model = set_up(cggm(**settings), vector_model(), problem=CLASSIFICATION), vector_model()
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd"), CPU)
    one_step(model, strategy, optimizer, vector_batch(0), 0, CLASSIFICATION)
    weight = model.head.weight.detach().clone().requires_grad_()
    own = [strategy.heads.heads[m].last.weight.detach().clone().flatten() for m in MODALITIES]
    now = one_step(model, strategy, optimizer, vector_batch(1), 1, CLASSIFICATION, clip_norm=1e9)
    b = strategy.factor / 1.3
    slices = [x.flatten() for x in weight.split(5, dim=1)]
    cosine = torch.stack([torch.cosine_similarity(x, y, dim=0) for x, y in zip(own, slices, strict=True)])
    value = (b.abs() - b * cosine).sum() / 3
    (expected,) = torch.autograd.grad(value, weight)
    torch.testing.assert_close(strategy.late_guidance.gradient, expected)
    later = one_step(copy.deepcopy(model), strategy, optimizer, vector_batch(2), 2, CLASSIFICATION, clip_norm=1e9)
    torch.testing.assert_close(later["guidance"], value.detach())
    assert now["guidance"] != later["guidance"]

    gradients = {}
    for on in (True, False):
        twin, other = copy.deepcopy(model), set_up(cggm(**settings), model, problem=CLASSIFICATION)
        other.load_state_dict(strategy.state_dict())
        other.late_guidance.gradient.mul_(on)
        optimizer = make_optimizer(twin, other, OptimConfig(name="sgd"), CPU)
        one_step(twin, other, optimizer, vector_batch(3), 3, CLASSIFICATION, clip_norm=1e9)
        gradients[on] = {name: p.grad for name, p in twin.named_parameters()}
    difference = gradients[True].pop("head.weight") - gradients[False].pop("head.weight")
    torch.testing.assert_close(difference, strategy.late_guidance.gradient, rtol=1e-3, atol=1e-5)
    assert all(torch.equal(gradients[True][name], gradients[False][name]) for name in gradients[True])


def test_the_direction_of_a_gradient_needs_the_whole_batch():
    strategy, model = cggm(guidance_weight=0.1), small_model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    with pytest.raises(ConfigError, match=r"guidance_weight is 0\.1 with train\.accumulate 2"):
        one_step(model, strategy, optimizer, small_batch(), settings=TrainConfig(accumulate=2))
    strategy.check_parts(1)
    cggm(guidance_weight=0.0).check_parts(2)
    settings = {"strategy": {"guidance_weight": 0.1}, "train": {"accumulate": 2}}
    with pytest.raises(ConfigError, match=r"guidance_weight is 0\.1 with train\.accumulate 2"):
        instantiate(make_config("brats2021", [settings]))  # before any scan is read


def test_heads_of_another_width_cannot_guide():
    strategy, model = cggm(guidance_weight=0.1), vector_model()
    strategy.setup(model, lambda: wider_heads(), CLASSIFICATION.score_sums, 5)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    with pytest.raises(ValueError, match="last layers of one width"):
        one_step(model, strategy, optimizer, vector_batch(), 0, CLASSIFICATION)


def wider_heads():
    heads = vector_heads()
    for m in MODALITIES:
        heads.heads[m] = WideHead()
    return heads


class WideHead(UnimodalHead):
    def __init__(self):
        super().__init__()
        self.wide, self.last = torch.nn.Linear(5, 7), torch.nn.Linear(7, 4)

    def hidden(self, features):
        return self.wide(features.maps[-1])


# Training on a small problem (the analysis of stability, acceptance test h)


@ablation
def test_the_stable_rule_trains_like_joint_where_the_released_one_without_clipping_diverges():
    def final_loss(strategy) -> float:
        model = vector_model()
        set_up(strategy, model, problem=CLASSIFICATION)
        optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=0.1), CPU)
        losses = [
            one_step(model, strategy, optimizer, vector_batch(n, samples=64), n, CLASSIFICATION, clip_norm=1e12)["task"]
            for n in range(150)
        ]
        return float(torch.stack(losses[-20:]).mean().nan_to_num(99, 99, 99))

    joint = final_loss(make("joint"))
    assert final_loss(cggm(unimodal_weight=0, warmup_steps=20)) == pytest.approx(joint, abs=0.05)
    assert final_loss(cggm(mode="released", rho=1.3)) > 2 * joint
