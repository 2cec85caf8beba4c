"""Whom a case shows, as far as its id tells: visits and dates at its end do not belong to the patient's name."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable

from cggm_med.data.folders.vocabulary import spelled

MAX_VISITS = 15  # cases of one patient; of more that share the beginning of a name, this is a site's
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


def patients_of(case_ids: Iterable[str]) -> dict[str, str]:
    """The patient of each case of a cohort, whose ids may be paths of folders.

    What alone looks like a number tells a visit beside others: an end that every id has, and that alone tells some of
    them apart.

    Example:
        >>> list(patients_of(["Pat 001/2019-03-12", "Center_01/Patient_02", "P-0003 (17.01.2021)"]).values())
        ['Pat 001', 'Center_01/Patient_02', 'P-0003']
        >>> list(patients_of(["ms01_v1", "ms01_v2", "ms02_v1"]).values())
        ['ms01', 'ms01', 'ms02']
    """
    ids = list(case_ids)
    recurring = Counter(id.rpartition("/")[2] for id in ids if "/" in id)
    visits = {last for last, count in recurring.items() if count > 1 and not re.search(r"\d", last)}
    found = {id: _by_path(id, visits) for id in ids}
    for end in (r"[-_ .](?:v|m|w|d|y|tp)\d{1,3}", r"[-_ .]\d{1,3}"):
        cut = {id: re.sub(rf"{end}$", "", patient, flags=re.IGNORECASE) for id, patient in found.items()}
        held = Counter(cut.values())
        numbered = all(cut[id] != found[id] and re.search(r"\d", cut[id].rpartition("/")[2]) for id in ids)
        if numbered and len(held) > 1 and 1 < max(held.values()) <= MAX_VISITS and len(set(found.values())) == len(ids):
            found = cut
    return found


@functools.lru_cache(maxsize=100_000)
def is_visit(folder: str, *, dated: bool = True) -> bool:
    """Whether a folder's name is that of one of several examinations of a patient.

    Args:
        folder: its name.
        dated: whether a date counts.

    Example:
        >>> [is_visit(name) for name in ("2019-03-12", "follow-up 2", "Patient_02", "post-op")]
        [True, True, False, True]
    """
    text = spelled(folder)
    date = r"\b(19|20)\d\d ?[01]?\d ?[0-3]?\d\b|\b[0-3]?\d [0-3]?\d (19|20)\d\d\b"
    word = re.fullmatch(rf"{_FOLDER}( ?\d+)?( ?[a-z])?|\d{{1,2}} ?{_FOLDER}", text)
    return word is not None or (dated and re.search(date, text) is not None)


def _by_path(id: str, visits: set[str]) -> str:
    """The patient by the folders of a path, and by what looks like a visit in a name."""
    whole = re.sub(r" *\((.*)\)$", r" \1", id)
    folders, _, last = whole.rpartition("/")
    if folders and (last in visits or is_visit(last)):
        return _by_path(folders, visits)
    dated = re.sub(rf"^{_DATE}[-_ .]+(?=.*\d)", "", last)
    own = patient_of(dated)
    return f"{folders}/{own}" if folders else own


_FOLDER = (
    r"(ses|session|visit|visite|visita|besuch|timepoint|time|tp|scan|exam|examen|study|fu|follow ?up|baseline|basale?"
    r"|bl|verlauf|kontrolle|controle|controllo|control|suivi|seguimiento|opvolging|nachsorge|initial|day|tag|jour|dia"
    r"|week|woche|month|monat|mois|mes|year|pre ?op|post ?op|prae ?op|[mwvy]|t(?=0))"
)
