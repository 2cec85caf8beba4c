"""Select the device that a network computes on and its precision, and tell how much memory there is and is held."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from cggm_med.device_name import require_device
from cggm_med.errors import ConfigError

CONTEXT_BYTES = 500_000_000  # of a GPU that CUDA takes for a process, about, before the first tensor


def select_device(name: str) -> torch.device:
    """The device to train on; ``auto`` is this process's CUDA device if there is one, else the CPU.

    Raises:
        ConfigError: if CUDA or MPS is asked for and absent, or the name is not a device.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    require_device(name, "device")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("device is mps, and torch sees no Apple GPU here; choose another, auto or cpu")
    elif name != "cpu":
        asked, count = name, torch.cuda.device_count()
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        if int(name.split(":")[1]) >= count:
            there = "none" if count == 0 else "only cuda:0" if count == 1 else f"only cuda:0 to cuda:{count - 1}"
            raise ConfigError(f"device is {asked}, and torch sees {there} here; choose another, auto or cpu")
        torch.cuda.set_device(name)
        # All patches have the same size, so it pays to search for the fastest convolution once.
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


def hardware(device: torch.device) -> str:
    """What a device is called where results are stated.

    Example:
        >>> hardware(torch.device("cpu")).split()[0]
        'CPU'
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{'CPU' if device.type == 'cpu' else 'Apple GPU'} ({platform.machine()})"


def number_format(name: str, device: torch.device) -> torch.dtype:
    """The format of numbers in which a network computes.

    Args:
        name: setting ``train.precision``; ``auto`` is float32, but on CUDA bfloat16, and float16 where a GPU would only
            emulate that (before NVIDIA's Ampere).
        device: the network's device.

    Example:
        >>> number_format("auto", torch.device("cpu"))
        torch.float32
    """
    if name != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def precision(name: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """The context for the network's computations; see ``number_format``."""
    number = number_format(name, device)
    return lambda: torch.autocast(device.type, number, enabled=number != torch.float32)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU."""
    return int(torch.cuda.mem_get_info(device)[0])


def held_bytes(device: torch.device) -> int:
    """What this process holds on a device by now, beside the tensors on a GPU; 0 where the system does not say.

    On a CPU that is the interpreter with all that was imported, and everything it has read: several hundred megabytes
    before the first tensor.
    """
    if device.type == "cuda":
        return CONTEXT_BYTES
    if sys.platform == "win32":
        return 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
