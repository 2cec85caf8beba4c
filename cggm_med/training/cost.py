"""Measure time, processor time and memory of a training, and write them beside the run."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from cggm_med.files import write_json


@contextlib.contextmanager
def measured(path: Path, device: torch.device, steps: int) -> Iterator[None]:
    """Measure the block and, if it ends without an error, write its cost as JSON.

    Keys: ``seconds`` of wall-clock time; ``cpu_seconds`` of this process and of the data workers that ended in the
    block, which says more on a busy machine; ``peak_memory_bytes``, on CUDA allocated by torch in the block, else the
    most that this process has ever held (None where the system does not report it); ``steps``, ``device``, ``threads``.

    Args:
        path: JSON file to write.
        device: where the block computes.
        steps: optimizer steps in the block.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    started, cpu = time.monotonic(), _cpu_seconds()
    yield
    if cuda:
        torch.cuda.synchronize(device)
    cost = {
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if cuda else _peak_resident_bytes(),
        "steps": steps,
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }
    write_json(path, cost)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _peak_resident_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
