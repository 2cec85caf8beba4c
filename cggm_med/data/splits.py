"""Dividing cases into training, validation and test so that no patient, speaker or video stands on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from cggm_med.data.cases import CaseList, natural_key
from cggm_med.data.layouts import read_json
from cggm_med.errors import ConfigError, DataError, UnknownName, counted, kind_of
from cggm_med.files import write_json

NAMES = ("train", "validation", "test")
MAX_MISSING = 20  # cases that are listed
MAX_LISTED = 100  # problems of splits; a file that belongs to other data has one in every line


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


class Member(Protocol):
    """A case of a group that must not be divided, such as a patient with several visits."""

    @property
    def id(self) -> str:
        """Of the case."""

    @property
    def group(self) -> str:
        """Such as the patient."""


C = TypeVar("C", bound=Member)


def split_by_group(
    cases: Sequence[Member], *, validation: float, test: float, seed: int, kind: str = "patient"
) -> Splits:
    """Draw splits at random; all cases of a group fall into the same one.

    Groups are ordered by a hash of seed and name, not by a random generator: the draw depends neither on the order
    of the cases nor on the version of any library.

    Args:
        cases: all cases.
        validation: fraction of the groups, at least 0; unless it is 0, at least one group.
        test: the same for the test split.
        seed: another seed gives another draw.
        kind: what messages call a group.

    Raises:
        ConfigError: if the fractions are negative or leave nothing for training.
        DataError: if there are too few groups.

    Example:
        >>> from cggm_med.data.cases import Case
        >>> cases = [Case(f"p{k}-{visit}", f"p{k}", {}, None) for k in range(5) for visit in "ab"]
        >>> split_by_group(cases, validation=0.2, test=0.0, seed=0).validation
        ('p2-a', 'p2-b')
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            f"data.validation is {validation} and data.test {test}; expected at least 0 each, and a sum below 1"
        )
    groups = sorted({case.group for case in cases}, key=lambda group: _draw(group, seed))
    sizes = [max(1, round(fraction * len(groups))) if fraction else 0 for fraction in (validation, test)]
    if len(groups) <= sum(sizes):
        raise DataError(
            f"{len(groups)} {kind}{'s are' if len(groups) != 1 else ' is'} too few: data.validation={validation} takes "
            f"{sizes[0]}, data.test={test} takes {sizes[1]}, and training needs at least 1; add {kind}s, or set a "
            "fraction to 0, which holds none out"
        )
    chosen = dict.fromkeys(groups, "train")
    chosen |= dict.fromkeys(groups[: sum(sizes)], "test") | dict.fromkeys(groups[: sizes[0]], "validation")
    return _divide(cases, chosen)


