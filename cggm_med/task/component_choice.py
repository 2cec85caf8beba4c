"""Choosing on validation cases which small components of predicted regions are removed, by one stated rule.

For each region alone: of the candidates, the one with the highest mean Dice over the validation cases, if more than
half of these cases gain more than ``MIN_GAIN`` over the mask as it was predicted; else nothing is removed. The Dice of
a case is the mean over the region and those inside it, which lose the same voxels (ADR 0041).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.config import Tree
from cggm_med.data.volumes.components import LARGEST, ComponentFilter, Components, Kept, in_words, inside, without
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.task.scan_to_mask import SegmentedScan

CANDIDATES: tuple[Kept, ...] = (10.0, 30.0, 100.0, 300.0, 1000.0, LARGEST)  # mm3, or only the largest
MIN_GAIN = 0.001  # of Dice, in more than half of the cases

# Of one case: by region, Dice and number of components, as predicted and with each candidate.
Findings = dict[str, dict[str, list[float]]]


def try_candidates(
    scan: SegmentedScan, convention: LabelConvention, dice_of: Callable[[NDArray[np.bool_]], Mapping[str, float]]
) -> Findings:
    """What each candidate would do to one case.

    Args:
        scan: as the network segmented it, on the grid of its label.
        convention: of the masks.
        dice_of: by region, of masks ``(region, x, y, z)`` on that grid, of the regions that are scored in this case.

    Returns:
        By region, ``dice`` and ``components``, each with a number as predicted and one for each candidate; without
        regions that are not scored.
    """
    masks, voxel_mm3 = scan.regions(convention), math.prod(scan.grid.spacing)
    before = dice_of(masks)
    found: Findings = {}
    for number, region in enumerate(convention.regions):
        changed = [name for name in (region, *inside(region, convention)) if name in before]
        if not changed:
            continue
        parts = Components(masks[number], voxel_mm3)
        known = {len(parts.mm3): statistics.fmean(before[name] for name in changed)}  # by components that are left
        left = [len(parts.mm3)]
        for rule in CANDIDATES:
            left.append(int(parts.stay(rule).sum()))
            # The candidates remove the smallest ones, so that equally many are the same ones.
            if left[-1] not in known:
                after = dice_of(without(masks, region, parts.without(rule), convention))
                known[left[-1]] = statistics.fmean(after[name] for name in changed)
        found[region] = {"dice": [known[n] for n in left], "components": [float(n) for n in left]}
    return found


def choose(cases: Sequence[Findings], regions: Sequence[str]) -> Tree:
    """The filter and what it did on the validation cases, as plain values.

    Args:
        cases: from ``try_candidates``.
        regions: all of them.

    Returns:
        ``kept`` as in ``ComponentFilter``, and by region ``validation``: the number of cases, the best candidate, its
        gaining cases, and the means of Dice and components before and after.

    Example:
        >>> one = {"dice": [0.5, 0.5, 0.6, 0.6, 0.6, 0.4, 0.4], "components": [9.0, 9.0, 2.0, 2.0, 2.0, 1.0, 1.0]}
        >>> choose([{"WT": one}], ["WT"])["kept"]
        {'WT': 30.0}
    """
    kept: dict[str, Kept] = {}
    validation: Tree = {}
    for region in regions:
        rows = [case[region] for case in cases if region in case]
        if not rows:
            continue
        means = {name: np.mean([row[name] for row in rows], axis=0).tolist() for name in ("dice", "components")}
        best = means["dice"].index(max(means["dice"]))  # of equal ones the mildest
        gaining = sum(row["dice"][best] - row["dice"][0] > MIN_GAIN for row in rows)
        if 2 * gaining > len(rows):
            kept[region] = CANDIDATES[best - 1]
        validation[region] = {
            "cases": len(rows),
            "best": None if best == 0 else CANDIDATES[best - 1],
            "gaining": gaining,
            **{name: [of[0], of[best]] for name, of in means.items()},
        }
    return {"kept": kept, "validation": validation}


def filter_of(choice: Mapping[str, Any]) -> ComponentFilter:
    """The filter that ``choose`` chose.

    Raises:
        KeyError: if there is none.
        ValueError: if it is damaged.
    """
    return ComponentFilter(dict(choice["kept"]))


def mildest(filters: Sequence[ComponentFilter], regions: Sequence[str]) -> ComponentFilter:
    """The filter that removes of each region what all of these would at least remove.

    Example:
        >>> three = [ComponentFilter({"WT": kept}) for kept in (100.0, LARGEST, 30.0)]
        >>> mildest(three, ["WT", "TC"]).kept, mildest([*three, ComponentFilter()], ["WT"]).kept
        ({'WT': 30.0}, {})
    """
    kept = {}
    for region in regions:
        rules = [each.kept.get(region) for each in filters]
        if None not in rules:
            kept[region] = min((rule for rule in rules if rule is not None), key=_strictness)
    return ComponentFilter(kept)


def _strictness(rule: Kept) -> float:
    return math.inf if isinstance(rule, str) else rule


def choice_in_words(choice: Mapping[str, Any], regions: Sequence[str]) -> str:
    """Which components are removed, and what that did on the validation cases.

    Args:
        choice: from ``choose``, or with its ``kept`` alone where several runs chose.
        regions: all of them.

    Example:
        >>> found = {"cases": 9, "best": 100.0, "gaining": 7, "dice": [0.7, 0.8], "components": [12.0, 1.25]}
        >>> choice_in_words({"kept": {"WT": 100.0}, "validation": {"WT": found}}, ["WT"])
        'WT without components below 100 mm3 (validation: Dice 0.700 -> 0.800, 7 of 9 cases gain; components a case 12.0 -> 1.2)'
    """  # noqa: E501
    if "validation" not in choice:
        return f"{filter_of(choice).describe(regions)}: the mildest of what each run chose on its validation cases"
    said = []
    for region in regions:
        found = choice["validation"].get(region)
        if found is None:
            said.append(f"{region} as predicted (scored in no validation case)")
        elif found["best"] is None:
            said.append(f"{region} as predicted (no candidate has a higher validation Dice)")
        else:
            (dice, better), (parts, fewer) = found["dice"], found["components"]
            numbers = (
                f"Dice {dice:.3f} -> {better:.3f}, {found['gaining']} of {found['cases']} cases gain; "
                f"components a case {parts:.1f} -> {fewer:.1f}"
            )
            if region in choice["kept"]:
                said.append(f"{region} {in_words(choice['kept'][region])} (validation: {numbers})")
            else:
                said.append(f"{region} as predicted (validation of {in_words(found['best'])}: {numbers})")
    return "; ".join(said)
