"""When a step does not fit into the memory of a GPU: the same batch in more parts, from the last checkpoint on."""

from __future__ import annotations

import torch
from torch import nn

from cggm_med import distributed
from cggm_med.config import RunConfig
from cggm_med.errors import ConfigError
from cggm_med.strategies.base import BalancingStrategy

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class TooLarge(Exception):
    """A step did not fit into memory.

    Args:
        parts: in how many the batch is to be computed.
    """

    def __init__(self, parts: int) -> None:
        super().__init__(parts)
        self.parts = parts


def more_parts(
    config: RunConfig, parts: int, model: nn.Module, strategy: BalancingStrategy, device: torch.device
) -> int:
    """In how many parts to compute a batch that did not fit into memory in ``parts``, for the same update to rounding.

    Args:
        config: of the run.
        parts: that were too large.
        model: the network.
        strategy: that combines the losses.
        device: whose memory ended.

    Raises:
        ConfigError: if there are as many parts as samples already, several processes would have to agree, or parts
            would train another network.
    """
    size = config.train.batch_size
    short = f"the memory of {device} is too small for a step of {size // parts} sample(s)"
    smaller = "take a smaller patch or network, or another device"
    if distributed.world_size() > 1:
        raise ConfigError(f"{short} in each process; set train.accumulate above {parts}, or {smaller}")
    more = next((n for n in range(parts + 1, size + 1) if size % n == 0), None)
    if more is None:
        raise ConfigError(f"{short}; {smaller}")
    reason = ""
    if getattr(config.task, "batch_dice", False):
        reason = "task.batch_dice takes the Dice of all samples that are computed together"
    elif any(isinstance(module, BATCH_NORMS) for module in model.modules()):
        reason = "the network normalises over the samples that are computed together"
    if reason:
        raise ConfigError(
            f"{short}, and in smaller parts it would be another training, since {reason}; choose that with "
            f"train.accumulate={more}, or {smaller}"
        )
    strategy.check_parts(more)
    return more
