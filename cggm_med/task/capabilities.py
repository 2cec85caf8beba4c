"""Optional capabilities of a task, which probes, calibration, robustness and prediction need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.cases import Case, CaseList
from cggm_med.data.dicom.codes import SegmentCodes
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.types import Batch, Padded

if TYPE_CHECKING:  # what a task may offer is named without importing what it takes
    from cggm_med.data.volumes.network_grid import NativeGrid
    from cggm_med.data.volumes.prepared import PreparedCase
    from cggm_med.data.volumes.resample import OneGrid
    from cggm_med.data.volumes.spacing import Spacing
    from cggm_med.metrics.classification_regression import LabelMetric
    from cggm_med.task.scan_to_mask import SegmentedScan


@dataclass(frozen=True)
class LabelledSamples:
    """Cases that carry a label, or one for each of their parts, such as the utterances of a conversation.

    With these a run can be probed and, if its labels are classes, calibrated. The network's logits are
    ``(batch, class)``, ``(batch, class, part)`` or, of a value, ``(batch, 1)``.

    Attributes:
        labels: ``classes``, numbered as the task's ``targets``, or ``values``.
        metrics: of predictions, by name; the task's ``chosen_by`` is one of them.
        batches: these cases in their order, without augmentation, on the CPU; the target of a part that is padding is
            ``IGNORED``.
        group: the group of a case, which no split may divide, see ``Task.group_kind``.
    """

    labels: Literal["classes", "values"]
    metrics: Mapping[str, LabelMetric]
    batches: Callable[[Sequence[str]], Iterable[Batch]]
    group: Callable[[str], str]


@dataclass(frozen=True)
class UnlabelledSamples:
    """Cases without labels, which a finished run can label; each may lack modalities.

    Attributes:
        find: the modalities that each case has, by id in their order, in a folder or file in the task's layout; of the
            modalities that are asked for. Receives lines of progress.
        load: the inputs of one case, of the modalities that it has; raises ``DataError`` if a file cannot be read.
        stack: the inputs of several cases that have the same modalities, as the network takes them.
        rows: what the logits of one case say, without its padding: a row, or one for each part, of plain values.
    """

    find: Callable[[Path, Sequence[str], Callable[[str], None]], Mapping[str, tuple[str, ...]]]
    load: Callable[[str], Mapping[str, Tensor]]
    stack: Callable[[Sequence[Mapping[str, Tensor]]], Mapping[str, Tensor | Padded]]
    rows: Callable[[Tensor], Sequence[Mapping[str, Any]]]


class Volumes(Protocol):
    """Scans of which the task segments regions: what prediction, robustness, and probes and calibration of voxels need.

    ``SegmentationTask`` returns itself. Other tasks may return any object with these members.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """The network's modalities."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the regions."""

    @property
    def conventions(self) -> Mapping[str, LabelConvention]:
        """Conventions of label files, by name."""

    @property
    def data_conventions(self) -> Mapping[str, LabelConvention]:
        """Conventions of the data that ``find_scans`` read last: ``conventions``, unless data declare their own."""

    @property
    def colours(self) -> Mapping[str, str]:
        """Colours of regions, such as ``#56B4E9``; the others get one each, see ``plots.style.region_colours``."""

    @property
    def codes(self) -> Mapping[str, SegmentCodes]:
        """Codes of regions, for DICOM segmentations."""

    @property
    def lesion_rules(self) -> LesionRules:
        """What a lesion of these regions is."""

    @property
    def stated_convention(self) -> str | None:
        """Name of the convention in the settings, if they state one."""

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in mm that the network expects along right, anterior and superior."""

    @property
    def reference(self) -> str | None:
        """Modality to whose grid the others are resampled where the grids of a case differ; None: they must not."""

    @property
    def rescalings(self) -> Mapping[str, Rescaling]:
        """How modalities are normalised that are not z-scored."""

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Size of a training patch in voxels."""

    @property
    def window_size(self) -> tuple[int, int, int]:
        """Size in voxels of the windows in which scans are predicted."""

    @property
    def overlap(self) -> float:
        """Overlap of windows, see ``segment_scan``."""

    @property
    def found(self) -> CaseList:
        """The cases that the task's ``find`` found."""

    @property
    def convention(self) -> LabelConvention:
        """The convention in which masks are written: that of most of these cases' labels."""

    @property
    def cases(self) -> Mapping[str, PreparedCase]:
        """The cases that the task's ``prepare`` prepared, by id."""

    def convention_of(self, case: Case) -> LabelConvention:
        """The convention of one case's label, among those that ``find`` found."""

    def labels_in_words(self, cases: Iterable[Case]) -> str:
        """The conventions that these cases follow, with the number of cases where there are several."""

    def with_conventions(self, found: CaseList) -> tuple[CaseList, Sequence[str]]:
        """See ``SegmentationTask.with_conventions``."""

    def score(
        self, case: Case, predicted: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Spacing, *, full: bool
    ) -> list[dict[str, Any]]:
        """See ``SegmentationTask.score``."""

    def data_path(self, say: Callable[[str], None]) -> Path:
        """Path of the task's data."""

    def find_scans(
        self,
        path: Path,
        modalities: Sequence[str] | None = None,
        *,
        required: Sequence[str] = (),
        need_labels: bool = True,
    ) -> CaseList:
        """Find scans in other data; each has at least one of the modalities, and all that are required."""

    def segment(
        self,
        model: MultimodalModel,
        image: Tensor,
        grid: NativeGrid,
        modalities: Sequence[str],
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        heads: UnimodalHeads | None = None,
        flips: bool = False,
    ) -> Iterator[SegmentedScan]:
        """See ``SegmentationTask.segment``."""

    def segment_subsets(
        self,
        model: MultimodalModel,
        scan: OneGrid,
        subsets: Sequence[tuple[str, ...]],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[tuple[tuple[str, ...], SegmentedScan]]:
        """See ``SegmentationTask.segment_subsets``."""

    def dice_rules(self) -> dict[str, str]:
        """How Dice is defined, with the regions and the grid."""
