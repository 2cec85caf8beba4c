"""Build the network and set up its strategy at the start of training, the same for the same seed."""

from __future__ import annotations

import torch

from cggm_med.config import RunConfig
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Stream, random_seed
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task


def build(task: Task, strategy: BalancingStrategy, config: RunConfig, device: torch.device) -> MultimodalModel:
    """The seeded model, with its strategy set up; both on ``device``.

    Classifier heads draw their weights from a stream of their own, so that every strategy starts with the same model.
    """
    torch.manual_seed(config.train.seed)
    model = task.network().to(device)
    torch.manual_seed(random_seed(config.train.seed, Stream.HEAD_WEIGHTS))
    steps = config.train.steps_per_epoch
    strategy.setup(model, lambda: task.unimodal_heads(model), task.score_sums, steps, task.hard_score_sums())
    strategy.to(device)
    return model
