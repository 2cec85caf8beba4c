"""Training with several processes that torchrun starts: join them, exchange tensors and values, finish together."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from cggm_med.errors import ConfigError

MAX_HOURS = 24  # that processes wait for the first one, which may have to prepare all data


def active() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Number of this process; process 0 writes the files."""
    return distributed.get_rank() if active() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return distributed.get_world_size() if active() else 1


def started() -> int:
    """Number of processes that torchrun has started, also before they join."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def restarts() -> int:
    """How often torchrun starts all processes again, after one of them has died."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))


def launch() -> str | None:
    """The name of the torchrun that has started this process, the same after each restart; None without one.

    ``--standalone`` makes a new one, otherwise it is that of ``--rdzv-id``.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name == "none" else name  # torchrun's own word for no name


def restart_hangs() -> bool:
    """Whether restarted processes would find what their predecessors have left in torchrun's store, and wait for ever.

    They do not where TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 was set for torchrun.
    """
    return restarts() > 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes that torchrun started, for the duration of the block; a single process does nothing.

    Args:
        device: this process's device; decides between nccl and gloo.

    Raises:
        ConfigError: if no processes can communicate from such a device.
    """
    if started() == 1:
        yield
        return
    if device.type == "mps":
        raise ConfigError(f"device is mps, and {started()} processes were started; start one, or train on the CPU")
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=datetime.timedelta(hours=MAX_HOURS))
    try:
        yield
        # Leaving while another process still communicates sometimes aborts it.
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def barrier() -> None:
    """Wait for all processes."""
    if active():
        distributed.barrier()


@contextlib.contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process run the block before the others, so that they find its files on disk."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same bits on each."""
    if active():
        values = values.clone()
        distributed.all_reduce(values)
    return values


def max_over_processes(values: Tensor) -> Tensor:
    """The largest of each number over all processes."""
    if active():
        values = values.clone()
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return values


def flattened(tensors: Sequence[Tensor], sent_as: torch.dtype | None = None) -> Tensor:
    """The numbers of all tensors in one, to be sent at once.

    Args:
        tensors: of one type.
        sent_as: type in which they are sent and added; default: their own.
    """
    flat = torch.cat([x.reshape(-1) for x in tensors])
    return flat if sent_as is None else flat.to(sent_as)


def mean_of_sum(flat: Tensor) -> Tensor:
    """What a sum over processes is divided by their number, in float32 if it was sent in half of that."""
    return (flat.float() if flat.element_size() < 4 else flat) / world_size()


def average(tensors: Sequence[Tensor], sent_as: torch.dtype | None = None) -> None:
    """Replace each tensor by its mean over all processes, in one exchange; the same bits on each.

    Args:
        tensors: of one type.
        sent_as: type in which they are sent and added; default: their own.
    """
    if not active() or not tensors:
        return
    flat = flattened(tensors, sent_as)
    distributed.all_reduce(flat)
    for x, mean in zip(tensors, mean_of_sum(flat).split([x.numel() for x in tensors]), strict=True):
        x.copy_(mean.view_as(x))


def average_known(
    tensors: Sequence[Tensor | None], like: Sequence[Tensor], sent_as: torch.dtype | None = None
) -> list[Tensor | None]:
    """The mean of each tensor over all processes, of which some may lack it; lacking counts as 0.

    Args:
        tensors: replaced in place where this process has them.
        like: of the same shapes, for those that it lacks.
        sent_as: type in which they are sent and added; default: their own.

    Returns:
        The means; None where every process lacks the tensor.
    """
    if not active() or not like:
        return list(tensors)
    known = torch.tensor([x is not None for x in tensors], dtype=torch.float32, device=like[0].device)
    distributed.all_reduce(known)
    somewhere = [
        (torch.zeros_like(shape) if x is None else x) if count else None
        for x, shape, count in zip(tensors, like, known.tolist(), strict=True)
    ]
    average([x for x in somewhere if x is not None], sent_as)
    return somewhere


def gather_json(content: Any, device: torch.device) -> list[Any]:
    """The content of every process, in the order of their numbers, on each of them.

    Sent as JSON text: torch's own gathering of objects would unpickle what it receives.
    """
    if not active():
        return [content]
    text = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size())]
    distributed.all_gather(lengths, torch.tensor([len(text)], device=device))
    longest = int(max(lengths).item())
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(text)] = text
    received = [torch.zeros_like(padded) for _ in range(world_size())]
    distributed.all_gather(received, padded)
    return [
        json.loads(part[: int(n)].cpu().numpy().tobytes().decode()) for part, n in zip(received, lengths, strict=True)
    ]
