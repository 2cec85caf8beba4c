"""Volumes as text for a page: images in 16 bits, and overlapping regions as one code per voxel."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.io import nifti_bytes
from cggm_med.errors import DataError

MAX_CODES = 255
MAX_INT16 = np.iinfo(np.int16).max
PROBABILITY_STEPS = 50  # between 0 and 1
WINDOW_PERCENTILES = (1.0, 99.5)  # as in the figures of contours


@dataclass(frozen=True)
class Layer:
    """Regions of a volume, which may overlap.

    Attributes:
        codes: ``(x, y, z)``: the regions of each voxel, as an index into ``members``.
        members: for each code the indices of its regions; code 0 has none.
    """

    codes: NDArray[np.uint8]
    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of_masks(cls, masks: NDArray[np.bool_]) -> Layer:
        """The layer of region masks ``(region, x, y, z)``.

        Raises:
            DataError: if the regions overlap in more ways than one byte can tell apart.

        Example:
            >>> layer = Layer.of_masks(np.array([[[[0, 1, 1]]], [[[0, 0, 1]]]], bool))
            >>> layer.codes.tolist(), layer.members
            ([[[0, 1, 2]]], ((), (0,), (0, 1)))
        """
        together = np.zeros(masks.shape[1:], np.int64)
        for bit, mask in enumerate(masks):
            together |= mask.astype(np.int64) << bit
        # Without 0 among them, a volume in which every voxel is labelled would have another background.
        found = np.union1d([0], together)
        _require_few(len(found))
        members = tuple(tuple(r for r in range(len(masks)) if value >> r & 1) for value in found.tolist())
        return cls(np.searchsorted(found, together).astype(np.uint8), members)

    @classmethod
    def of_labels(cls, labels: NDArray[Any], values: Sequence[int]) -> Layer:
        """The layer of a label map ``(x, y, z)``, in which each of ``values`` (sorted) is a region; 0 is none.

        Raises:
            DataError: if there are more labels than one byte can tell apart.

        Example:
            >>> Layer.of_labels(np.array([[[0, 4, 2]]]), [1, 2, 4]).codes.tolist()
            [[[0, 3, 2]]]
        """
        _require_few(len(values) + 1)
        codes = np.searchsorted([0, *values], labels).astype(np.uint8)
        return cls(codes, ((), *((r,) for r in range(len(values)))))

    def mask(self, region: int) -> NDArray[np.bool_]:
        """The mask of a region, ``(x, y, z)``."""
        return np.isin(self.codes, [code for code, regions in enumerate(self.members) if region in regions])


def grey_window(volume: NDArray[np.float32]) -> tuple[float, float]:
    """Intensities to be shown as black and as white, from the voxels that are not background."""
    inside = volume[volume != volume[0, 0, 0]]
    low, high = np.percentile(inside, WINDOW_PERCENTILES) if inside.size else (0.0, 1.0)
    return (float(low), float(high)) if low < high else (float(volume.min()), float(volume.max()))


def rounding_step(volume: NDArray[np.float32], levels: int) -> float:
    """The step to which intensities are rounded so that the window has ``levels`` grey levels; 0 for no rounding.

    Whole numbers of 16 bits stay as they are unless the window holds more than ``levels`` of them.

    Example:
        >>> rounding_step(np.array([[[0, 1, 2, 40]]], np.float32), 4096)
        0.0
    """
    low, high = grey_window(volume)
    lowest, highest = float(volume.min()), float(volume.max())
    # 16 bits must cover intensities far outside the window, too.
    step = max((high - low) / levels, (highest - lowest) / (2 * MAX_INT16 - 2))
    fits = max(-lowest, highest) <= MAX_INT16
    return 0.0 if fits and step <= 1 and np.array_equal(volume, np.rint(volume)) else step


def image_text(volume: NDArray[np.float32], affine: NDArray[np.float64], step: float) -> str:
    """A volume ``(x, y, z)`` as NIfTI in base64, rounded to multiples of ``step``; 0 keeps it as it is."""
    unit = step or 1.0
    stored = np.rint(volume.astype(np.float64) / unit)
    # Zero stays exactly zero; only volumes far away from it are shifted.
    middle = np.rint((stored.min() + stored.max()) / 2) if np.abs(stored).max() > MAX_INT16 else 0.0
    return _text(nifti_bytes((stored - middle).astype(np.int16), affine, scaling=(unit, middle * unit)))


def layer_text(layer: Layer, affine: NDArray[np.float64]) -> str:
    """The codes of a layer as NIfTI in base64."""
    return _text(nifti_bytes(layer.codes, affine))


def probability_text(probability: NDArray[np.float32], affine: NDArray[np.float64]) -> str:
    """A probability ``(x, y, z)`` as NIfTI in base64, as whole numbers of ``PROBABILITY_STEPS``."""
    return _text(nifti_bytes(np.rint(probability * PROBABILITY_STEPS).astype(np.uint8), affine))


def _text(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def _require_few(codes: int) -> None:
    if codes > MAX_CODES + 1:
        raise DataError(
            f"masks hold {codes - 1} labels or overlaps of regions, and at most {MAX_CODES} can be shown; give masks "
            "as --truth and --prediction, not images"
        )
