"""MMPareto: laws of the two-gradient rule, values by hand, SciPy's minimiser, and autograd written out by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.objectives.subsets import draw_subset
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.runs.settings import make_config
from cggm_med.strategies.parts.pareto import ParetoGradients, min_norm_weight, pareto_gradient
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
    small_model,
    trained,
)

ROUNDING = 5e-3  # of float32, where one gradient is 200 times as long as the other and nearly opposite
PLAIN_SGD = OptimConfig(name="sgd", lr=1e-9, momentum=0, weight_decay=0)
whole = st.integers(-100, 100)
two_vectors = st.lists(st.tuples(whole, whole), min_size=1, max_size=6).map(
    lambda pairs: torch.tensor(pairs, dtype=torch.float64).unbind(1)
)
any_size = st.floats(-(2.0**30), 2.0**30, width=32).filter(lambda x: x == 0 or abs(x) > 2**-20)
seeds = st.integers(0, 2**32 - 1)
rescales = pytest.mark.parametrize("rescale", ["encoder", "tensor"])


def products(g, u):
    return g @ g, g @ u, u @ u


def cosine(g, u):
    return float(g @ u / (g.norm() * u.norm()).clamp_min(1e-30))


def flat(tensors):
    return torch.cat([x.flatten() for x in tensors])


def some_gradients(seed, conflict):
    """Two gradients of three tensors; the more ``conflict``, the more they oppose one another."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (4,), (2, 2)]
    fused = [torch.randn(shape, generator=random) for shape in shapes]
    return fused, [torch.randn(x.shape, generator=random) - conflict * x for x in fused]


def by_the_paper(fused, own, rescale):
    """The rule but for gamma, written out in NumPy and float64."""
    fused, own = ([np.asarray(x, dtype=np.float64) for x in tensors] for tensors in (fused, own))
    g, u = (np.concatenate([x.ravel() for x in tensors]) for tensors in (fused, own))
    a = 0.5 if g @ u > 0 else float(np.clip((u @ u - g @ u) / ((g - u) @ (g - u)), 0, 1))
    v = [2 * a * x + 2 * (1 - a) * y for x, y in zip(fused, own, strict=True)]
    if rescale == "tensor":
        plain, now = ([np.linalg.norm(x) for x in map(np.add, fused, own)], [np.linalg.norm(x) for x in v])
    else:
        plain, now = (
            [np.linalg.norm(g + u)] * len(v),
            [np.linalg.norm(np.concatenate([x.ravel() for x in v]))] * len(v),
        )
    # A tensor without any gradient has no length to restore.
    ratios = [max(before / after, 1) if after > 1e-12 else 1 for before, after in zip(plain, now, strict=True)]
    return [r * x for r, x in zip(ratios, v, strict=True)]


# The shortest vector between two


@given(two_vectors)
@example(torch.tensor([[0.0, 0.0], [0.0, 0.0]]).double())
@example(torch.tensor([[0.0, 0.0], [3.0, 1.0]]).double())
@example(torch.tensor([[1.0, 1.0], [9.0, 9.0]]).double())
def test_the_weight_is_on_the_simplex_and_the_best_of_a_grid(vectors):
    g, u = vectors
    a = float(min_norm_weight(*products(g, u)))
    assert 0 <= a <= 1
    grid = np.linspace(0, 1, 1001)
    lengths = np.linalg.norm(np.outer(grid, g) + np.outer(1 - grid, u), axis=1)
    assert np.linalg.norm(a * g.numpy() + (1 - a) * u.numpy()) <= lengths.min() + 1e-6


@given(two_vectors)
def test_the_weight_is_the_one_that_scipy_finds(vectors):
    g, u = vectors
    assume(not torch.equal(g, u))
    a = float(min_norm_weight(*products(g, u)))
    found = minimize_scalar(
        lambda x: float((x * g + (1 - x) * u).square().sum()), bounds=(0, 1), method="bounded", options={"xatol": 1e-9}
    )
    assert a == pytest.approx(found.x, abs=1e-5)


