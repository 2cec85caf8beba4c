"""The laws of CGGM's factors, values checked by hand, and an independent transcription of its formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import CPU, MODALITIES, same_bits, set_up, small_batch, small_heads, small_model, trained

from cggm_med.config import OptimConfig
from cggm_med.engine import make_optimizer, train_step
from cggm_med.errors import ConfigError
from cggm_med.losses import RegionLoss
from cggm_med.strategies.base import scale_updates
from cggm_med.strategies.cggm import CGGM, CGGMConfig, balancing_factors, temper
from cggm_med.strategies.joint import Joint

finite = st.floats(-1e3, 1e3, width=32)
improvements = st.lists(finite, min_size=1, max_size=5).map(torch.tensor)
noises = st.floats(2**-13, 10, width=32).map(torch.tensor)


def cggm(**settings) -> CGGM:
    return CGGM(CGGMConfig("cggm", **settings))


def observed(strategy, losses, present=MODALITIES):
    """Feed one step in which the heads' Dice losses are the given numbers."""
    sums = torch.tensor([[[100 * (1 - x), 100.0, 50.0]] for x in losses])
    strategy.observe(present, sums)
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
        observed(strategy, [1 - 0.05 * step, 1.0, 1.0])
        assert strategy.factor.tolist() == [1, 1, 1]
    observed(strategy, [0.5, 1.0, 1.0])
    assert strategy.factor.tolist() != [1, 1, 1]


@pytest.mark.parametrize(("given", "steps_per_epoch", "expected"), [(None, 5, 50), (None, 80, 80), (3, 80, 3)])
def test_warm_up_lasts_fifty_steps_or_an_epoch_unless_said_otherwise(given, steps_per_epoch, expected):
    assert set_up(cggm(warmup_steps=given), small_model(), steps_per_epoch).warmup_steps == expected


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_without_usable_scores_changes_nothing(bad):
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for step in range(30):
        observed(strategy, [1 - 0.02 * step, 1 - 0.01 * step, 1.0])
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    strategy.observe(MODALITIES, torch.full((3, 1, 3), bad))
    strategy.observe(MODALITIES, torch.tensor([[[0.0, 5.0, 0.0]]] * 3))  # nothing of the target occurred
    after = strategy.state_dict()
    assert [name for name in before if name != "step" and not torch.equal(before[name], after[name])] == []


def test_an_absent_modality_keeps_its_state_and_the_others_have_mean_one():
    strategy = set_up(cggm(warmup_steps=0), small_model())
    for step in range(30):
        observed(strategy, [1 - 0.02 * step, 1 - 0.01 * step, 1.0])
    before = strategy.factor.clone(), strategy.slow.clone()
    observed(strategy, [0.3, 0.9], present=("flair", "t1ce"))
    assert strategy.factor[1] == before[0][1]
    assert strategy.slow[1] == before[1][1]
    assert strategy.factor[0] != before[0][0]
    assert strategy.factor[[0, 2]].mean().item() == pytest.approx(1, abs=1e-6)
    observed(strategy, [0.3], present=("flair",))
    assert strategy.factor[0] == 1


def test_regions_that_do_not_occur_are_not_scored():
    strategy = set_up(cggm(), small_model())
    strategy.observe(MODALITIES, torch.tensor([[[40.0, 80.0, 40.0], [0.0, 30.0, 0.0]]] * 3))
    assert strategy.score.tolist() == [0.5, 0.5, 0.5]


def test_detached_heads_and_no_strength_train_the_same_bits_as_joint():
    expected = trained(Joint(Joint.Config("joint")))
    assert same_bits(trained(cggm(unimodal_weight=0, strength=0, warmup_steps=0)), expected)
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
    alone = gradient(criterion(heads(features)["flair"], batch.target))
    through = gradient(criterion(heads(features, encoder_weight=weight)["flair"], batch.target))
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
        train_step(model, strategy, optimizer_, RegionLoss(), small_batch(), clip_norm=1.0)
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


def test_a_modality_without_parameters_is_an_error():
    model = small_model()
    for parameter in model.modality_parameters("t1"):
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="'t1' matches no trainable parameter"):
        set_up(cggm(), model)


def test_an_optimizer_without_groups_for_the_modalities_is_an_error():
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match="no parameter group for modality 'flair'"):
        scale_updates(model, optimizer, {"flair": torch.tensor(0.5)})


def test_a_parameter_that_two_modalities_share_is_an_error():
    model = small_model()
    model.encoders["t1"] = model.encoders["flair"]
    with pytest.raises(ValueError, match="'flair' and 't1' share a parameter"):
        make_optimizer(model, Joint(Joint.Config("joint")), OptimConfig(), CPU)


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


def test_the_slowest_modality_is_found_most_of_the_time():
    """Learning curves of known speed with 12 % correlated noise; chance is a quarter, the analysis found .72."""
    random, hits, steps = np.random.default_rng(0), [], np.arange(700)[:, None]
    times = np.array([120, 300, 500, 700])
    clean = np.exp(-steps / times)
    slowest = (clean / times).argmin(1)  # of the true speeds, at each step
    for _ in range(4):
        common = random.standard_normal((700, 1))
        noise = math.sqrt(0.3) * common + math.sqrt(0.7) * random.standard_normal((700, 4))
        losses = clean * (1 + 0.12 * noise)
        modalities = ("a", "b", "c", "d")
        strategy = set_up(cggm(warmup_steps=0), small_model(modalities))
        largest = [observed(strategy, row, modalities).factor.argmax().item() for row in losses]
        hits += list(np.array(largest)[100:] == slowest[100:])
    assert np.mean(hits) >= 0.65


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"strength": -1}, "strength"), ({"min_factor": 1.0}, "min_factor"), ({"max_factor": 0.9}, "max_factor"),
     ({"unimodal_weight": -0.1}, "unimodal_weight"), ({"warmup_steps": -1}, "warmup_steps")],
)  # fmt: skip
def test_impossible_settings_are_refused(settings, key):
    with pytest.raises(ConfigError, match=rf"strategy\.{key}"):
        cggm(**settings)
