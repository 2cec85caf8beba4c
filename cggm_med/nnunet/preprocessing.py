"""nnU-Net's preprocessing of a case that lacks channels, in the processes that nnU-Net starts for it.

Little is imported here, since each of these processes imports it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from numpy.typing import NDArray

DIGITS = 4  # of a channel's number, at the end of its file's name


class IncompletePreprocessor:
    """A plan's preprocessor, for a case of which there are the files of some channels.

    The others are zeros meanwhile, which count for nothing in the crop and in the normalisation of those that there
    are, and NaN in the end, which ``PlannedNetwork`` takes for absent. NaN in a file become infinite, so that nobody
    takes these for absent: the network refuses them.

    Args:
        own: the plan's preprocessor.
    """

    def __init__(self, own: Any) -> None:
        self.own = own

    def run_case(
        self,
        image_files: Sequence[str],
        seg_file: str | None,
        plans_manager: Any,
        configuration_manager: ConfigurationManager,
        dataset_json: Mapping[str, Any],
    ) -> tuple[NDArray[np.float32], NDArray[np.integer], dict[str, Any]]:
        """Image ``(channel, x, y, z)`` with every channel of the data set, segmentation and properties."""
        held = [channel_of(file, dataset_json["file_ending"]) for file in image_files]
        images, properties = plans_manager.image_reader_writer_class().read_images(image_files)
        data = np.zeros((len(configuration_manager.normalization_schemes), *images.shape[1:]), np.float32)
        data[held] = images
        data, segmentation, properties = self.own.run_case_npy(
            data, None, properties, plans_manager, configuration_manager, dataset_json
        )
        data[np.isnan(data)] = np.inf
        data[[channel for channel in range(len(data)) if channel not in held]] = np.nan
        return data, segmentation, properties


class IncompleteConfiguration(ConfigurationManager):
    """A plan's configuration whose cases may lack channels."""

    @property
    def preprocessor_class(self) -> Callable[..., IncompletePreprocessor]:
        """Makes a preprocessor."""
        own = super().preprocessor_class
        return lambda **options: IncompletePreprocessor(own(**options))


def channel_of(file: str, ending: str) -> int:
    """Number of a file's channel.

    Example:
        >>> channel_of("case_7_0002.nii.gz", ".nii.gz")
        2
    """
    return int(file.removesuffix(ending)[-DIGITS:])
