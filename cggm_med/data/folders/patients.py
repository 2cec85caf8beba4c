"""Whom a case shows, as far as its id tells: visits and dates at its end do not belong to the patient's name."""

from __future__ import annotations

import re

_DATE = r"(?:(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|[0-3]?\d[-_.][0-3]?\d[-_.](?:19|20)\d\d)"
_VISIT = r"(?:ses-[a-z0-9]+|(?:ses|session|visit|timepoint|time|tp|scan|fu)[-_ ]?[a-z]?\d{1,4}[a-z]?)"
# A number of five digits or more, and a short one behind a hyphen: patient and time point, as in the
# releases of the BraTS challenges since 2023.
_TIME_POINT = r"(?<!\d)\d{5,}(?=-\d{1,3}$)"


def patient_of(case_id: str) -> str:
    """The patient's part of a case id; the whole id if nothing in it looks like a visit or a date.

    Example:
        >>> [patient_of(id) for id in ("sub-01_ses-2", "PETCT_0011f3deaf_03-23-2003", "X-00005-100", "case_017")]
        ['sub-01', 'PETCT_0011f3deaf', 'X-00005', 'case_017']
    """
    if found := re.search(_TIME_POINT, case_id):
        return case_id[: found.end()]
    shorter = case_id
    while True:
        cut = re.sub(rf"[-_ .](?:{_DATE}|{_VISIT})$", "", shorter, flags=re.IGNORECASE)
        if cut == shorter or not cut:
            return shorter
        shorter = cut
