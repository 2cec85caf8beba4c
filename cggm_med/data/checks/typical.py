"""What is usual among cases: of each number that was measured its middle and its spread, without regard to outliers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.measure import VERSION
from cggm_med.errors import DataError

MIN_CASES = 4  # with fewer, nothing is usual
_NORMAL = 1.4826  # standard deviations of the normal distribution in its median absolute deviation
_FEW = 3.0  # how much wider the spread of n cases is taken: by a factor of 1 + _FEW / n


@dataclass(frozen=True)
class Typical:
    """What is usual among cases.

    Attributes:
        cases: how many were measured.
        numbers: of each measured number its median, its spread (like a standard deviation) and in how many cases.
        templates: of each modality the mean of the coarse pictures.
        margins: by kind of finding, how far a case may differ; see ``judge``.
    """

    cases: int
    numbers: Mapping[str, tuple[float, float, int]]
    templates: Mapping[str, NDArray[np.float64]]
    margins: Mapping[str, float] = field(default_factory=dict)

    def middle(self, name: str, otherwise: float) -> float:
        """The median of a number, or another value where it was measured in no case."""
        return self.numbers[name][0] if name in self.numbers else otherwise

    def away(self, name: str, value: float, floor: float) -> float:
        """By how many spreads a number lies above the usual; negative below it, 0 where nothing is usual.

        Args:
            name: of the number.
            value: of a case.
            floor: the least spread.

        Example:
            >>> usual = Typical(100, {"x": (1.0, 0.5, 100)}, {})
            >>> round(usual.away("x", 2.03, 0.1), 3), usual.away("y", 2.0, 0.1)
            (2.0, 0.0)
        """
        median, spread, count = self.numbers.get(name, (0.0, 0.0, 0))
        if count < MIN_CASES:
            return 0.0
        return (value - median) / (max(spread, floor) * (1 + _FEW / count))

    def to_json(self) -> str:
        """As one JSON object; ``from_json`` gives an equal one back."""
        pictures = {m: np.round(10 * mean).astype(int).tolist() for m, mean in self.templates.items()}
        return json.dumps(
            {
                "version": VERSION,
                "cases": self.cases,
                "numbers": {name: list(value) for name, value in self.numbers.items()},
                "templates": pictures,
                "margins": dict(self.margins),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Typical | None:
        """Read what ``to_json`` wrote; None if it was measured by another version.

        Raises:
            DataError: if it is damaged.
        """
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                return None
            numbers = {str(n): (float(a), float(b), int(c)) for n, (a, b, c) in content["numbers"].items()}
            pictures = {str(m): np.array(of, dtype=np.float64) / 10 for m, of in content["templates"].items()}
            margins = {str(kind): float(of) for kind, of in content["margins"].items()}
            return cls(int(content["cases"]), numbers, pictures, margins)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"what is usual in training cannot be read ({type(error).__name__}: {error})") from None


def typical(measured: Sequence[Mapping[str, Any]]) -> Typical:
    """What is usual among cases.

    Args:
        measured: what ``measure`` said of each.

    Example:
        >>> usual = typical([{"numbers": {"x": float(x)}, "templates": {}} for x in range(5)])
        >>> usual.cases, usual.numbers["x"]
        (5, (2.0, 1.4826, 5))
    """
    held: dict[str, list[float]] = {}
    pictures: dict[str, list[Sequence[int]]] = {}
    for case in measured:
        for name, value in case["numbers"].items():
            held.setdefault(name, []).append(value)
        for modality, picture in case["templates"].items():
            pictures.setdefault(modality, []).append(picture)
    numbers = {}
    for name, values in held.items():
        median = float(np.median(values))
        spread = _NORMAL * float(np.median(np.abs(np.array(values) - median)))
        numbers[name] = (round(median, 5), round(spread, 5), len(values))
    means = {m: np.mean(np.array(of, dtype=np.float64), axis=0) for m, of in pictures.items()}
    return Typical(len(measured), numbers, means)
