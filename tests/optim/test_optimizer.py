"""The optimizer: groups by modality, clipping, where a factor acts with each optimizer, and steps that are left out."""

import pytest
import torch

from cggm_med.config import OptimConfig
from cggm_med.optim.optimizer import clip_gradients, make_optimizer, scale_updates, step_if_finite, unchanged_rates
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.strategies.joint import Joint
from cggm_med.testing.problems import CPU, MODALITIES, one_step, set_up, small_batch, small_model, vector_model

ADAPTIVE = [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adagrad]


def joint():
    return Joint(Joint.Config("joint"))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_parameter_stands_in_exactly_one_group(name):
    model, strategy = small_model(deep_supervision=True), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(name=name), CPU)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for module in (model, strategy) for p in module.parameters())
    by_modality = {g["modality"]: g["params"] for g in optimizer.param_groups if g["modality"]}
    assert list(by_modality) == list(MODALITIES)
    for modality, parameters in by_modality.items():
        assert {id(p) for p in parameters} == {id(p) for p in model.modality_parameters(modality)}


@pytest.mark.parametrize(("nesterov", "second"), [(True, 1.9 + 0.81), (False, 1.9)])
def test_momentum_is_nesterovs_or_plain(nesterov, second):
    """By hand, two steps with gradient 1 and momentum 0.9: plain moves by 1 and 1.9, Nesterov by 1.9 and 2.71."""
    model = small_model()
    config = OptimConfig(name="sgd", lr=1.0, weight_decay=0.0, nesterov=nesterov)
    optimizer = make_optimizer(model, joint(), config, CPU)
    moves, weight = [], next(model.parameters()).detach()
    for _ in range(2):
        before = weight.clone()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        moves.append((before - weight).mean().item())
    assert moves == pytest.approx([1.9 if nesterov else 1.0, second], rel=1e-5)


def test_the_heads_may_have_a_weight_decay_of_their_own():
    model, strategy = small_model(), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    for heads, expected in ((None, 0.2), (0.0, 0.0)):
        config = OptimConfig(weight_decay=0.2, heads_weight_decay=heads)
        *others, last = make_optimizer(model, strategy, config, CPU).param_groups
        assert {group["weight_decay"] for group in others} == {0.2}
        assert last["heads"]
        assert last["weight_decay"] == expected


def test_adamw_is_not_fused_on_the_cpu():
    """Fused on the CPU, torch 2.13 scrambles updates whose gradient has another memory layout than its parameter."""
    model = small_model()
    optimizer = make_optimizer(model, joint(), OptimConfig(), CPU)
    assert not optimizer.defaults["fused"]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
        if p.ndim == 5:
            p.grad = p.grad.to(memory_format=torch.channels_last_3d)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    for p, old in zip(model.parameters(), before, strict=True):  # a first step of Adam is lr in every direction
        torch.testing.assert_close(p.detach(), old * (1 - 1e-3 * 1e-2) - 1e-3, rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_before_the_factor_and_without_the_heads():
    model, strategy = small_model(), CGGM(CGGMConfig("cggm", unimodal_weight=0))
    set_up(strategy, model)
    seen = []
    strategy.modulate = lambda model, optimizer, step: seen.append(
        torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    )
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    one_step(model, strategy, optimizer, small_batch(), clip_norm=0.01)
    assert seen == [pytest.approx(0.01, rel=1e-3)]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_without_groups_for_the_modalities_is_an_error(kind):
    optimizer = kind(small_model().parameters())
    with pytest.raises(ValueError, match="no parameter group for modality 'flair'"):
        scale_updates(optimizer, {"flair": torch.tensor(0.5)})


def test_a_parameter_that_two_modalities_share_is_an_error():
    model = small_model()
    model.encoders["t1"] = model.encoders["flair"]
    with pytest.raises(ValueError, match="'flair' and 't1' share a parameter"):
        make_optimizer(model, Joint(Joint.Config("joint")), OptimConfig(), CPU)


def with_gradients(*values):
    model = small_model()
    for i, m in enumerate(model.modalities):
        for p in model.modality_parameters(m):
            p.grad = torch.full_like(p, values[i])
    for p in (*model.decoder.parameters(), *model.head.parameters()):
        p.grad = torch.full_like(p, values[3])
    return model


def test_clipping_is_torchs_own_and_tells_each_modalitys_norm():
    model, twin = with_gradients(0.1, 0.2, 0.3, 0.4), with_gradients(0.1, 0.2, 0.3, 0.4)
    norms, fusion, total = clip_gradients(model, 0.7)
    expected = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.7)
    torch.testing.assert_close(total, expected)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    count = sum(p.numel() for p in model.modality_parameters("t1"))
    assert norms[1].item() == pytest.approx(0.2 * count**0.5, rel=1e-5)
    shared = sum(p.numel() for p in (*model.decoder.parameters(), *model.head.parameters()))
    assert fusion.item() == pytest.approx(0.4 * shared**0.5, rel=1e-5)
    assert torch.cat([norms, fusion[None]]).norm().item() == pytest.approx(total.item(), rel=1e-6)


