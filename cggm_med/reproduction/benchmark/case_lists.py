"""The cases of a benchmark: its published lists, and the same cases in somebody's folder."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import resources

from cggm_med.data.splits import NAMES, Member, Splits
from cggm_med.errors import DataError, first_of
from cggm_med.reproduction.benchmark.catalogue import Benchmark


def case_lists(benchmark: Benchmark) -> tuple[Splits, ...]:
    """The splits as they were published, by the names of the challenge.

    Example:
        >>> from cggm_med.reproduction.benchmark.catalogue import find
        >>> (splits,) = case_lists(find("brats2023-im-fuse"))
        >>> [len(ids) for _, ids in splits.items()]
        [875, 125, 251]
    """
    rows = list(csv.DictReader(line for line in _lines(benchmark) if not line.startswith("#")))
    columns = [name for name in rows[0] if name != "case"]
    return tuple(
        Splits(**{name: tuple(row["case"] for row in rows if row[column] == name) for name in NAMES})
        for column in columns
    )


def source(benchmark: Benchmark) -> str:
    """What the file of cases says of itself: what they are, and where they were read."""
    return " ".join(line.removeprefix("#").strip() for line in _lines(benchmark) if line.startswith("#"))


def first_cases(lists: Sequence[Splits], count: int) -> tuple[Splits, ...]:
    """The same splits of a few cases: those that are among the first of any split, for runs on generated data.

    Example:
        >>> first_cases([Splits(("a", "b"), ("c",), ("d", "e")), Splits(("b", "e"), ("a",), ("c", "d"))], 1)[0]
        Splits(train=('a', 'b'), validation=('c',), test=('d',))
    """
    kept = {id for splits in lists for _, ids in splits.items() for id in ids[:count]}
    return tuple(Splits(**{n: tuple(id for id in ids if id in kept) for n, ids in splits.items()}) for splits in lists)


def in_folder(
    benchmark: Benchmark, lists: Sequence[Splits], cases: Sequence[Member], where: str, say: Callable[[str], object]
) -> tuple[Splits, ...]:
    """The splits by the ids that the cases have in a folder.

    Args:
        benchmark: of the lists.
        lists: see ``case_lists``.
        cases: all cases of the folder.
        where: what messages call it.
        say: told of cases that no list names, which are left out.

    Raises:
        DataError: if the folder lacks a case of the lists.
    """
    spelled = {case.id.lower(): case.id for case in cases}
    listed = list(dict.fromkeys(id for splits in lists for id in itertools.chain(*asdict(splits).values())))
    if missing := [id for id in listed if id.lower() not in spelled]:
        raise DataError(
            f"{where} lacks {len(missing)} of the {len(listed)} cases of {benchmark.name}: {first_of(missing)}; "
            "add them, since a figure on fewer cases compares with nothing that was published; nothing was trained"
        )
    known = {id.lower() for id in listed}
    if others := [id for lower, id in spelled.items() if lower not in known]:
        say(f"left out: {len(others)} cases of {where} that {benchmark.name} does not list ({first_of(others)})")
    return tuple(Splits(**{n: tuple(spelled[id.lower()] for id in ids) for n, ids in s.items()}) for s in lists)


def number_of(splits: Splits, lists: Sequence[Splits]) -> int | None:
    """Which of the lists these splits are, from 1; None if none of them.

    Example:
        >>> number_of(Splits(("B", "a"), (), ("c",)), [Splits(("a",), (), ("c",)), Splits(("a", "b"), (), ("c",))])
        2
    """

    def unordered(of: Splits) -> list[set[str]]:
        return [{id.lower() for id in ids} for _, ids in of.items()]

    return next((number for number, of in enumerate(lists, 1) if unordered(of) == unordered(splits)), None)


def _lines(benchmark: Benchmark) -> list[str]:
    file = resources.files("cggm_med.reproduction.benchmark") / "lists" / f"{benchmark.name}.csv"
    return file.read_text(encoding="utf-8").splitlines()
