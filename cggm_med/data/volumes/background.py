"""What of a scan is background, and where it shows something."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.normalise import Rescaling


def background_value(image: NDArray[Any]) -> float | None:
    """The constant that surrounds the brain: the value of most voxels on the six faces of the volume.

    It is 0 in raw BraTS files and another number in copies that were normalised. None if no single value covers half
    of the faces; such an image is normalised over all its voxels.

    Example:
        >>> volume = np.full((8, 8, 8), -3.5)
        >>> volume[2:6, 2:6, 2:6] = 1
        >>> background_value(volume)
        -3.5
    """
    faces = np.concatenate([image[index].ravel() for axis in range(3) for index in _ends(axis)])
    values, counts = np.unique(faces, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] * 2 >= len(faces) else None


def background_of(image: NDArray[Any], rescaling: Rescaling | None) -> float | None:
    """The value of background of a modality, None if it has none.

    It is 0 where 0 is kept: no uptake, no diffusion. Else it is the constant around the body, which a CT may not have:
    air is not taken for background, since lungs are filled with it.
    """
    return 0.0 if rescaling is not None and rescaling.keeps_zero else background_value(image)


def foreground_of(image: NDArray[Any], background: float | None) -> NDArray[np.bool_]:
    """The voxels of an image that differ from its constant background; all of them where it has none.

    Example:
        >>> volume = np.zeros((3, 3, 3))
        >>> volume[1, 1, 1] = 7
        >>> [int(foreground_of(volume, background).sum()) for background in (background_value(volume), None)]
        [1, 27]
    """
    if background is None:
        return np.ones(image.shape, dtype=bool)
    return np.asarray(image != image.dtype.type(background))


def bounding_box(mask: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """First voxel and the one after the last, along each axis, of those that are True.

    Example:
        >>> volume = np.zeros((8, 8, 8), bool)
        >>> volume[2:6, 3:5, 4] = True
        >>> bounding_box(volume)
        ([2, 3, 4], [6, 5, 5])
    """
    start, stop = [], []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(int(found[0]))
        stop.append(int(found[-1]) + 1)
    return start, stop


def _ends(axis: int) -> tuple[Any, Any]:
    before: tuple[Any, ...] = (slice(None),) * axis
    return (*before, 0), (*before, -1)
