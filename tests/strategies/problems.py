"""Small seeded problems on which strategies are tried: a model, a batch and a step."""

import torch

from cggm_med.config import OptimConfig
from cggm_med.engine import make_optimizer, train_step
from cggm_med.losses import RegionLoss, soft_dice_sums
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.unimodal import UnimodalHeads, VoxelwiseHead
from cggm_med.typing import Batch

CHANNELS = (3, 4, 5)
MODALITIES = ("flair", "t1", "t1ce")
CPU = torch.device("cpu")


def small_model(modalities=MODALITIES, seed=0, **options) -> SegmentationModel:
    torch.manual_seed(seed)
    return SegmentationModel(modalities, regions=2, channels=CHANNELS, **options)


def small_heads(modalities=MODALITIES) -> UnimodalHeads:
    torch.manual_seed(1)
    return UnimodalHeads({m: VoxelwiseHead(CHANNELS, regions=2) for m in modalities})


def small_batch(step=0, modalities=MODALITIES, samples=2) -> Batch:
    random = torch.Generator().manual_seed(100 + step)
    target = (torch.rand(samples, 2, 8, 8, 8, generator=random) > 0.6).float()
    inputs = {
        m: target[:, :1] * strength + torch.randn(samples, 1, 8, 8, 8, generator=random)
        for m, strength in zip(modalities, (2.0, 0.5, 1.0), strict=False)
    }
    return Batch(inputs, target, tuple(f"case{i}" for i in range(samples)))


def set_up(strategy, model, steps_per_epoch=5):
    strategy.setup(model, lambda: small_heads(model.modalities), soft_dice_sums, steps_per_epoch)
    return strategy


def trained(strategy, steps=4, optim=None, model=None, batches=None):
    """The model after some steps, its strategy set up and used."""
    model = model if model is not None else small_model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, optim or OptimConfig(), CPU)
    for step in range(steps):
        batch = batches[step] if batches else small_batch(step, model.modalities)
        train_step(model, strategy, optimizer, RegionLoss(), batch, clip_norm=1.0)
    return model


def same_bits(a, b) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
