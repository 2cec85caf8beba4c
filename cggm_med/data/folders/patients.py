"""Whom a case shows, as far as its folders tell: those that name a visit do not belong to the patient's name."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cggm_med.data.folders.vocabulary import spelled
from cggm_med.data.patients import DATE, patient_of, without_visits


def patients_of(case_ids: Iterable[str], folders: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """The patient of each case of a cohort, whose ids may be paths of folders.

    Args:
        case_ids: of all cases.
        folders: those that say whose a case is, outermost first, by id.

    Example:
        >>> list(patients_of(["Pat 001/2019-03-12", "Center_01/Patient_02", "P-0003 (17.01.2021)"]).values())
        ['Pat 001', 'Center_01/Patient_02', 'P-0003']
        >>> list(patients_of(["ms01_v1", "ms01_v2", "ms02_v1"]).values())
        ['ms01', 'ms01', 'ms02']
        >>> list(patients_of(["2_preRT", "2_midRT", "8_preRT", "8_midRT"]).values())
        ['2', '2', '8', '8']
        >>> list(patients_of(["001_SA", "001_LA", "002_SA"], {"001_SA": ["001"], "001_LA": ["001"]}).values())
        ['001', '001', '002_SA']
    """
    ids = list(case_ids)
    recurring = Counter(id.rpartition("/")[2] for id in ids if "/" in id)
    visits = {last for last, count in recurring.items() if count > 1 and not re.search(r"\d", last)}
    found = {id: _by_path(id, visits) for id in ids}
    found |= {id: patient for id in ids if (patient := _by_folder(id, (folders or {}).get(id, ())))}
    return without_visits(found)


def _by_folder(id: str, folders: Sequence[str]) -> str:
    """The patient by a folder whose name begins those of the cases in it, such as ``P01`` with ``P01_left``."""
    name = spelled(id.rpartition("/")[2])
    if not folders or spelled(folders[-1]) == name:
        return ""
    for folder in reversed(folders):
        rest = name.removeprefix(f"{spelled(folder)} ")
        patient_again = re.fullmatch(
            r"((p|pat|patient|sub|subj|subject|case|id) ?)?\d{3,}|.*(pat|patient|sub|case) ?\d+", rest
        )
        if rest != name and re.search(r"\d", folder) and not patient_again:
            return folder
    return ""


@functools.lru_cache(maxsize=100_000)
def is_visit(folder: str, *, dated: bool = True) -> bool:
    """Whether a folder's name is that of one of several examinations of a patient.

    Args:
        folder: its name.
        dated: whether a date counts.

    Example:
        >>> [is_visit(name) for name in ("2019-03-12", "2019", "follow-up 2", "week-000-1", "Patient_02", "post-op")]
        [True, True, True, True, False, True]
    """
    text = spelled(folder)
    date = r"^(19|20)\d\d$|\b(19|20)\d\d ?[01]?\d ?[0-3]?\d\b|\b[0-3]?\d [0-3]?\d (19|20)\d\d\b"
    word = re.fullmatch(rf"{_FOLDER}( ?\d+){{0,2}}( ?[a-z])?|\d{{1,2}} ?{_FOLDER}", text)
    return word is not None or (dated and re.search(date, text) is not None)


def _by_path(id: str, visits: set[str]) -> str:
    """The patient by the folders of a path, and by what looks like a visit in a name."""
    whole = re.sub(r" *\((.*)\)$", r" \1", id)
    folders, _, last = whole.rpartition("/")
    if folders and (last in visits or is_visit(last)):
        return _by_path(folders, visits)
    outer, _, inner = folders.rpartition("/")
    if folders and is_visit(inner):  # visits may stand above patients
        return _by_path(f"{outer}/{last}" if outer else last, visits)
    dated = re.sub(rf"^{DATE}[-_ .]+(?=.*\d)", "", last)
    own = patient_of(dated)
    return f"{folders}/{own}" if folders else own


_FOLDER = (
    r"(ses|session|visit|visite|visita|besuch|timepoint|time|tp|scan|exam|examen|study|fu|follow ?up|baseline|basale?"
    r"|bl|verlauf|kontrolle|controle|controllo|control|suivi|seguimiento|opvolging|nachsorge|initial|day|tag|jour|dia"
    r"|week|woche|month|monat|mois|mes|year|pre ?op|post ?op|prae ?op|[mwvy]|t(?=0))"
)
