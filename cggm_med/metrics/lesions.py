"""Lesion-wise metrics of a region, by rules that its task states: a small lesion counts as much as a large one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch import Tensor

from cggm_med.metrics.lesion_areas import NEIGHBOURHOODS, LesionRules, lesion_areas
from cggm_med.metrics.surface_distance import neighbourhood_areas, surface_distances, surface_elements

ROUNDING = 1e-9  # by which an overlap may fall short: a tenth of 30 voxels is not 3 in double precision

Surface = tuple[NDArray[np.integer], NDArray[np.float64]]  # corners (element, 3), and their areas in mm2


@dataclass(frozen=True)
class LesionMetrics:
    """Lesion-wise metrics of one region of one case.

    Attributes:
        dice: mean over the true lesions that count and the false ones.
        hd95_mm: mean over the same lesions.
        lesions: true lesions that count, found or missed.
        missed: those of them that are not found.
        false: predicted components that touch no true lesion.
    """

    dice: float
    hd95_mm: float
    lesions: int
    missed: int
    false: int


@dataclass(frozen=True)
class LesionMatch:
    """Which predicted components belong to which true lesions; see ``match_lesions``.

    Attributes:
        areas: ``(x, y, z)``: the number of the lesion in whose mask, dilated if the rules say so, a voxel lies.
        components: ``(x, y, z)``: the number of the predicted component of each voxel, 0 outside all.
        sizes: true voxels of each lesion, by its number.
        component_sizes: voxels of each predicted component, by its number.
        common: predicted voxels of each lesion, by its number.
        own: by the number of each lesion that counts, the components that belong to it.
        found: those of these lesions that are found.
        false: components that belong to no lesion.
    """

    areas: NDArray[np.integer]
    components: NDArray[np.integer]
    sizes: NDArray[np.integer]
    component_sizes: NDArray[np.integer]
    common: NDArray[np.integer]
    own: dict[int, NDArray[np.integer]]
    found: list[int]
    false: list[int]

    @property
    def missed(self) -> list[int]:
        """Lesions that count and are not found."""
        return sorted(self.own.keys() - set(self.found))


def match_lesions(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], voxel_mm3: float, rules: LesionRules
) -> LesionMatch:
    """Find the true lesions and the predicted components, and which belong together, as ``lesion_metrics`` says.

    Args:
        predicted: ``(x, y, z)``.
        true: ``(x, y, z)``.
        voxel_mm3: volume of a voxel.
        rules: of the task.

    Example:
        >>> true = np.array([1, 1, 0, 0, 1, 0, 0], bool).reshape(7, 1, 1)
        >>> predicted = np.array([0, 1, 0, 0, 0, 0, 1], bool).reshape(7, 1, 1)
        >>> match = match_lesions(predicted, true, 1.0, LesionRules())
        >>> match.found, match.missed, match.false
        ([1], [2], [2])
    """
    # Every step below visits a voxel once, not once a lesion: noise has hundreds of thousands of components.
    areas, number = lesion_areas(true, rules)
    components, predicted_number = label(predicted, NEIGHBOURHOODS[rules.connectivity])
    reached = predicted & (areas > 0)
    pairs = np.unique(areas[reached].astype(np.int64) * (predicted_number + 1) + components[reached])
    lesion_of, component_of = np.divmod(pairs, predicted_number + 1)
    first = np.searchsorted(lesion_of, np.arange(number + 2))  # where each lesion's components begin
    sizes = np.bincount(areas[true], minlength=number + 1)
    common = np.bincount(areas[predicted & true], minlength=number + 1)
    counting = [lesion for lesion in range(1, number + 1) if rules.counts(sizes[lesion] * voxel_mm3)]
    own = {lesion: component_of[first[lesion] : first[lesion + 1]] for lesion in counting}
    enough = sizes * rules.min_overlap * (1 - ROUNDING)
    return LesionMatch(
        areas=areas,
        components=components,
        sizes=sizes,
        component_sizes=np.bincount(components[predicted], minlength=predicted_number + 1),
        common=common,
        own=own,
        found=[lesion for lesion in counting if own[lesion].size and common[lesion] >= enough[lesion]],
        false=np.setdiff1d(np.arange(1, predicted_number + 1), component_of).tolist(),
    )


def lesion_metrics(
    prediction: Tensor,
    target: Tensor,
    spacing_mm: Sequence[float],
    rules: LesionRules,
    *,
    penalty_mm: float = 374.0,
) -> LesionMetrics:
    """Lesion-wise Dice and HD95 of BraTS 2023, with the rules of any task for what a lesion is.

    They are computed as by the challenge's script (github.com/rachitsaluja/BraTS-2023-Metrics, ``metrics.py``, October
    2023), also where its text leaves it open; the script has ``connectivity`` 26, ``min_overlap`` 0, and for each
    challenge its own ``dilations`` and ``min_mm3``:

    1. The target is dilated ``dilations`` times with the 18-neighbourhood. All of its voxels that lie in one connected
       component of the dilated mask are one lesion; so lesions a few voxels apart are one. Without dilations each
       component of the target is one.
    2. A lesion's volume is that of its own voxels, before the dilation. Up to and including ``min_mm3`` it does not
       count: it is neither averaged nor missed.
    3. Every connected component of the prediction belongs, whole, to each lesion whose dilated mask it shares a voxel
       with: to several when it joins them, and also to one that does not count.
    4. A lesion is compared with all components that belong to it: Dice, and HD95 between surfaces whose elements
       are weighted by area, as in the package ``surface-distance`` (``metrics.surface_distance.hausdorff95`` counts
       voxels).
       Components that touch only the dilated rim give Dice 0 and the HD95 that is measured.
    5. A lesion to which nothing belongs, or of whose own voxels less than ``min_overlap`` are predicted, is missed:
       Dice 0, HD95 ``penalty_mm``.
    6. A component that belongs to no lesion is false, however small it is; no threshold is applied to predictions:
       Dice 0, HD95 ``penalty_mm``.
    7. The metric is the mean over the lesions that count and the false components. Where there is neither (both masks
       are empty, or only negligible lesions were there), Dice is 1 and HD95 is 0.

    Args:
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.
        rules: of the script: 3 dilations for the glioma, Africa and paediatric challenges of 2023 and 1 for meningioma
            and metastases; 50 mm3 for all of them but metastases, where it is 2.
        penalty_mm: 374 is the diagonal of the BraTS grid.

    Raises:
        ValueError: if the shapes differ or are not three-dimensional.

    Example:
        >>> target = torch.zeros(30, 9, 9, dtype=torch.bool)
        >>> target[2:6, 2:6, 2:6] = target[20:24, 2:6, 2:6] = True
        >>> prediction = target.clone()
        >>> prediction[20:] = False
        >>> lesion_metrics(prediction, target, (1, 1, 1), LesionRules(dilations=3, min_mm3=50))
        LesionMetrics(dice=0.5, hd95_mm=187.0, lesions=2, missed=1, false=0)
    """
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}; expected one shape (x, y, z)"
        )
    predicted, true = (mask.cpu().numpy().astype(bool) for mask in (prediction, target))
    if not (predicted.any() or true.any()):
        return LesionMetrics(1.0, 0.0, 0, 0, 0)
    # Dilated masks that touch outside this box touch inside it as well, so nothing is lost with the rest.
    box = find_objects((predicted | true).astype(np.uint8))[0]
    predicted, true = predicted[box], true[box]

    match = match_lesions(predicted, true, float(np.prod(np.asarray(spacing_mm, dtype=float))), rules)
    found, own = match.found, match.own
    dices = [2 * int(match.common[k]) / int(match.component_sizes[own[k]].sum() + match.sizes[k]) for k in found]
    distances: list[float] = []
    if found:
        predicted_surfaces = _Surfaces(match.components, np.concatenate([own[k] for k in found]), spacing_mm)
        true_surfaces = _Surfaces(np.where(true, match.areas, 0), found, spacing_mm)
        for k in found:
            pair = predicted_surfaces.of(own[k]), true_surfaces.of([k])
            distances.append(_hausdorff95_by_area(*pair, spacing_mm))

    lesions, missed, false = len(own), len(own) - len(found), len(match.false)
    if not lesions + false:
        return LesionMetrics(1.0, 0.0, 0, 0, 0)
    return LesionMetrics(
        dice=sum(dices) / (lesions + false),
        hd95_mm=(sum(distances) + (missed + false) * penalty_mm) / (lesions + false),
        lesions=lesions,
        missed=missed,
        false=false,
    )


class _Surfaces:
    """The surface elements of some parts of a volume, by part, each part as if the others were not there.

    Parts whose voxels touch nowhere have no corner in common. Others, which is what connectivities below 26 leave, meet
    at corners, where each part has an element of its own.

    Args:
        parts: ``(x, y, z)``, number of the part of each voxel, 0 outside all.
        chosen: the parts that will be asked for.
        spacing_mm: voxel size along x, y, z.
    """

    def __init__(
        self, parts: NDArray[np.integer], chosen: Sequence[int] | NDArray[np.integer], spacing_mm: Sequence[float]
    ) -> None:
        is_chosen = np.zeros(int(parts.max()) + 1, dtype=bool)
        is_chosen[chosen] = True
        mask = is_chosen[parts]
        elements, areas = surface_elements(mask, spacing_mm)
        corners = np.argwhere(elements)
        padded = np.pad(np.where(mask, parts, 0), 1)
        x, y, z = corners.T
        part, other = np.zeros(len(x), padded.dtype), np.full(len(x), len(is_chosen), padded.dtype)
        for a, b, c in itertools.product((0, 1), repeat=3):
            near = padded[x + a, y + b, z + c]
            np.maximum(part, near, out=part)
            np.minimum(other, near, out=other, where=near > 0)
        if (shared := part != other).any():
            extra = _meeting(padded, corners[shared], spacing_mm)
            kept = (corners[~shared], areas[~shared], part[~shared])
            corners, areas, part = (np.concatenate(both) for both in zip(kept, extra, strict=True))
            in_volume = np.lexsort(corners.T[::-1])
            corners, areas, part = corners[in_volume], areas[in_volume], part[in_volume]
        self.corners, self.areas = corners, areas
        self.order = np.argsort(part, kind="stable")
        self.first = np.searchsorted(part[self.order], np.arange(len(is_chosen) + 1))

    def of(self, parts: Iterable[int]) -> Surface:
        """The elements of these parts together, in the order of the volume."""
        chosen = np.sort(np.concatenate([self.order[self.first[p] : self.first[p + 1]] for p in parts]))
        return self.corners[chosen], self.areas[chosen]


def _meeting(
    padded: NDArray[np.integer], corners: NDArray[np.integer], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.integer], NDArray[np.float64], NDArray[np.integer]]:
    """Corner, area and part of each element where several parts meet: one for each part around a corner."""
    areas, bits = neighbourhood_areas(spacing_mm)
    steps = np.array(list(np.ndindex(2, 2, 2)))
    around = padded[tuple((corners[:, None] + steps).transpose(2, 0, 1))]  # (corner, 8)
    found = []
    for k in range(8):
        part = around[:, k]
        first = (part > 0) & ~(around[:, :k] == part[:, None]).any(axis=1)
        code = (around == part[:, None]) @ bits.ravel().astype(np.intp)
        found.append((corners[first], areas[code[first]], part[first]))
    corner, area, part = (np.concatenate(of) for of in zip(*found, strict=True))
    return corner, area, part


def _hausdorff95_by_area(prediction: Surface, target: Surface, spacing_mm: Sequence[float]) -> float:
    """The larger of the two distances within which 95 % of one surface's area lies from the other surface."""
    distances = surface_distances(prediction[0], target[0], spacing_mm)
    return max(_percentile95(mm, mm2) for mm, mm2 in zip(distances, (prediction[1], target[1]), strict=True))


def _percentile95(distances: np.ndarray, weights: np.ndarray) -> float:
    """The smallest distance up to which at least 95 % of the weight lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order][np.searchsorted(share, 0.95)])
