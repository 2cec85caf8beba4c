"""Predicted quality of a mask: how well masks from fewer of its modalities agree with it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.metrics.overlap import dice


def proper_subsets(subset: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The non-empty proper parts of a subset, small ones first, each in the subset's order.

    Example:
        >>> proper_subsets(("flair", "t1")), proper_subsets(("t1",))
        ((('flair',), ('t1',)), ())
    """
    return tuple(part for size in range(1, len(subset)) for part in combinations(subset, size))


def agreement(mask: NDArray[np.bool_], others: Iterable[NDArray[np.bool_]]) -> tuple[float, ...] | None:
    """The mean Dice between a mask and each of the others, by region; None if there are no others.

    Args:
        mask: ``(region, x, y, z)``.
        others: the same from each proper subset of its modalities, of which one at a time is in memory.

    Example:
        >>> one, two = np.array([[[[True, True]]]]), np.array([[[[True, False]]]])
        >>> agreement(one, [one, two])
        (0.8333333333333333,)
        >>> agreement(one, [])
    """
    of_others = [[dice(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(mask, o, strict=True)] for o in others]
    return tuple(statistics.fmean(of_region) for of_region in zip(*of_others, strict=True)) or None
