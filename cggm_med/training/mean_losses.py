"""Mean losses of the fused prediction and of the classifier heads, on training and on validation cases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cggm_med import distributed
from cggm_med.config import RunConfig
from cggm_med.data.splits import Splits
from cggm_med.device import precision
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.strategies.base import BalancingStrategy, Criterion, fused_loss
from cggm_med.task.base import Task

FUSED = "task"  # as strategies name the loss of the fused prediction


def require_validation_cases(strategy: str, splits: Splits) -> None:
    """Refuse to measure losses of validation cases where there are none.

    Raises:
        ConfigError: names the strategy, and what to set.
    """
    if not splits.validation:
        raise ConfigError(
            f"strategy '{strategy}' measures losses of validation cases and there are none; set data.validation above "
            "0, or name some in data.splits"
        )


@torch.no_grad()
def mean_losses(
    task: Task,
    model: MultimodalModel,
    strategy: BalancingStrategy,
    criterion: Criterion,
    config: RunConfig,
    device: torch.device,
    split: str,
) -> dict[str, Tensor]:
    """The losses of a split's cases, without augmentation and in evaluation mode, in which the network is left.

    The same cases at each call, and as many of one split as of the other, if it has them: differences between two
    calls are those of the network.

    Args:
        task: prepared.
        model: the network.
        strategy: has the classifier heads, if any.
        criterion: the loss.
        config: the run's config.
        device: where to compute.
        split: ``train`` or ``validation``.

    Returns:
        Scalars by name, ``task`` of the fused prediction and those of each modality that any of the cases has; the same
        in all processes.

    Raises:
        ConfigError: if there are no validation cases.
    """
    splits = task.splits
    require_validation_cases(config.strategy.name, splits)
    model.eval()
    strategy.eval()
    cases = {"train": splits.train, "validation": splits.validation}[split][: len(splits.validation)]
    names = (FUSED, *model.modalities)
    sums = dict.fromkeys(names, torch.zeros(2, device=device))
    autocast = precision(config.train.precision, device)
    mine = cases[distributed.rank() :: distributed.world_size()]
    for loaded in task.evaluation_batches(mine) if mine else ():
        batch = loaded.to(device)
        with autocast():
            features = model.encode(batch.inputs, batch.present)
            (outputs,) = model.predict([features])
            found: dict[str, tuple[Any, int]] = {FUSED: (fused_loss(outputs, batch.target, criterion), len(batch.ids))}
            for modality, own in strategy.unimodal(features).items():
                found[modality] = criterion(own.logits, own.target(batch.target)), len(own.logits)
        for name, (loss, samples) in found.items():
            sums[name] = sums[name] + torch.stack([loss.float() * samples, loss.new_tensor(samples).float()])
    whole = distributed.sum_over_processes(torch.stack([sums[name] for name in names]))
    counts = whole[:, 1].tolist()
    return {name: row[0] / row[1] for name, row, count in zip(names, whole, counts, strict=True) if count}
