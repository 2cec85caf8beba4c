"""What checks say of prepared cases: each by itself, beside one another, or beside those that a run learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.identity import shared_content
from cggm_med.data.checks.judge import Measured, alone, among, label_gains, with_margins
from cggm_med.data.checks.known import Known, findings_of, of_names
from cggm_med.data.checks.looks import ScanFeatures
from cggm_med.data.checks.typical import Typical, typical
from cggm_med.data.volumes.modality_check import Signatures, judge_each, spread_over, summarise
from cggm_med.data.volumes.prepared import PreparedCase


def usual_among(cases: Sequence[PreparedCase]) -> Typical:
    """What is usual among training cases, with how far they stand out from one another."""
    measured = [Measured.of(case.id, case.measured) for case in cases]
    return with_margins(typical([case.measured for case in cases]), measured)


def findings_among(
    cases: Sequence[PreparedCase],
    modalities: Sequence[str],
    sides: Mapping[str, str],
    groups: Mapping[str, str],
) -> list[Finding]:
    """What is odd about cases, each by itself and beside the others.

    Args:
        cases: prepared.
        modalities: of the run, in order.
        sides: the split of each case.
        groups: the patient of each case, or what else no split divides.
    """
    measured = [Measured.of(case.id, case.measured) for case in cases]
    gains = label_gains(measured)
    found = [finding for case, gain in zip(measured, gains, strict=True) for finding in alone(case, gain)]
    usual, by_id = typical([case.measured for case in cases]), {case.case: case for case in measured}
    found += among(measured, usual)
    kinds: dict[str, set[str]] = {}
    for finding in found:
        kinds.setdefault(finding.case, set()).add(finding.kind.name)
    features = {case.id: of for case in cases if (of := features_of(case, modalities)) is not None}
    for id, swap in zip(features, judge_each([*features.values()], modalities), strict=True):
        found += of_names(by_id[id], swap, usual, kinds.get(id, set()))
    drawn = {case.id: drawn for case in cases if (drawn := case.measured.get("drawn"))}
    return [*shared_content(measured, groups, sides, drawn), *found]


def findings_beside(cases: Sequence[PreparedCase], known: Known) -> list[Finding]:
    """What is odd about cases, each by itself and beside those that a run learned from."""
    found = []
    for case in cases:
        looks = ScanFeatures.of_record(case.measured["looks"])
        found += findings_of(Measured.of(case.id, case.measured), looks, case.modalities, known)
    return found


def learn(cases: Sequence[PreparedCase], modalities: Sequence[str]) -> Signatures:
    """What training cases look like; of more than ``MAX_CASES``, so many evenly spread over the list.

    A case that cannot be measured (see ``measure``) is left out; signatures of no case make every check abstain.

    Args:
        cases: training cases, which may lack modalities.
        modalities: of the run, in order.
    """
    known = [features for i in spread_over(len(cases)) if (features := features_of(cases[i], modalities)) is not None]
    return summarise(known, modalities)


def features_of(case: PreparedCase, modalities: Sequence[str]) -> ScanFeatures | None:
    """What was measured of a case when it was prepared, NaN for what it lacks; None if it could not be measured."""
    features = ScanFeatures.of_record(case.measured["looks"])
    return None if isinstance(features, str) else _among(features, case.modalities, modalities)


def _among(features: ScanFeatures, held: Sequence[str], modalities: Sequence[str]) -> ScanFeatures:
    """The features of some modalities among those of all, NaN for the others."""
    if tuple(held) == tuple(modalities):
        return features
    places, n = [modalities.index(m) for m in held], len(modalities)
    single = np.full((n, features.single.shape[1]), np.nan)
    single[places] = features.single
    pair = np.full((n, n, features.pair.shape[2]), np.nan)
    pair[np.ix_(places, places)] = features.pair
    return ScanFeatures(single, pair)
