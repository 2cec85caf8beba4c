"""What is recorded of a mask, as plain values: by ``predict``, and by a bundle that runs without the package."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.data.volumes.labels import THRESHOLD, LabelConvention
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesion_list import ML_DIGITS, list_lesions

SCHEMA = 1  # a number that goes up when a field changes its meaning or disappears


def mask_record(
    labels: NDArray[np.integer],
    affine: NDArray[np.float64],
    convention: LabelConvention,
    *,
    run: Mapping[str, Any],
    scan: Mapping[str, Any],
    device: torch.device,
    seconds: Mapping[str, float],
    components: Mapping[str, Any],
    expected: Mapping[str, Any],
    flips: bool = False,
    quality: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All of ``side_car.FIELDS``, in order.

    Args:
        labels: ``(x, y, z)``: the mask.
        affine: of its grid, voxels to mm in RAS+.
        convention: of the mask.
        run: ``software``, ``task``, ``weights``, ``ensemble``, ``modalities`` and ``lesion_rules`` of what made it.
        scan: ``case``, ``modalities``, ``inputs``, ``resampled``, ``resampled_to``, ``findings`` and ``trust_names``.
        device: that segmented.
        seconds: how long each part of the work took.
        components: which components of regions stayed.
        expected: ``expected_dice``, ``temperature`` and ``measured_on``, for exactly these modalities.
        flips: whether predictions of mirrored scans were averaged.
        quality: ``quality``, ``quality_of`` and ``quality_rank_correlation``; None: it was not asked for.
    """
    masks = dict(zip(convention.regions, convention.to_regions(labels), strict=True))
    rules = LesionRules(**run["lesion_rules"])
    found = {region: list_lesions(mask, affine, rules) for region, mask in masks.items()}
    return {
        "schema": SCHEMA,
        "software": run["software"],
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "case": scan["case"],
        "task": run["task"],
        "weights": run["weights"],
        "ensemble": run["ensemble"],
        "device": f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "modalities": list(scan["modalities"]),
        "absent": [m for m in run["modalities"] if m not in scan["modalities"]],
        "inputs": dict(scan["inputs"]),
        "labels": {str(n): meaning for n, meaning in convention.meanings.items()},
        "convention": convention.name,
        "regions": {region: list(values) for region, values in convention.regions.items()},
        "threshold": THRESHOLD,
        "components": dict(components),
        "flips": flips,
        "trust_names": scan["trust_names"],
        "resampled": list(scan["resampled"]),
        "resampled_to": scan["resampled_to"],
        "volume_ml": {region: round(of.ml, ML_DIGITS) for region, of in found.items()},
        "lesion_rules": dict(run["lesion_rules"]),
        "lesion_count": {region: of.count for region, of in found.items()},
        "small_lesion_count": {region: of.small for region, of in found.items()},
        "lesions": [
            {"region": region, "lesion": number, **lesion.record()}
            for region, of in found.items()
            for number, lesion in enumerate(of.lesions, start=1)
        ],
        "findings": list(scan["findings"]),
        **{name: expected[name] for name in ("expected_dice", "temperature", "measured_on")},
        **(quality or no_quality("it was not asked for")),
    }


def no_quality(why: str) -> dict[str, Any]:
    """What is said of predicted quality that is not there."""
    return {"quality": None, "quality_of": f"nothing: {why}", "quality_rank_correlation": None}
