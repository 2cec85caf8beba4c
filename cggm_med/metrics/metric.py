"""What a metric of segmented regions is, and how those of other packages are loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from cggm_med import registry
from cggm_med.errors import ConfigError, PluginError
from cggm_med.metrics.volumes import empty_region

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Metric:
    """A number for one predicted region of one case, and what tables, definitions and comparisons say of it.

    Those of this package stand in the table of ``metrics.regions``. One of another package is an object of this class,
    registered under its key in the entry points ``cggm_med.metrics`` and named by the setting ``task.metrics``.

    Attributes:
        name: in tables and definitions, such as ``HD95``.
        key: in rows, ``results.json`` and CSV, such as ``hd95_mm``: lower case, with the unit at its end.
        function: of the predicted mask, the true mask, both ``(x, y, z)`` boolean, and the voxel size in mm.
        rule: its definition, one sentence.
        unit: such as ``mm``; empty for a plain number.
        better: ``higher``, ``lower``, or ``zero`` for a signed error, which is not averaged over regions, since these
            lie inside one another.
        both_empty: its value where neither mask has a voxel; None: ``function`` decides.
        one_empty: its value where one mask has no voxel, that is, a region was missed or made up; None as above.
        digits: after the point, in tables.
        cropped: whether the smallest box that holds both masks gives the same value as the whole volume, and is given
            to ``function`` instead; not so if it counts what lies around.
        table: title of the table that it stands in; empty for the first one.
        statistics: over cases, see ``results.aggregate``; none for what is told of single cases only.
        cell: how they stand in a table.
        package: that it comes from; filled in when it is loaded.

    Example:
        >>> from cggm_med.metrics.volumes import volume_error_ml
        >>> rule = "predicted minus true volume"
        >>> error = Metric("volume error", "volume_error_ml", volume_error_ml, rule, unit="ml", better="zero")
        >>> error.column, error.stem
        ('volume error ml', 'volume_error_ml')
    """

    name: str
    key: str
    function: Callable[[Tensor, Tensor, Sequence[float]], float]
    rule: str
    unit: str = ""
    better: Better = "higher"
    both_empty: float | None = None
    one_empty: float | None = None
    digits: int = 3
    cropped: bool = False
    table: str = "chosen metrics"
    statistics: tuple[str, ...] = ("mean",)
    cell: str = "{mean}"
    package: str = ""

    def __call__(self, prediction: Tensor, target: Tensor, spacing_mm: Sequence[float]) -> float:
        """The value of one region, with the rule for empty ones."""
        empty = empty_region(prediction, target)
        stated = None if empty == "none" else self.both_empty if empty == "both" else self.one_empty
        return self.function(prediction, target, spacing_mm) if stated is None else stated

    @property
    def column(self) -> str:
        """Its name in the header of a table."""
        return f"{self.name} {self.unit}".rstrip()

    @property
    def stem(self) -> str:
        """What the keys of its statistics begin with: its own key, of which distances leave out the unit."""
        return self.key.removesuffix("_mm")


def load_metrics(keys: Sequence[str], taken: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics that other packages register under these keys.

    Args:
        keys: as in the setting ``task.metrics``.
        taken: keys that rows have already.

    Raises:
        UnknownName: if nothing is registered under a key.
        PluginError: if it cannot be imported or is no metric, or none of that key.
        ConfigError: if a key is taken or named twice.
    """
    found = []
    for key in keys:
        if key in taken or keys.count(key) > 1:
            why = "is always there or stands for something else" if key in taken else "is named twice"
            raise ConfigError(f"task.metrics: '{key}' {why}; expected metrics of other packages, each once")
        metric = registry.load(registry.METRICS, key)
        package = registry.package(registry.METRICS, key)
        if metric.key != key:
            raise PluginError(f"metric '{key}' of package {package} has the key '{metric.key}', expected '{key}'")
        found.append(replace(metric, package=package))
    return tuple(found)


def value_of(metric: Metric, masks: tuple[Tensor, Tensor], spacing_mm: Sequence[float], case: str, region: str) -> Any:
    """The value of a metric; an error of one of another package says whose it is and where.

    Raises:
        PluginError: if such a metric fails or gives no finite number.
    """
    if not metric.package:
        return metric(*masks, spacing_mm)
    where = f"metric '{metric.key}' of package {metric.package}, case {case}, region {region}"
    cure = "fix the package, or leave it out of task.metrics"
    try:
        value = float(metric(*masks, spacing_mm))
    except Exception as error:  # somebody else's function may do anything
        raise PluginError(f"{where}: {' '.join(f'{type(error).__name__}: {error}'.split())}; {cure}") from error
    if not math.isfinite(value):
        raise PluginError(f"{where}: the value is {value}, expected a finite number; {cure}")
    return value
