"""Build the network and set up its strategy at the start of training, the same for the same seed."""

from __future__ import annotations

import torch
from torch import nn

from cggm_med.config import RunConfig, TrainConfig
from cggm_med.models.base import MultimodalModel
from cggm_med.models.batch_norm import SharedBatchNorm
from cggm_med.models.cpu_convolution import NarrowConv3d
from cggm_med.randomness import Stream, random_seed
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task


def build(task: Task, strategy: BalancingStrategy, config: RunConfig, device: torch.device) -> MultimodalModel:
    """The seeded model, with its strategy set up; both on ``device``.

    Classifier heads draw their weights from a stream of their own, so that every strategy starts with the same model.
    """
    seed = _weights_seed(config.train)
    torch.manual_seed(seed)
    model = task.network().to(device)
    torch.manual_seed(random_seed(seed, Stream.HEAD_WEIGHTS))
    steps = config.train.steps_per_epoch
    strategy.setup(model, lambda: task.unimodal_heads(model), task.score_sums, steps, task.hard_score_sums())
    strategy.to(device)
    # A process whose samples all lack a modality has nothing to normalise, and the others would wait for it.
    if not getattr(config.data, "allow_missing", False):
        SharedBatchNorm.take_over(model)
        SharedBatchNorm.take_over(strategy)
    if config.train.memory_format == "channels_last":
        _lay_channels_last(model)
    else:
        NarrowConv3d.take_over(model)
    return model


def _lay_channels_last(model: nn.Module) -> None:
    """Give the weights of convolutions the memory format that PyTorch's convolutions then keep for what they return."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in model.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])


def _weights_seed(settings: TrainConfig) -> int:
    """The run's seed, unless other weights are asked for: these differ from seed to seed as well.

    Example:
        >>> _weights_seed(TrainConfig(seed=3))
        3
    """
    if settings.init_seed is None:
        return settings.seed
    return random_seed(settings.seed, Stream.OTHER_WEIGHTS, settings.init_seed)
