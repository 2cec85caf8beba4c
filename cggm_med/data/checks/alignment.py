"""Whether volumes of one grid show the same in the same place, by the information that one holds about another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANCE = 3 * math.sqrt(2)  # standard errors by which a moved volume has to tell more: 3 of a difference
BINS = 12  # of equal numbers of voxels inside the head; bin 0 is what lies outside
Bins = NDArray[np.uint8]


def binned(volume: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> Bins:
    """The bin of each voxel: 0 outside, 1 to ``BINS`` inside, by quantiles of the voxels inside.

    Args:
        volume: ``(x, y, z)``.
        inside: of the same shape.

    Example:
        >>> binned(np.arange(5.0), np.array([False, True, True, True, True])).tolist()
        [0, 1, 5, 9, 12]
    """
    values = volume[inside]
    bins = np.zeros(volume.shape, np.uint8)
    if values.size:
        edges = np.quantile(values, np.arange(1, BINS) / BINS)
        bins[inside] = 1 + np.searchsorted(edges, values, side="right")
    return bins


def information(a: Bins, b: Bins) -> float:
    """Mutual information of two volumes of bins, divided by the mean of their entropies: 0 to 1.

    Normalised as by Studholme et al., Pattern Recognition 1999, so that the overlap of the two matters little.

    Example:
        >>> one = np.array([0, 0, 1, 1], np.uint8)
        >>> round(information(one, one), 6), round(information(one, np.array([0, 1, 0, 1], np.uint8)), 6)
        (1.0, 0.0)
    """
    width = int(b.max(initial=0)) + 1
    codes = np.multiply(a, width, dtype=np.intp) + b
    height = int(a.max(initial=0)) + 1
    return float(_information(np.bincount(codes.ravel(), minlength=height * width).reshape(1, height, width))[0])


def _sampling_error(voxels: int) -> float:
    """Standard error of the mutual information, in nats, of so many pairs of voxels that are independent.

    ``2 n I`` is then chi-squared with ``(BINS - 1)**2`` degrees of freedom (the G-test of independence).

    Example:
        >>> round(_sampling_error(1000), 4)
        0.0078
    """
    return float(np.sqrt(2 * (BINS - 1) ** 2) / (2 * max(voxels, 1)))


def _information(counts: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """``(pair,)``: of joint counts ``(pair, bin, bin)``."""
    joint = counts / np.maximum(counts.sum((1, 2), keepdims=True), 1)
    own, other, both = _entropy(joint.sum(2)), _entropy(joint.sum(1)), _entropy(joint.reshape(len(joint), -1))
    sums = own + other
    return np.divide(2 * (sums - both), sums, out=np.zeros_like(sums), where=sums > 0)


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last axis."""
    return -(share * np.log(np.where(share > 0, share, 1))).sum(-1)


def moved(volume: NDArray[Any], move: Sequence[int]) -> NDArray[Any]:
    """A volume shifted by whole voxels along x, y, z; what leaves at one side is gone, and 0 comes in.

    Example:
        >>> moved(np.array([[[1, 2, 3]]]), (0, 0, 1)).tolist()
        [[[0, 1, 2]]]
    """
    out = np.zeros_like(volume)
    target = tuple(slice(max(n, 0), size + min(n, 0)) for n, size in zip(move, volume.shape, strict=True))
    source = tuple(slice(max(-n, 0), size - max(n, 0)) for n, size in zip(move, volume.shape, strict=True))
    out[target] = volume[source]
    return out


def shifts(spacing: Sequence[float], sizes: Sequence[float], shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """Whole voxels along one axis each, both ways, of about the given sizes in mm and at least one voxel.

    Example:
        >>> shifts((4.0, 4.0, 4.0), (8.0,), (9, 9, 1))
        [(-2, 0, 0), (2, 0, 0), (0, -2, 0), (0, 2, 0)]
    """
    found: dict[tuple[int, int, int], None] = {}
    for axis in range(3):
        for size in sizes:
            steps = max(1, round(size / spacing[axis]))
            if steps * 3 >= shape[axis]:
                continue
            for sign in (-1, 1):
                move = [0, 0, 0]
                move[axis] = sign * steps
                found[(move[0], move[1], move[2])] = None
    return list(found)


def flip_of(axis: int) -> tuple[slice, ...]:
    """The index by which a volume is mirrored along an axis."""
    return tuple(slice(None, None, -1 if other == axis else None) for other in range(3))


def gains(fixed: Sequence[Bins], moving: Bins, moves: Sequence[Sequence[int]], voxels: int) -> Mapping[str, float]:
    """By how much volumes would tell more about another one if that were mirrored or shifted.

    Args:
        fixed: the others.
        moving: the one.
        moves: shifts in voxels to try.
        voxels: on about how many of them to compare.

    Returns:
        ``as_is``: mean information as the volumes are; ``flip_x``, ``flip_y``, ``flip_z`` and ``shift``: the logarithm
        of the information after the best of such moves, less what chance may add to it, divided by that.
    """
    part = _thinned(moving.shape, voxels)
    width = BINS + 1
    offsets = np.arange(len(fixed))[:, None] * width * width
    places = offsets + np.stack([other[part].ravel() for other in fixed]).astype(np.intp) * width

    def told(changed: Bins) -> float:
        counts = np.bincount((places + changed[part].ravel()).ravel(), minlength=len(fixed) * width * width)
        return float(_information(counts.reshape(len(fixed), width, width)).mean())

    as_is = told(moving)
    found = {"as_is": as_is}
    chance = CHANCE * _sampling_error(int(np.count_nonzero(moving[part]))) / math.log(BINS)

    def gain(changed: Bins) -> float:
        return float(np.log((max(told(changed) - chance, 0) + 1e-3) / (as_is + 1e-3)))

    for axis, name in enumerate("xyz"):
        found[f"flip_{name}"] = gain(moving[flip_of(axis)])
    if moves:
        found["shift"] = max(gain(moved(moving, move)) for move in moves)
    return found


def _thinned(shape: Sequence[int], voxels: int) -> tuple[slice, ...]:
    """Every so many voxels along each axis, the same from both ends where it can be, so that about so many are left."""
    steps = [1, 1, 1]
    while np.prod([-(-n // step) for n, step in zip(shape, steps, strict=True)]) > voxels:
        steps[int(np.argmax([n / step for n, step in zip(shape, steps, strict=True)]))] += 1
    return tuple(slice(((n - 1) % step) // 2, None, step) for n, step in zip(shape, steps, strict=True))
