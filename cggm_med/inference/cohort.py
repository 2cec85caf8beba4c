"""A cohort whose masks are written shard by shard: how far it is, and one table of all of them."""

from __future__ import annotations

import csv
import heapq
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from cggm_med.data.cases import natural_key
from cggm_med.data.folders.streamed import Shard, cases_of, shard_of
from cggm_med.errors import DataError, counted, first_of
from cggm_med.files import atomic_file
from cggm_med.inference.manifest import Manifest
from cggm_med.inference.shards import read_cohort
from cggm_med.lock import holder
from cggm_med.results.tables import Table

SORTED_AT_ONCE = 50_000  # rows in memory; more are sorted in parts, which are then merged
FINISHED, RUNNING, STOPPED, WAITING = "finished", "running", "stopped", "not begun"


@dataclass(frozen=True)
class ShardStatus:
    """How far one shard is.

    Attributes:
        shard: such as ``3/64``.
        state: ``finished``, ``running``, ``stopped`` (begun, and nobody works on it) or ``not begun``.
        done: cases that have a mask.
        failed: cases that have none, and the reason in the manifest.
        pending: cases without a row; None where nobody has counted them.
        process: that works on it, in words, or None.
    """

    shard: str
    state: str
    done: int
    failed: int
    pending: int | None
    process: str | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def status(folder: Path, *, count: bool = False) -> list[ShardStatus]:
    """How far each shard is.

    Args:
        folder: of the masks.
        count: go through the cohort, to know what is pending in shards that are not finished.

    Raises:
        DataError: if the folder was not written by ``predict --shard``; or, to count, if the cohort cannot be read.
    """
    about = read_cohort(folder)
    shards: int = about["shards"]
    cases: Counter[int] = Counter()
    if count:
        listed = cases_of(Path(about["cohort"]), about["all_modalities"])
        cases.update(shard_of(case.name, shards) for case in listed)
    return [_status(Manifest(folder, Shard(k, shards)), cases[k] if count else None) for k in range(1, shards + 1)]


def _status(manifest: Manifest, cases: int | None) -> ShardStatus:
    rows = Counter(bool(row["failed"]) for row in manifest.rows())
    process = holder(manifest.folder / manifest.lock)
    finished = manifest.finished() is not None
    begun = STOPPED if manifest.path.exists() else WAITING
    pending = None if cases is None else max(0, cases - rows.total())
    return ShardStatus(
        str(manifest.shard),
        RUNNING if process else FINISHED if finished else begun,
        rows[False],
        rows[True],
        0 if finished and cases is None else pending,
        process,
    )


def status_table(shards: Sequence[ShardStatus]) -> Table:
    """The same for people, with all shards together in the last row."""
    pending = [each.pending for each in shards]
    total = ShardStatus(
        "all",
        ", ".join(f"{n} {state}" for state, n in Counter(each.state for each in shards).items()),
        sum(each.done for each in shards),
        sum(each.failed for each in shards),
        None if None in pending else sum(n or 0 for n in pending),
        None,
    )
    rows = (
        (
            each.shard,
            each.state,
            str(each.done),
            str(each.failed),
            "-" if each.pending is None else str(each.pending),
            each.process or "",
        )
        for each in (*shards, total)
    )
    return Table("cohort", ("shard", "state", "done", "failed", "pending", "process"), tuple(rows))


def merge(folder: Path, out: Path, *, incomplete: bool = False) -> int:
    """Write the rows of all shards as one table, in natural order of the cases.

    Memory does not grow with the number of cases.

    Args:
        folder: of the masks.
        out: the table.
        incomplete: also if shards are not finished.

    Returns:
        How many cases it has.

    Raises:
        DataError: if shards are not finished; or if their columns differ.
        OutputError: if the table cannot be written.
    """
    count: int = read_cohort(folder)["shards"]
    manifests = [Manifest(folder, Shard(number, count)) for number in range(1, count + 1)]
    if not incomplete and (open_ := [str(each.shard) for each in manifests if each.finished() is None]):
        raise DataError(
            f"{len(open_)} of {counted(count, 'shard')} not finished: {first_of(open_)}; run them "
            f"(see 'cggm-med cohort status {folder}'), or merge what is there with --incomplete"
        )
    headers = {header: each for each in manifests for header in itertools.islice(each.lines(), 1)}
    if len(headers) > 1:
        paths = ", ".join(str(each.path) for each in headers.values())
        raise DataError(f"manifests have different columns: {paths}; predict these shards again with one version")
    rows = 0
    lines = itertools.chain.from_iterable(itertools.islice(each.lines(), 1, None) for each in manifests)
    with atomic_file(out) as file, tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as parts:
        file.write("".join(headers).encode())
        for line in _in_order(lines, Path(parts)):
            file.write(line.encode())
            rows += 1
    return rows


def _in_order(lines: Iterator[str], parts: Path) -> Iterator[str]:
    """Lines sorted by their cases, of which a part at a time is sorted in memory."""
    with ExitStack() as files:
        sorted_parts: list[TextIO] = []
        while part := sorted(itertools.islice(lines, SORTED_AT_ONCE), key=_key):
            path = parts / str(len(sorted_parts))
            path.write_text("".join(part), encoding="utf-8", newline="")
            sorted_parts.append(files.enter_context(path.open(encoding="utf-8", newline="")))
        yield from heapq.merge(*sorted_parts, key=_key)


def _key(line: str) -> tuple[list[str | int], str]:
    return natural_key(next(csv.reader([line]))[0])
