"""Where in a scan the head, or another part of the body, lies, whether or not its background is empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_MORE = 1.4  # times the voxels of the body: with more that differ from the background, that is noise in the air
_ABOVE_AIR = 0.4  # of the way from air to the threshold
_BINS = 128
_LAYER_MM, _DEEPEST_MM = 3.0, 30.0  # layers below the surface in which a skull is looked for
_MIN_VOXELS = 30  # of a layer
_IN_SLICE = np.stack([np.zeros((3, 3), bool), ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)], axis=2)


def body_of(volume: NDArray[np.floating[Any]], background: float | None) -> NDArray[np.bool_]:
    """The body: the largest connected part that is brighter than the air, without holes.

    Args:
        volume: ``(x, y, z)``.
        background: its constant value, if it has one. What differs from it is the body where that is not much more
            than what is bright.

    Example:
        >>> volume = np.zeros((9, 9, 9))
        >>> volume[2:7, 2:7, 2:7] = 5
        >>> volume[4, 4, 4] = 0
        >>> int(body_of(volume, 0.0).sum())
        125
    """
    stripped = background is not None and _is_stripped(volume, background)
    differing = None if background is None else _whole(volume != background)
    if differing is not None and stripped:
        return differing
    low = float(np.quantile(volume, 0.02))
    # The scalp may be so bright that the brain lies below the threshold between it and the rest.
    bright = _whole(volume > low + _ABOVE_AIR * (otsu(volume) - low))
    return bright if differing is None or differing.sum() > _MORE * bright.sum() else differing


def _is_stripped(volume: NDArray[np.floating[Any]], background: float) -> bool:
    """Whether nearly all of the volume's faces is exactly background, which air hardly ever is."""
    faces = [np.take(volume, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return float(np.mean(np.concatenate(faces) == background)) > 0.97


def _whole(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, after filling slice by slice along the third axis, so that a scalp holds a brain."""
    # What no path within its slice joins to the edge of that is a hole.
    gaps, count = ndimage.label(~mask, _IN_SLICE)
    outside = np.zeros(count + 1, dtype=bool)
    for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
        outside[edge.ravel()] = True
    outside[0] = False
    filled = ~outside[gaps]
    parts, count = ndimage.label(filled)
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if count > 1 else filled


def depth_of(body: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64] | None:
    """Depth of each voxel below the body's surface in mm, within its slice; 0 outside, None where nothing is outside.

    Args:
        body: ``(x, y, z)``.
        spacing: edges of the voxels in a slice, in mm.
    """
    if body.all() or not body.any():
        return None
    padded = np.pad(body, [(1, 1), (1, 1), (0, 0)])
    # With slices so far apart, the nearest place outside is always in the same one.
    return np.asarray(ndimage.distance_transform_edt(padded, sampling=(*spacing, 1e6))[1:-1, 1:-1])


def valley_of(values: NDArray[np.floating[Any]], depth: NDArray[np.float64], air: float, layer: float) -> float:
    """How much darker than what surrounds it a layer near the surface is, as bone is between scalp and brain.

    Args:
        values: of the body's voxels.
        depth: of the same, in mm.
        air: brightness of what is outside.
        layer: thickness of the layers, at least ``_LAYER_MM``.

    Returns:
        0 where brightness only rises or only falls from the surface inwards, 1 where a layer is as dark as air.

    Example:
        >>> depth = np.repeat(np.arange(0.0, 30.0), 40)
        >>> valley_of(np.where((depth > 5) & (depth < 10), 20.0, 100.0), depth, 0.0, 3.0)
        0.8
        >>> valley_of(depth, depth, 0.0, 3.0)
        0.0
    """
    core = float(np.median(values[depth > np.quantile(depth, 0.6)]))
    of_layer = (depth / max(layer, _LAYER_MM)).astype(int)
    best, surrounding = 0.0, -np.inf
    for k in range(int(_DEEPEST_MM / max(layer, _LAYER_MM))):
        within = values[of_layer == k]
        if len(within) < _MIN_VOXELS:
            continue
        middle, dark = (float(q) for q in np.quantile(within, (0.5, 0.4)))
        best = max(best, (min(surrounding, core) - dark) / max(core - air, surrounding - dark, 1e-12))
        surrounding = max(surrounding, middle)
    return best


def otsu(volume: NDArray[np.floating[Any]]) -> float:
    """The threshold that divides values into two classes of least variance (Otsu, IEEE Trans. SMC 1979).

    Example:
        >>> 1 < otsu(np.array([0.0, 0.1, 1.0, 9.0, 9.5, 10.0])) < 9
        True
    """
    low, high = np.quantile(volume, (0.001, 0.995))
    if not high > low:
        return float(low)
    counts, edges = np.histogram(volume, bins=_BINS, range=(float(low), float(high)))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    return float(edges[1 + int(np.nanargmax(np.where(above > 0, between, -1)))])
