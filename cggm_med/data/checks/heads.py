"""Where in a scan the head, or another part of the body, lies, whether or not its background is empty."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_MORE = 1.4  # times the voxels of the body: with more that differ from the background, that is noise in the air
_ABOVE_AIR = 0.4  # of the way from air to the threshold
_BINS = 128


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
    low = float(np.quantile(volume, 0.02))
    # The scalp may be so bright that the brain lies below the threshold between it and the rest.
    bright = _whole(volume > low + _ABOVE_AIR * (otsu(volume) - low))
    if background is None:
        return bright
    differing = _whole(volume != background)
    return bright if differing.sum() > _MORE * bright.sum() and not _is_stripped(volume, background) else differing


def _is_stripped(volume: NDArray[np.floating[Any]], background: float) -> bool:
    """Whether nearly all of the volume's faces is exactly background, which air hardly ever is."""
    faces = [np.take(volume, end, axis=axis).ravel() for axis in range(3) for end in (0, -1)]
    return float(np.mean(np.concatenate(faces) == background)) > 0.97


def _whole(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected part, filled slice by slice along the third axis and as a whole."""
    parts, count = ndimage.label(mask)
    if count > 1:
        mask = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    for k in range(mask.shape[2]):
        mask[:, :, k] = ndimage.binary_fill_holes(mask[:, :, k])
    return np.asarray(ndimage.binary_fill_holes(mask), dtype=bool)


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
