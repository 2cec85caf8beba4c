"""Cases as the dictionaries that MONAI's data sets are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cggm_med.data.cases import LABEL, Case
from cggm_med.data.layouts import NamedFiles, find_cases
from cggm_med.data.volumes.transforms import HELD
from cggm_med.errors import DataError


def case_items(
    path: str | Path,
    modalities: Sequence[str],
    layouts: Sequence[NamedFiles],
    *,
    decathlon_modalities: Mapping[str, str],
    decathlon_convention: str,
    known_modalities: Sequence[str],
    labels: str | None = None,
) -> list[dict[str, Any]]:
    """``image``, ``case`` and perhaps ``label`` of each case that ``find_cases`` finds.

    ``image`` is one file for each modality, in order, or one file whose channels are the modalities in this order. A
    case that lacks modalities names those that it has under ``modalities``, joined by ``+``.

    Args:
        path: folder or JSON list.
        modalities: what the channels of an image are to show.
        layouts: see ``find_cases``.
        decathlon_modalities: see there.
        decathlon_convention: see there.
        known_modalities: see there.
        labels: name of the convention in which labels are needed; None: labels are left out.

    Raises:
        DataError: if nothing is found, a file holds the modalities in another order, or the layout on disk implies
            another label convention.
    """
    found = find_cases(
        Path(path),
        modalities,
        layouts,
        decathlon_modalities=decathlon_modalities,
        decathlon_convention=decathlon_convention,
        known_modalities=known_modalities,
        need_labels=labels is not None,
        required=(),
    )
    implied = {case.convention or found.label_convention for case in found.cases} - {None, labels}
    if labels is not None and implied:
        raise DataError(
            f"{path} has labels as in {', '.join(sorted(map(str, implied)))}; expected {labels}: translate them first"
        )
    items = []
    for case in found.cases:
        item: dict[str, Any] = {"image": _image(case), "case": case.id}
        if len(case.images) < len(modalities):
            item[HELD] = "+".join(case.images)
        if labels is not None:
            item[LABEL] = str(case.label)
        items.append(item)
    return items


def _image(case: Case) -> str | list[str]:
    channels = [file.channel for file in case.images.values()]
    paths = [str(file.path) for file in case.images.values()]
    if all(channel is None for channel in channels):
        return paths
    if channels != list(range(len(channels))):
        raise DataError(
            f"{paths[0]} holds {', '.join(case.images)} as channels {channels}; expected them in this order from 0: "
            "write a file with these channels, or one file each"
        )
    return paths[0]
