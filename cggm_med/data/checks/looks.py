"""How the sequences of a case look: a few dozen numbers by which they are told apart, whatever the scanner's gain.

How the intensities of each image are distributed and change from the surface of the body inwards, and how each pair of
images relates.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SINGLE, PAIR = 13, 9  # features of an image, and of a pair
MIN_VOXELS = 200

# Skull stripping leaves fat, skull or nothing in the outermost shell of the brain, as it happens.
_SHELL_PERCENT = 20
_DEPTH_PERCENT = (20, 40, 60, 80)
_QUANTILES = (1, 5, 10, 25, 75, 90, 95, 99)
_CURVE = (0, 5, 25, 50, 75, 95, 100)
_IQR_OF_NORMAL = 1.349  # interquartile range of the normal distribution with deviation 1


@dataclass(frozen=True)
class ScanFeatures:
    """What is measured of the images of one case; NaN where a feature is not defined.

    Attributes:
        single: ``(image, 13)``: eight quantiles of the intensities (by arcsinh, so that tails weigh less), and their
            median in five layers of equal volume from the surface of the body to its centre.
        pair: ``(image, image, 9)``: the median of the second image in six quantile bins of the first (by arcsinh),
            their correlation, and the asymmetry of the first minus the second, measured in two ways.
    """

    single: Floats
    pair: Floats

    def record(self) -> dict[str, Any]:
        """As plain values, None for NaN."""
        return {name: _plain(getattr(self, name)) for name in ("single", "pair")}

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | str) -> ScanFeatures | str:
        """What ``record`` said, or the reason why there is none."""
        if isinstance(record, str):
            return record
        return cls(*(np.array(record[name], dtype=np.float64) for name in ("single", "pair")))


def looks_of(
    images: Sequence[NDArray[Any]], bodies: Sequence[NDArray[np.bool_]], depth: Floats | None
) -> ScanFeatures | str:
    """Features of the images of one case, or why they cannot be measured.

    Used are the voxels that lie in the body in every image, without its outermost shell. Each image is standardised
    over them, so that gain and offset do not matter.

    Args:
        images: ``(x, y, z)`` each; an axis may have length 1.
        bodies: where the body lies in each, see ``heads.body_of``.
        depth: of each voxel below the surface of what is the body in any image; None where that is not seen.
    """
    if not len(images):
        return "there is no image"
    used = np.logical_and.reduce(bodies)
    if depth is not None:
        used &= depth > np.percentile(depth[depth > 0], _SHELL_PERCENT)
    values = np.array([image[used] for image in images], dtype=np.float64)
    if values.shape[1] < MIN_VOXELS:
        return f"only {values.shape[1]} voxels lie inside the body in every image"
    if not np.isfinite(values).all():
        return "an image holds NaN or infinity"
    low, middle, high = np.percentile(values, (25, 50, 75), axis=1)
    if (high - low <= 1e-6 * np.abs(values).max(axis=1)).any():
        return "an image is constant in most of the body"
    values = ((values - middle[:, None]) / ((high - low)[:, None] / _IQR_OF_NORMAL)).astype(np.float32)
    n = len(values)
    layers = np.full((n, len(_DEPTH_PERCENT) + 1), np.nan) if depth is None else _layers(values, depth[used])
    pair = np.full((n, n, PAIR), np.nan)
    for i, of in enumerate(values):
        others = [j for j in range(n) if j != i]
        pair[i, others, :6] = _curves(values[others], np.argsort(of))
    for i, j in itertools.combinations(range(n), 2):
        skewness, lean = _asymmetry(values[i] - values[j])
        pair[i, j, 7:], pair[j, i, 7:] = (skewness, lean), (-skewness, -lean)
    own = np.arange(n)
    pair[..., 6] = np.corrcoef(values).reshape(n, n)
    pair[own, own] = np.nan
    quantiles = np.arcsinh(np.percentile(values, _QUANTILES, axis=1).T)
    return ScanFeatures(np.column_stack([quantiles, layers]).astype(np.float64), pair)


def _plain(values: Floats) -> Any:
    """Nested lists of rounded numbers, None for NaN."""
    if values.ndim > 1:
        return [_plain(part) for part in values]
    return [round(value, 6) if np.isfinite(value) else None for value in values.tolist()]


def _layers(values: NDArray[np.float32], depth: Floats) -> Floats:
    """``(image, layer)``: median in layers of equal volume by distance from the surface; NaN for an empty layer."""
    layer = np.searchsorted(np.percentile(depth, _DEPTH_PERCENT), depth)
    layers = np.full((len(values), len(_DEPTH_PERCENT) + 1), np.nan)
    for k in np.unique(layer):
        layers[:, k] = np.median(values[:, layer == k], axis=1)
    return layers


def _curves(values: NDArray[np.float32], order: NDArray[np.int_]) -> Floats:
    """``(image, bin)``: median of images in quantile bins of another one, which has this order."""
    edges = (np.array(_CURVE[1:-1]) * len(order) / 100).round().astype(int)
    parts = np.split(values[:, order], edges, axis=1)
    return np.arcsinh(np.column_stack([np.median(part, axis=1) for part in parts]))


def _asymmetry(difference: NDArray[np.float32]) -> tuple[float, float]:
    """Skewness by arcsinh, and the same idea from quantiles alone; both change sign with the difference.

    Contrast agent brightens: T1ce minus T1 has a tail to the right, and this is what tells the two apart.
    """
    away = difference.astype(np.float64)
    away -= away.mean()
    squares = away * away
    spread = float(np.sqrt(squares.mean()))
    low, middle, high = (float(q) for q in np.percentile(difference, (2, 50, 98)))
    if not (spread > 0 and high > low):
        return 0.0, 0.0  # one file given twice
    skewness = float(np.arcsinh((squares @ away) / len(away) / spread**3))
    return skewness, float((high + low - 2 * middle) / (high - low))
