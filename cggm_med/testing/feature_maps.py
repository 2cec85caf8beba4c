"""Comparing the feature maps that a network computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def finite_maps(maps: Sequence[Tensor]) -> bool:
    """Whether all numbers are finite."""
    return all(bool(m.isfinite().all()) for m in maps)


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Whether all numbers are equal, bit for bit."""
    return all(itertools.starmap(torch.equal, zip(a, b, strict=True)))
