"""Lesion-wise metrics of a region, by the rules of BraTS 2023: a small lesion counts as much as a large one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label
from torch import Tensor

from cggm_med.metrics.surface_distance import surface_distances, surface_elements

_FACES_AND_EDGES = generate_binary_structure(3, 2)
_ALL_26 = generate_binary_structure(3, 3)

Surface = tuple[NDArray[np.integer], NDArray[np.float64]]  # corners (element, 3), and their areas in mm2


@dataclass(frozen=True)
class LesionMetrics:
    """Lesion-wise metrics of one region of one case.

    Attributes:
        dice: mean over the true lesions that count and the false ones.
        hd95_mm: mean over the same lesions.
        lesions: true lesions that count, found or missed.
        missed: those of them that no predicted component touches.
        false: predicted components that touch no true lesion.
    """

    dice: float
    hd95_mm: float
    lesions: int
    missed: int
    false: int


def lesion_metrics(
    prediction: Tensor,
    target: Tensor,
    spacing_mm: Sequence[float],
    *,
    dilations: int = 3,
    negligible_mm3: float = 50.0,
    penalty_mm: float = 374.0,
) -> LesionMetrics:
    """Lesion-wise Dice and HD95 of BraTS 2023, with the adult glioma challenge's settings as defaults.

    The rules are those of the challenge's script (github.com/rachitsaluja/BraTS-2023-Metrics, ``metrics.py``, October
    2023), also where its text leaves them open:

    1. The target is dilated ``dilations`` times with the 18-neighbourhood. All of its voxels that lie in one
       26-connected component of the dilated mask are one lesion; so lesions a few voxels apart are one.
    2. A lesion's volume is that of its own voxels, before the dilation. Up to and including ``negligible_mm3`` it
       does not count: it is neither averaged nor missed.
    3. Every 26-connected component of the prediction belongs, whole, to each lesion whose dilated mask it touches: to
       several when it joins them, and also to one that does not count.
    4. A lesion is compared with all components that belong to it: Dice, and HD95 between surfaces whose elements
       are weighted by area, as in the package ``surface-distance`` (``metrics.surface_distance.hausdorff95`` counts
       voxels).
       Components that touch only the dilated rim give Dice 0 and the HD95 that is measured.
    5. A lesion to which nothing belongs is missed: Dice 0, HD95 ``penalty_mm``.
    6. A component that belongs to no lesion is false, however small it is; no threshold is applied to predictions:
       Dice 0, HD95 ``penalty_mm``.
    7. The metric is the mean over the lesions that count and the false components. Where there is neither (both masks
       are empty, or only negligible lesions were there), Dice is 1 and HD95 is 0.

    Args:
        prediction: ``(x, y, z)`` boolean.
        target: ``(x, y, z)`` boolean.
        spacing_mm: voxel size along x, y, z.
        dilations: 3 for the glioma, Africa and paediatric challenges of 2023; 1 for meningioma and metastases.
        negligible_mm3: 50 for all of them but metastases, where it is 2.
        penalty_mm: 374 is the diagonal of the BraTS grid.

    Raises:
        ValueError: if the shapes differ, are not three-dimensional, or ``dilations`` is below 1.

    Example:
        >>> target = torch.zeros(30, 9, 9, dtype=torch.bool)
        >>> target[2:6, 2:6, 2:6] = target[20:24, 2:6, 2:6] = True
        >>> prediction = target.clone()
        >>> prediction[20:] = False
        >>> lesion_metrics(prediction, target, (1, 1, 1))
        LesionMetrics(dice=0.5, hd95_mm=187.0, lesions=2, missed=1, false=0)
    """
    if prediction.shape != target.shape or prediction.ndim != 3:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}; expected one shape (x, y, z)"
        )
    if dilations < 1:
        raise ValueError(f"dilations is {dilations}; expected at least 1")
    predicted, true = (mask.cpu().numpy().astype(bool) for mask in (prediction, target))
    if not (predicted.any() or true.any()):
        return LesionMetrics(1.0, 0.0, 0, 0, 0)
    # Dilated masks that touch outside this box touch inside it as well, so nothing is lost with the rest.
    box = find_objects((predicted | true).astype(np.uint8))[0]
    predicted, true = predicted[box], true[box]

    # Every step below visits a voxel once, not once a lesion: noise has hundreds of thousands of components.
    areas, number = label(binary_dilation(true, _FACES_AND_EDGES, iterations=dilations), _ALL_26)
    components, predicted_number = label(predicted, _ALL_26)
    reached = predicted & (areas > 0)
    pairs = np.unique(areas[reached].astype(np.int64) * (predicted_number + 1) + components[reached])
    lesion_of, component_of = np.divmod(pairs, predicted_number + 1)
    first = np.searchsorted(lesion_of, np.arange(number + 2))  # where each lesion's components begin
    sizes = np.bincount(areas[true], minlength=number + 1)
    common = np.bincount(areas[predicted & true], minlength=number + 1)
    component_sizes = np.bincount(components[predicted], minlength=predicted_number + 1)

    voxel_mm3 = float(np.prod(np.asarray(spacing_mm, dtype=float)))
    counting = [lesion for lesion in range(1, number + 1) if sizes[lesion] * voxel_mm3 > negligible_mm3]
    own = {lesion: component_of[first[lesion] : first[lesion + 1]] for lesion in counting}
    found = [lesion for lesion in counting if own[lesion].size]
    dices = [2 * int(common[k]) / int(component_sizes[own[k]].sum() + sizes[k]) for k in found]
    distances: list[float] = []
    if found:
        predicted_surfaces = _Surfaces(components, np.concatenate([own[k] for k in found]), spacing_mm)
        true_surfaces = _Surfaces(np.where(true, areas, 0), found, spacing_mm)
        for k in found:
            pair = predicted_surfaces.of(own[k]), true_surfaces.of([k])
            distances.append(_hausdorff95_by_area(*pair, spacing_mm))

    lesions, missed = len(counting), len(counting) - len(found)
    false = predicted_number - len(np.unique(component_of))
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
    """The surface elements of some parts of a volume, by part.

    The eight voxels around a corner touch one another, and parts do not, so an element belongs to one part alone and is
    the same as if the other parts were not there.

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
        elements, self.areas = surface_elements(mask, spacing_mm)
        self.corners = np.argwhere(elements)
        padded = np.pad(np.where(mask, parts, 0), 1)
        x, y, z = self.corners.T
        part = np.zeros(len(x), padded.dtype)
        for a, b, c in itertools.product((0, 1), repeat=3):
            np.maximum(part, padded[x + a, y + b, z + c], out=part)
        self.order = np.argsort(part, kind="stable")
        self.first = np.searchsorted(part[self.order], np.arange(len(is_chosen) + 1))

    def of(self, parts: Iterable[int]) -> Surface:
        """The elements of these parts together, in the order of the volume."""
        chosen = np.sort(np.concatenate([self.order[self.first[p] : self.first[p + 1]] for p in parts]))
        return self.corners[chosen], self.areas[chosen]


def _hausdorff95_by_area(prediction: Surface, target: Surface, spacing_mm: Sequence[float]) -> float:
    """The larger of the two distances within which 95 % of one surface's area lies from the other surface."""
    distances = surface_distances(prediction[0], target[0], spacing_mm)
    return max(_percentile95(mm, mm2) for mm, mm2 in zip(distances, (prediction[1], target[1]), strict=True))


def _percentile95(distances: np.ndarray, weights: np.ndarray) -> float:
    """The smallest distance up to which at least 95 % of the weight lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order][np.searchsorted(share, 0.95)])
