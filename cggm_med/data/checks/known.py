"""What a run knows of the cases that it learned from, and what that says of another scan: use it, ask, or refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding, lines, objections, standing
from cggm_med.data.checks.judge import LABEL_GAIN, Measured, alone, beside, has_other_air
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.looks import ScanFeatures
from cggm_med.data.checks.measure import measure
from cggm_med.data.checks.typical import Typical
from cggm_med.data.volumes.modality_check import Signatures, SwapFinding, judge
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
        voxels: the case that each digest of voxels is of, empty where that is not told; of earlier runs none is known.
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


def findings_of_scan(
    case: str,
    images: Mapping[str, NDArray[np.float32]],
    affine: NDArray[np.float64],
    backgrounds: Mapping[str, float | None],
    known: Known,
) -> list[Finding]:
    """What is odd about a scan that has not been measured yet.

    Args:
        case: id.
        images: ``(x, y, z)`` by modality as their files have them, on one grid.
        affine: of the grid, voxels to mm in RAS+.
        backgrounds: the constant around the body in each, None where there is none.
        known: of the run.
    """
    measured = measure(images, affine, backgrounds)
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
    gain = None if known.usual is None else known.usual.margins.get(LABEL_GAIN)
    found = [*alone(case, gain), *seen_in_training(case, known)]
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
    others = [id for id in dict.fromkeys(seen.values()) if id not in ("", case.case)]
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


def require_usable(
    case: str,
    odd: Sequence[Finding],
    others: Sequence[Finding],
    accepted: Collection[str],
    *,
    accept: str,
    trust_names: str,
) -> None:
    """Refuse images that nobody accepted as they look.

    Args:
        case: id.
        odd: what ``findings_of_scan`` said.
        others: findings of the files, which are told beside exchanged names.
        accepted: kinds that do not speak against the use of the case.
        accept: how to accept a kind, such as ``--accept KIND``.
        trust_names: how to say that the names are right.

    Raises:
        DataError: names every finding that stands.
    """
    objecting = standing(odd, accepted)
    for finding in objecting:
        if finding.kind.name == "exchanged_modalities":
            raise DataError(
                f"{case}: {finding.seen} ({finding.sure}); exchange the files, or if the names are right say "
                f"{trust_names}",
                lines(others),
            )
    if objecting:
        raise DataError(f"{case} cannot be segmented as it is:", objections(objecting, accepted, accept=accept))
