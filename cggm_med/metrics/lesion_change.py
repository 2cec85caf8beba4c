"""What became of the lesions of a region between two time points: new, gone, grown or shrunk, and by how much."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cggm_med.metrics.lesion_list import MAX_LESIONS, ML_DIGITS, MM_DIGITS, Lesion, NumberedLesions

NEW, GONE, GROWN, SHRUNK, SAME, OUTSIDE = STATUSES = ("new", "gone", "grown", "shrunk", "same", "outside")
MIN_INSIDE = 0.5  # of a lesion's voxels that must lie on the other grid for its absence there to mean anything


@dataclass(frozen=True)
class LesionChange:
    """What became of one lesion, or of several that joined or came apart.

    Attributes:
        status: one of ``STATUSES``: ``outside`` if the other grid does not reach there, so that nothing is known.
        earlier, later: their numbers at both time points, see ``NumberedLesions``; empty where there are none.
        earlier_ml, later_ml: their volume.
        before, after: the same lesions measured, as one; None where there are none.
    """

    status: str
    earlier: tuple[int, ...]
    later: tuple[int, ...]
    earlier_ml: float
    later_ml: float
    before: Lesion | None
    after: Lesion | None

    def record(self) -> dict[str, Any]:
        """As plain values; the place is that of the later time point, of what is gone that of the earlier one."""
        at = self.after or self.before
        assert at is not None  # noqa: S101 - a change is one of something
        said = {
            "status": self.status,
            "earlier": list(self.earlier),
            "later": list(self.later),
            **volumes(self.earlier_ml, self.later_ml),
            **{name: round(getattr(at, name), MM_DIGITS) for name in ("right_mm", "anterior_mm", "superior_mm")},
        }
        for time, lesion in (("earlier", self.before), ("later", self.after)):
            for name in ("longest_axial_mm", "perpendicular_axial_mm"):
                said[f"{time}_{name}"] = None if lesion is None else round(getattr(lesion, name), MM_DIGITS)
        return said


@dataclass(frozen=True)
class RegionChange:
    """What became of the lesions of one region.

    Attributes:
        earlier_ml, later_ml: volume of the whole region, also of what is too small to be a lesion.
        counts: how many lesions have each of ``STATUSES``.
        changes: of the lesions, the largest first; at most ``MAX_LESIONS``.
        touching: how many lesions of one time point touch one of the other.
    """

    earlier_ml: float
    later_ml: float
    counts: dict[str, int]
    changes: tuple[LesionChange, ...]
    touching: int


def volumes(earlier_ml: float, later_ml: float) -> dict[str, float | None]:
    """Two volumes with their difference, in mL and in percent of the earlier one, if there is any.

    Example:
        >>> volumes(2.0, 3.0)
        {'earlier_ml': 2.0, 'later_ml': 3.0, 'change_ml': 1.0, 'change_percent': 50.0}
        >>> volumes(0.0, 3.0)["change_percent"] is None
        True
    """
    change = later_ml - earlier_ml
    return {
        "earlier_ml": round(earlier_ml, ML_DIGITS),
        "later_ml": round(later_ml, ML_DIGITS),
        "change_ml": round(change, ML_DIGITS),
        "change_percent": round(100 * change / earlier_ml, 2) if earlier_ml else None,
    }


def lesion_changes(earlier: NumberedLesions, later: NumberedLesions, *, same_percent: float = 0.0) -> RegionChange:
    """Pair the lesions of two time points of one patient, in one space.

    A lesion of one time point and one of the other belong together if the centre of a voxel of one lies in the mask of
    the other, dilated if the rules say so: as a prediction belongs to a true lesion in ``lesions.lesion_metrics``. So
    lesions that join, or come apart, are one change. Lesions that are too small to count are paired like the others,
    since they may grow; a change is reported if one that counts takes part in it. Each volume is that on the lesion's
    own grid: nothing is resampled.

    Args:
        earlier: of the first time point.
        later: of the second, by the same rules; its grid may be another.
        same_percent: change of volume up to which a lesion is the same.

    Example:
        >>> from cggm_med.metrics.lesion_list import number_lesions
        >>> from cggm_med.metrics.lesion_areas import LesionRules
        >>> masks = np.zeros((2, 9, 9, 9), bool)
        >>> masks[0, 1:3, 1:3, 1:3] = masks[1, 1:3, 1:3, 1:4] = masks[1, 7, 7, 7] = True
        >>> found = lesion_changes(*(number_lesions(mask, np.eye(4), LesionRules()) for mask in masks))
        >>> [(of.status, of.earlier, of.later) for of in found.changes]
        [('grown', (1,), (1,)), ('new', (), (2,))]
    """
    pairs = np.concatenate([_touching(earlier, later), _touching(later, earlier)[:, ::-1]])
    first, second = len(earlier.sizes), len(later.sizes)
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0] - 1, pairs[:, 1] - 1 + first)), shape=(first + second,) * 2)
    _, group = connected_components(edges, directed=False)
    members: dict[int, tuple[list[int], list[int]]] = {}
    for node, of in enumerate(group.tolist()):
        members.setdefault(of, ([], []))[node >= first].append(node + 1 - (first if node >= first else 0))
    counting = [of for of in members.values() if _counts(of[0], earlier) or _counts(of[1], later)]
    found = []
    for before, after in counting:
        ml = [
            float(of.sizes[np.array(n, int) - 1].sum()) * of.voxel_ml for of, n in ((earlier, before), (later, after))
        ]
        found.append((ml[0], ml[1], tuple(before), tuple(after)))
    found.sort(key=lambda of: (-max(of[:2]), of[2:]))
    inside = {True: _inside(earlier, later), False: _inside(later, earlier)}
    statuses = [_status(*of, inside, same_percent) for of in found]
    changes = tuple(
        LesionChange(
            *(status, before, after, earlier_ml, later_ml),
            before=earlier.measured(before) if before else None,
            after=later.measured(after) if after else None,
        )
        for status, (earlier_ml, later_ml, before, after) in list(zip(statuses, found, strict=True))[:MAX_LESIONS]
    )
    counts = Counter(statuses)
    whole = [float(of.sizes.sum()) * of.voxel_ml for of in (earlier, later)]
    return RegionChange(whole[0], whole[1], {status: counts[status] for status in STATUSES}, changes, len(pairs))


def _ml(lesions: NumberedLesions, numbers: list[int]) -> float:
    return float(lesions.sizes[np.array(numbers, int) - 1].sum()) * lesions.voxel_ml


def _counts(numbers: list[int], lesions: NumberedLesions) -> bool:
    return bool(numbers) and min(numbers) <= lesions.count


def _status(
    earlier_ml: float,
    later_ml: float,
    earlier: tuple[int, ...],
    later: tuple[int, ...],
    inside: dict[bool, NDArray[np.float64]],
    same_percent: float,
) -> str:
    if not (earlier and later):
        share = float(inside[bool(earlier)][np.array(earlier or later) - 1].max())
        return OUTSIDE if share < MIN_INSIDE else GONE if earlier else NEW
    change = 100 * (later_ml - earlier_ml) / earlier_ml
    # Volumes are multiples of that of a voxel but for the last digits.
    return SAME if abs(change) <= same_percent + 1e-6 else GROWN if change > 0 else SHRUNK


def _indices(of: NumberedLesions, other: NumberedLesions) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Of each voxel the number of its lesion, and the index ``(voxel, axis)`` of the voxel there on the other grid."""
    voxels = np.argwhere(of.own)
    numbers = of.own[tuple(voxels.T)]
    to_other = np.linalg.inv(other.affine) @ of.affine
    there = (voxels + of.start) @ to_other[:3, :3].T + to_other[:3, 3]
    return numbers, np.floor(there + 0.5).astype(np.int64)


def _inside(of: NumberedLesions, other: NumberedLesions) -> NDArray[np.float64]:
    """The share of each lesion's voxels that lie on the other grid."""
    numbers, there = _indices(of, other)
    on_grid = ((there >= 0) & (there < np.array(other.shape))).all(axis=1)
    found: NDArray[np.float64] = np.bincount(numbers, on_grid, len(of.sizes) + 1)[1:] / of.sizes
    return found


def _touching(of: NumberedLesions, other: NumberedLesions) -> NDArray[np.integer]:
    """Pairs ``(pair, 2)`` of lesions: a voxel's centre of the first lies in the (dilated) mask of the second."""
    numbers, there = _indices(of, other)
    there = there - other.start
    within = ((there >= 0) & (there < np.array(other.areas.shape))).all(axis=1)
    met = other.areas[tuple(there[within].T)]
    pairs = np.stack([numbers[within], met], axis=1)[met > 0]
    return np.unique(pairs, axis=0)
