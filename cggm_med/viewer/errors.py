"""Where a prediction errs: missed and false lesions of each region, each with a voxel to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import match_lesions


@dataclass(frozen=True)
class LesionError:
    """A lesion that the prediction misses, or a predicted one that is not there.

    Attributes:
        kind: which of the two.
        voxel: of the lesion, the closest to its centroid.
        voxels: its size.
    """

    kind: Literal["missed", "false"]
    voxel: tuple[int, int, int]
    voxels: int


def lesion_errors(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], voxel_mm3: float, rules: LesionRules, most: int
) -> tuple[list[LesionError], int]:
    """The missed and false lesions of a region, by the rules by which it is scored, the largest first.

    Args:
        predicted: ``(x, y, z)``.
        true: ``(x, y, z)``.
        voxel_mm3: volume of a voxel.
        rules: what a lesion is, and when it is found.
        most: of them to return.

    Returns:
        The errors, and how many there are in all.

    Example:
        >>> true = np.array([1, 1, 1, 0, 1, 0, 0], bool).reshape(7, 1, 1)
        >>> predicted = np.array([0, 0, 0, 0, 1, 0, 1], bool).reshape(7, 1, 1)
        >>> errors, count = lesion_errors(predicted, true, 1.0, LesionRules(), 9)
        >>> [(error.kind, error.voxel, error.voxels) for error in errors]
        [('missed', (1, 0, 0), 3), ('false', (6, 0, 0), 1)]
    """
    if not (predicted.any() or true.any()):
        return [], 0
    (box,) = find_objects((predicted | true).astype(np.uint8))
    match = match_lesions(predicted[box], true[box], voxel_mm3, rules)
    corner = np.array([part.start for part in box])
    errors = [
        *_errors("missed", np.where(true[box], match.areas, 0), match.missed, match.sizes, corner, most),
        *_errors("false", match.components, match.false, match.component_sizes, corner, most),
    ]
    return sorted(errors, key=lambda error: -error.voxels)[:most], len(match.missed) + len(match.false)


def _errors(
    kind: Literal["missed", "false"],
    parts: NDArray[np.integer],
    chosen: list[int],
    sizes: NDArray[np.integer],
    corner: NDArray[np.integer],
    most: int,
) -> Iterator[LesionError]:
    """The largest of the chosen parts of a volume whose first voxel has the index ``corner``."""
    boxes = find_objects(parts)
    for part in sorted(chosen, key=lambda part: -sizes[part])[:most]:
        voxels = np.argwhere(parts[boxes[part - 1]] == part)
        nearest = voxels[((voxels - voxels.mean(0)) ** 2).sum(1).argmin()]
        x, y, z = (int(a + b.start + c) for a, b, c in zip(nearest, boxes[part - 1], corner, strict=True))
        yield LesionError(kind, (x, y, z), int(sizes[part]))
