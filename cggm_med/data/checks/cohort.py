"""What checks say of prepared cases: each by itself, beside one another, or beside those that a run learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.identity import shared_content
from cggm_med.data.checks.judge import Measured, alone, among, beside, has_other_air, with_margins
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.looks import ScanFeatures
from cggm_med.data.checks.measure import measure
from cggm_med.data.checks.typical import Typical, typical
from cggm_med.data.volumes.modality_check import Signatures, SwapFinding, features_of, judge, judge_each
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.data.volumes.resample import OneGrid
from cggm_med.errors import DataError, first_of

# What explains that a network's training looks other than a case, so that names are not to blame.
_EXPLAINS = {"skull", "flat_image", "leaping_values", "empty_slices", "repeated_image"}
# Explains that images fit no names, but not that they fit other names: those may always show less of the body.
_EXPLAINS_NO_NAMES = _EXPLAINS | {"partly_missing"}


@dataclass(frozen=True)
class Known:
    """What a run knows of the cases that it learned from.

    Attributes:
        signatures: how its modalities look; None in runs that measured it in another way.
        usual: what is usual among them; None in runs that did not measure it.
        voxels: the case that each digest of voxels is of; of earlier runs none is known.
    """

    signatures: Signatures | None
    usual: Typical | None
    voxels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Known:
        """From what ``Task.facts`` said.

        Raises:
            DataError: if it is damaged.
        """
        try:
            return cls(
                Signatures.from_json(facts["signatures"]),
                Typical.from_json(facts["usual"]) if "usual" in facts else None,
                {str(digest): str(id) for id, digests in facts.get("voxels", {}).items() for digest in digests},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"what a run knows of its training cases lacks {error}") from None


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
    found = [finding for case in measured for finding in alone(case)]
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


def findings_of_scan(case: str, scan: OneGrid, backgrounds: Mapping[str, float | None], known: Known) -> list[Finding]:
    """What is odd about a scan that has not been measured yet.

    Args:
        case: id.
        scan: the images as their files have them.
        backgrounds: of the modalities that are given.
        known: of the run.
    """
    volumes = {m: scan.volumes[m] for m in backgrounds}
    measured = measure(volumes, scan.affines[next(iter(backgrounds))], backgrounds)
    looks = ScanFeatures.of_record(measured["looks"])
    return findings_of(Measured.of(case, measured), looks, tuple(backgrounds), known)


def findings_of(case: Measured, looks: ScanFeatures | str, given: Sequence[str], known: Known) -> list[Finding]:
    """The same of one case.

    Args:
        case: what ``measure`` said.
        looks: what was said of its images.
        given: their names, in order.
        known: of the run.
    """
    found = [*alone(case), *seen_in_training(case, known)]
    if known.usual is not None:
        found += beside(case, known.usual)
    if known.signatures is None:
        found.append(Finding(KINDS["unchecked_names"], "", (), "the run was trained by an earlier version"))
    else:
        kinds = {finding.kind.name for finding in found}
        found += of_names(case, judge(known.signatures, looks, given), known.usual, kinds)
    return found


def seen_in_training(case: Measured, known: Known) -> list[Finding]:
    """The finding that a run learned from a case, or was chosen by it, under whatever name and type of numbers."""
    seen = {modality: known.voxels[digest] for modality, digest in case.voxels.items() if digest in known.voxels}
    others = [id for id in dict.fromkeys(seen.values()) if id != case.case]
    said = f"holds voxels that the run was trained on{f', as {first_of(others)}' if others else ''}"
    return [Finding(KINDS["seen_in_training"], case.case, tuple(seen), said)] if seen else []


def of_names(case: Measured, swap: SwapFinding, usual: Typical | None, kinds: Set[str]) -> list[Finding]:
    """What follows of how well names fit the images of a case: nothing, exchanged names, or images that fit none.

    Args:
        case: what ``measure`` said.
        swap: how well names fit.
        usual: what is usual among the others.
        kinds: what was found of the case already.
    """
    if kinds & (_EXPLAINS if swap.verdict == "swapped" else _EXPLAINS_NO_NAMES):
        return []
    if swap.verdict == "unknown" and swap.best:
        seen = "look unlike those of the others under any names"
        return [Finding(KINDS["unlike_training"], case.case, swap.given, seen)]
    if swap.verdict == "swapped" and usual is not None and has_other_air(case, usual):
        seen = "show something around the body where the others show nothing, so that names cannot be checked"
        return [Finding(KINDS["unlike_training"], case.case, swap.given, seen)]
    if swap.verdict != "swapped":
        return []
    wrong = [(name, looks) for name, looks in zip(swap.given, swap.best, strict=True) if name != looks]
    seen = ", ".join(f"the image given as {name} looks like {looks}" for name, looks in wrong)
    sure = f"better by {swap.advantage:.1f}, {swap.margin:.1f} would do"
    return [Finding(KINDS["exchanged_modalities"], case.case, (), seen, sure)]
