"""All scores of one predicted region of one case, each computed where there is something to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.metrics.lesions import lesion_scores
from cggm_med.metrics.regions import CaseScore
from cggm_med.metrics.volumes import (
    dice,
    empty_region,
    hausdorff95,
    sensitivity,
    specificity,
    surface_dice,
    volume_error_ml,
)


def score_region(
    case: str,
    region: str,
    prediction: NDArray[np.bool_],
    target: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    *,
    empty_mm: float,
    tolerance_mm: float,
    full: bool = True,
) -> CaseScore:
    """Score one region of one case.

    Args:
        case: id.
        region: name.
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.
        empty_mm: HD95 of a region or a lesion that is missed or made up.
        tolerance_mm: see ``metrics.surface_dice``.
        full: also compute what is too slow for every validation; without it HD95 is 0 and the rest is None.

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[2:6, 2:6, 2:6] = True
        >>> score = score_region("a", "WT", mask, mask, (1, 1, 1), empty_mm=374, tolerance_mm=1)
        >>> score.dice, score.hd95_mm, score.lesion_dice, score.lesions
        (1.0, 0.0, 1.0, 1)
    """
    whole = torch.from_numpy(prediction), torch.from_numpy(target)
    voxel_ml = math.prod(float(mm) for mm in spacing_mm) / 1000
    score = CaseScore(
        case=case,
        region=region,
        dice=dice(*whole),
        hd95_mm=0.0,
        empty=empty_region(*whole),
        target_ml=int(np.count_nonzero(target)) * voxel_ml,
        predicted_ml=int(np.count_nonzero(prediction)) * voxel_ml,
    )
    if not full:
        return score
    box = _union_box(prediction, target)
    near = torch.from_numpy(prediction[box]), torch.from_numpy(target[box])
    lesions = lesion_scores(*near, spacing_mm, penalty_mm=empty_mm)
    return replace(
        score,
        hd95_mm=hausdorff95(*near, spacing_mm, empty_mm=empty_mm),
        surface_dice=surface_dice(*near, spacing_mm, tolerance_mm=tolerance_mm),
        sensitivity=sensitivity(*near),
        specificity=specificity(*whole),  # counts what lies around as well
        volume_error_ml=volume_error_ml(*near, spacing_mm),
        lesion_dice=lesions.dice,
        lesion_hd95_mm=lesions.hd95_mm,
        lesions=lesions.lesions,
        missed_lesions=lesions.missed,
        false_lesions=lesions.false,
    )


def _union_box(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds both masks; all of the volume where both are empty.

    What is computed in it equals what the whole volume gives, without any margin. Surfaces: the outside of the array
    counts as outside of the mask, so a voxel at its border is on the surface wherever the array ends. Lesions: moving
    every voxel of a dilated mask to the nearest one of the box leaves it in the dilated mask, since it comes no farther
    from its origin along any axis, and leaves neighbours neighbours; so what is connected outside is connected inside.
    """
    union = prediction | target
    box = []
    for axis in range(3):
        filled = np.flatnonzero(union.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(None))
    return tuple(box)
