"""Scores of each modality subset, their mean and worst, and the Shapley value of each modality."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch

from cggm_med.errors import ConfigError, UnknownName
from cggm_med.objectives.subsets import MAX_MODALITIES
from cggm_med.results.aggregate import mean
from cggm_med.results.order import CLEARLY, ORDER, OrderViolations
from cggm_med.results.results import Record, Scores
from cggm_med.results.tables import Table, percent, rounded
from cggm_med.strategies.parts.shapley import exact_plan, shapley_shares

Subset = tuple[str, ...]
ALL = "all"
MAX_SHOWN = 63  # subsets that are shown one by one: those of six modalities
MEAN, WORST = "mean over subsets", "worst"


def wanted_subsets(text: str, modalities: Sequence[str]) -> tuple[Subset, ...]:
    """Parse the subsets that a text names: small ones first, each in the order of the modalities.

    Args:
        text: ``all``, or subsets separated by commas, their modalities joined by ``+``.
        modalities: the run's modalities.

    Raises:
        UnknownName: for a modality that the run does not have.
        ConfigError: if ``all`` would be too many.

    Example:
        >>> wanted_subsets("all", ("flair", "t1"))
        (('flair',), ('t1',), ('flair', 't1'))
        >>> wanted_subsets("t1+flair,t1", ("flair", "t1"))
        (('t1',), ('flair', 't1'))
    """
    if text.strip() == ALL:
        if len(modalities) > MAX_MODALITIES:
            raise ConfigError(
                f"{len(modalities)} modalities have {2 ** len(modalities) - 1} subsets, too many to score (all of them "
                f"up to {MAX_MODALITIES} modalities); name some, such as --subsets {'+'.join(modalities)}"
            )
        return tuple(s for size in range(1, len(modalities) + 1) for s in combinations(modalities, size))
    subsets = []
    for word in text.split(","):
        members = [name.strip() for name in word.split("+")]
        for name in members:
            if name not in modalities:
                raise UnknownName("modality in this run", name, modalities)
        subsets.append(tuple(m for m in modalities if m in members))
    return tuple(sorted(dict.fromkeys(subsets), key=len))


def subset_name(subset: Subset) -> str:
    """The subset as text, such as ``flair+t1``."""
    return "+".join(subset)


def shown_subsets(subsets: Sequence[Subset], modalities: Sequence[str]) -> tuple[Subset, ...]:
    """All subsets or, where these are too many to read, those of one, of all but one, and of all modalities."""
    if len(subsets) <= MAX_SHOWN:
        return tuple(subsets)
    return tuple(s for s in subsets if len(s) in (1, len(modalities) - 1, len(modalities)))


@dataclass(frozen=True)
class SubsetTable:
    """The score of each subset in each column.

    Attributes:
        modalities: the run's modalities.
        values: by subset and column, such as ``Dice WT`` or ``accuracy``; None where not defined.
        lower_is_better: columns in which lower is better.
    """

    modalities: tuple[str, ...]
    values: Mapping[Subset, Mapping[str, float | None]]
    lower_is_better: Collection[str] = ()

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """Rows."""
        return tuple(self.values)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns."""
        return tuple(next(iter(self.values.values())))

    def closing(self) -> dict[str, dict[str, float | None]]:
        """The mean over the subsets and the worst of them, column by column; None if one of them is not defined."""
        closing: dict[str, dict[str, float | None]] = {MEAN: {}, WORST: {}}
        for column in self.columns:
            scores = [row[column] for row in self.values.values()]
            worst = max if column in self.lower_is_better else min
            closing[MEAN][column] = mean(scores)
            closing[WORST][column] = None if None in scores else worst(s for s in scores if s is not None)
        return closing

    def complete(self) -> bool:
        """Whether every non-empty subset has a row."""
        return len(self.values) == 2 ** len(self.modalities) - 1

    def shapley(self, nothing: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
        """Shapley value of each modality in each column: what it adds, on average over all orders of adding modalities.

        Exact, from the score of every subset (Shapley, 1953). The values of a column sum to its score of all modalities
        minus that of none. None where a score is not defined.

        Args:
            nothing: score of the empty subset in each column.
        """
        coalitions, weights = exact_plan(len(self.modalities))
        members = [tuple(m for m, present in zip(self.modalities, row, strict=True) if present) for row in coalitions]
        values: dict[str, dict[str, float | None]] = {m: {} for m in self.modalities}
        for column in self.columns:
            scores = [(self.values[subset] if subset else nothing)[column] for subset in members]
            known = [score for score in scores if score is not None]
            added: Sequence[float | None] = [None] * len(self.modalities)
            if len(known) == len(scores):
                added = (weights.double() @ torch.tensor(known, dtype=torch.float64)).tolist()
            for modality, value in zip(self.modalities, added, strict=True):
                values[modality][column] = value
        return values


def subset_report(
    by_subset: Mapping[Subset, Scores],
    table: SubsetTable,
    shapley: Mapping[str, Mapping[str, float | None]] | None,
    orders: Mapping[str, OrderViolations],
) -> Scores:
    """The headline, rows and tables about these subsets.

    Args:
        by_subset: scores of the same cases from each subset.
        table: their headlines.
        shapley: see ``SubsetTable.shapley``; None where not all subsets are known.
        orders: order violations by metric; empty where no subset is a part of another.
    """
    closing = table.closing()
    headline = dict(table.values.get(table.modalities, {}))
    headline |= {f"{column}, {name}": value for name, row in closing.items() for column, value in row.items()}
    tables = list(_score_tables(table, closing))
    if shapley is not None:
        headline |= {f"{column}, Shapley value of {m}": v for m, row in shapley.items() for column, v in row.items()}
        tables.append(_shapley_table(shapley, table.columns))
    headline |= {f"{metric}, {ORDER}": order.share for metric, order in orders.items()}
    if orders:
        tables.append(_order_table(orders))
    return Scores(
        headline=headline,
        summary=tuple(row for subset, scores in by_subset.items() for row in _summary(subset, scores)),
        cases=tuple(_case(subset, row) for subset, scores in by_subset.items() for row in scores.cases),
        tables=tuple(tables),
    )


def subset_rows(table: SubsetTable) -> list[Record]:
    """The whole table as rows of plain values, the mean and the worst last."""
    rows = {subset_name(subset): row for subset, row in table.values.items()}
    return [{"subset": name, **row} for name, row in {**rows, **table.closing()}.items()]


def shapley_rows(shapley: Mapping[str, Mapping[str, float | None]]) -> list[Record]:
    """Shapley values and shares as rows of plain values."""
    return [
        {"modality": modality, "score": column, "value": row[column], "share": _shares(shapley, column)[modality]}
        for modality, row in shapley.items()
        for column in row
    ]


def _score_tables(table: SubsetTable, closing: Mapping[str, Mapping[str, float | None]]) -> Iterator[Table]:
    header = ("given", *table.columns)
    end = tuple((name, *map(rounded, row.values())) for name, row in closing.items())

    def lines(subsets: Sequence[Subset]) -> tuple[tuple[str, ...], ...]:
        return tuple((subset_name(s), *map(rounded, table.values[s].values())) for s in subsets) + end

    shown = shown_subsets(table.subsets, table.modalities)
    if len(shown) == len(table.subsets):
        yield Table("modalities that are given", header, lines(shown))
    else:
        title = f"each modality alone, all but one, and all; mean and worst of all {len(table.subsets)} subsets"
        yield Table(title, header, lines(shown))
        yield Table("all subsets", header, lines(table.subsets), detail=True)


def _shapley_table(shapley: Mapping[str, Mapping[str, float | None]], columns: Sequence[str]) -> Table:
    shares = {column: _shares(shapley, column) for column in columns}
    rows = [
        (modality, *(_with_share(row[column], shares[column][modality]) for column in columns))
        for modality, row in shapley.items()
    ]
    return Table("what each modality adds: Shapley value (share)", ("modality", *columns), tuple(rows))


def order_rows(orders: Mapping[str, OrderViolations]) -> list[Record]:
    """Order violations of every case as rows of plain values."""
    return [
        {"score": metric, "case": case, "pairs": order.pairs, "violations": n, "by_more_than_0.01": order.clear[case]}
        for metric, order in orders.items()
        for case, n in order.any.items()
    ]


def _order_table(orders: Mapping[str, OrderViolations]) -> Table:
    first = next(iter(orders.values()))
    rows = tuple(
        (metric, percent(order.share), percent(order.clear_share), f"{order.worst} ({rounded(order.worst_mean)})")
        for metric, order in orders.items()
    )
    title = f"order violations: share of {len(first.any)} cases x {first.pairs} nested pairs of subsets"
    return Table(title, ("score", "fewer score higher", f"by over {CLEARLY:g}", "worst subset"), rows)


def _shares(shapley: Mapping[str, Mapping[str, float | None]], column: str) -> dict[str, float | None]:
    values = [row[column] for row in shapley.values()]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return dict.fromkeys(shapley)
    return dict(zip(shapley, shapley_shares(torch.tensor(known, dtype=torch.float64)).tolist(), strict=True))


def _with_share(value: float | None, share: float | None) -> str:
    return "-" if value is None or share is None else f"{rounded(value)} ({round(100 * share)} %)"


def _summary(subset: Subset, scores: Scores) -> Iterator[Record]:
    """One row per region; without regions, one with every metric."""
    regions = [row for row in scores.summary if "region" in row]
    for row in regions:
        columns = (
            "region",
            "dice_mean",
            "dice_sd",
            *(k for k in ("hd95_mean", "hd95_median") if k in row),
            "cases",
        )
        yield {"subset": subset_name(subset), **{k: row[k] for k in columns}}
    if not regions:
        yield {"subset": subset_name(subset), **scores.headline}


def _case(subset: Subset, row: Record) -> Record:
    """The scores of one case, or of one of its regions, with the subset after the id."""
    of_regions = ("region", "dice", *(("hd95_mm", "empty") if "hd95_mm" in row else ()))
    rest = {key: row[key] for key in (of_regions if "region" in row else row) if key != "case"}
    return {"case": row["case"], "subset": subset_name(subset), **rest}
