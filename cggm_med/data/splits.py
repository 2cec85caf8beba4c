"""Dividing cases into training, validation and test so that no patient stands on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cggm_med.data.cases import Case, CaseList, natural_key
from cggm_med.data.layouts import read_json
from cggm_med.errors import ConfigError, DataError, UnknownName
from cggm_med.files import write_json

NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Splits:
    """Case ids of each split."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def items(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Name and ids of each split.

        Example:
            >>> dict(Splits(("a", "b"), ("c",), ()).items())
            {'train': ('a', 'b'), 'validation': ('c',), 'test': ()}
        """
        return ((name, getattr(self, name)) for name in NAMES)


def split_by_patient(cases: Sequence[Case], *, validation: float, test: float, seed: int) -> Splits:
    """Draw splits at random; all cases of a patient fall into the same one.

    Patients are ordered by a hash of seed and name, not by a random generator: the draw depends neither on the order
    of the cases nor on the version of any library.

    Args:
        cases: all cases.
        validation: fraction of the patients, at least 0; unless it is 0, at least one patient.
        test: the same for the test split.
        seed: another seed gives another draw.

    Raises:
        ConfigError: if the fractions are negative or leave nothing for training.
        DataError: if there are too few patients.

    Example:
        >>> cases = [Case(f"p{k}-{visit}", f"p{k}", {}, None) for k in range(5) for visit in "ab"]
        >>> split_by_patient(cases, validation=0.2, test=0.0, seed=0).validation
        ('p2-a', 'p2-b')
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            f"validation fraction {validation} and test fraction {test}: expected at least 0 each and a sum below 1"
        )
    patients = sorted({case.patient for case in cases}, key=lambda patient: _draw(patient, seed))
    sizes = [max(1, round(fraction * len(patients))) if fraction else 0 for fraction in (validation, test)]
    if len(patients) <= sum(sizes):
        raise DataError(
            f"{len(patients)} patients are too few: validation fraction {validation} takes {sizes[0]}, test fraction "
            f"{test} takes {sizes[1]}, and training needs at least 1; add patients or lower a fraction"
        )
    chosen = dict.fromkeys(patients, "train")
    chosen |= dict.fromkeys(patients[: sum(sizes)], "test") | dict.fromkeys(patients[: sizes[0]], "validation")
    ids: dict[str, list[str]] = {name: [] for name in NAMES}
    for case in sorted(cases, key=lambda case: natural_key(case.id)):
        ids[chosen[case.patient]].append(case.id)
    return Splits(**{name: tuple(listed) for name, listed in ids.items()})


def from_sections(case_list: CaseList) -> Splits:
    """The splits that a datalist itself declares by its sections training, validation and test.

    Raises:
        DataError: if the data are no datalist, or its sections share a patient or train on nothing.
    """
    if case_list.sections is None:
        raise DataError(f"layout {case_list.layout} declares no splits; split by patient or give a datalist")
    named = {"train": "training", "validation": "validation", "test": "test"}
    splits = Splits(**{name: case_list.sections.get(section, ()) for name, section in named.items()})
    check_splits(splits, case_list.cases)
    return splits


def read_splits(path: Path, cases: Sequence[Case]) -> Splits:
    """Read ``{"train": [ids], "validation": [ids], "test": [ids]}`` and check it against the cases.

    Raises:
        UnknownName: for another key.
        DataError: if the file is damaged or contradicts the cases.
    """
    content = read_json(path)
    for name in content if isinstance(content, dict) else ():
        if name not in NAMES:
            raise UnknownName("split", name, NAMES, f"It stands in {path}")
    if not (isinstance(content, dict) and len(content) == len(NAMES) and all(map(_is_ids, content.values()))):
        raise DataError(f'{path}: expected {{"train": [case ids], "validation": [case ids], "test": [case ids]}}')
    splits = Splits(**{name: tuple(ids) for name, ids in content.items()})
    check_splits(splits, cases, where=f"the splits in {path}")
    return splits


def write_splits(path: Path, splits: Splits) -> None:
    """Write the splits as JSON that ``read_splits`` reads."""
    write_json(path, asdict(splits))


def check_splits(splits: Splits, cases: Sequence[Case], where: str = "these splits") -> None:
    """Prove that nothing is trained on and measured on at once.

    Cases that stand in no split are allowed: a study may use part of a data set.

    Args:
        splits: to be checked.
        cases: all cases of the data.
        where: what the message calls the splits.

    Raises:
        DataError: for ids that no case has, ids or patients in two splits, and empty training; lists all of them.
    """
    patient_of = {case.id: case.patient for case in cases}
    problems = [] if splits.train else ["train is empty"]
    place: dict[str, str] = {}
    owner: dict[str, tuple[str, str]] = {}
    for split, ids in splits.items():
        for case_id in ids:
            if case_id in place:
                problems.append(f"case {case_id} stands in {place[case_id]} and again in {split}")
                continue
            place[case_id] = split
            if case_id not in patient_of:
                problems.append(f"{split} names case {case_id}, which the data do not have")
                continue
            other, other_split = owner.setdefault(patient_of[case_id], (case_id, split))
            if other_split != split:
                problems.append(
                    f"patient {patient_of[case_id]} stands in {other_split} (case {other}) and {split} (case {case_id})"
                )
    if problems:
        raise DataError(f"{where} cannot be used; mend the file or split anew:", problems)


def _draw(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {patient}".encode(errors="surrogatepass")).digest()


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(case_id, str) for case_id in value)
