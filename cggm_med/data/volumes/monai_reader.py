"""Image files of every format that the package reads, as MONAI's ``LoadImage`` takes them: for bundles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray

from cggm_med.data.cases import stem
from cggm_med.data.volumes.grids import grid_difference
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import DataError


class VolumeReader(ImageReader):
    """Reads one file or several, each volume as a channel, with the numbers that training and prediction read.

    Example:
        >>> VolumeReader().verify_suffix(["flair.nrrd", "t1.MHA"]), VolumeReader().verify_suffix("scan.dcm")
        (True, False)
    """

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:
        """Whether these are files of images by their names."""
        return all(stem(Path(name).name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **kwargs: Any) -> list[Path]:
        """The files, not opened yet: of what fails here, MONAI tells its own readers' troubles, too."""
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """The volumes ``(channel, x, y, z)``, and where they lie.

        Raises:
            DataError: if a file cannot be read, or they lie on different grids.
        """
        files = [open_image(path) for path in img]
        for other in files[1:]:
            if difference := grid_difference("image", files[0], "image", other):
                raise DataError(f"{difference}; resample the images of a case to one grid first")
        affine, shape = files[0].affine, files[0].shape[:3]
        meta = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }
        return np.stack([volume for file in files for volume in _volumes(file)]), meta


def _volumes(file: StoredImage) -> Iterator[NDArray[Any]]:
    """Every volume of a file, in order."""
    channels = range(file.shape[3]) if len(file.shape) == 4 else (None,)
    for channel in channels:
        yield file.voxels(channel)
