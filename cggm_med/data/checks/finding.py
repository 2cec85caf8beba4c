"""What a check saw: the kind of fault that it may be, where, how sure that is, and what follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from cggm_med.errors import DataError, UnknownName, first_of

Severity = Literal["refused", "asked", "told"]  # the gravest first
MAX_LINES = 3  # of one kind, when it is told; the others are counted


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
        seen: what was seen, with its numbers; of one thing, such as ``is dark``.
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
        named = f"{self.where}:" if self.where and self.seen.startswith("the ") else self.where  # it has a subject
        return f"{named} {self.said}; {self.kind.fix}".lstrip()

    @property
    def said(self) -> str:
        """What was seen and how sure that is, as it is said of one thing or of several.

        Example:
            >>> odd = Kind("odd_unit", "told", "another unit", "converted")
            >>> [Finding(odd, "a", roles, "states its sizes in m").said for roles in (("t1",), ("t1", "t2"))]
            ['states its sizes in m', 'state their sizes in m']
        """
        several = len(self.roles) > 1 or (not self.roles and ", " in self.case)
        seen = _of_several(self.seen) if several else self.seen
        return f"{seen} ({self.sure})" if self.sure else seen

    @property
    def where(self) -> str:
        """Case and roles, as far as they are known."""
        *most, last = self.roles or ("",)
        roles = f"{', '.join(most)} and {last}" if most else last
        return ": ".join(part for part in (self.case, roles) if part)

    @classmethod
    def of_record(cls, record: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Finding:
        """The finding that was recorded."""
        return cls(
            kinds[record["kind"]], record["case"], tuple(record["roles"]), str(record["seen"]), str(record["sure"])
        )

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


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """The same with one finding where several differ in nothing but their roles."""
    roles: dict[Finding, dict[str, None]] = {}
    for finding in findings:
        of = roles.setdefault(replace(finding, roles=()), {})
        of |= dict.fromkeys(finding.roles)
    return [replace(finding, roles=tuple(of)) for finding, of in roles.items()]


def condensed(findings: Iterable[Finding]) -> list[Finding]:
    """The same with one finding where several differ in nothing but case and roles; cases are named or counted.

    Cases that a finding has in common are a group.

    Example:
        >>> odd = Kind("odd_unit", "told", "another unit", "converted")
        >>> found = [Finding(odd, case, (role,), "is in metre") for case in ("a", "b") for role in ("t1", "t2")]
        >>> [finding.describe() for finding in condensed(found)]
        ['2 cases (a, b): t1 and t2 are in metre; converted']
        >>> [of.where for of in condensed(Finding(odd, pair, (), "look alike") for pair in ("a, b", "c, d"))]
        ['2 groups of cases (a and b, c and d)']
    """
    cases: dict[Finding, list[str]] = {}
    for finding in merged(findings):
        cases.setdefault(replace(finding, case=""), []).append(finding.case)
    return [replace(finding, case=_counted(ids)) for finding, ids in cases.items()]


def _counted(cases: Sequence[str]) -> str:
    if len(cases) == 1:
        return cases[0]
    what = "groups of cases" if any(", " in case for case in cases) else "cases"
    return f"{len(cases)} {what} ({first_of([case.replace(', ', ' and ') for case in cases], 3)})"


def _of_several(seen: str) -> str:
    verb, _, rest = seen.partition(" ")
    irregular = {"is": "are", "has": "have"}
    plural = irregular.get(verb, re.sub(r"(?<=[a-z])s$", "", re.sub(r"ies$", "y", verb)))
    return f"{plural} {re.sub(r'[ ]its[ ]', ' their ', f' {rest}')[1:]}"


def lines(findings: Iterable[Finding]) -> list[str]:
    """What is told of findings: each once, and of a kind that has many the first ones and their number.

    Example:
        >>> odd = Kind("odd_scale", "told", "another scale", "compare the scans")
        >>> for line in lines(Finding(odd, f"c{n}", ("t1",), f"has scale {n}") for n in range(9)):
        ...     print(line)
        c0: t1 has scale 0; compare the scans
        c1: t1 has scale 1; compare the scans
        c2: t1 has scale 2; compare the scans
        6 more of this kind (odd_scale: another scale)
    """
    by_kind: dict[Kind, list[Finding]] = {}
    for finding in condensed(findings):
        by_kind.setdefault(finding.kind, []).append(finding)
    said = []
    for kind, of in by_kind.items():
        said += [finding.describe() for finding in of[:MAX_LINES]]
        if len(of) > MAX_LINES:
            said.append(f"{len(of) - MAX_LINES} more of this kind ({kind.name}: {kind.meaning})")
    return said


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
    taken = [finding for finding in findings if finding not in objecting]
    for name in dict.fromkeys(finding.kind.name for finding in taken):
        known_better = f"accepted ({name}): " if name in accepted else ""
        for line in lines(finding for finding in taken if finding.kind.name == name):
            say(f"{known_better}{line}")
    if objecting:
        objecting = condensed(objecting)
        asked = sorted({finding.kind.name for finding in objecting if finding.kind.severity == "asked"})
        known = f"; if it is meant: {accept.replace('KIND', ','.join(asked))}" if asked else ""
        count = len(objecting)
        raise DataError(
            f"{count} finding{'s' * (count > 1)} that forbid{'s' * (count == 1)} the use of these files{known}:",
            [finding.describe() for finding in objecting],
        )


def objections(findings: Iterable[Finding], accepted: Collection[str], *, accept: str) -> list[str]:
    """A line for each finding that forbids the use of what it concerns, with how to accept it where that is possible.

    Example:
        >>> odd = Kind("odd_scale", "asked", "intensities unlike those of training", "compare the scans")
        >>> objections([Finding(odd, "case7", ("t1",), "is dark")], (), accept="--accept KIND")
        ['case7: t1 is dark; compare the scans (if it is meant: --accept odd_scale)']
    """
    return [
        finding.describe()
        + (
            f" (if it is meant: {accept.replace('KIND', finding.kind.name)})"
            if finding.kind.severity == "asked"
            else ""
        )
        for finding in condensed(standing(findings, accepted))
    ]


def require_known(accepted: Iterable[str], kinds: Iterable[Kind]) -> None:
    """Refuse names of kinds that do not exist, or that nobody can accept.

    Raises:
        UnknownName: for such a name.
    """
    severities = {kind.name: kind.severity for kind in kinds}
    known = [name for name, severity in severities.items() if severity == "asked"]
    why = {"refused": "such files cannot be used as they are; fix them", "told": "it stops nothing; leave it out"}
    for name in accepted:
        if name not in known:
            because = why.get(severities.get(name, ""), "")
            fix = f"'{name}' is a kind, but {because}" if because else ""
            raise UnknownName("kind of finding that can be accepted", name, known, fix, guess="" if because else None)
