"""What strategies share: where a factor acts, how scores are gathered, and what a missing modality does."""

import pytest
import torch

from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.randomness import Step
from cggm_med.strategies.base import fused_loss
from cggm_med.testing.problems import (
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
from cggm_med.types import Outputs


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


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_factors_are_kept_where_one_is_not_finite(odd):
    strategy = set_up(make("ogm"), small_model())
    before = strategy.factor.clone()
    strategy.set_factors(
        slice(None), torch.full_like(before, 0.5).index_fill(0, torch.tensor([0]), odd), torch.tensor(True)
    )
    assert torch.equal(strategy.factor, before)
    strategy.set_factors(slice(None), torch.full_like(before, 0.5), torch.tensor(True))
    assert torch.equal(strategy.factor, torch.full_like(before, 0.5))