def test_the_weight_by_hand():
    """g = (1, 0) and u = (-1, 1): (2 + 1) / (1 + 2 + 2); u = (0, 1): one half; u = (3, 0): g itself is shortest."""
    g = torch.tensor([1.0, 0.0])
    found = [float(min_norm_weight(*products(g, torch.tensor(u)))) for u in ([-1.0, 1.0], [0.0, 1.0], [3.0, 0.0])]
    assert found == pytest.approx([0.6, 0.5, 1.0])
    assert float(min_norm_weight(*products(g, g))) == 0.5


# The combined gradient


@given(two_vectors)
def test_a_conflict_is_resolved_in_favour_of_both(vectors):
    """Neither loss grows, to first order: the result has no negative part along either gradient."""
    g, u = vectors
    assume(-0.999 < cosine(g, u) < 0)  # exactly opposite gradients have no common descent
    (v,), found = pareto_gradient([g], [u])
    assert found.item() == pytest.approx(cosine(g, u), abs=1e-5)
    assert cosine(v, g) >= -ROUNDING
    assert cosine(v, u) >= -ROUNDING
    # The shortest vector gains alike from both.
    assert abs(v @ g - v @ u) <= ROUNDING * v.norm() * max(g.norm(), u.norm())


@given(two_vectors)
def test_the_length_is_that_of_the_plain_sum(vectors):
    g, u = vectors
    assume(cosine(g, u) > -0.999)
    (v,), _ = pareto_gradient([g], [u])
    assert v.norm().item() == pytest.approx((g + u).norm().item(), rel=1e-4)


@rescales
@given(seed=seeds, conflict=st.sampled_from([-1.0, -0.2]))
def test_without_conflict_it_is_exactly_the_sum(rescale, seed, conflict):
    fused, own = some_gradients(seed, conflict)
    assume(cosine(flat(fused), flat(own)) > 0)
    combined, _ = pareto_gradient(fused, own, rescale)
    assert all(torch.equal(v, x + y) for v, x, y in zip(combined, fused, own, strict=True))


