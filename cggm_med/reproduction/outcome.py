"""What came out for a table of a paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cggm_med.reproduction.cells import Cell
from cggm_med.reproduction.paper_table import Column, PaperTable, Row
from cggm_med.runs.finished_run import Excluded

MARK = "generated data, no result"


def whose_data(phantom: bool) -> str:
    """What column ``data`` of a file of numbers says in each row."""
    return MARK if phantom else "given"


@dataclass(frozen=True)
class Outcome:
    """A table of a paper, made again.

    Attributes:
        table: of the paper.
        cells: one for each row and column.
        seeds: of the runs.
        folds: of a cross-validation, or 0.
        changed: settings that were not the paper's, as ``SECTION.KEY=VALUE``.
        phantom: whether the data were generated, so that no figure is a result.
        excluded: runs that failed or could not be compared.
        figures: names of the pictures.
        provenance: command, versions and date.
    """

    table: PaperTable
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    folds: int
    changed: tuple[str, ...]
    phantom: bool
    excluded: tuple[Excluded, ...]
    figures: tuple[str, ...]
    provenance: Mapping[str, str]

    def cell(self, row: Row, column: Column) -> Cell:
        """The cell of a row and a column."""
        return next(cell for cell in self.cells if (cell.row, cell.column) == (row.name, column.name))
