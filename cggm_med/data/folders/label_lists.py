"""What lists of other tools say of label numbers: by number, by name, and as groups that form regions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cggm_med.data.declaration import UNKNOWN
from cggm_med.data.folders.proposal import Labels
from cggm_med.errors import DataError

_BACKGROUND = ("background", "bg", "unlabelled", "unlabeled")


def labels_of(
    given: Any, source: str, *, order: Sequence[int] | None = None, meanings: Mapping[str, str] | None = None
) -> Labels:
    """Labels of nnU-Net (by name: a number, or the numbers of a region) or of the Decathlon (by number: a name).

    Args:
        given: the value of ``labels``.
        source: the file, for messages.
        order: nnU-Net's ``regions_class_order``: the number to paint each region with, in the order of names.
        meanings: of single numbers, if the file has them.

    Raises:
        DataError: if it is neither.

    Example:
        >>> labels_of({"0": "background", "1": "oedema"}, "dataset.json").meanings
        {1: 'oedema'}
        >>> brats = labels_of({"background": 0, "whole": [1, 2], "core": [2]}, "dataset.json", order=[1, 2])
        >>> brats.meanings, brats.regions, brats.paint
        ({1: 'whole without core', 2: 'core'}, {'whole': (1, 2), 'core': (2,)}, {'whole': 1, 'core': 2})
    """
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        given = {str(number): name for number, name in enumerate(given)}
    if isinstance(given, dict) and given:
        if all(re.fullmatch(r"\d{1,5}", key) and isinstance(name, str) for key, name in given.items()):
            return _by_number({int(number): name for number, name in given.items()}, source)
        numbers = {name: _numbers(value) for name, value in given.items()}
        if all(numbers.values()):
            return _by_name({name: held for name, held in numbers.items() if held}, source, order, meanings or {})
    raise DataError(
        f'{source}: "labels" is {given!r}; expected names by number, such as {{"1": "lesion"}}, or numbers by name'
    )


def labels_of_groups(names: Any, source: str, *, overlapping: bool) -> Labels:
    """Labels of Auto3DSeg's ``class_names``: names in the order of the numbers from 1, or groups of numbers.

    Args:
        names: the value of ``class_names``.
        source: the file, for messages.
        overlapping: whether a voxel may belong to several groups (``sigmoid``).

    Raises:
        DataError: if it is neither.

    Example:
        >>> labels_of_groups(["tumor", "node"], "input.yaml", overlapping=False).meanings
        {1: 'tumor', 2: 'node'}
        >>> groups = [{"name": "organ", "index": [1, 2]}, {"name": "mass", "index": [2]}]
        >>> found = labels_of_groups(groups, "input.yaml", overlapping=True)
        >>> found.exclusive, found.meanings
        (False, {1: 'organ without mass', 2: 'mass'})
    """
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        first = 0 if names[0].lower() in _BACKGROUND else 1
        return _by_number(dict(enumerate(names, start=first)), source)
    groups = [group for group in names if isinstance(group, dict)] if isinstance(names, list) else []
    numbers = {str(group.get("name")): _numbers(group.get("index")) for group in groups}
    if groups and len(groups) == len(names) == len(numbers) and all(numbers.values()):
        held = {name: of for name, of in numbers.items() if of and of != (0,)}
        shared = sum(map(len, held.values())) > len({number for of in held.values() for number in of})
        return Labels(_meanings(held), held, exclusive=not (overlapping or shared), source=source)
    raise DataError(
        f'{source}: "class_names" is {names!r}; expected names, or groups such as {{"name": "tumor", "index": [1, 2]}}'
    )


def _numbers(value: Any) -> tuple[int, ...]:
    """The numbers that a name stands for; none if it is something else."""
    values = value if isinstance(value, list) else [value]
    numbers = [int(v) for v in values if type(v) is int or (isinstance(v, str | float) and str(v).isdecimal())]
    return tuple(numbers) if len(numbers) == len(values) else ()


def _by_number(names: Mapping[int, str], source: str) -> Labels:
    ignore = next((number for number, name in names.items() if number and name.lower() == "ignore"), None)
    meanings = {number: name.strip() or UNKNOWN for number, name in names.items() if number and number != ignore}
    regions: dict[str, tuple[int, ...]] = {}
    for number, name in meanings.items():
        regions[name] = (*regions.get(name, ()), number)
    # Without regions, each number is one of its own; numbers that share a name would silently lose all but one.
    shared = len(regions) < len(meanings) and UNKNOWN not in regions
    return Labels(meanings, regions if shared else {}, ignore=ignore, source=source)


def _by_name(
    numbers: Mapping[str, tuple[int, ...]], source: str, order: Sequence[int] | None, told: Mapping[str, str]
) -> Labels:
    ignore = next((held[0] for name, held in numbers.items() if name.lower() == "ignore"), None)
    held = {
        name: of
        for name, of in numbers.items()
        if of != (0,) and name.lower() not in _BACKGROUND and name.lower() != "ignore"
    }
    meanings = {int(number): meaning for number, meaning in told.items() if str(number).isdecimal()}
    if all(len(of) == 1 for of in held.values()):
        names = {of[0]: name for name, of in held.items()}
        if len(names) < len(held):
            raise DataError(f'{source}: "labels" gives one number to several names: {dict(held)}; give each its own')
        if set(meanings) >= set(names):
            return Labels({n: meanings[n] for n in names}, held, ignore=ignore, source=source)
        return Labels(names, ignore=ignore, source=source)
    derived = _meanings(held)
    paint = dict(zip(held, order, strict=True)) if order is not None and len(order) == len(held) else {}
    if order is not None and not paint:
        raise DataError(
            f'{source}: "regions_class_order" has {len(order)} numbers for {len(held)} regions; expected one for each'
        )
    shared = sum(map(len, held.values())) > len(derived)
    return Labels(
        {n: meanings.get(n, derived[n]) for n in derived}, held, exclusive=not shared, paint=paint, ignore=ignore,
        source=source,
    )  # fmt: skip


def _meanings(regions: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Each number by the regions that hold it: the smallest of them, without those inside it that do not.

    This is what the groups say, and no more: which tissue it is, the reader of the list knows.
    """
    meanings: dict[int, str] = {}
    for number in sorted({number for held in regions.values() for number in held}):
        around = {name: set(held) for name, held in regions.items() if number in held}
        smallest = min(around, key=lambda name: len(around[name]))
        inside = [name for name, held in regions.items() if number not in held and set(held) < around[smallest]]
        outermost = [n for n in inside if not any(set(regions[n]) < set(regions[m]) for m in inside)]
        rest = around[smallest] - {label for name in inside for label in regions[name]}
        text = smallest + (f" without {' and '.join(outermost)}" if outermost else "")
        meanings[number] = text if len(rest) == 1 else f"part of {text}"
    return meanings
