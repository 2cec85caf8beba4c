"""A process's share of a batch, padded and with dropout as where one process has the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cggm_med import distributed
from cggm_med.objectives.targets import IGNORED
from cggm_med.randomness import Step, Stream, random_seed, seed_network
from cggm_med.types import Batch, Padded


def as_long_as_all(batch: Batch, device: torch.device) -> Batch:
    """A process's share, whose sequences are padded to the longest of the whole batch, as one process pads them.

    A target of every time step is padded with ``IGNORED``.

    Args:
        batch: of all parts.
        device: of the exchange.
    """
    here = {m: x.values.shape[1] for m, x in batch.inputs.items() if isinstance(x, Padded)}
    if not here or not distributed.active():
        return batch
    longest = distributed.max_over_processes(torch.tensor([*here.values()], device=device)).tolist()
    lengths = dict(zip(here, longest, strict=True))
    inputs = {m: _longer(x, lengths[m]) if isinstance(x, Padded) else x for m, x in batch.inputs.items()}
    target = batch.target
    if target.ndim == 2 and not target.is_floating_point() and (steps := target.shape[1]) in here.values():
        whole = next(lengths[m] for m, length in here.items() if length == steps)
        target = F.pad(target, (0, whole - steps), value=IGNORED)
    return replace(batch, inputs=inputs, target=target)


def _longer(x: Padded, length: int) -> Padded:
    more = length - x.values.shape[1]
    return Padded(F.pad(x.values, (0, 0, 0, more)), F.pad(x.valid, (0, more)))


@contextlib.contextmanager
def draws_of_whole_batch(samples: int, step: Step) -> Iterator[None]:
    """Let a network draw for its samples what it would draw for them in one process with the whole batch.

    Its stream must have the same seed in all processes. What fills a tensor ``(samples, ...)``, as dropout does, is
    drawn for all samples, of which this process takes its rows. All else, such as what a kernel of a GPU draws inside,
    each process draws by itself. With one process nothing changes.

    Args:
        samples: of this process in this part of the batch.
        step: decides what each process draws by itself.
    """
    if distributed.world_size() == 1:
        yield
        return
    with _WholeBatch(samples, step):
        yield


class _WholeBatch(TorchDispatchMode):
    """See ``draws_of_whole_batch``."""

    def __init__(self, samples: int, step: Step) -> None:
        super().__init__()
        self.samples, self.step, self.own = samples, step, 0
        self.processes, self.rank = distributed.world_size(), distributed.rank()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        first = args[0] if args else None
        if isinstance(first, Tensor) and first.ndim and len(first) == self.samples:
            if func is torch.ops.aten.native_dropout.default:
                _, mask = func(self._whole(first).fill_(1), *args[1:], **kwargs)
                mask, kept = mask[self.rank :: self.processes], 1 - args[1]
                return first * mask / kept if kept else torch.zeros_like(first), mask
            parameters_known = not any(isinstance(x, Tensor) for x in args[1:])  # of all samples, not of these alone
            if parameters_known and func._schema.name.endswith("_"):  # filled in place, whatever it held
                return first.copy_(func(self._whole(first), *args[1:], **kwargs)[self.rank :: self.processes])
        return self._by_itself(func, args, kwargs)

    def _whole(self, share: Tensor) -> Tensor:
        """An empty tensor for the whole batch, whose axes lie in memory in the order of those of a share."""
        # The stride of an axis of length 1 is as large as that of the next one outwards, if that was transposed.
        order = sorted(range(share.ndim), key=lambda axis: (-share.stride()[axis], share.shape[axis] == 1))
        shape = [self.samples * self.processes, *share.shape[1:]]
        back = [order.index(axis) for axis in range(share.ndim)]
        return share.new_empty([shape[axis] for axis in order]).permute(back)

    def _by_itself(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Draw from a stream of this process, and leave that of all processes as it was."""
        self.own += 1
        given = next((x.device for x in args if isinstance(x, Tensor)), kwargs.get("device"))
        device = torch.device(given or "cpu")
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            step, own = self.step, self.own
            seed_network(random_seed(step.seed, Stream.MODEL_IN_STEP, step.number, step.part, self.rank, own), device)
            return func(*args, **kwargs)
