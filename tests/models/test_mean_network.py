"""The mean of networks: of its probabilities, from any subset, whichever way it is asked."""

import math

import pytest
import torch
from torch import nn

from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.models.mean_network import MeanNetwork
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.stacked import StackedModalities
from cggm_med.objectives.activation import (
    average_classes,
    average_exclusive,
    average_overlapping,
    average_values,
    exclusive,
    overlapping,
)

MODALITIES = ("flair", "t1")


def networks(count=3):
    """Of other depths each."""
    channels = [(4, 8), (4, 4, 8), (8, 8)]
    return [SegmentationModel(MODALITIES, 2, channels[i]).eval() for i in range(count)]


@pytest.mark.parametrize(
    ("average", "probability"), [(average_overlapping, overlapping), (average_exclusive, exclusive)]
)
@torch.no_grad()
def test_it_predicts_the_mean_probability(average, probability):
    each = networks()
    mean = MeanNetwork(each, average)
    for given in (MODALITIES, ("t1",)):
        inputs = {m: torch.randn(2, 1, 16, 16, 16) for m in given}
        expected = torch.stack([probability(network(inputs)) for network in each]).mean(0)
        torch.testing.assert_close(probability(mean(inputs)), expected, atol=1e-6, rtol=0)
        features = mean.encode(inputs)
        torch.testing.assert_close(mean.head(mean.fuse(features)[0]), mean(inputs))
        part = {m: features[m] for m in given[:1]}  # from what was encoded together
        torch.testing.assert_close(mean.head(mean.fuse(part)[0]), mean({m: inputs[m] for m in given[:1]}))


@pytest.mark.parametrize(
    ("average", "answer"),
    [(average_classes, lambda logits: logits.softmax(1)), (average_values, lambda values: values)],
)
@torch.no_grad()
def test_of_classes_and_values_too(average, answer):
    each = [LateFusionModel({m: nn.Linear(2, 4) for m in MODALITIES}, dict.fromkeys(MODALITIES, 4), 3) for _ in "ab"]
    inputs = {m: torch.randn(5, 2) for m in MODALITIES}
    expected = torch.stack([answer(network(inputs)) for network in each]).mean(0)
    torch.testing.assert_close(answer(MeanNetwork(each, average)(inputs)), expected)


@torch.no_grad()
def test_samples_that_lack_a_modality_are_predicted_without_it():
    stacked = StackedModalities(MeanNetwork(networks(2), average_overlapping)).eval()
    images = torch.randn(2, 2, 16, 16, 16)
    images[1, 0] = torch.nan
    whole, lacking = stacked(images)
    torch.testing.assert_close(whole[None], stacked(images[:1]))
    torch.testing.assert_close(lacking[None], stacked.model({"t1": images[1:, 1:]}))


@torch.no_grad()
def test_by_hand():
    """Logits 0 and log 3 are probabilities .5 and .75; their mean .625 has the logit log(5/3)."""
    each = networks(2)
    for network, logit in zip(each, (0.0, math.log(3)), strict=True):
        for parameter in network.head.parameters():
            nn.init.constant_(parameter, logit if parameter.ndim == 1 else 0.0)
    logits = MeanNetwork(each, average_overlapping)({"t1": torch.zeros(1, 1, 16, 16, 16)})
    torch.testing.assert_close(logits, torch.full_like(logits, math.log(5 / 3)))


def test_networks_of_other_modalities_are_refused():
    with pytest.raises(ValueError, match="one network has t1, not flair, t1"):
        MeanNetwork([*networks(1), SegmentationModel(["t1"], 2, (4, 8))], average_overlapping)
    with pytest.raises(ValueError, match="no network"):
        MeanNetwork([], average_overlapping)