def test_a_modality_without_gradient_has_norm_zero():
    model = with_gradients(0.1, 0.2, 0.3, 0.4)
    for p in model.modality_parameters("t1"):
        p.grad = None
    assert clip_gradients(model, 1.0)[0][1] == 0


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_optimizer_skips_by_flag(kind):
    """What happens on a GPU without asking the CPU; torch has fused optimizers for the CPU as well."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([p], lr=0.1, fused=True)
    for total, moves in ((float("inf"), False), (1.0, True), (float("nan"), False)):
        before = p.detach().clone()
        p.grad = torch.full((3,), 0.5)
        assert step_if_finite(optimizer, torch.tensor(total)).item() == moves
        assert (not torch.equal(p, before)) == moves


@pytest.mark.parametrize("fused", [True, False])
def test_a_head_whose_gradient_is_not_finite_keeps_its_weights_too(fused):
    """They are outside the norm by which the model is clipped."""
    model, strategy = small_model(), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    for group in optimizer.param_groups:
        group["fused"] = fused
    for p in [*model.parameters(), *strategy.parameters()]:
        p.grad = torch.zeros_like(p)
    weight = next(strategy.heads.parameters())
    before = weight.detach().clone()
    for gradient, moves in ((float("inf"), False), (float("nan"), False), (1.0, True)):
        weight.grad.fill_(gradient)
        assert step_if_finite(optimizer, torch.tensor(1.0)).item() == moves
        assert torch.equal(weight, before) != moves


def walk(kind, scale, steps=5):
    """How far each modality's parameters go in some steps, when ``scale`` acts on them before each."""
    torch.manual_seed(0)
    model = vector_model()
    groups = [{"params": model.modality_parameters(m), "modality": m} for m in MODALITIES]
    options = {"weight_decay": 0.0, "lr": 1e-2}
    optimizer = kind(groups, **options)
    start = {m: [p.detach().clone() for p in model.modality_parameters(m)] for m in MODALITIES}
    for number in range(steps):
        # Made-up gradients, so that they do not depend on how far the parameters have gone.
        for p in model.encoders.parameters():
            p.grad = torch.sin(torch.arange(p.numel(), dtype=torch.float32) + number).reshape(p.shape)
        scale(model, optimizer)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = options["lr"]
    return {
        m: torch.cat([(p - q).flatten() for p, q in zip(model.modality_parameters(m), start[m], strict=True)]).norm()
        for m in MODALITIES
    }


def apply_factors(model, optimizer):
    scale_updates(optimizer, {"flair": torch.tensor(0.5), "t1": torch.tensor(1.0), "t1ce": torch.tensor(1.5)})


def multiply_gradients(model, optimizer):
    for p in model.modality_parameters("flair"):
        p.grad.mul_(0.5)


@pytest.mark.parametrize("kind", [*ADAPTIVE, torch.optim.SGD])
def test_the_length_of_an_update_follows_the_factor_with_every_optimizer(kind):
    plain, scaled = walk(kind, lambda *_: None), walk(kind, apply_factors)
    ratios = [(scaled[m] / plain[m]).item() for m in MODALITIES]
    assert ratios == pytest.approx([0.5, 1.0, 1.5], rel=1e-3)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_constant_factor_on_the_gradient_would_cancel_in_adam(kind):
    """Why the factor goes on the learning rate."""
    plain, scaled = walk(kind, lambda *_: None), walk(kind, multiply_gradients)
    assert (scaled["flair"] / plain["flair"]).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_factors_do_not_pile_up(name):
    model = small_model()
    optimizer = make_optimizer(model, joint(), OptimConfig(name=name, lr=0.1), CPU)
    for _ in range(3):
        with unchanged_rates(optimizer):
            scale_updates(optimizer, {"flair": torch.tensor(0.5)})
            assert optimizer.param_groups[0]["lr"] == (0.1 if name == "sgd" else 0.05)
        assert [group["lr"] for group in optimizer.param_groups] == [0.1] * 4
