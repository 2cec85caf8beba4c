"""What a check saw: the kind of fault that it may be, where, how sure that is, and what follows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cggm_med.errors import DataError, UnknownName

Severity = Literal["refused", "asked", "told"]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: by which it is accepted.
        severity: ``refused``: cannot be used as it is; ``asked``: hardly meant, and used only if it is accepted by
            name; ``told``: legal, and worth a line.
        meaning: what is the matter with such files, in a few words.
        fix: what to do about it.
    """

    name: str
    severity: Severity
    meaning: str
    fix: str


@dataclass(frozen=True)
class Finding:
    """What a check saw.

    Attributes:
        kind: of fault that it may be.
        case: id; of several cases with a comma; empty where the data as a whole are meant.
        roles: modalities or label maps that are concerned.
        seen: what was seen, with its numbers.
        sure: how sure that is, in words; empty where it is certain.
    """

    kind: Kind
    case: str
    roles: tuple[str, ...]
    seen: str
    sure: str = ""

    def describe(self) -> str:
        """One line: what was seen, where, and what to do.

        Example:
            >>> empty = Kind("empty_label", "told", "a label map in which nothing is drawn", "leave the case out")
            >>> Finding(empty, "case7", ("label",), "holds 0 voxels of any region").describe()
            'case7: label holds 0 voxels of any region; leave the case out'
        """
        where = ": ".join(part for part in (self.case, " and ".join(self.roles)) if part)
        return f"{where} {self.seen}{f' ({self.sure})' if self.sure else ''}; {self.kind.fix}"

    def record(self, accepted: Collection[str]) -> dict[str, Any]:
        """For a run's files."""
        return {
            "kind": self.kind.name,
            "severity": self.kind.severity,
            "accepted": self.kind.name in accepted,
            "case": self.case,
            "roles": list(self.roles),
            "seen": self.seen,
            "sure": self.sure,
        }


def standing(findings: Iterable[Finding], accepted: Collection[str]) -> list[Finding]:
    """Those that forbid the use of what they concern: refused, or asked and not accepted."""
    return [
        finding
        for finding in findings
        if finding.kind.severity == "refused"
        or (finding.kind.severity == "asked" and finding.kind.name not in accepted)
    ]


def decide(
    findings: Sequence[Finding], accepted: Collection[str], say: Callable[[str], object], *, accept: str
) -> None:
    """Tell what is told or accepted, and object to the rest.

    Args:
        findings: in any order.
        accepted: names of kinds that the user knows better about.
        say: receives a line for each that does not object.
        accept: how to accept a kind, such as ``--accept KIND``.

    Raises:
        DataError: with every finding that objects.

    Example:
        >>> odd = Kind("odd_scale", "asked", "intensities unlike those of training", "compare the scans")
        >>> found = [Finding(odd, "case7", ("t1",), "is 1,000 times as bright as in 14 training cases")]
        >>> decide(found, ["odd_scale"], print, accept="--accept KIND")
        accepted (odd_scale): case7: t1 is 1,000 times as bright as in 14 training cases; compare the scans
    """
    objecting = standing(findings, accepted)
    for finding in findings:
        if finding not in objecting:
            known_better = f"accepted ({finding.kind.name}): " if finding.kind.name in accepted else ""
            say(f"{known_better}{finding.describe()}")
    if objecting:
        asked = sorted({finding.kind.name for finding in objecting if finding.kind.severity == "asked"})
        known = f"; if it is meant: {accept.replace('KIND', ','.join(asked))}" if asked else ""
        count = len(objecting)
        raise DataError(
            f"{count} finding{'s' * (count > 1)} that forbid{'s' * (count == 1)} the use of these files{known}:",
            [finding.describe() for finding in objecting],
        )


def require_known(accepted: Iterable[str], kinds: Iterable[Kind]) -> None:
    """Refuse names of kinds that do not exist, or that nobody can accept.

    Raises:
        UnknownName: for such a name.
    """
    known = [kind.name for kind in kinds if kind.severity == "asked"]
    for name in accepted:
        if name not in known:
            raise UnknownName("kind of finding that can be accepted", name, known)
