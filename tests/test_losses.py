"""The training loss: laws, hand values, and scikit-style references."""

import pytest
import torch
from torch.nn import functional as F

from cggm_med.losses import RegionLoss, subsample


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
