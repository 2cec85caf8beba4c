"""Measure time, processor time and memory of a training, and write them beside the run."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cggm_med.device import hardware
from cggm_med.files import write_json
from cggm_med.models.peak_memory import LiveTensors

# Numbers of the steps whose memory is watched: the first has no optimizer state yet, and strategies that value subsets
# of the modalities do so in every tenth.
WATCHED_STEPS = (0, 1, 10)


class StepMemory:
    """The most that tensors take at once in a training step.

    Weights, their gradients, what the optimizer remembers, activations, and whatever the strategy adds. On CUDA it is
    what torch's allocator gave out, with the scratch memory of convolutions; elsewhere the tensors are counted, which
    says the same on every machine. Neither changes what is computed.

    Args:
        device: where the steps compute.

    Attributes:
        peak: bytes; 0 before the first watched step.
        overall: bytes that were allocated at most before the watched steps; 0 where they are counted.
        steps: that were taken, watched or not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak = self.overall = self.steps = 0

    @contextlib.contextmanager
    def watch(self, number: int, optimizer: Optimizer, *modules: nn.Module) -> Iterator[None]:
        """Watch a step, if it is one of ``WATCHED_STEPS``.

        Args:
            number: of the step, from 0.
            optimizer: of the step; its parameters and what it remembers are counted.
            modules: whatever else holds tensors.
        """
        self.steps += 1
        if number not in WATCHED_STEPS:
            yield
        elif self.device.type == "cuda":
            self.overall = max(self.overall, torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
            yield
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device))
        else:
            with LiveTensors(_held(optimizer, modules)) as live:
                yield
            self.peak = max(self.peak, live.peak)


def _held(optimizer: Optimizer, modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """What is in memory between two steps."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            yield parameter
            if parameter.grad is not None:
                yield parameter.grad


@contextlib.contextmanager
def measured(path: Path, device: torch.device) -> Iterator[StepMemory]:
    """Measure the block and, if it ends without an error, write its cost as JSON.

    Keys: ``seconds`` of wall-clock time; ``cpu_seconds`` of this process and of the data workers that ended in the
    block, which says more on a busy machine; ``peak_memory_bytes``, on CUDA allocated by torch in the block, else the
    most that this process has ever held (None where the system does not report it); ``step_memory_bytes``, the most
    that tensors took in a training step (None where the block watched none); ``steps``, ``device``, ``threads``.

    Args:
        path: JSON file to write.
        device: where the block computes.

    Returns:
        What every step of the block is to be watched by.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    started, cpu, memory = time.monotonic(), _cpu_seconds(), StepMemory(device)
    yield memory
    if cuda:
        torch.cuda.synchronize(device)
        allocated = max(memory.overall, memory.peak, torch.cuda.max_memory_allocated(device))
    cost = {
        "seconds": round(time.monotonic() - started, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "peak_memory_bytes": allocated if cuda else _peak_resident_bytes(),
        "step_memory_bytes": memory.peak or None,
        "steps": memory.steps,
        "device": hardware(device),
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
