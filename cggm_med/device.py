"""In which number format a network computes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch


def precision(name: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context in which the network computes. No loss scaling: strategies read gradients as they are (ADR 0002).

    Args:
        name: ``auto`` (bfloat16 on CUDA, float32 elsewhere), ``float32`` or ``bfloat16``.
        device: where it computes.
    """
    low = name == "bfloat16" or (name == "auto" and device.type == "cuda")
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=low)
