"""The table of kinds is in order, and the page of findings shows it."""

import re
from pathlib import Path

from cggm_med.data.checks.kinds import KINDS

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "findings.md"


def test_kinds_are_in_alphabetical_order_and_stand_in_the_page():
    assert list(KINDS) == sorted(KINDS)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.M)
    assert rows == [(kind.name, kind.severity, kind.meaning, kind.fix) for kind in KINDS.values()]
