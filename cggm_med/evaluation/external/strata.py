"""Strata of cases: by the columns of a table that the user gives, and by the true volume of a region."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cggm_med.errors import DataError, first_of
from cggm_med.results.results import Record

CASE = "case"
MAX_VALUES = 12  # of a column that can be told apart in a table
NOT_GIVEN = "not given"
Strata = Mapping[str, Mapping[str, str]]  # by column and case: the value


def read_strata(path: Path, cases: Sequence[str]) -> Strata:
    """The columns of a CSV file with a column ``case`` and others such as ``site`` and ``scanner``.

    Args:
        path: of the file; rows of other cases are passed over.
        cases: that must be in it.

    Returns:
        The values by column and case; an empty cell is ``not given``.

    Raises:
        DataError: if it cannot be read, lacks a case or names one twice, or if a column has too many different values.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), [name for name in table.fieldnames or () if name and name != CASE]
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason}); expected a CSV file with a column '{CASE}'") from error
    if (rows and CASE not in rows[0]) or not rows or not columns:
        raise DataError(f"{path} has no column '{CASE}' and others; expected a line such as 'case,site,scanner' first")
    by_case = {row[CASE]: row for row in rows}
    if twice := [case for case, count in Counter(row[CASE] for row in rows).items() if count > 1]:
        raise DataError(f"{path} names cases twice: {first_of(twice)}; keep one line of each")
    if lacking := [case for case in cases if case not in by_case]:
        raise DataError(f"{path} lacks {len(lacking)} of {len(cases)} cases: {first_of(lacking)}; add a line for each")
    found = {column: {case: (by_case[case][column] or "").strip() or NOT_GIVEN for case in cases} for column in columns}
    for column, values in found.items():
        if (many := len(set(values.values()))) > MAX_VALUES:
            raise DataError(
                f"{path}: column '{column}' has {many} different values; group them into at most {MAX_VALUES}, such "
                "as '< 50 years', or leave the column out"
            )
    return found


def sizes(rows: Sequence[Record]) -> dict[str, str]:
    """The stratum of each case by the true volume of one region: empty, or a third of those that have it.

    Args:
        rows: of one region, with ``target_ml``.

    Example:
        >>> rows = [{"case": str(ml), "target_ml": float(ml)} for ml in (0, 1, 2, 3, 10, 20, 30)]
        >>> sizes(rows)["0"], sizes(rows)["2"], sizes(rows)["30"]
        ('0 mL', '1 to 2 mL', '20 to 30 mL')
    """
    there = sorted((row["target_ml"], row["case"]) for row in rows if row["target_ml"] > 0)
    found = {row["case"]: "0 mL" for row in rows if row["target_ml"] <= 0}
    for third in np.array_split(np.arange(len(there)), 3):
        if len(third):
            name = f"{there[third[0]][0]:.3g} to {there[third[-1]][0]:.3g} mL"
            found |= {there[i][1]: name for i in third}
    return found
