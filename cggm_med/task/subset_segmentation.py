"""Segment a scan from many subsets of its modalities, encoding each modality only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.volumes.background import background_of, bounding_box, foreground_of
from cggm_med.data.volumes.components import EVERYTHING, ComponentFilter
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.data.volumes.resample import OneGrid
from cggm_med.data.volumes.spacing import Spacing
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.activation import Activation, overlapping
from cggm_med.task.scan_to_mask import SegmentedScan, segment_scan

Subset = tuple[str, ...]
SUBSETS_AT_ONCE = 16  # whose probabilities are in memory together; enough for all of four modalities


@torch.no_grad()
def segment_subsets(
    model: MultimodalModel,
    scan: OneGrid,
    subsets: Sequence[Subset],
    *,
    spacing: Spacing | None,
    patch_size: Sequence[int],
    overlap: float,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    rescalings: Mapping[str, Rescaling],
    activation: Activation = overlapping,
    components: ComponentFilter = EVERYTHING,
) -> Iterator[tuple[Subset, SegmentedScan]]:
    """Regions from each subset, the same as of a scan without the other modalities.

    Preprocessing crops a scan to what its modalities show, so the subset decides where windows lie. Subsets with the
    same crop, as a rule all of them, share the windows: in each, every modality is encoded once, and every subset is
    fused and decoded once. What a subset says outside its own foreground is removed.

    Args:
        model: in evaluation mode.
        scan: volumes of all modalities that occur in ``subsets``, on one grid.
        subsets: modalities, each subset in the order of the model's.
        spacing: voxel size in mm that the network expects, see ``to_network``.
        patch_size: voxels of a window.
        overlap: of windows, see ``segment_scan``.
        device: where the model is.
        autocast: context for the network's computations.
        rescalings: of modalities that are not z-scored.
        activation: from the logits of one prediction to its probabilities.
        components: which components stay in the masks.

    Returns:
        Subsets and their regions on the scan's own grid: the first subset first, the others in no special order.
    """
    used = [m for m in model.modalities if any(m in subset for subset in subsets)]
    shown = {m: foreground_of(scan.volumes[m], background_of(scan.volumes[m], rescalings.get(m))) for m in used}
    for group in _sharing_windows(shown, scan.affines, subsets):
        modalities = [m for m in model.modalities if any(m in subset for subset in group)]
        volumes = [scan.volumes[m] for m in modalities]
        own = [rescalings.get(m) for m in modalities]
        moved, grid, _ = to_network(volumes, scan.affines[group[0][0]], spacing, rescalings=own)
        image = moved["image"].as_tensor().to(device)
        logits = _logits(model, modalities, group, autocast)
        answers = segment_scan(
            logits,
            image,
            grid,
            patch_size=patch_size,
            overlap=overlap,
            answers=len(group),
            activation=activation,
        )
        for subset, answer in zip(group, answers, strict=True):
            inside = np.any([shown[m] for m in subset], axis=0)
            yield subset, replace(answer, components=components).on(None, within=inside)


def all_and_without_each(modalities: Sequence[str]) -> tuple[Subset, ...]:
    """All modalities, then all but each.

    Example:
        >>> all_and_without_each(("ct", "pet"))
        (('ct', 'pet'), ('pet',), ('ct',))
    """
    without = (tuple(m for m in modalities if m != absent) for absent in modalities)
    return (tuple(modalities), *(subset for subset in without if subset))


def _logits(
    model: MultimodalModel,
    modalities: Sequence[str],
    subsets: Sequence[Subset],
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Callable[[Tensor], Tensor]:
    """Maps windows of all modalities to the regions' logits from one subset after the other."""

    def logits(windows: Tensor) -> Tensor:
        with autocast():
            features = model.encode({m: windows[:, i : i + 1] for i, m in enumerate(modalities)})
            # One subset at a time: fused maps of all of them would take more memory than everything else.
            answers = [model.head(model.fuse({m: features[m] for m in subset})[0]) for subset in subsets]
        return torch.cat(answers, dim=1)

    return logits


def _sharing_windows(
    shown: Mapping[str, NDArray[np.bool_]], affines: Mapping[str, NDArray[np.float64]], subsets: Sequence[Subset]
) -> Iterator[Sequence[Subset]]:
    """Groups of subsets whose scans are cropped alike, from what each modality shows."""
    boxes = {m: bounding_box(mask) for m, mask in shown.items()}
    alike: dict[Any, list[Subset]] = {}
    for subset in subsets:
        key = (_hull([boxes[m] for m in subset]), affines[subset[0]].tobytes())
        alike.setdefault(key, []).append(subset)
    for group in alike.values():
        for start in range(0, len(group), SUBSETS_AT_ONCE):
            yield group[start : start + SUBSETS_AT_ONCE]


def _hull(boxes: Sequence[tuple[list[int], list[int]]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and the one after the last, along each axis, of the smallest box around these."""
    starts, stops = zip(*boxes, strict=True)
    return tuple(map(min, zip(*starts, strict=True))), tuple(map(max, zip(*stops, strict=True)))
