"""Image files of every format that the package reads, as MONAI's ``LoadImage`` takes them: for bundles."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray

from cggm_med.data.cases import stem
from cggm_med.data.checks.finding import decide, require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.volumes.grids import grid_difference
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import DataError

ACCEPT = '"accept": ["KIND"]'  # an argument in a bundle's configuration


class VolumeReader(ImageReader):
    """Reads one file or several, each volume as a channel, with the numbers that training and prediction read.

    Args:
        accept: kinds of findings that do not speak against the use of a file, such as ``implausible_size``.

    Example:
        >>> VolumeReader().verify_suffix(["flair.nrrd", "t1.MHA"]), VolumeReader().verify_suffix("scan.dcm")
        (True, False)
    """

    def __init__(self, accept: Sequence[str] = ()) -> None:
        require_known(accept, KINDS.values())
        self.accept = tuple(accept)

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:
        """Whether these are files of images by their names."""
        return all(stem(Path(name).name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **kwargs: Any) -> list[Path]:
        """The files, not opened yet: of what fails here, MONAI tells its own readers' troubles, too."""
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """The volumes ``(channel, x, y, z)``, and where they lie.

        Raises:
            DataError: if a file cannot be read or its header makes no sense, or they lie on different grids.
        """
        files = [open_image(path) for path in img]
        seen = [replace(finding, case=str(file.path)) for file in files for finding in file.findings]
        decide(seen, self.accept, lambda line: warnings.warn(line, stacklevel=2), accept=ACCEPT)
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
