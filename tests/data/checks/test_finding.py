"""What follows from findings: those that are told are said, the others object unless they are asked and accepted."""

import pytest

from cggm_med.data.checks.finding import Finding, Kind, decide, require_known, standing
from cggm_med.errors import DataError, UnknownName

TOLD, ASKED, REFUSED = (Kind(s, s, "a fault", f"mend what is {s}") for s in ("told", "asked", "refused"))
FOUND = [Finding(kind, f"case{n}", ("t1",), "looks odd") for n, kind in enumerate((TOLD, ASKED, REFUSED))]


def test_what_objects_depends_on_severity_and_on_what_is_accepted():
    assert [finding.kind for finding in standing(FOUND, ())] == [ASKED, REFUSED]
    assert [finding.kind for finding in standing(FOUND, ("asked", "refused"))] == [REFUSED]
    said: list[str] = []
    decide(FOUND[:2], ("asked",), said.append, accept="--accept KIND")
    assert said == [
        "case0: t1 looks odd; mend what is told",
        "accepted (asked): case1: t1 looks odd; mend what is asked",
    ]
    with pytest.raises(DataError) as refused:
        decide(FOUND, (), said.append, accept="--accept KIND")
    assert str(refused.value).splitlines() == [
        "2 findings that forbid the use of these files; if it is meant: --accept asked:",
        "  case1: t1 looks odd; mend what is asked",
        "  case2: t1 looks odd; mend what is refused",
    ]


def test_only_kinds_that_are_asked_can_be_accepted():
    require_known(("asked",), (TOLD, ASKED, REFUSED))
    for name in ("refused", "told", "askd"):
        with pytest.raises(UnknownName, match=f"no kind of finding that can be accepted '{name}'"):
            require_known((name,), (TOLD, ASKED, REFUSED))