def cross_validation(
    cases: Sequence[Member], folds: int, *, validation: float, seed: int = 0, kind: str = "patient"
) -> tuple[Splits, ...]:
    """Splits by which every case is tested once; all cases of a group fall into the same split.

    Args:
        cases: all cases.
        folds: how many; as many as there are groups leaves one group out in turn.
        validation: fraction of all groups to choose by in each fold, taken from those that are not tested.
        seed: of the order in which groups are dealt out.
        kind: what messages call a group.

    Raises:
        DataError: if there are fewer groups than folds, or nothing is left to train on.

    Example:
        >>> from cggm_med.data.cases import Case
        >>> cases = [Case(f"p{k}", f"p{k}", {}, None) for k in range(4)]
        >>> [(s.train, s.test) for s in cross_validation(cases, 2, validation=0)]
        [(('p0', 'p3'), ('p1', 'p2')), (('p1', 'p2'), ('p0', 'p3'))]
    """
    groups = sorted({case.group for case in cases}, key=lambda group: _draw(group, seed))
    size = max(1, round(validation * len(groups))) if validation else 0
    most_tested = -(-len(groups) // folds)
    if not 2 <= folds <= len(groups) or len(groups) <= most_tested + size:
        raise DataError(
            f"{len(groups)} {kind}s cannot be divided into {folds} folds with data.validation={validation}; expected 2 "
            f"to {len(groups)} folds, and {kind}s left to train on"
        )
    found = []
    for fold in range(folds):
        test = groups[fold::folds]
        others = [group for group in groups if group not in test]
        start = fold * size % len(others)  # so that not every fold chooses by the same groups
        chosen = dict.fromkeys(groups, "train") | dict.fromkeys(test, "test")
        chosen |= dict.fromkeys([*others[start:], *others][:size], "validation")
        found.append(_divide(cases, chosen))
    return tuple(found)


def declared_folds(cases: Sequence[Member]) -> tuple[str, ...]:
    """Names of the folds that the data set itself assigns all of its cases to, in order; empty if it does not."""
    named = [getattr(case, "fold", None) for case in cases]
    return () if None in named else tuple(sorted({str(fold) for fold in named}, key=natural_key))


def fold_splits(
    cases: Sequence[Member], fold: str, *, validation: float, seed: int = 0, kind: str = "patient"
) -> Splits:
    """Splits that test on the cases which the data set assigns to a fold.

    Args:
        cases: all cases.
        fold: its name.
        validation: fraction of all groups to choose by, drawn from those that are not tested.
        seed: of that draw.
        kind: what messages call a group.

    Raises:
        UnknownName: if no case is of that fold.
        DataError: if a group stands in two folds, or nothing is left to train on.

    Example:
        >>> from cggm_med.data.cases import Case
        >>> cases = [Case(f"p{k}", f"p{k}", {}, None, fold=str(k % 2)) for k in range(4)]
        >>> fold_splits(cases, "1", validation=0)
        Splits(train=('p0', 'p2'), validation=(), test=('p1', 'p3'))
    """
    tested = {case.group for case in cases if getattr(case, "fold", None) == fold}
    if not tested:
        if not any(getattr(case, "fold", None) for case in cases):
            raise DataError(
                f"data.fold is {fold}, and no case names its fold; leave it out and let 'cggm-med compare --folds 5' "
                "divide the patients, or give each case a fold in the list of cases"
            )
        raise UnknownName("fold", fold, {str(name) for case in cases if (name := getattr(case, "fold", None))})
    groups = sorted({case.group for case in cases} - tested, key=lambda group: _draw(group, seed))
    size = max(1, round(validation * (len(groups) + len(tested)))) if validation else 0
    if len(groups) <= size:
        lower = f" with data.validation={validation}; lower it, or" if validation else ";"
        raise DataError(
            f"fold {fold} tests {len(tested)} of {len(groups) + len(tested)} {kind}s, and leaves none to train"
            f"{lower} divide them into more folds"
        )
    chosen = dict.fromkeys(groups, "train") | dict.fromkeys(groups[:size], "validation") | dict.fromkeys(tested, "test")
    splits = _divide(cases, chosen)
    own = {case.id for case in cases if getattr(case, "fold", None) == fold}
    if torn := sorted(set(splits.test) - own):
        raise DataError(
            f"fold {fold} divides {kind}s; give all cases of a {kind} one fold. Of those it tests, other folds hold:",
            torn,
        )
    return splits


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


def read_splits(path: Path, cases: Sequence[Member], kind: str = "patient") -> Splits:
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
        of = content if isinstance(content, dict) else {}
        given = ", ".join(f"{name}: {kind_of(ids)}" for name, ids in of.items()) or kind_of(content)
        raise DataError(
            f'{path} holds {given}; expected {{"train": [case ids], "validation": [case ids], "test": [case ids]}}'
        )
    splits = Splits(**{name: tuple(ids) for name, ids in content.items()})
    check_splits(splits, cases, where=f"the splits in {path}", kind=kind)
    return splits


def write_splits(path: Path, splits: Splits) -> None:
    """Write the splits as JSON that ``read_splits`` reads."""
    write_json(path, asdict(splits))


def check_splits(splits: Splits, cases: Sequence[Member], where: str = "these splits", kind: str = "patient") -> None:
    """Prove that nothing is trained on and measured on at once.

    Cases that stand in no split are allowed: a study may use part of a data set.

    Args:
        splits: to be checked.
        cases: all cases of the data.
        where: what the message calls the splits.
        kind: what the message calls a group.

    Raises:
        DataError: for ids that no case has, ids or groups in two splits, and empty training; lists up to 100.
    """
    group_of = {case.id: case.group for case in cases}
    problems = [] if splits.train else ["train is empty"]
    place: dict[str, str] = {}
    owner: dict[str, tuple[str, str]] = {}
    for split, ids in splits.items():
        for case_id in ids:
            if case_id in place:
                problems.append(f"case {case_id} stands in {place[case_id]} and again in {split}")
                continue
            place[case_id] = split
            if case_id not in group_of:
                problems.append(f"{split} names case {case_id}, which the data do not have")
                continue
            other, other_split = owner.setdefault(group_of[case_id], (case_id, split))
            if other_split != split:
                problems.append(
                    f"{kind} {group_of[case_id]} stands in {other_split} (case {other}) and {split} (case {case_id})"
                )
    if problems:
        raise DataError(f"{where} cannot be used; fix the file or split anew:", problems, listed=MAX_LISTED)


def members_of(splits: Splits, cases: Sequence[C]) -> list[C]:
    """The cases that stand in any of the splits, in the order of the cases.

    Raises:
        DataError: if splits name cases that are not there; lists up to 20.
    """
    wanted = {id for _, ids in splits.items() for id in ids}
    found = [case for case in cases if case.id in wanted]
    if unknown := sorted(wanted - {case.id for case in found}):
        raise DataError(
            f"{counted(len(unknown), 'case')} of the splits missing in the data; put back the files, or leave these "
            "cases out of the splits:",
            unknown,
            listed=MAX_MISSING,
        )
    return found


def _divide(cases: Sequence[Member], split_of: Mapping[str, str]) -> Splits:
    """Splits from the split of each group."""
    ids: dict[str, list[str]] = {name: [] for name in NAMES}
    for case in sorted(cases, key=lambda case: natural_key(case.id)):
        ids[split_of[case.group]].append(case.id)
    return Splits(**{name: tuple(listed) for name, listed in ids.items()})


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode(errors="surrogatepass")).digest()


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(case_id, str) for case_id in value)
