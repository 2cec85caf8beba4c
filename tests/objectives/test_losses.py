"""The training losses: laws, hand values, and scikit-style references."""

import math

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn import functional as F

from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.objectives.targets import IGNORED, UNKNOWN, subsample
from cggm_med.objectives.utterance_loss import UtteranceLoss


def random_pair(shape=(2, 3, 4, 4, 4)):
    return torch.randn(shape), (torch.rand(shape) > 0.5).float()


def test_a_perfect_prediction_costs_nothing_and_the_opposite_much():
    _, target = random_pair()
    assert RegionLoss()(50 * (2 * target - 1), target).item() == pytest.approx(0, abs=1e-5)
    assert RegionLoss()(-50 * (2 * target - 1), target).item() > 10


def test_the_loss_of_two_halves_is_the_loss_of_the_whole():
    """What lets several processes share a batch."""
    logits, target = random_pair((4, 3, 4, 4, 4))
    halves = [RegionLoss()(logits[i : i + 2], target[i : i + 2]) for i in (0, 2)]
    torch.testing.assert_close(sum(halves) / 2, RegionLoss()(logits, target))


def test_the_loss_against_its_formula():
    logits, target = random_pair()
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((2, 3, 4)) + 1e-5) / (p.sum((2, 3, 4)) + target.sum((2, 3, 4)) + 1e-5)
    entropy = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    torch.testing.assert_close(RegionLoss()(logits, target), dice.mean() + entropy)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_dice_of_a_batch_is_that_of_one_long_sample(exclusive):
    """And where a region does not occur, it has a gradient that the mean over samples lacks."""
    logits = torch.randn(2, 3, 4, 4, 4)
    target = F.one_hot(torch.randint(4, (2, 4, 4, 4)), 4).movedim(-1, 1)[:, 1:].float()
    joined = [torch.cat(list(x), dim=1)[None] for x in (logits, target)]
    together = RegionLoss(exclusive=exclusive, batch_dice=True)
    torch.testing.assert_close(together(logits, target), RegionLoss(exclusive=exclusive)(*joined))

    target[1] = 0
    sizes = []
    for loss in (together, RegionLoss(exclusive=exclusive)):
        x = torch.full_like(logits, -1).requires_grad_()
        loss.dice_of_probabilities(x.sigmoid(), target).backward()
        sizes.append(x.grad[1].abs().max().item())
    assert sizes[0] > 100 * sizes[1]


def test_an_empty_region_that_is_not_predicted_costs_nothing():
    assert RegionLoss()(torch.full((1, 1, 4, 4, 4), -50.0), torch.zeros(1, 1, 4, 4, 4)).item() == pytest.approx(
        0, abs=1e-3
    )


def test_half_precision_logits_are_scored_in_float32():
    logits, target = random_pair()
    assert RegionLoss()(logits.bfloat16(), target).dtype == torch.float32


def test_a_coarser_grid_takes_every_second_voxel():
    target = torch.arange(4.0).reshape(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4)
    coarse = subsample(target, torch.zeros(1, 1, 2, 2, 2))
    assert coarse[0, 0, :, 0, 0].tolist() == [0, 2]
    with pytest.raises(ValueError, match="not a whole multiple"):
        subsample(target, torch.zeros(1, 1, 3, 3, 3))


def test_a_stride_two_convolution_is_centred_where_the_target_is_sampled():
    """An impulse in voxel 4 reaches output 2 of a centred kernel, and target voxel 4 is sampled there."""
    x = torch.zeros(1, 1, 8, 8, 8)
    x[0, 0, 4, 4, 4] = 1
    kernel = torch.zeros(1, 1, 3, 3, 3)
    kernel[0, 0, 1, 1, 1] = 1
    out = F.conv3d(x, kernel, stride=2, padding=1)
    assert torch.equal(out, subsample(x, out))


# Utterances

LENGTHS = torch.tensor([6, 2, 5, 1])
WEIGHTS = (0.5, 2.0, 1.0, 3.0, 0.1)


def random_utterances(classes=5):
    """Four dialogues of 14 utterances in all."""
    target = torch.randint(classes, (4, 6)).masked_fill(torch.arange(6) >= LENGTHS[:, None], IGNORED)
    return 3 * torch.randn(4, classes, 6), target


def test_utterances_cost_their_cross_entropy():
    """The authority: torch's own, packed; 14 utterances in 4 dialogues of 3.5 on average are a mean."""
    logits, target = random_utterances()
    packed, labels = logits.transpose(1, 2)[target != IGNORED], target[target != IGNORED]
    torch.testing.assert_close(UtteranceLoss(3.5)(logits, target), F.cross_entropy(packed, labels))
    weighted = UtteranceLoss(3.5, WEIGHTS)(logits, target)
    expected = F.cross_entropy(packed, labels, weight=torch.tensor(WEIGHTS), reduction="sum") / 14
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_focal_loss_against_its_formula(gamma):
    logits, target = random_utterances()
    packed, labels = logits.transpose(1, 2)[target != IGNORED], target[target != IGNORED]
    p = packed.double().softmax(1)[range(14), labels]
    expected = torch.tensor(WEIGHTS)[labels] * (1 - p) ** gamma * -p.log()
    found = UtteranceLoss(3.5, WEIGHTS, gamma)(logits, target)
    torch.testing.assert_close(found, expected.mean().float())


