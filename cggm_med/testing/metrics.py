"""Laws that every metric of segmented regions keeps, whatever it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cggm_med.metrics.metric import Metric
from cggm_med.metrics.regions import union_box
from cggm_med.testing.laws import Laws, check, expect

SPACING_MM = (0.8, 1.5, 3.0)
POWER = {"mm": 1, "mm2": 2, "mm3": 3, "ml": 3}  # of the voxel's size that a unit grows with
TOLERANCE = 1e-4  # relative; surface distances are computed in float32
Masks = tuple[Tensor, Tensor]


def check_metric(metric: Metric) -> None:
    """Score small masks and require what every metric promises.

    Args:
        metric: to be tried.

    Raises:
        AssertionError: says which law is broken, and how.

    Example:
        >>> from cggm_med.metrics.regions import METRICS
        >>> check_metric(METRICS[0])
    """
    check(metric_laws(metric), f"metric '{metric.key}'")


def metric_laws(metric: Metric) -> Laws:
    """The laws of one metric, by what they say."""

    def value(masks: Masks, spacing_mm: tuple[float, ...] = SPACING_MM) -> float:
        return float(metric(*masks, spacing_mm))

    def same(masks: Masks, changed: Masks, what: str, spacing_mm: tuple[float, ...] = SPACING_MM) -> None:
        before, after = value(masks), value(changed, spacing_mm)
        expect(math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=1e-9), f"{before} became {after} {what}")

    def finite() -> None:
        full, none = torch.ones(6, 5, 4, dtype=torch.bool), torch.zeros(6, 5, 4, dtype=torch.bool)
        some = none.clone()
        some[2:4, 1:3, 1] = True
        for p, prediction in (("full", full), ("empty", none), ("some", some)):
            for t, target in (("full", full), ("empty", none), ("some", some)):
                found = value((prediction, target))
                expect(math.isfinite(found), f"{found} where the prediction is {p} and the target {t}")

    def itself_is_best() -> None:
        cost = {"higher": lambda v: -v, "lower": lambda v: v, "zero": abs}[metric.better]
        for prediction, target in _pairs():
            best, found = value((target, target)), value((prediction, target))
            words = f"{found} beats the {best} of a region with itself, and '{metric.better}' is better"
            expect(cost(best) <= cost(found), words)

    def grows_with_the_voxel() -> None:
        doubled = tuple(2 * mm for mm in SPACING_MM)
        for masks in _pairs():
            before, after = value(masks), value(masks, doubled)
            expected = before * 2 ** POWER[metric.unit]
            words = f"{before} became {after} {metric.unit} in voxels of twice the size, expected {expected}"
            expect(math.isclose(after, expected, rel_tol=TOLERANCE, abs_tol=1e-9), words)

    def axes() -> None:
        for masks in _pairs():
            p, t = masks
            same(masks, (p.permute(2, 0, 1), t.permute(2, 0, 1)), "with other axes", (3.0, 0.8, 1.5))
            same(masks, (p.flip(0, 2), t.flip(0, 2)), "when both masks were flipped")

    def place() -> None:
        for masks in _pairs():
            p, t = masks
            same(masks, (p.roll((2, -1, 1), (0, 1, 2)), t.roll((2, -1, 1), (0, 1, 2))), "when both masks were moved")

    def box() -> None:
        for masks in _pairs():
            inside = union_box(*(mask.numpy() for mask in masks))
            same(masks, (masks[0][inside], masks[1][inside]), "in the box that holds both masks; set cropped=False")

    def leaves_masks_alone() -> None:
        for masks in _pairs():
            copies = [mask.clone() for mask in masks]
            value(masks)
            expect(all(map(torch.equal, masks, copies)), "a mask was changed")

    laws = {
        "masks are not changed": leaves_masks_alone,
        "it is finite, also where masks are empty or full": finite,
        "a region equals itself best": itself_is_best,
        "the order and direction of the axes change nothing": axes,
        "the place in the volume changes nothing": place,
    }
    if metric.unit in POWER:
        laws["it grows with the voxel as its unit says"] = grows_with_the_voxel
    if metric.cropped:
        laws["the box that holds both masks gives the same"] = box
    return laws


def _pairs() -> Iterator[Masks]:
    """Predictions and targets, two boxes each, at least three voxels from every border."""
    random = torch.Generator().manual_seed(0)
    for _ in range(6):
        masks = torch.zeros(2, 18, 17, 16, dtype=torch.bool)
        for mask in masks:
            for _ in range(2):
                x, y, z = (int(torch.randint(3, 8, (), generator=random)) for _ in range(3))
                a, b, c = (int(torch.randint(1, 6, (), generator=random)) for _ in range(3))
                mask[x : x + a, y : y + b, z : z + c] = True
        yield masks[0], masks[1]
