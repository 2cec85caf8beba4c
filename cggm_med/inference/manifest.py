"""The manifest of one shard of a cohort: a row for each case, written as it is done, whole after every interruption."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cggm_med.data.folders.streamed import Shard
from cggm_med.errors import OutputError
from cggm_med.files import append_text, atomic_file, write_json
from cggm_med.results.results import Record
from cggm_med.results.tables import csv_text
from cggm_med.trees import parse_json


@dataclass(frozen=True)
class Manifest:
    """The files of one shard in a folder of masks.

    Attributes:
        folder: of the cohort's masks.
        shard: whose manifest it is.
    """

    folder: Path
    shard: Shard

    @property
    def path(self) -> Path:
        """The table, whose rows are one line each, the last perhaps half of one."""
        return self.folder / f"{self._name}.csv"

    @property
    def end(self) -> Path:
        """The file that says that the shard went through its whole cohort; it is there only then."""
        return self.folder / f"{self._name}.json"

    @property
    def lock(self) -> str:
        """Name of the lock that a process holds while it works on the shard."""
        return f".{self._name}.lock"

    @property
    def _name(self) -> str:
        return f"manifest-{self.shard.number}-of-{self.shard.count}"

    def lines(self) -> Iterator[str]:
        """The header, and each row as it stands there; not what was written by half."""
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                yield from (line for line in file if line.endswith("\n"))
        except FileNotFoundError:
            return

    def rows(self) -> Iterator[dict[str, str]]:
        """The same by columns, without the header."""
        return csv.DictReader(self.lines())

    def begin(self, columns: Sequence[str], keep: Callable[[Mapping[str, str]], bool]) -> set[str]:
        """Make the table ready for further rows; the shard is no longer at its end.

        Args:
            columns: of the table.
            keep: which rows stay: not those of cases to try again.

        Returns:
            The cases of the rows that stayed.

        Raises:
            OutputError: if it is there with other columns, or cannot be written.
        """
        header = csv_text([], columns)
        if (first := next(self.lines(), header)) != header:
            raise OutputError(
                f"{self.path} has other columns than this call writes, {first.strip()}; choose another --out"
            )
        self.end.unlink(missing_ok=True)
        kept: set[str] = set()
        with atomic_file(self.path) as file:
            file.write(header.encode())
            for line, row in zip(_after_first(self.lines()), self.rows(), strict=True):
                if row["case"] not in kept and keep(row):
                    file.write(line.encode())
                    kept.add(row["case"])
        return kept

    def append(self, columns: Sequence[str], row: Record) -> None:
        """Add the row of a case, in one write.

        Args:
            columns: of the table; values of no column are an error.
            row: of the case; what it lacks is left empty.
        """
        in_one_line = {**row, "failed": " ".join(str(row["failed"]).split())}
        append_text(self.path, csv_text([in_one_line], columns).partition("\n")[2])

    def finish(self, counts: Mapping[str, int]) -> None:
        """Say that every case of the shard has a row."""
        write_json(self.end, {"shard": str(self.shard), **counts})

    def finished(self) -> dict[str, Any] | None:
        """What was said at the end, or None before it."""
        try:
            return dict(parse_json(self.end.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def is_cohort(path: Path) -> bool:
    """Whether a file is a table of predicted cases or of their lesions, as an earlier call wrote it."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").startswith(b"case,")


def _after_first(lines: Iterator[str]) -> Iterator[str]:
    next(lines, None)
    return lines
