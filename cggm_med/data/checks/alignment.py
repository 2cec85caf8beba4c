"""Whether volumes of one grid show the same in the same place, by the information that one holds about another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    counts = np.bincount((a.astype(np.int32) * width + b).ravel(), minlength=width).astype(np.float64)
    joint = counts / max(counts.sum(), 1)
    joint = np.pad(joint, (0, -len(joint) % width)).reshape(-1, width)
    own, other, both = _entropy(joint.sum(1)), _entropy(joint.sum(0)), _entropy(joint.ravel())
    return 2 * (own + other - both) / (own + other) if own + other > 0 else 0.0


def _entropy(share: NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


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


def gains(fixed: Sequence[Bins], moving: Bins, moves: Sequence[Sequence[int]]) -> Mapping[str, float]:
    """By how much volumes would tell more about another one if that were mirrored or shifted.

    Args:
        fixed: the others.
        moving: the one.
        moves: shifts in voxels to try.

    Returns:
        ``as_is``: mean information as the volumes are; ``flip_x``, ``flip_y``, ``flip_z`` and ``shift``: the logarithm
        of the information after the best of such moves divided by that.
    """
    as_is = float(np.mean([information(other, moving) for other in fixed]))
    found = {"as_is": as_is}

    def gain(changed: Bins) -> float:
        return float(np.log((np.mean([information(other, changed) for other in fixed]) + 1e-3) / (as_is + 1e-3)))

    for axis, name in enumerate("xyz"):
        found[f"flip_{name}"] = gain(moving[flip_of(axis)])
    if moves:
        found["shift"] = max(gain(moved(moving, move)) for move in moves)
    return found
