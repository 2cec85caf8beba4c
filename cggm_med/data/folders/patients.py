"""Whom a case shows, as far as its id and its folders tell: visits and dates do not belong to the patient's name.

Where it is not certain, two cases are taken to show one patient: what is learned from a patient and tested on the same
one counts for nothing, while two patients that stay together cost little.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from cggm_med.data.folders.vocabulary import spelled

MAX_RECURRING = 4  # visits whose numbers recur from patient to patient, where nothing else tells a patient's name
MAX_VISITS = 15  # cases of one patient; of more that share the beginning of a name, this is a site's
_DATE = r"(?:(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|[0-3]?\d[-_.][0-3]?\d[-_.](?:19|20)\d\d)"
_VISIT = r"(?:ses-[a-z0-9]+|(?:ses|session|visit|timepoint|time|tp|scan|fu|frame|phase)[-_ ]?[a-z]?\d{1,4}[a-z]?)"
# What follows a patient's name where his cases are numbered: time points, a letter, a number, a side.
_ENDS = (r"[-_ .](?:v|m|w|d|y|t|tp)\d{1,3}", r"(?<=\d)[A-Ha-h]", r"[-_ .]\d{1,3}", r"[-_ .](?:l|r|li|re|left|right)")
# A number of five digits or more, and a short one behind a hyphen: patient and time point, as in the
# releases of the BraTS challenges since 2023.
_TIME_POINT = r"(?<!\d)\d{5,}(?=-\d{1,3}$)"


def patient_of(case_id: str) -> str:
    """The patient's part of a case id; the whole id if nothing in it looks like a visit or a date.

    Example:
        >>> [patient_of(id) for id in ("sub-01_ses-2", "PETCT_0011f3deaf_03-23-2003", "X-00005-100", "case_017")]
        ['sub-01', 'PETCT_0011f3deaf', 'X-00005', 'case_017']
        >>> patient_of("fdg_0011f3deaf_03-23-2003-NA-PET-CT Ganzkoerper-42966")
        'fdg_0011f3deaf'
    """
    if found := re.search(_TIME_POINT, case_id):
        return case_id[: found.end()]
    shorter = case_id
    if (dated := re.search(rf"[-_ .]{_DATE}(?![^\W_])", case_id)) and re.search(r"\d", case_id[: dated.start()]):
        shorter = case_id[: dated.start()]
    while True:
        cut = re.sub(rf"[-_ .](?:{_DATE}|{_VISIT})$", "", shorter, flags=re.IGNORECASE)
        if cut == shorter or not cut:
            return shorter
        shorter = cut


def patients_of(case_ids: Iterable[str], folders: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """The patient of each case of a cohort, whose ids may be paths of folders.

    What alone looks like a number tells a visit beside others: an end that every id has, and that alone tells some of
    them apart. So do words behind the number that recur from patient to patient.

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
        >>> list(patients_of(["A_11", "A_21", "B_11", "B_21", "C_11"]).values())
        ['A', 'A', 'B', 'B', 'C']
        >>> list(patients_of(["Site-001", "Site-002", "Site-003"]).values())
        ['Site-001', 'Site-002', 'Site-003']
        >>> list(patients_of(["001_SA", "001_LA", "002_SA"], {"001_SA": ["001"], "001_LA": ["001"]}).values())
        ['001', '001', '002_SA']
    """
    ids = list(case_ids)
    recurring = Counter(id.rpartition("/")[2] for id in ids if "/" in id)
    visits = {last for last, count in recurring.items() if count > 1 and not re.search(r"\d", last)}
    found = {id: _by_path(id, visits) for id in ids}
    found |= {id: patient for id in ids if (patient := _by_folder(id, (folders or {}).get(id, ())))}
    if not ids or len(set(found.values())) < len(ids):  # the ids tell their patients already
        return found
    for end in _ENDS:
        cut = {id: re.sub(rf"{end}$", "", patient, flags=re.IGNORECASE) for id, patient in found.items()}
        if all(cut[id] != found[id] for id in ids) and (_are_patients(cut.values()) or _recur(found, cut)):
            return cut
    cut = {id: re.sub(r"(?<=\d)[-_ ][^\W\d]+([-_ ][^\W\d]+)*$", "", patient) for id, patient in found.items()}
    held = Counter(cut.values())
    ends = Counter(found[id][len(cut[id]) :].lower() for id in ids if held[cut[id]] > 1)
    return cut if min(ends.values(), default=0) > 1 and _are_patients(cut.values()) else found


def _are_patients(names: Iterable[str]) -> bool:
    """Whether what is left of ids could be patients: several, numbered, of which some have a few cases."""
    held = Counter(names)
    numbers = {tuple(re.findall(r"\d+", name)) for name in held}
    numbered = len(numbers) == len(held) and all(re.search(r"\d", name.rpartition("/")[2]) for name in held)
    return len(held) > 1 and numbered and 1 < max(held.values()) <= MAX_VISITS


def _recur(found: Mapping[str, str], cut: Mapping[str, str]) -> bool:
    """Whether a few ends recur from name to name, as those of visits do; a site numbers more patients."""
    held = Counter(cut.values())
    several = {id for id, name in cut.items() if held[name] > 1}
    ends = Counter(found[id][len(cut[id]) :] for id in found)
    recurring = all(ends[found[id][len(cut[id]) :]] > 1 for id in several)
    return recurring and 1 < max(held.values()) <= min(MAX_RECURRING, len(held) - 1)


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
    dated = re.sub(rf"^{_DATE}[-_ .]+(?=.*\d)", "", last)
    own = patient_of(dated)
    return f"{folders}/{own}" if folders else own


_FOLDER = (
    r"(ses|session|visit|visite|visita|besuch|timepoint|time|tp|scan|exam|examen|study|fu|follow ?up|baseline|basale?"
    r"|bl|verlauf|kontrolle|controle|controllo|control|suivi|seguimiento|opvolging|nachsorge|initial|day|tag|jour|dia"
    r"|week|woche|month|monat|mois|mes|year|pre ?op|post ?op|prae ?op|[mwvy]|t(?=0))"
)
