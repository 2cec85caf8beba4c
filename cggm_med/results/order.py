"""Order violations: nested subsets of the modalities of which the smaller one scores higher, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cggm_med.results.results import CaseValues

ORDER = "order violations"
CLEARLY = 0.01  # in the unit of the metric: what is more than rounding and ties
BySubset = Mapping[str, Mapping[str, tuple[float, float]]]  # by subset and case: a sum, and of how many values


@dataclass(frozen=True)
class OrderViolations:
    """How often fewer modalities score higher, in one metric.

    Attributes:
        any: by case, its nested pairs of subsets in which the smaller one scores higher.
        clear: the same, where it does so by more than ``CLEARLY``.
        pairs: nested pairs of each case.
        worst: the subset with the worst mean over the cases.
        worst_mean: that mean.
    """

    any: Mapping[str, int]
    clear: Mapping[str, int]
    pairs: int
    worst: str
    worst_mean: float

    @property
    def share(self) -> float:
        """Of all cases and nested pairs, those in which fewer modalities score higher."""
        return sum(self.any.values()) / (self.pairs * len(self.any))

    @property
    def clear_share(self) -> float:
        """Of all cases and nested pairs, those in which fewer modalities score higher by more than ``CLEARLY``."""
        return sum(self.clear.values()) / (self.pairs * len(self.clear))


def nested_pairs(subsets: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Places of every two subsets of which the first is a proper part of the second.

    Args:
        subsets: names, joined by ``+``.

    Example:
        >>> nested_pairs(["flair", "t1", "flair+t1"])
        ((0, 2), (1, 2))
    """
    modalities = list(dict.fromkeys(name for subset in subsets for name in subset.split("+")))
    codes = np.array([sum(1 << modalities.index(name) for name in subset.split("+")) for subset in subsets])
    inside = ((codes[:, None] & codes[None]) == codes[:, None]) & (codes[:, None] != codes[None])
    return tuple((int(i), int(j)) for i, j in np.argwhere(inside))


def order_violations(values: BySubset, lower_is_better: bool = False) -> OrderViolations | None:
    """How often fewer modalities score higher: more information should not hurt, but a network can use it badly.

    Args:
        values: of the same cases from each subset.
        lower_is_better: whether lower is better in this metric.

    Returns:
        None if no subset is a part of another.

    Example:
        >>> a, b, both = {"case": (0.5, 1.0)}, {"case": (0.25, 1.0)}, {"case": (0.375, 1.0)}
        >>> found = order_violations({"flair": a, "t1": b, "flair+t1": both})
        >>> found.share, found.worst
        (0.5, 't1')
    """
    subsets, cases = list(values), list(next(iter(values.values()), {}))
    pairs = np.array(nested_pairs(subsets)).reshape(-1, 2)
    if not len(pairs) or not cases:
        return None
    added = np.array([[values[subset][case] for case in cases] for subset in subsets], dtype=float)
    sums, counts = added[..., 0], added[..., 1]
    sign = -1.0 if lower_is_better else 1.0
    scores = sign * sums / counts
    means = sums.sum(1) / counts.sum(1)
    worst = int(np.argmin(sign * means))
    any_of, clear_of = np.zeros((2, len(cases)), dtype=int)
    for fewer, more in pairs:
        gap = scores[fewer] - scores[more]
        any_of += gap > 0
        clear_of += gap > CLEARLY
    return OrderViolations(
        dict(zip(cases, any_of.tolist(), strict=True)),
        dict(zip(cases, clear_of.tolist(), strict=True)),
        len(pairs),
        subsets[worst],
        float(means[worst]),
    )


def metrics_in_order(values: CaseValues, chosen_by: str) -> list[str]:
    """The metrics of which a better direction is known to be that of ``chosen_by``: itself, and it for each region.

    Example:
        >>> metrics_in_order({"Dice WT": {}, "Dice mean": {}, "HD95 WT": {}}, "Dice mean")
        ['Dice WT', 'Dice mean']
    """
    kind = chosen_by.split(" ")[0]
    return [metric for metric in values if metric.split(" ")[0] == kind]
