"""What strategies share: where a factor acts, how scores are gathered, and what a missing modality does."""

import pytest
import torch
from helpers.problems import (
    CLASSIFICATION,
    MODALITIES,
    SEGMENTATION,
    make,
    set_up,
    small_batch,
    small_model,
    vector_batch,
    vector_model,
)

from cggm_med.objectives.losses import RegionLoss
from cggm_med.randomness import Step
from cggm_med.strategies.base import fused_loss, scale_updates
from cggm_med.types import Outputs

ADAPTIVE = [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adagrad]


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
    scale_updates(model, optimizer, {"flair": torch.tensor(0.5), "t1": torch.tensor(1.0), "t1ce": torch.tensor(1.5)})


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


def test_scores_come_from_the_share_of_a_linear_head_or_from_the_heads():
    """By hand: softmax of each modality's slice of the head, and of its classifier head."""
    batch, model = vector_batch(), vector_model()
    for name, logits_of in (
        ("ogm", lambda features, heads, m: model.linear_shares(features)[m]),
        ("cggm", lambda features, heads, m: heads(features)[m].logits),
    ):
        strategy = set_up(make(name), model, problem=CLASSIFICATION)
        features = model.encode(batch.inputs)
        outputs = model.predict([features])[0]
        outputs.unimodal.update(strategy.unimodal(features))
        strategy.watch(model, outputs, batch.target, Step(0, 10))
        expected = [
            torch.softmax(logits_of(features, strategy.heads, m), dim=1)[range(4), batch.target].mean().item()
            for m in MODALITIES
        ]
        assert strategy.score.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_decoder_has_no_shares_so_the_heads_score():
    model, batch = small_model(), small_batch()
    features = model.encode(batch.inputs)
    assert model.linear_shares(features) is None
    strategy = set_up(make("ogm"), model)
    outputs = model.predict([features])[0]
    outputs.unimodal.update(strategy.unimodal(features))
    strategy.watch(model, outputs, batch.target, Step(0, 10))
    sums = SEGMENTATION.score_sums(outputs.unimodal["t1"].logits, batch.target)
    assert strategy.score[1].item() == pytest.approx((sums[:, 0] / sums[:, 1]).mean().item(), rel=1e-5)


def test_the_recent_score_is_a_mean_of_what_was_seen():
    """Bias-corrected: after one step the score itself, after two (0.9 * 0.2 + 0.4) / 1.9."""
    strategy = set_up(make("joint"), small_model())
    assert strategy.recent_score.tolist() == [0, 0, 0]
    for score in (0.2, 0.4):
        sums = {m: torch.tensor([[score, 1.0, 1.0]]) for m in MODALITIES}
        strategy._sums = sums
        strategy.watch(small_model(), Outputs({}, (), torch.zeros(1)), torch.zeros(1), Step(0, 10))
    assert strategy.recent_score.tolist() == pytest.approx([(0.9 * 0.2 + 0.4) / 1.9] * 3)


def test_coarser_predictions_count_half_each():
    """Losses 1, 2 and 4 with weights 1, 1/2 and 1/4: 3 / 1.75."""
    outputs = Outputs({}, (), torch.tensor(1.0), (torch.tensor(2.0), torch.tensor(4.0)))
    assert fused_loss(outputs, torch.tensor(0.0), lambda x, target: x).item() == pytest.approx(3 / 1.75)


def test_deep_supervision_and_its_subset_view_use_the_same_weights():
    model, batch = small_model(deep_supervision=True), small_batch()
    outputs = model.predict([model.encode(batch.inputs)])[0]
    assert len(outputs.deep_logits) == 1
    criterion = RegionLoss()
    expected = (criterion(outputs.logits, batch.target) + 0.5 * criterion(outputs.deep_logits[0], batch.target)) / 1.5
    torch.testing.assert_close(fused_loss(outputs, batch.target, criterion), expected)
