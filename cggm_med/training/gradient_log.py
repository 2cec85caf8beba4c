"""Log the last layers' gradients of some steps as small sketches, for the report's picture of them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cggm_med import distributed
from cggm_med.files import append_text

MAX_STEPS = 120  # logged in a run
MAX_VALUES = 256  # of a sketch
TABLE_SEED = 0

Gradients = Mapping[str, Sequence[Tensor]]


class GradientLog:
    """Appends the gradients of at most ``MAX_STEPS`` logged steps, evenly over the run, to a file of JSON lines.

    A line holds ``step``; ``own``, each modality's gradient at its classifier head; and ``fused``, the gradient of the
    fused loss at each modality's part of the model's head, where modalities that share a part are joined by ``+``. A
    gradient ``(target, channel)`` is flattened and, if it is long, sketched. Numbers have four digits.

    Args:
        path: the file; only the first process writes it.
        steps: optimizer steps of the run.
        log_every: steps between two logged steps.
    """

    def __init__(self, path: Path, steps: int, log_every: int) -> None:
        self.path, self.log_every = path, log_every
        self.stride = max(1, math.ceil(steps // log_every / MAX_STEPS))

    def __call__(self, step: int, gradients: Gradients) -> None:
        """Log a step; to be called by every process.

        Args:
            step: number of optimizer steps done.
            gradients: by modality, its fused and its own gradient, ``(target, channel)`` each, for this process's
                share of the batch.
        """
        if not gradients or step // self.log_every % self.stride:
            return
        means = {
            m: [distributed.sum_over_processes(x) / distributed.world_size() for x in pair]
            for m, pair in gradients.items()
        }
        if distributed.rank() or not all(x.isfinite().all() for pair in means.values() for x in pair):
            return
        fused, parts = {m: _rounded(pair[0]) for m, pair in means.items()}, {}
        for modality, values in fused.items():
            sharing = "+".join(m for m, other in fused.items() if other == values)
            if sharing.split("+")[0] == modality:
                parts[sharing] = values
        own = {m: _rounded(pair[1]) for m, pair in means.items()}
        append_text(self.path, json.dumps({"step": step, "own": own, "fused": parts}) + "\n")


def sketch(values: Tensor, size: int = MAX_VALUES) -> Tensor:
    """A vector as it is or, if it is longer than ``size``, its values summed with random signs into ``size`` buckets.

    Such a count sketch (Charikar et al., 2002) keeps inner products on average, so that angles between long vectors
    are kept up to about ``1 / sqrt(size)``. Signs and buckets depend on the length alone.

    Args:
        values: ``(value,)``.
        size: largest length of the result.

    Example:
        >>> sketch(torch.tensor([1.0, 2.0])).tolist()
        [1.0, 2.0]
        >>> sketch(torch.ones(100_000)).shape
        torch.Size([256])
    """
    if len(values) <= size:
        return values
    buckets, signs = _table(len(values), size)
    result = torch.zeros(size, dtype=torch.float64)
    return result.index_add_(0, buckets, values.detach().cpu().double() * signs)


@functools.lru_cache(maxsize=16)
def _table(length: int, size: int) -> tuple[Tensor, Tensor]:
    # A generator of its own, so that training's random numbers are unaffected.
    generator = torch.Generator().manual_seed(TABLE_SEED)
    buckets = torch.randint(size, (length,), generator=generator)
    signs = torch.randint(2, (length,), generator=generator) * 2 - 1
    return buckets, signs.double()


def _rounded(gradient: Tensor) -> list[float]:
    return [float(f"{x:.4g}") for x in sketch(gradient.flatten()).tolist()]
