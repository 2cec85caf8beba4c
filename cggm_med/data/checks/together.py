"""How the features of complete cases vary together, and which order of a case's images fits that best.

A normal distribution with few factors: each feature has a spread of its own, and ten patterns tell which of them rise
and fall together from case to case, such as the tails of an image with its brightness near the skull. Numbers that look
odd one by one may fit well together, and the other way round, so that many cases tell far more than their means.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cggm_med.data.checks.looks import PAIR, Floats, ScanFeatures

MIN_CASES = 20  # with fewer, how features vary together is not known
MAX_IMAGES = 4  # whose 24 orders are compared
MARGIN = 2.0  # nats, at least
_FACTORS = 10
_FOLDS = 10  # in which training cases are judged by the others
_MIN_SPREAD = 0.5  # of the usual spread, however alike the cases are: the next may come from another scanner
_MIN_OWN = 0.1  # of each feature's variance that no pattern explains
_FREEDOM = 40  # degrees of freedom of Student's t, for all features of a case as one
_CAUTION = 2.0  # times the slack: that of the next case may be more
_SHARE = 0.5  # of the advantage that a true exchange has in half of the training cases
_MAX_AWAY = 1.3  # times as far from the others as nine of ten training cases: what no order fits has no other order


@dataclass(frozen=True)
class Order:
    """How well the best other order of a case's images fits.

    Attributes:
        order: which image stands under each name.
        advantage: by how much it fits better than the given order, in nats.
        margin: the advantage that is needed.
        alike: whether the case then looks like the others.
    """

    order: tuple[int, ...]
    advantage: float
    margin: float
    alike: bool


@dataclass(frozen=True)
class Together:
    """How features vary together.

    Attributes:
        mean: of each feature.
        spread: of each feature.
        factors: ``(factor, feature)``, in spreads.
        cases: how many were measured.
        gaps: of each order of the images, as ``itertools.permutations`` has them, by how much it fits worse than the
            right one in half of the cases, each judged by others.
        slack: by how much the best wrong order seems to fit better in one of twenty of them, at least 0.
        away: how far nine of ten of them are from the others.
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    factors: tuple[tuple[float, ...], ...]
    cases: int
    gaps: tuple[float, ...] = ()
    slack: float = 0.0
    away: float = 0.0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Together:
        """From what ``dataclasses.asdict`` gave.

        Raises:
            KeyError, TypeError, ValueError: if it is damaged.
        """
        read = cls(
            mean=tuple(map(float, record["mean"])),
            spread=tuple(map(float, record["spread"])),
            factors=tuple(tuple(map(float, of)) for of in record["factors"]),
            cases=int(record["cases"]),
            gaps=tuple(map(float, record["gaps"])),
            slack=float(record["slack"]),
            away=float(record["away"]),
        )
        if {len(read.spread), *map(len, read.factors)} != {len(read.mean)}:
            raise ValueError("its parts are of different lengths")
        return read

    def judge(self, features: ScanFeatures, given: Sequence[int]) -> Order:
        """The best other order of a case's images than the given one: which image stands under each name."""
        orders = _orders(len(given))
        costs, away = self.costs(_in_orders(features, orders))
        return _best_other(costs, away, tuple(given), self)

    def costs(self, values: Floats) -> tuple[Floats, Floats]:
        """Negative logarithm of Student's t density, up to a constant, and distance, over the last axis of features."""
        away = np.where(np.isfinite(values), (values - np.array(self.mean)) / np.array(self.spread), 0)
        factors = np.array(self.factors)
        own = np.maximum(1 - (factors**2).sum(0), _MIN_OWN)
        # The inverse of a diagonal matrix plus few factors (Woodbury).
        inner = np.linalg.inv(np.eye(len(factors)) + (factors / own) @ factors.T)
        seen = (away / own) @ factors.T
        distance = ((away**2 / own).sum(-1) - ((seen @ inner) * seen).sum(-1)) / (1 + 1 / self.cases)
        return (_FREEDOM + values.shape[-1]) / 2 * np.log1p(distance / _FREEDOM), distance


def together(measured: Sequence[ScanFeatures], usual: tuple[Floats, Floats]) -> Together | None:
    """How features of cases with all images vary together; None if there are too few of them, or too many images.

    Args:
        measured: features of each case.
        usual: spread of the features of an image, and of a pair.
    """
    if not _enough(measured):
        return None
    orders = _orders(len(measured[0].single))
    least = _MIN_SPREAD * _usual(usual, len(orders[0]))
    fitted = _fitted(np.array([_in_orders(features, orders[:1])[0] for features in measured]), least)
    return _with_limits(fitted, *_by_others(measured, usual))


