"""Small seeded problems on which strategies are tried: segmentation, classification and regression."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cggm_med import registry
from cggm_med.config import OptimConfig
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads, VectorHead, VoxelwiseHead
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.objectives.activation import Average, average_classes, average_overlapping, average_values
from cggm_med.objectives.balance_scores import (
    ScoreSums,
    accuracy_sums,
    hard_dice_sums,
    residual_sums,
    sign_accuracy_sums,
    soft_dice_sums,
    true_class_sums,
)
from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step, seed_network
from cggm_med.strategies.base import BalancingStrategy, fused_loss
from cggm_med.training.monitor import Monitor
from cggm_med.training.step import train_step
from cggm_med.types import Batch

CHANNELS = (3, 4, 5)
MODALITIES = ("flair", "t1", "t1ce")
CPU = torch.device("cpu")
STEPS = 100


def small_model(modalities: Sequence[str] = MODALITIES, seed: int = 0, **options: Any) -> SegmentationModel:
    """A network of three scales for two regions."""
    if not options:  # a copy takes a fifth of the time
        model = copy.deepcopy(_small_model(tuple(modalities), seed))
        seed_network(seed, CPU)  # so that what is drawn next does not depend on whether one had been made
        return model
    seed_network(seed, CPU)
    return SegmentationModel(modalities, regions=2, channels=CHANNELS, **options)


@functools.lru_cache(maxsize=32)
def _small_model(modalities: tuple[str, ...], seed: int) -> SegmentationModel:
    seed_network(seed, CPU)
    return SegmentationModel(modalities, regions=2, channels=CHANNELS)


def small_heads(modalities: Sequence[str] = MODALITIES) -> UnimodalHeads:
    """Its classifier heads."""
    seed_network(1, CPU)
    return UnimodalHeads({m: VoxelwiseHead(CHANNELS, regions=2) for m in modalities})


def small_batch(step: int = 0, modalities: Sequence[str] = MODALITIES, samples: int = 2) -> Batch:
    """Noise in which each modality shows the first region, one better than the other."""
    random = torch.Generator().manual_seed(100 + step)
    target = (torch.rand(samples, 2, 8, 8, 8, generator=random) > 0.6).float()
    inputs = {
        m: target[:, :1] * strength + torch.randn(samples, 1, 8, 8, 8, generator=random)
        for m, strength in zip(modalities, (2.0, 0.5, 1.0), strict=False)
    }
    return Batch(inputs, target, tuple(f"case{i}" for i in range(samples)))


def vector_model(modalities: Sequence[str] = MODALITIES, seed: int = 0, targets: int = 4) -> LateFusionModel:
    """An encoder of two layers a modality, and a linear head."""
    seed_network(seed, CPU)
    # Biases in front of the ReLU, so that no feature is dead for all samples.
    encoders = {m: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)) for m in modalities}
    return LateFusionModel(encoders, dict.fromkeys(modalities, 5), targets)


def vector_heads(modalities: Sequence[str] = MODALITIES, targets: int = 4) -> UnimodalHeads:
    """Its classifier heads."""
    seed_network(1, CPU)
    return UnimodalHeads({m: VectorHead(5, targets) for m in modalities})


def vector_batch(
    step: int = 0, modalities: Sequence[str] = MODALITIES, samples: int = 4, classes: bool = True
) -> Batch:
    """Vectors that show which of four classes a sample has, or a value between -1.5 and 1.5."""
    random = torch.Generator().manual_seed(100 + step)
    label = torch.randint(4, (samples,), generator=random)
    code = nn.functional.one_hot(label, 6).float()
    inputs = {
        m: code * strength + torch.randn(samples, 6, generator=random)
        for m, strength in zip(modalities, (3.0, 0.5, 1.5), strict=False)
    }
    target = label if classes else label[:, None].float() - 1.5
    return Batch(inputs, target, tuple(f"case{i}" for i in range(samples)))


def lacking(batch: Batch, absent: Mapping[str, Iterable[int]], held: float | None = 0.0) -> Batch:
    """The same batch, whose samples lack modalities.

    Args:
        batch: with all of them.
        absent: numbers of the samples that lack a modality.
        held: what stands in their place; None: the modality is left out of the inputs.
    """
    inputs = dict(batch.inputs)
    present = {m: torch.ones(len(batch.ids), dtype=torch.bool) for m in inputs}
    for modality, rows in absent.items():
        present[modality][list(rows)] = False
        if held is None:
            del inputs[modality]
        else:
            x = inputs[modality]
            assert isinstance(x, Tensor)  # noqa: S101 - for the type checker; no problem here has sequences
            inputs[modality] = x.clone()
            inputs[modality][list(rows)] = held  # type: ignore[index]
    return replace(batch, inputs=inputs, present=present)


@dataclass(frozen=True)
class Problem:
    """What a strategy needs to be tried.

    Attributes:
        model: makes a network, of ``modalities`` and ``seed``.
        heads: makes its classifier heads, of ``modalities``.
        batch: makes the batch of a step, of ``step``, ``modalities`` and ``samples``.
        criterion: the loss.
        score_sums: see ``objectives.balance_scores``.
        average: of several predictions, see ``models.ensemble``.
        hard_score_sums: the same of predicted classes or masks.
    """

    model: Callable[..., MultimodalModel]
    heads: Callable[..., UnimodalHeads]
    batch: Callable[..., Batch]
    criterion: nn.Module
    score_sums: ScoreSums
    average: Average
    hard_score_sums: ScoreSums


SEGMENTATION = Problem(
    small_model, small_heads, small_batch, RegionLoss(), soft_dice_sums, average_overlapping, hard_dice_sums
)
CLASSIFICATION = Problem(
    vector_model,
    vector_heads,
    vector_batch,
    nn.CrossEntropyLoss(),
    true_class_sums,
    average_classes,
    accuracy_sums,
)
REGRESSION = Problem(
    lambda modalities=MODALITIES, seed=0: vector_model(modalities, seed, targets=1),
    lambda modalities=MODALITIES: vector_heads(modalities, targets=1),
    lambda step=0, modalities=MODALITIES, samples=4: vector_batch(step, modalities, samples, classes=False),
    nn.L1Loss(),
    residual_sums(1.0),
    average_values,
    sign_accuracy_sums,
)
PROBLEMS = {"segmentation": SEGMENTATION, "classification": CLASSIFICATION, "regression": REGRESSION}


def make(name: str, **settings: Any) -> BalancingStrategy:
    """A registered strategy."""
    cls = registry.load(registry.STRATEGIES, name)
    return cls(cls.Config(name, **settings))


def set_up(
    strategy: BalancingStrategy, model: MultimodalModel, steps_per_epoch: int = 5, problem: Problem = SEGMENTATION
) -> BalancingStrategy:
    """The strategy with heads and buffers for this network."""
    heads = partial(problem.heads, model.modalities)
    strategy.setup(model, heads, problem.score_sums, steps_per_epoch, problem.hard_score_sums)
    if strategy.teacher:
        other = registry.load(registry.STRATEGIES, strategy.teacher)
        strategy.learn_from(other.network(model.modalities, partial(problem.model, seed=7), problem.average).eval())
    return strategy


def trained(
    strategy: BalancingStrategy,
    steps: int = 4,
    optim: OptimConfig | None = None,
    model: MultimodalModel | None = None,
    batches: Sequence[Batch] = (),
    problem: Problem = SEGMENTATION,
    first: int = 0,
    **options: Any,
) -> MultimodalModel:
    """The model after some steps, its strategy set up and used."""
    model = model if model is not None else problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, optim or OptimConfig(), CPU)
    for number in range(first, first + steps):
        batch = batches[number - first] if batches else problem.batch(number, model.modalities)
        one_step(model, strategy, optimizer, batch, number, problem, **options)
    return model


def one_step(
    model: MultimodalModel,
    strategy: BalancingStrategy,
    optimizer: Optimizer,
    batch: Batch,
    number: int = 0,
    problem: Problem = SEGMENTATION,
    **options: Any,
) -> dict[str, Tensor]:
    """Step ``number`` of 100, with the start of an epoch if one starts there; its losses."""
    epoch, within = divmod(number, strategy.steps_per_epoch)
    if not within:
        strategy.start_epoch(model, epoch, partial(measured_losses, problem, model, strategy))
    options.setdefault("monitor", Monitor(len(model.modalities)))
    options.setdefault("clip_norm", 1.0)
    return train_step(model, strategy, optimizer, problem.criterion, batch, Step(number, STEPS), **options)


@torch.no_grad()
def measured_losses(
    problem: Problem, model: MultimodalModel, strategy: BalancingStrategy, split: str
) -> dict[str, Tensor]:
    """What ``start_epoch`` may ask for, of one batch; the network stays in training mode."""
    batch = problem.batch({"train": 1, "validation": 1000}[split], model.modalities)
    features = model.encode(batch.inputs)
    (outputs,) = model.predict([features])
    own = {m: problem.criterion(x.logits, x.target(batch.target)) for m, x in strategy.unimodal(features).items()}
    return {"task": fused_loss(outputs, batch.target, problem.criterion), **own}


def same_bits(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same numbers."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def finite_state(module: nn.Module) -> bool:
    """Whether all numbers of a module are finite."""
    return all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())
