"""What a table or figure of a paper is here: its rows and columns, what trains them, and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cggm_med.metrics.classification_regression import FUSED

NOT_KNOWN = "not known here"
NOT_IN_PAPER = "not in the paper"
MODALITY = "{modality}"  # in the words of a row's variant: that of the column


@dataclass(frozen=True)
class Paper:
    """A paper, and the code that its authors released.

    Attributes:
        title: authors, venue and year.
        url: of the paper.
        release: the repository.
        commit: of the repository, which was read.
    """

    title: str
    url: str
    release: str
    commit: str


@dataclass(frozen=True)
class DataSet:
    """What a table needs.

    Attributes:
        title: of the data set.
        source: where it comes from, and on what terms.
        layout: of the folder or file for ``--data``, one line each.
    """

    title: str
    source: str
    layout: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        name: as in the paper.
        metric: of the task, or ``ADDED_MEGABYTES``.
        percent: whether the paper gives percent, where the task gives shares.
        of: the fused prediction, or the modality whose own classifier head is scored.
    """

    name: str
    metric: str
    percent: bool = False
    of: str = FUSED

    @property
    def scale(self) -> float:
        """What the task's value is multiplied by."""
        return 100.0 if self.percent else 1.0

    @property
    def digits(self) -> int:
        """Behind the decimal point."""
        return 2 if self.percent else 1 if self.metric == ADDED_MEGABYTES else 3


ADDED_MEGABYTES = "additional MB"  # that a training step takes over one of the table's baseline


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: as in the paper.
        variant: what trains it, in the words of ``compare --strategies``. If it holds ``{modality}``, each column is
            the fused prediction of a network of its own, of the column's modality alone.
        added: whether it stands here alone, since a reader needs it beside the paper's rows.
    """

    name: str
    variant: str
    added: bool = False

    def variant_in(self, column: Column) -> str:
        """What trains one cell.

        Example:
            >>> Row("alone", "joint[task.modalities=[{modality}]]").variant_in(Column("f3", "accuracy", of="text"))
            'joint[task.modalities=[text]]'
        """
        return self.variant.replace(MODALITY, column.of)

    def predictor_in(self, column: Column) -> str:
        """Whose prediction is scored in one cell."""
        return FUSED if MODALITY in self.variant else column.of


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        figure: as it was published.
        source: the page that it was read on.
    """

    figure: str
    source: str


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of a paper, and all that is needed to make it again.

    Attributes:
        name: ``paper/table``.
        paper: that it stands in.
        shows: what it shows, in a few words.
        task: registered name.
        data: what it needs.
        rows, columns: as in the paper; rows that were added say so.
        published: figures by the names of row and column; all others are not known here.
        differs: what differs from the paper, and why.
        preset: of the task, with the paper's settings.
        baseline: words of the variant that ``ADDED_MEGABYTES`` are counted from.
        panels: quantities over training that are drawn beside the table, keys of ``report.figures.PANELS``.
        tsne: whether the gradients at the last layers are drawn in the plane.
        sweep: the symbol whose values the rows are (``{symbol} = {value}``), drawn beside the baseline; empty for a
            table that is no sweep.
        settings: further ones, as ``SECTION.KEY=VALUE``, for all rows.
        folds: of the cross-validation that the table is over; 0 for one division of the data.
        phantom: the same, for a short run on generated data.
    """

    name: str
    paper: Paper
    shows: str
    task: str
    data: DataSet
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    published: Mapping[tuple[str, str], Published] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    preset: str = "paper"
    baseline: str = "joint"
    panels: tuple[str, ...] = ()
    tsne: bool = False
    sweep: str = ""
    settings: tuple[str, ...] = ()
    folds: int = 0
    phantom: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """Everything that has to be trained, each once."""
        cells = [row.variant_in(column) for row in self.rows for column in self.columns]
        return tuple(dict.fromkeys([*cells, self.baseline] if self.counts_memory else cells))

    @property
    def counts_memory(self) -> bool:
        """Whether any column is memory over that of the baseline."""
        return any(column.metric == ADDED_MEGABYTES for column in self.columns)

    def published_in(self, row: Row, column: Column) -> str:
        """A cell's published figure, or why there is none."""
        if row.added:
            return NOT_IN_PAPER
        known = self.published.get((row.name, column.name))
        return NOT_KNOWN if known is None else known.figure

    @property
    def known(self) -> str:
        """How many of the paper's numbers are known here, in words."""
        cells = sum(not row.added for row in self.rows) * len(self.columns)
        return f"{len(self.published) or 'none'} of {cells} published numbers known here"
