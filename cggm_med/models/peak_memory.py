"""The peak memory of the tensors of a computation, whether it is really computed or only its shapes are."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(compute: Callable[[], Any], *, gradients: bool = False) -> int:
    """Most bytes that the tensors made by a computation hold at any one time.

    Run it on the ``meta`` device, where tensors have a shape but no content: there it takes milliseconds and no memory.
    Scratch memory inside single operations, such as convolutions, is not counted.

    Args:
        compute: called once.
        gradients: whether it may differentiate; what is kept for that is counted as well.

    Example:
        >>> image = torch.zeros(10, 10, device="meta")
        >>> peak_bytes(lambda: (image + 1).relu().sum())  # two volumes of 400 bytes; the sum needs only one of them
        800
    """
    with contextlib.nullcontext() if gradients else torch.no_grad(), LiveTensors() as live:
        compute()
    return live.peak


class LiveTensors(TorchDispatchMode):
    """While it is active, counts the bytes of tensors that are alive.

    Storages are counted rather than tensors: what autograd keeps may be a tensor that Python never sees.

    Args:
        held: tensors that were there before; all others are counted when an operation makes them.

    Attributes:
        bytes: of all that are alive.
        peak: the most so far.

    Example:
        >>> weight = torch.ones(100)
        >>> with LiveTensors([weight]) as live:
        ...     doubled = 2 * weight
        >>> live.bytes, live.peak
        (800, 800)
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.alive: set[int] = set()
        self.bytes = self.peak = 0
        for tensor in held:
            self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            # An operation in place returns what it was given.
            if isinstance(tensor, Tensor) and id(tensor) not in given:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.bytes -= size
