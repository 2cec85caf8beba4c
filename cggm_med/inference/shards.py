"""Go through one shard of a cohort, resume it, and take over the shards of processes that died."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cggm_med.data.cases import can_be_id
from cggm_med.data.folders.streamed import Listed, Shard, cases_of
from cggm_med.errors import DataError, OutputError, counted
from cggm_med.files import writable_folder, write_json
from cggm_med.inference.manifest import Manifest
from cggm_med.lock import abandoned, alone
from cggm_med.results.results import Record
from cggm_med.trees import parse_json

COHORT = "cohort.json"  # in the folder of masks: what all shards have in common


class Work(Protocol):
    """What is done with each case of a shard."""

    @property
    def columns(self) -> Sequence[str]:
        """Of a row; ``case``, ``failed`` and ``mask`` are among them."""

    def __call__(self, cases: Iterable[Listed]) -> Iterator[Record]:
        """Write the mask of each case, then give its row, whose ``mask`` is relative to the folder of masks.

        A case that fails has the reason in ``failed``, and no mask.
        """

    def there(self, case: Listed) -> Record | None:
        """The row of a case whose mask was written before its row could be; None without a mask."""


@dataclass(frozen=True)
class ShardedCohort:
    """A cohort whose masks are written by several processes, each of them a shard at a time.

    Attributes:
        folder: of the masks.
        cohort: folder of case folders, or table.
        modalities: whose columns the table may have.
        shards: how many there are.
        made_with: what else must be the same for all masks: the run's weights and the options.
    """

    folder: Path
    cohort: Path
    modalities: tuple[str, ...]
    shards: int
    made_with: Record

    def require_same(self) -> None:
        """Note what all shards have in common, or make sure that it is what the first one noted.

        Raises:
            OutputError: if the masks in this folder are of another cohort, of other shards or made with something else;
                or if it cannot be written.
        """
        mine = {
            "cohort": os.path.abspath(self.cohort),
            "shards": self.shards,
            "all_modalities": [*self.modalities],
            **json.loads(json.dumps(dict(self.made_with))),
        }
        file = self.folder / COHORT
        if not file.exists():
            writable_folder(self.folder)
            write_json(file, mine)
        there = read_cohort(self.folder)
        for name in {**mine, **there}:
            if mine.get(name) != there.get(name):
                raise OutputError(
                    f"{self.folder} holds masks made with {name} {there.get(name)}, and this call has "
                    f"{mine.get(name)}; use the same, or choose another --out"
                )

    def predict(self, shard: Shard, work: Work, say: Callable[[str], Any]) -> int:
        """Go through a shard, from where it was left.

        Returns:
            How many of its cases failed.

        Raises:
            DataError: if the cohort turns out to be none, see ``cases_of``, or names a case twice.
            OutputError: if another process works on the shard, or files cannot be written.
        """
        manifest = Manifest(self.folder, shard)
        with alone(self.folder, say, name=manifest.lock, what=f"shard {shard} in {self.folder}"):
            return self._go_through(manifest, work, say)

    def predict_and_take_over(self, shard: Shard, work: Work, say: Callable[[str], Any]) -> int:
        """The same, unless somebody has taken it over; then every shard that was begun and left by a process that died.

        Returns:
            How many cases failed of the shards that this process went through.
        """
        failed, todo = 0, [Manifest(self.folder, shard)]
        while todo:
            locks = {self.folder / manifest.lock: manifest for manifest in todo}
            with abandoned([*locks]) as taken:
                manifest = None if taken is None else locks[taken]
                if manifest is None and todo[0].shard != shard:
                    break
                if manifest is None:
                    say(f"another process works on shard {shard}; looking for others that were left")
                elif manifest.shard == shard:
                    failed += self._go_through(manifest, work, say)
                elif manifest.finished() is None:  # it may have come to its end in the meantime
                    say(f"taking over shard {manifest.shard}, whose process has ended")
                    failed += self._go_through(manifest, work, say)
            others = (Manifest(self.folder, Shard(number, self.shards)) for number in range(1, self.shards + 1))
            todo = [each for each in others if each.shard != shard and each.path.exists() and each.finished() is None]
        return failed

    def _go_through(self, manifest: Manifest, work: Work, say: Callable[[str], Any]) -> int:
        shard, columns = manifest.shard, work.columns
        done = manifest.begin(columns, lambda row: not row["failed"] and (self.folder / row["mask"]).is_file())
        if done:
            say(f"shard {shard}: {counted(len(done), 'case')} there already")
        counts = {"cases": len(done), "failed": 0}

        def add(row: Record) -> None:
            manifest.append(columns, row)
            counts["cases"] += 1
            counts["failed"] += bool(row["failed"])

        def left() -> Iterator[Listed]:
            seen: set[str] = set()
            for case in cases_of(self.cohort, self.modalities, shard):
                if case.name in seen:
                    raise DataError(f"{self.cohort} names case {case.name} twice; give each case a name of its own")
                seen.add(case.name)
                if case.name in done:
                    continue
                if not (can_be_id(case.name) and case.name.isprintable()):
                    add({"case": ascii(case.name), "failed": "its name cannot be that of a result; rename it"})
                elif (row := work.there(case)) is not None:
                    add(row)
                else:
                    yield case

        for row in work(left()):
            add(row)
        # A case that has left the cohort since keeps its mask and its row.
        manifest.finish(counts)
        say(f"shard {shard}: {counted(counts['cases'], 'case')}, {counts['failed']} failed; written: {manifest.path}")
        return counts["failed"]


def read_cohort(folder: Path) -> dict[str, Any]:
    """What all shards of a folder of masks have in common.

    Raises:
        DataError: if it is not such a folder.
    """
    file = folder / COHORT
    try:
        content = parse_json(file.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no {COHORT}; expected the --out of 'predict --shard K/N'") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; put back a copy, or predict anew into another folder") from error
    if not (isinstance(content, dict) and isinstance(content.get("shards"), int)):
        raise DataError(f"{file} was not written by 'predict --shard K/N'; give the folder that it wrote")
    return content