def judge_each(measured: Sequence[ScanFeatures], usual: tuple[Floats, Floats]) -> list[Order] | None:
    """Each case, whose images are in the given order, judged by the others; None where ``together`` says None."""
    if not _enough(measured):
        return None
    costs, away = _by_others(measured, usual)
    given = _orders(len(measured[0].single))[0]
    any_case = Together((), (), (), len(measured))
    return [
        _best_other(costs[i], away[i], given, _with_limits(any_case, np.delete(costs, i, 0), np.delete(away, i, 0)))
        for i in range(len(measured))
    ]


def _enough(measured: Sequence[ScanFeatures]) -> bool:
    return len(measured) >= MIN_CASES and 2 <= len(measured[0].single) <= MAX_IMAGES


def _orders(images: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations(range(images)))


def _in_orders(features: ScanFeatures, orders: Sequence[tuple[int, ...]]) -> Floats:
    """``(order, feature)``: the features of a case whose images stand in other orders."""
    return np.array([_flat(features.single[list(of)], features.pair[np.ix_(of, of)]) for of in orders])


def _usual(usual: tuple[Floats, Floats], images: int) -> Floats:
    single, pair = usual
    return _flat(np.tile(single, (images, 1)), np.tile(pair, (images, images, 1)))


def _flat(single: Floats, pair: Floats) -> Floats:
    """All features of a case in one row; the last three of a pair say the same of the pair turned round."""
    pairs = [pair[i, j, : None if i < j else PAIR - 3] for i, j in itertools.permutations(range(len(single)), 2)]
    return np.concatenate([single.ravel(), *pairs])


def _fitted(values: Floats, least: Floats) -> Together:
    """To ``(case, feature)``."""
    seen = np.isfinite(values)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen, values, 0).sum(0) / count
    away = np.where(seen, values - mean, 0)
    spread = np.maximum(np.sqrt((away**2).sum(0) / np.maximum(count - 1, 1)), least)
    _, sizes, patterns = np.linalg.svd(away / spread / np.sqrt(len(values) - 1), full_matrices=False)
    factors = sizes[:_FACTORS, None] * patterns[:_FACTORS]
    numbers = tuple(tuple(of.round(4).tolist()) for of in factors)
    return Together(tuple(mean.round(4).tolist()), tuple(spread.round(4).tolist()), numbers, len(values))


def _by_others(measured: Sequence[ScanFeatures], usual: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """``(case, order)``: costs and distances of each case by the cases of the other folds."""
    orders = _orders(len(measured[0].single))
    values = np.array([_in_orders(features, orders) for features in measured])
    least = _MIN_SPREAD * _usual(usual, len(orders[0]))
    fold = np.arange(len(measured)) % _FOLDS
    costs, away = np.empty((2, *values.shape[:2]))
    for k in range(_FOLDS):
        fitted = _fitted(values[fold != k, 0], least)
        costs[fold == k], away[fold == k] = fitted.costs(values[fold == k])
    return costs, away


def _with_limits(fitted: Together, costs: Floats, away: Floats) -> Together:
    """With what the costs of training cases, of which each was judged by others, say of the next case."""
    advantage = costs[:, 0] - np.delete(costs, 0, axis=1).min(axis=1)
    return replace(
        fitted,
        gaps=tuple(np.median(costs - costs[:, :1], axis=0).round(3).tolist()),
        slack=round(max(0.0, float(np.percentile(advantage, 95))), 3),
        away=round(float(np.percentile(away[:, 0], 90)), 3),
    )


def _best_other(costs: Floats, away: Floats, given: tuple[int, ...], by: Together) -> Order:
    """The best other order than the given one, from the costs of all."""
    orders = _orders(len(given))
    own = orders.index(given)
    best = int(np.where(np.arange(len(orders)) == own, np.inf, costs).argmin())
    # If that order is right, the given one differs from it like this.
    wrong = tuple(orders[best].index(image) for image in given)
    margin = max(MARGIN + _CAUTION * by.slack, _SHARE * by.gaps[orders.index(wrong)])
    return Order(orders[best], float(costs[own] - costs[best]), margin, bool(away[best] <= _MAX_AWAY * by.away))
