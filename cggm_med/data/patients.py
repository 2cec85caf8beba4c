"""Whom a case shows, as far as its id tells beside the others: visits and dates do not belong to the patient's name.

Where it is not certain, two cases are taken to show one patient: what is learned from a patient and tested on the same
one counts for nothing, while two patients that stay together cost little.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

MAX_RECURRING = 4  # visits whose numbers recur from patient to patient, where nothing else tells a patient's name
MAX_VISITS = 15  # cases of one patient; of more that share the beginning of a name, this is a site's
DATE = r"(?:(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|[0-3]?\d[-_.][0-3]?\d[-_.](?:19|20)\d\d)"
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
    if (dated := re.search(rf"[-_ .]{DATE}(?![^\W_])", case_id)) and re.search(r"\d", case_id[: dated.start()]):
        shorter = case_id[: dated.start()]
    while True:
        cut = re.sub(rf"[-_ .](?:{DATE}|{_VISIT})$", "", shorter, flags=re.IGNORECASE)
        if cut == shorter or not cut:
            return shorter
        shorter = cut


def patients_among(case_ids: Iterable[str]) -> dict[str, str]:
    """The patient of each case of a cohort.

    Example:
        >>> list(patients_among(["A_11", "A_21", "B_11", "B_21", "C_11"]).values())
        ['A', 'A', 'B', 'B', 'C']
        >>> list(patients_among(["Site-001", "Site-002", "Site-003"]).values())
        ['Site-001', 'Site-002', 'Site-003']
    """
    return without_visits({id: patient_of(id) for id in case_ids})


def without_visits(found: Mapping[str, str]) -> dict[str, str]:
    """The patient of each case, without what tells a visit only beside the others.

    That is an end which every id has, and which alone tells some of them apart; and words behind the number that recur
    from patient to patient.

    Args:
        found: the patient of each case, as far as its own id tells.

    Example:
        >>> list(without_visits({id: id for id in ("ms01_v1", "ms01_v2", "ms02_v1")}).values())
        ['ms01', 'ms01', 'ms02']
    """
    ids = list(found)
    if not ids or len(set(found.values())) < len(ids):  # the ids tell their patients already
        return dict(found)
    for end in _ENDS:
        cut = {id: re.sub(rf"{end}$", "", patient, flags=re.IGNORECASE) for id, patient in found.items()}
        if all(cut[id] != found[id] for id in ids) and (_are_patients(cut.values()) or _recur(found, cut)):
            return cut
    cut = {id: re.sub(r"(?<=\d)[-_ ][^\W\d]+([-_ ][^\W\d]+)*$", "", patient) for id, patient in found.items()}
    held = Counter(cut.values())
    ends = Counter(found[id][len(cut[id]) :].lower() for id in ids if held[cut[id]] > 1)
    return cut if min(ends.values(), default=0) > 1 and _are_patients(cut.values()) else dict(found)


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
