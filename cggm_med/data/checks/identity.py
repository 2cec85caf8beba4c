"""Whether two cases show the same: the same voxels, the same label map, or pictures too alike for two patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.judge import Measured
from cggm_med.data.checks.kinds import KINDS

# Coarse pictures without what all cases share correlate by about 0 between patients, up to 0.89 among 2,775 pairs of
# one cohort, and by 0.98 between two scans of one patient; less after another registration. Where the pairs of a cohort
# are less alike, less is enough.
MAX_LIMIT, MIN_LIMIT = 0.93, 0.35
MIN_CASES = 6  # with fewer, what all share is hardly known


def shared_content(
    cases: Sequence[Measured], groups: Mapping[str, str], sides: Mapping[str, str], labels: Mapping[str, str]
) -> list[Finding]:
    """Cases that show the same as others.

    Args:
        cases: measured.
        groups: the patient, or what else no split divides, of each case. Cases of one group may be alike.
        sides: the split of each case.
        labels: digest of what is drawn in each case; cases in which nothing is are left out.
    """
    found: list[Finding] = []
    told: set[frozenset[str]] = set()
    holders: dict[str, dict[str, list[str]]] = {}
    for case in cases:
        for modality, digest in case.voxels.items():
            holders.setdefault(digest, {}).setdefault(case.case, []).append(modality)
    repeated: dict[tuple[str, ...], set[str]] = {}
    for by_case in holders.values():
        if len(by_case) > 1:
            roles = {modality for of in by_case.values() for modality in of}
            repeated.setdefault(tuple(by_case), set()).update(roles)
    for ids, modalities in repeated.items():
        told |= {frozenset((a, b)) for a in ids for b in ids if a != b}
        found.append(_same("hold the same voxels", ids, sorted(modalities), sides, groups))
    found += _alike(cases, groups, sides, told)
    drawn: dict[str, list[str]] = {}
    for id, digest in labels.items():
        drawn.setdefault(digest, []).append(id)
    for holding in drawn.values():
        others = [id for id in holding if frozenset((holding[0], id)) not in told]
        if len(others) > 1:
            kind = KINDS["repeated_label"]
            found.append(Finding(kind, ", ".join(others), ("label",), "is the same, though the images are not"))
    return found


def _same(
    seen: str, ids: Sequence[str], roles: Sequence[str], sides: Mapping[str, str], groups: Mapping[str, str]
) -> Finding:
    held = {sides.get(id, "") for id in ids}
    places = ", ".join(f"{id} in {sides[id]}" for id in ids if id in sides)
    if len(held) > 1 and "train" in held:
        return Finding(KINDS["repeated_case_in_splits"], ", ".join(ids), tuple(roles), f"{seen} ({places})")
    return Finding(KINDS["repeated_case"], ", ".join(ids), tuple(roles), seen)


def _alike(
    cases: Sequence[Measured], groups: Mapping[str, str], sides: Mapping[str, str], told: set[frozenset[str]]
) -> list[Finding]:
    """Cases of two patients whose pictures are as alike as those of one, where one is trained on and one held out."""
    if len(cases) < MIN_CASES:
        return []
    alike = likeness([case.templates for case in cases])
    usual = float(np.quantile(alike[np.triu_indices(len(cases), 1)], 0.99))
    limit = min(MAX_LIMIT, max(MIN_LIMIT, 0.3 + 1.2 * usual))
    found = []
    for i, j in np.argwhere(np.triu(alike, 1) > limit):
        a, b = cases[i].case, cases[j].case
        divided = sides.get(a) != sides.get(b) and "train" in (sides.get(a), sides.get(b))
        if divided and groups.get(a, a) != groups.get(b, b) and frozenset((a, b)) not in told:
            seen = f"look like two scans of one patient ({a} in {sides[a]}, {b} in {sides[b]})"
            sure = f"likeness {alike[i, j]:.2f}; of 100 pairs of these cases 99 have less than {usual:.2f}"
            found.append(Finding(KINDS["similar_case_in_splits"], f"{a}, {b}", (), seen, sure))
    return found


def likeness(templates: Sequence[Mapping[str, Sequence[int]]]) -> NDArray[np.float64]:
    """Of each pair of cases the correlation of coarse pictures without what all share, in the modalities of both.

    Args:
        templates: coarse pictures of each case by modality, see ``measure``.

    Returns:
        ``(case, case)``: the least over modalities, each alike if the patient is the same; minus 1 for cases that share
        none.
    """
    n = len(templates)
    least = np.full((n, n), np.inf)
    for modality in dict.fromkeys(m for of in templates for m in of):
        held = [i for i, of in enumerate(templates) if modality in of]
        if len(held) < MIN_CASES:
            continue
        pictures = np.array([templates[i][modality] for i in held], dtype=np.float64)
        rest = pictures - np.median(pictures, axis=0)
        rest -= rest.mean(axis=1, keepdims=True)
        rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-9)
        least[np.ix_(held, held)] = np.minimum(least[np.ix_(held, held)], rest @ rest.T)
    return np.where(np.isfinite(least), least, -1.0)
