"""Predicted memory: counted by hand where that can be done, and compared with what the allocator says elsewhere."""

import torch
from torch import nn

from cggm_med.models.peak_memory import peak_bytes
from cggm_med.models.segmentation import SegmentationModel

MEGA = torch.zeros(1, 1, 64, 64, 64, device="meta")  # 2**20 bytes


def test_by_hand():
    # x + 1 and its double live together; then the first is let go before the third is made.
    def chain():
        y = MEGA + 1
        y = y * 2
        return y - 3

    assert peak_bytes(chain) == 2 << 20
    # In place, and views, take nothing.
    assert peak_bytes(lambda: (MEGA + 1).mul_(2).flatten().relu_()) == 1 << 20
    kept = []
    assert peak_bytes(lambda: kept.extend(MEGA + i for i in range(5))) == 5 << 20


def test_it_grows_with_the_batch_and_not_with_the_number_of_modalities():
    """The network holds the sums and one modality's maps at a time."""

    def peak(modalities, batch):
        model = SegmentationModel(modalities, regions=3, channels=(4, 8)).to("meta").eval()
        return peak_bytes(lambda: model({m: torch.zeros(batch, 1, 16, 16, 16, device="meta") for m in modalities}))

    one = peak(["a", "b"], 1)
    assert abs(peak(["a", "b"], 3) - 3 * one) < 0.02 * one
    inputs = 16**3 * 4
    assert peak(["a", "b", "c", "d"], 1) - one <= 2 * inputs


def test_the_same_as_without_the_meta_device():
    layers = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Conv3d(4, 2, 3))
    real = peak_bytes(lambda: layers(torch.zeros(1, 1, 12, 12, 12)))
    layers.to("meta")
    assert peak_bytes(lambda: layers(torch.zeros(1, 1, 12, 12, 12, device="meta"))) == real
    # By hand: input 12^3, 4 x 10^3 after the first layer, as much after the second, 2 x 8^3 after the third.
    assert real == 4 * (12**3 + 4 * 10**3 + 4 * 10**3)
