"""Small seeded problems on which strategies are tried: segmentation, classification and regression."""

from dataclasses import dataclass

import torch
from torch import nn

from cggm_med import registry
from cggm_med.config import OptimConfig
from cggm_med.models.heads import UnimodalHeads, VectorHead, VoxelwiseHead
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.objectives.balance_scores import residual_sums, soft_dice_sums, true_class_sums
from cggm_med.objectives.losses import RegionLoss
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.training.monitor import Monitor
from cggm_med.training.step import train_step
from cggm_med.types import Batch

CHANNELS = (3, 4, 5)
MODALITIES = ("flair", "t1", "t1ce")
CPU = torch.device("cpu")
STEPS = 100


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


def vector_model(modalities=MODALITIES, seed=0, targets=4) -> LateFusionModel:
    torch.manual_seed(seed)
    # Biases in front of the ReLU, so that no feature is dead for all samples.
    encoders = {m: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)) for m in modalities}
    return LateFusionModel(encoders, dict.fromkeys(modalities, 5), targets)


def vector_heads(modalities=MODALITIES, targets=4) -> UnimodalHeads:
    torch.manual_seed(1)
    return UnimodalHeads({m: VectorHead(5, targets) for m in modalities})


def vector_batch(step=0, modalities=MODALITIES, samples=4, classes=True) -> Batch:
    random = torch.Generator().manual_seed(100 + step)
    label = torch.randint(4, (samples,), generator=random)
    code = nn.functional.one_hot(label, 6).float()
    inputs = {
        m: code * strength + torch.randn(samples, 6, generator=random)
        for m, strength in zip(modalities, (3.0, 0.5, 1.5), strict=False)
    }
    target = label if classes else label[:, None].float() - 1.5
    return Batch(inputs, target, tuple(f"case{i}" for i in range(samples)))


@dataclass(frozen=True)
class Problem:
    """What a strategy needs to be tried."""

    model: object
    heads: object
    batch: object
    criterion: nn.Module
    score_sums: object


SEGMENTATION = Problem(small_model, small_heads, small_batch, RegionLoss(), soft_dice_sums)
CLASSIFICATION = Problem(vector_model, vector_heads, vector_batch, nn.CrossEntropyLoss(), true_class_sums)
REGRESSION = Problem(
    lambda modalities=MODALITIES, seed=0: vector_model(modalities, seed, targets=1),
    lambda modalities=MODALITIES: vector_heads(modalities, targets=1),
    lambda step=0, modalities=MODALITIES, samples=4: vector_batch(step, modalities, samples, classes=False),
    nn.L1Loss(),
    residual_sums(1.0),
)
PROBLEMS = {"segmentation": SEGMENTATION, "classification": CLASSIFICATION, "regression": REGRESSION}


def make(name, **settings):
    """A registered strategy."""
    cls = registry.load(registry.STRATEGIES, name)
    return cls(cls.Config(name, **settings))


def set_up(strategy, model, steps_per_epoch=5, problem=SEGMENTATION):
    strategy.setup(model, lambda: problem.heads(model.modalities), problem.score_sums, steps_per_epoch)
    return strategy


def trained(strategy, steps=4, optim=None, model=None, batches=None, problem=SEGMENTATION, first=0, **options):
    """The model after some steps, its strategy set up and used."""
    model = model if model is not None else problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, optim or OptimConfig(), CPU)
    for number in range(first, first + steps):
        batch = batches[number - first] if batches else problem.batch(number, model.modalities)
        one_step(model, strategy, optimizer, batch, number, problem, **options)
    return model


def one_step(model, strategy, optimizer, batch, number=0, problem=SEGMENTATION, **options):
    options.setdefault("monitor", Monitor(len(model.modalities)))
    options.setdefault("clip_norm", 1.0)
    return train_step(model, strategy, optimizer, problem.criterion, batch, Step(number, STEPS), **options)


def same_bits(a, b) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
