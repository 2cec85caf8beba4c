"""Image files of every format that the package reads, as MONAI's ``LoadImage`` takes them: for bundles."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from cggm_med.data.volumes.transforms import READ
from cggm_med.errors import DataError

ACCEPT = "--accept KIND"  # an argument of "python -m monai.bundle run", and an entry of a bundle's configuration


class VolumeReader(ImageReader):
    """Reads one file or several, each volume as a channel, with the numbers that training and prediction read.

    Args:
        accept: kinds of findings that do not speak against the use of a file, such as ``implausible_size``: one, or
            several.

    Example:
        >>> VolumeReader().verify_suffix(["flair.nrrd", "t1.MHA"]), VolumeReader().verify_suffix("scan.dcm")
        (True, False)
    """

    def __init__(self, accept: str | Sequence[str] = ()) -> None:
        self.accept = ensure_tuple(accept)
        require_known(self.accept, KINDS.values())

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
        started = time.perf_counter()
        files = [open_image(path) for path in img]
        seen = [replace(finding, case=str(file.path)) for file in files for finding in file.findings]
        decide(seen, self.accept, lambda line: warnings.warn(line, stacklevel=2), accept=ACCEPT)
        for other in files[1:]:
            if difference := grid_difference("image", files[0], "image", other):
                raise DataError(f"{difference}; resample the images of a case to one grid first")
        affine, shape = files[0].affine, files[0].shape[:3]
        findings = [[finding.record(self.accept) for finding in file.findings] for file in files]
        meta = {
            MetaKeys.AFFINE: affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            READ: how_read(started, img, findings),
        }
        return np.stack([volume for file in files for volume in _volumes(file)]), meta


def how_read(
    started: float,
    files: Sequence[Path],
    findings: Sequence[Sequence[Mapping[str, Any]]],
    resampled: Sequence[str] = (),
    resampled_to: str | None = None,
) -> str:
    """What an image's metadata say of how it was read, as one line of JSON, which a data loader leaves as it is.

    Args:
        started: when, by ``time.perf_counter``.
        files: one for each modality, or one for all.
        findings: of each file, see ``Finding.record``.
        resampled: modalities that were resampled to another grid.
        resampled_to: modality that has this grid.
    """
    return json.dumps(
        {
            "started": started,
            "files": [str(file) for file in files],
            "findings": [list(of) for of in findings],
            "resampled": list(resampled),
            "resampled_to": resampled_to,
        }
    )


def _volumes(file: StoredImage) -> Iterator[NDArray[Any]]:
    """Every volume of a file, in order."""
    channels = range(file.shape[3]) if len(file.shape) == 4 else (None,)
    for channel in channels:
        yield file.voxels(channel)
