"""The class of a metric of segmented regions, and the loading of metrics from other packages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from cggm_med import registry
from cggm_med.errors import ConfigError, PluginError
from cggm_med.metrics.overlap import empty_region

Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Metric:
    """A metric of one predicted region of one case, with what tables, definitions and comparisons say about it.

    This package's own metrics are in the table of ``metrics.regions``. A metric of another package is an instance of
    this class, registered under its key in the entry points ``cggm_med.metrics`` and named in ``task.metrics``.

    Attributes:
        name: in tables and definitions, such as ``HD95``.
        key: in rows, ``results.json`` and CSV, such as ``hd95_mm``: lower case, with the unit at the end.
        function: of the predicted mask, the true mask, both ``(x, y, z)`` boolean, and the voxel size in mm.
        rule: its definition, one sentence.
        unit: such as ``mm``; empty for a plain number.
        better: ``higher``, ``lower``, or ``zero`` for a signed error, which is not averaged over regions because
            regions are nested.
        both_empty: its value where neither mask has a voxel; None: ``function`` decides.
        one_empty: its value where one mask has no voxel, that is, a region was missed or falsely predicted; None as
            above.
        digits: after the decimal point, in tables.
        cropped: whether ``function`` gets only the smallest box that holds both masks, because the value there is the
            same as in the whole volume; False if it counts voxels outside both masks.
        table: title of its table; empty for the first one.
        statistics: over cases, see ``results.aggregate``; none if it is reported for single cases only.
        cell: format of the statistics in a table.
        package: where it comes from; filled in when it is loaded.

    Example:
        >>> from cggm_med.metrics.overlap import volume_error_ml
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
        """Prefix of the keys of its statistics: its own key, for distances without the unit."""
        return self.key.removesuffix("_mm")


def load_metrics(keys: Sequence[str], taken: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics that other packages register under these keys.

    Args:
        keys: as in the setting ``task.metrics``.
        taken: keys that rows already have.

    Raises:
        UnknownName: if nothing is registered under a key.
        PluginError: if it cannot be imported, is not a metric, or has another key.
        ConfigError: if a key is taken or named twice.
    """
    metrics = []
    for key in keys:
        if key in taken or keys.count(key) > 1:
            why = "is always there or stands for something else" if key in taken else "is named twice"
            raise ConfigError(f"task.metrics: '{key}' {why}; expected metrics of other packages, each once")
        metric = registry.load(registry.METRICS, key)
        package = registry.package(registry.METRICS, key)
        if metric.key != key:
            raise PluginError(f"metric '{key}' of package {package} has the key '{metric.key}', expected '{key}'")
        metrics.append(replace(metric, package=package))
    return tuple(metrics)


def value_of(metric: Metric, masks: tuple[Tensor, Tensor], spacing_mm: Sequence[float], case: str, region: str) -> Any:
    """The value of a metric; where a metric of another package fails, the error names package, case and region.

    Raises:
        PluginError: if such a metric fails or its value is not finite.
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
