"""Several readers' label maps of one case: the share of them that drew each region, and the region of the majority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.objectives.targets import UNKNOWN

Raters = Literal["consensus", "majority", "soft"]


def shares(maps: Sequence[NDArray[np.generic]], convention: LabelConvention) -> NDArray[np.float32]:
    """Share of the readers who drew each region at each voxel.

    A reader who marked a voxel as not annotated does not count there; where nobody else does, it is ``UNKNOWN``.

    Args:
        maps: ``(x, y, z)`` label maps, at least one.
        convention: of all of them.

    Returns:
        ``(region, x, y, z)``: 0 to 1, or ``UNKNOWN``.

    Example:
        >>> one = LabelConvention("lesion", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1}, ignore=9)
        >>> drawn = [np.array([[[0, 1, 1, 9]]]), np.array([[[0, 0, 1, 9]]]), np.array([[[0, 1, 9, 9]]])]
        >>> [round(float(share), 2) for share in shares(drawn, one).ravel()]
        [0.0, 0.67, 1.0, 255.0]
    """
    drawn = np.zeros((len(convention.regions), *maps[0].shape), np.float32)
    counted = np.zeros(maps[0].shape, np.float32)
    for labels in maps:
        annotated = np.ones(labels.shape, bool) if convention.ignore is None else labels != convention.ignore
        drawn += convention.to_regions(labels) & annotated
        counted += annotated
    known = counted > 0
    return np.where(known, drawn / np.where(known, counted, 1), np.float32(UNKNOWN))


def majority(share: NDArray[np.float32], *, exclusive: bool) -> NDArray[np.uint8]:
    """Regions that more than half of the readers drew; of regions that exclude one another, no voxel has two.

    Args:
        share: see ``shares``.
        exclusive: whether the regions exclude one another: then the region that most readers drew wins if more drew it
            than drew none, and of two that are level the first.

    Returns:
        ``(region, x, y, z)`` of 0, 1 and ``UNKNOWN``.

    Example:
        >>> votes = np.array([[0.5, 0.67, 0.4], [0.25, 0.33, 0.4]], np.float32).reshape(2, 3, 1, 1)
        >>> majority(votes, exclusive=False)[:, :, 0, 0].tolist()
        [[0, 1, 0], [0, 0, 0]]
        >>> majority(votes, exclusive=True)[:, :, 0, 0].tolist()
        [[1, 1, 1], [0, 0, 0]]
    """
    unknown = share == UNKNOWN
    if exclusive:
        known = np.where(unknown, 0, share)
        best = known.argmax(0)
        most = np.take_along_axis(known, best[None], 0)[0]
        chosen = (best == np.arange(len(share))[:, None, None, None]) & (most > 1 - known.sum(0))
    else:
        chosen = share > 0.5
    return np.where(unknown, UNKNOWN, chosen).astype(np.uint8)