def test_focal_loss_by_hand():
    """p = 3/4 for one of two utterances, gamma 2: (1/4)^2 ln(4/3) over one dialogue of 2 on average."""
    logits = torch.tensor([[[math.log(3), 7.0], [0.0, 7.0]]])
    loss = UtteranceLoss(mean_length=2.0, gamma=2.0)(logits, torch.tensor([[0, IGNORED]]))
    assert loss.item() == pytest.approx(math.log(4 / 3) / 16 / 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_the_gradient_of_dialogues_in_parts_is_that_of_all(gamma):
    """Equal parts, whose gradients are averaged, although they have 8 and 6 utterances."""
    criterion = UtteranceLoss(4.0, WEIGHTS, gamma)
    logits, target = random_utterances()
    logits.requires_grad_()
    (whole,) = torch.autograd.grad(criterion(logits, target), logits)
    parts = [criterion(logits[rows], target[rows]) for rows in (slice(0, 2), slice(2, 4))]
    (parted,) = torch.autograd.grad(sum(parts) / 2, logits)
    torch.testing.assert_close(parted, whole)
    assert not whole.transpose(1, 2)[target == IGNORED].any()


def test_an_utterance_weighs_the_same_in_short_and_long_dialogues():
    logits = torch.randn(1, 5, 1).expand(2, 5, 6).clone().requires_grad_()
    target = torch.tensor([[2, 2, 2, 2, 2, 2], [2] + 5 * [IGNORED]])
    (gradient,) = torch.autograd.grad(UtteranceLoss(3.5)(logits, target), logits)
    torch.testing.assert_close(gradient[0], gradient[1, :, :1].expand(5, 6))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_predictions_have_finite_gradients(gamma, dtype):
    logits = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], dtype=dtype, requires_grad=True)
    for label in (0, 1):
        loss = UtteranceLoss(2.0, gamma=gamma)(logits, torch.tensor([[label, label]]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_impossible_settings_of_the_utterance_loss_are_named():
    for mean_length in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"mean_length is {mean_length}"):
            UtteranceLoss(mean_length)
    for gamma in (-1.0, 0.5, float("nan")):
        with pytest.raises(ValueError, match=f"gamma is {gamma}, expected 0 or at least 1"):
            UtteranceLoss(3.0, gamma=gamma)


def test_classes_that_exclude_one_another_have_a_background_without_a_logit():
    """Against torch's own softmax and cross-entropy over regions and background, and MONAI's Dice of them."""
    logits, chosen = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 4, (2, 4, 4, 4))
    target = torch.nn.functional.one_hot(chosen, 4).movedim(-1, 1)[:, 1:].to(torch.uint8)
    padded = torch.cat([torch.zeros(2, 1, 4, 4, 4), logits], 1)
    dice = DiceLoss(softmax=True, include_background=False, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)
    expected = dice(padded, chosen[:, None]) + torch.nn.functional.cross_entropy(padded, chosen)
    torch.testing.assert_close(RegionLoss(exclusive=True)(logits, target), expected)


@pytest.mark.parametrize("exclusive", [False, True])
def test_voxels_that_nobody_annotated_add_nothing(exclusive):
    logits = torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    target = torch.zeros(2, 2, 4, 4, 4, dtype=torch.uint8)
    target[:, 0, :2] = 1
    target[:, :, 3] = UNKNOWN
    loss = RegionLoss(exclusive=exclusive, partial=True)
    loss(logits, target).backward()
    assert logits.grad[:, :, 3].abs().max() == 0
    assert logits.grad[:, :, :3].abs().min() > 0
    changed = logits.detach().clone()
    changed[:, :, 3] = 50
    assert loss(changed, target) == loss(logits, target)
    torch.testing.assert_close(
        loss(logits[:, :, :3], target[:, :, :3]), RegionLoss(exclusive=exclusive)(logits[:, :, :3], target[:, :, :3])
    )


@pytest.mark.parametrize("exclusive", [False, True])
def test_shares_of_readers_are_best_predicted_by_their_share(exclusive):
    share = torch.full((1, 1, 2, 2, 2), 0.25)
    logits = torch.logit(torch.tensor([0.15, 0.25, 0.35])).view(3, 1, 1, 1, 1).expand(3, 1, 2, 2, 2)
    entropy = [
        RegionLoss(exclusive=exclusive, partial=True)(x[None], share)
        - DiceLoss(smooth_nr=1e-5, smooth_dr=1e-5)(torch.sigmoid(x[None]), share)
        for x in logits
    ]
    assert entropy[1] < min(entropy[0], entropy[2])
