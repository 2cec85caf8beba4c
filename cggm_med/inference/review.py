"""Which masks of a cohort somebody should look at, by their predicted quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cggm_med.results.results import Record
from cggm_med.results.tables import rounded
from cggm_med.runs.expectations import Expectations

REVIEW, GOOD, UNKNOWN = "yes", "no", "unknown"


def review_mark(quality: float | None, below: float) -> str:
    """Whether a mask is to be looked at: ``yes``, ``no`` or, where its quality was not predicted, ``unknown``.

    Example:
        >>> review_mark(0.79, 0.8), review_mark(0.8, 0.8), review_mark(None, 0.8)
        ('yes', 'no', 'unknown')
    """
    return UNKNOWN if quality is None else REVIEW if quality < below else GOOD


def review_lines(rows: Sequence[Record], below: float, expectations: Expectations | None) -> Iterator[str]:
    """The masks to look at, worst first, those of which nothing is known, and how far quality told Dice in validation.

    Args:
        rows: of the cohort, with ``present``, ``quality`` and ``review``.
        below: which quality is too low.
        expectations: what was measured with the run.
    """
    judged = [row for row in rows if row["review"] in (REVIEW, GOOD)]
    low = sorted((row for row in judged if row["review"] == REVIEW), key=lambda row: row["quality"])
    yield f"predicted quality below {below:g}: {len(low)} of {len(judged)} masks" + (", to review:" if low else "")
    for row in low:
        yield f"  {row['case']}: {rounded(row['quality'])} from {row['present']}"
    if unknown := [f"{row['case']} ({row['present']})" for row in rows if row["review"] == UNKNOWN]:
        yield f"quality unknown of {len(unknown)}: {', '.join(unknown)}"
    for present in dict.fromkeys(row["present"] for row in judged):
        found = None if expectations is None else expectations.subsets.get(present)
        said = "was not measured" if found is None else f"{found.mean.rank_correlation.brief}, {found.cases} cases"
        yield f"rank correlation of quality with Dice in validation, {present}: {said}"