@rescales
@given(seed=seeds, conflict=st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_it_is_the_rule_of_the_paper(rescale, seed, conflict):
    fused, own = some_gradients(seed, conflict)
    combined, _ = pareto_gradient(fused, own, rescale)
    for found, expected in zip(combined, by_the_paper(fused, own, rescale), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@given(two_vectors)
def test_it_treats_both_gradients_alike(vectors):
    g, u = vectors
    assume(cosine(g, u) > -0.999)
    ((v,), _), ((w,), _) = pareto_gradient([g], [u]), pareto_gradient([u], [g])
    assert (v - w).norm() <= ROUNDING * v.norm()


def test_both_ways_to_restore_lengths_by_hand():
    """g = (1 | 0), u = (-1 | 1): a = 3/5, v = (2/5 | 4/5) of length .894; the plain sum is (0 | 1).

    As a whole v grows by 1 / .894; by tensors, the first stays (1 > 0 / .4), the second grows by 1 / .8.
    """
    fused, own = [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([-1.0]), torch.tensor([1.0])]
    assert flat(pareto_gradient(fused, own)[0]).tolist() == pytest.approx([0.4 / 0.8**0.5, 0.8 / 0.8**0.5])
    assert flat(pareto_gradient(fused, own, "tensor")[0]).tolist() == pytest.approx([0.4, 1.0])


def test_restoring_lengths_by_tensors_can_hurt_one_loss_where_the_whole_encoder_does_not():
    """g = (-2 | 1), u = (1 | 0): a = 3/10, v = (.2 | .6), plain sum (-1 | 1); by tensors (1 | 1), and its g is -1."""
    fused, own = [torch.tensor([-2.0]), torch.tensor([1.0])], [torch.tensor([1.0]), torch.tensor([0.0])]
    found = {r: flat(pareto_gradient(fused, own, r)[0]) for r in ("encoder", "tensor")}
    assert min(found["encoder"] @ flat(x) for x in (fused, own)) > 0
    assert found["tensor"] @ flat(fused) == pytest.approx(-1, abs=1e-5)


@rescales
@pytest.mark.parametrize("zero", ["fused", "own", "both"])
def test_a_gradient_of_zero_lets_the_other_pass(zero, rescale):
    random = torch.Generator().manual_seed(0)
    fused, own = (
        [torch.randn(3, generator=random) * (zero not in (name, "both")), torch.zeros(2)] for name in ("fused", "own")
    )
    combined, found = pareto_gradient(fused, own, rescale)
    assert found == 0
    assert all(torch.equal(v, x + y) for v, x, y in zip(combined, fused, own, strict=True))


@rescales
@given(pairs=st.lists(st.tuples(any_size, any_size), min_size=1, max_size=4))
def test_any_gradients_give_finite_ones_of_bounded_length(rescale, pairs):
    """No tensor is longer than twice both gradients together, however short the shortest vector is."""
    g, u = torch.tensor(pairs).unbind(1)
    combined, found = pareto_gradient(list(g.split(1)), list(u.split(1)), rescale)
    assert torch.isfinite(found)
    assert (flat(combined).abs() <= 2.001 * (g.double().norm() + u.double().norm())).all()


@given(seeds)
def test_a_small_step_along_it_lowers_two_conflicting_losses(seed):
    """Authority: the losses themselves, squared distances to two points, around a place between them."""
    random = torch.Generator().manual_seed(seed)
    p, q, x = torch.randn(3, 5, generator=random).double().unbind()
    x = (p + q) / 2 + 0.3 * x
    g, u = 2 * (x - p), 2 * (x - q)
    assume(-0.99 < cosine(g, u) < 0)
    (v,), _ = pareto_gradient([g], [u])
    after = x - 1e-3 * v
    # For longer steps the curvature, |step|^2, would count.
    slack = (after - x).square().sum()
    assert (after - p).square().sum() < (x - p).square().sum() + slack
    assert (after - q).square().sum() < (x - q).square().sum() + slack


# In a training step: where each loss goes


def gradients(problem, batch, name="mmpareto", options=None, **settings):
    """Model and heads as they were before one step, and with the gradients of it."""
    strategy, model = make(name, **settings), problem.model()
    set_up(strategy, model, problem=problem)
    # Negated, a head's last layer mostly asks its encoder for the contrary of what the fused head asks.
    strategy.heads.heads["t1"].last.weight.data.neg_()
    before = copy.deepcopy(model), copy.deepcopy(strategy.heads)
    optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
    one_step(model, strategy, optimizer, batch, 0, problem, clip_norm=1e9, settings=options or TrainConfig())
    return strategy, model, *before


def by_hand(model, heads, problem, batch, subset_weight=0.0):
    """Fused and own losses, each from a forward pass of its own."""
    features = model.encode(batch.inputs)
    fused = problem.criterion(model.predict([features])[0].logits, batch.target)
    if subset_weight:
        subset = model.predict([draw_subset(features, Step(0, STEPS))])[0].logits
        fused = fused + subset_weight * problem.criterion(subset, batch.target)
    own = {
        m: problem.criterion(heads.heads[m](model.encode({m: x})[m]).logits, batch.target)
        for m, x in batch.inputs.items()
    }
    return fused, own


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("rescale", ["encoder", "tensor"])
@pytest.mark.parametrize(
    "options",
    [TrainConfig(), TrainConfig(accumulate=2), TrainConfig(subset_view=0.5)],
    ids=["whole", "two parts", "subset view"],
)
def test_a_step_is_the_paper_written_out_with_autograd(problem, rescale, options):
    """Each encoder: the rule on the gradients of the fused loss and of its own head's loss alone.

    Decoder and head: the fused loss's plain gradient. Classifier heads: the gradient of their own loss. What only one
    modality passes through, projections of the fusion included, times gamma.
    """
    batch = problem.batch(0, samples=4)
    strategy, trained, model, heads = gradients(problem, batch, options=options, rescale=rescale, gamma=1.3)
    fused, own = by_hand(model, heads, problem, batch, options.subset_view)
    expected, cosines = {}, []
    for m in MODALITIES:
        names = [f"encoders.{m}.{name}" for name, _ in model.encoders[m].named_parameters()]
        parameters = list(model.encoders[m].parameters())
        g, u = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (fused, own[m]))
        cosines.append(cosine(flat(g), flat(u)))
        combined = by_the_paper(g, u, rescale)
        expected |= {name: torch.from_numpy(x).float() for name, x in zip(names, combined, strict=True)}
    rest = {name: p for name, p in model.named_parameters() if not name.startswith("encoders.")}
    plain = torch.autograd.grad(fused, list(rest.values()), retain_graph=True)
    expected |= dict(zip(rest, plain, strict=True))
    assert min(cosines) < 0  # otherwise nothing would have been tried
    torch.testing.assert_close(strategy.diagnostics()["conflict_cosine"], torch.tensor(cosines), rtol=1e-3, atol=1e-4)
    for name, p in model.named_parameters():
        if any(p is q for m in MODALITIES for q in model.modality_parameters(m)):
            expected[name] = 1.3 * expected[name]
    assert expected.keys() == dict(trained.named_parameters()).keys()
    for name, p in trained.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=2e-3, atol=2e-5, msg=name)
    for m in MODALITIES:
        parameters = list(heads.heads[m].parameters())
        expected_of_head = torch.autograd.grad(own[m], parameters, retain_graph=True)
        found = [p.grad for p in strategy.heads.heads[m].parameters()]
        torch.testing.assert_close(found, list(expected_of_head), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_a_heads_loss_reaches_its_encoder_and_itself_and_nothing_else(problem):
    model = problem.model()
    heads, batch = problem.heads(), problem.batch()
    pareto = ParetoGradients(3, rescale="encoder")
    own = problem.criterion(heads(model.encode(batch.inputs))["t1"].logits, batch.target)
    elsewhere = torch.zeros((), requires_grad=True)
    pareto.backward({"t1": own, "task": 2 * elsewhere}, model, heads)
    assert [p.grad for p in model.parameters()] == [None] * len(list(model.parameters()))
    assert list(pareto.own) == ["t1"]
    assert all(g.abs().max() > 0 for g in list(pareto.own["t1"].values())[:1])
    reached = {name.split(".")[1] for name, p in heads.named_parameters() if p.grad is not None}
    assert reached == {"t1"}
    assert elsewhere.grad == 2
    pareto.combine(model)
    touched = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {"t1"}
    assert pareto.own == {}


def test_gradients_keep_the_memory_layout_that_autograd_gave_them():
    """An optimizer may take the layout for granted."""
    layouts = []
    for name in ("mmpareto", "uniform"):
        strategy, model = make(name), small_model().to(memory_format=torch.channels_last_3d)
        set_up(strategy, model)
        one_step(model, strategy, make_optimizer(model, strategy, PLAIN_SGD, CPU), PROBLEMS["segmentation"].batch())
        layouts.append([p.grad.stride() for p in model.parameters()])
    assert layouts[0] == layouts[1]
    assert not all(p.grad.is_contiguous() for p in model.parameters())


def test_where_nothing_conflicts_it_is_uniform_training_with_gamma():
    """Another strategy as authority: unimodal losses in full through the encoders."""
    batch = CLASSIFICATION.batch(5)
    strategy, model, *_ = gradients(CLASSIFICATION, batch, gamma=1.25)
    agree = [m for m, c in zip(MODALITIES, strategy.pareto.cosine.tolist(), strict=True) if c > 0]
    _, uniform, *_ = gradients(CLASSIFICATION, batch, name="uniform", unimodal_weight=1.0)
    assert agree
    for m in agree:
        for ours, theirs in zip(model.modality_parameters(m), uniform.modality_parameters(m), strict=True):
            torch.testing.assert_close(ours.grad, 1.25 * theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_gamma_scales_the_update_of_encoders_whatever_the_optimizer(optimizer):
    """In Adam a factor on the gradient would cancel."""
    updates = []
    for gamma in (1.0, 2.0):
        strategy, model = make("mmpareto", gamma=gamma), CLASSIFICATION.model().double()
        set_up(strategy, model, problem=CLASSIFICATION)
        strategy.double()
        config = OptimConfig(name=optimizer, lr=1e-3, momentum=0, weight_decay=0)
        batch, before = CLASSIFICATION.batch(), copy.deepcopy(model)
        batch = replace(batch, inputs={m: x.double() for m, x in batch.inputs.items()})
        one_step(model, strategy, make_optimizer(model, strategy, config, CPU), batch, 0, CLASSIFICATION)
        pairs = zip(model.named_parameters(), before.parameters(), strict=True)
        updates.append({name: (p - q).detach() for (name, p), q in pairs})
    for name, update in updates[0].items():
        factor = 2 if name.startswith("encoders") else 1
        torch.testing.assert_close(updates[1][name], factor * update, rtol=1e-5, atol=1e-12, msg=name)


def test_an_impossible_gamma_is_refused():
    with pytest.raises(ConfigError, match=r"strategy\.gamma"):
        make("mmpareto", gamma=0.0)


class Summed(torch.nn.Module):
    """An encoder with two parameters that are summed directly, for which autograd returns one tensor twice."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 5)
        self.a, self.b = (torch.nn.Parameter(torch.randn(5)) for _ in range(2))

    def forward(self, x):
        return torch.tanh(self.layer(x) + (self.a + self.b))


@pytest.mark.parametrize("name", ["mmpareto", "dgs"])
def test_parameters_that_share_a_gradient_are_not_counted_twice(name):
    gradients = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = LateFusionModel({m: Summed() for m in MODALITIES}, dict.fromkeys(MODALITIES, 5), targets=4)
        strategy = set_up(make(name), model, problem=CLASSIFICATION)
        optimizer = make_optimizer(model, strategy, PLAIN_SGD, CPU)
        settings = TrainConfig(accumulate=parts)
        batch = CLASSIFICATION.batch()
        one_step(model, strategy, optimizer, batch, 0, CLASSIFICATION, settings=settings, clip_norm=1e9)
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@rescales
def test_opposite_gradients_cancel_and_their_rounding_is_not_stretched(rescale):
    g = torch.randn(1000)
    (v,), found = pareto_gradient([g], [-0.7 * g], rescale)
    assert found.item() == pytest.approx(-1)
    assert v.norm() < 1e-4 * g.norm()


@pytest.mark.parametrize("length", [1e-7, 1e-4, 1e4, 1e7])
def test_gradients_of_very_different_lengths_keep_a_common_descent(length):
    """At a cosine of -0.6 the shortest vector is all but orthogonal to the longer one, and gains on the other."""
    g, u = torch.tensor([1.0, 0.0]), length * torch.tensor([-0.6, 0.8])
    (v,), _ = pareto_gradient([g], [u])
    assert cosine(v, g) >= -1e-3
    assert cosine(v, u) >= -1e-3


# Strategies named after the authors' code and after what they leave out


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize(
    ("name", "same", "settings"),
    [
        ("mmpareto_paper", "mmpareto", {"rescale": "tensor"}),
        ("mmpareto_unscaled", "mmpareto", {"gamma": 1.0}),
        ("uniform_full", "uniform", {"unimodal_weight": 1.0}),
    ],
)
def test_a_name_is_a_setting_bit_for_bit(name, same, settings, problem):
    assert same_bits(trained(make(name), problem=problem), trained(make(same, **settings), problem=problem))


def test_what_a_name_means_cannot_be_set_otherwise():
    for name, setting in (
        ("mmpareto_paper", {"rescale": "encoder"}),
        ("mmpareto_unscaled", {"gamma": 2.0}),
        ("uniform_full", {"unimodal_weight": 0.3}),
    ):
        with pytest.raises(UnknownName, match=rf"strategy\.{next(iter(setting))}"):
            make_config("avdigits", [{"strategy": setting}], strategy=name)
