"""The tables of a comparison: metrics, subsets of the modalities, budgets, cost, and runs that were left out."""

from __future__ import annotations

from collections.abc import Callable

from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.costs import cost_table
from cggm_med.comparison.curves import curves_table
from cggm_med.comparison.metric_rows import ComparisonRow
from cggm_med.comparison.subset_tables import order_table, subset_table
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.results.order import CLEARLY
from cggm_med.results.tables import Table, p_text, rounded, signed
from cggm_med.runs.finished_run import OVER_SUBSETS

RULES = {
    "mean, sd": "mean and sample standard deviation over seeds; the score of a seed is its mean over the cases that it "
    "tested, in all folds",
    "95 % interval of the mean": "bootstrap over seeds and patients: both are drawn again, independently and with "
    "replacement, 10,000 times, a patient with all of its cases; 2.5th and 97.5th percentile (Owen 2007)",
    "difference": "mean of what a run scores more than the baseline's run of the same seed and cases",
    "95 % interval of the difference, p": "from the same distribution, so that the interval excludes 0 where p is "
    "below 0.05. Where every seed has patients of its own: t, over runs. Where the runs divide the same patients in "
    "several ways: t, over runs, with the variance multiplied by 1/n + n_test/n_train instead of 1/n (Nadeau and "
    "Bengio 2003). Where all runs score one test set: bootstrap over its patients of the differences averaged over "
    "seeds, with percentiles as far out as those of t (Hesterberg 2015)",
    "other seeds": "only with one test set: t, over seeds, on the same patients",
    "p (max-t)": "corrected for the number of exploratory comparisons, for each metric by itself: how often the "
    "largest t of all would be as large if the signs of whole runs (with one test set: of whole patients) were drawn "
    "by lot, the same for all strategies; all patterns of signs, or 10,000 (Westfall and Young 1993, single step)",
    "detectable": "smallest true difference that this comparison would find in 80 % of experiments like this one, at "
    "p or p (max-t) of 0.05, from the standard error of its difference (noncentral t)",
    "rank": "of the mean, 1 for the best",
    "order violations": "only where subsets of the modalities were scored: share of all cases and nested pairs of "
    f"subsets in which the smaller one scores higher in that case, and by more than {CLEARLY:g}; the worst subset is "
    "that of each run, and in the table of violations that of the mean over runs",
    "time": "processor time of the training over that of the baseline; minutes are on the clock, median over runs",
    "memory": "the most that the training process held, or on a GPU what torch allocated; median over runs",
    "more MB": "of 10^6 bytes, what a training step takes more than one of the baseline: the most that its tensors "
    "hold at once (weights, gradients, optimizer, activations), on a GPU as torch allocates it; median over runs. A "
    "joint baseline has classifier heads that watch, unless it was trained with strategy.heads=false",
}
SCORE_HEADER = (
    "strategy",
    "runs",
    "mean ± sd",
    "95 % interval",
    "difference",
    "95 % interval",
    "p",
    "p (max-t)",
    "detectable",
    "rank",
)
OTHER_SEEDS = "other seeds"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Tables of the first metric, other metrics, subsets of the modalities, cost, and runs that were left out."""
    more = (curves_table(comparison), order_table(comparison), subset_table(comparison), cost_table(comparison))
    tables = [*metric_tables(comparison), *more, excluded_table(comparison)]
    return [table for table in tables if table is not None]


def metric_tables(comparison: Comparison) -> list[Table]:
    """A table for each metric, the first one first."""
    tables = []
    for metric in comparison.metrics:
        of_metric = comparison.of_metric(metric)
        rows = tuple(_score_cells(row, _role(comparison, row)) for row in of_metric)
        header: tuple[str, ...] = SCORE_HEADER
        if any(row.seeds_interval for row in of_metric):
            header = (*header[:-1], OTHER_SEEDS, header[-1])
            rows = tuple((*c[:-1], _other_seeds(row), c[-1]) for c, row in zip(rows, of_metric, strict=True))
        title = metric + (LOWER_IS_BETTER if comparison.lower_is_better and metric == comparison.chosen_by else "")
        detail = metric not in (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}")
        tables.append(Table(title, header, rows, detail=detail))
    return tables


def excluded_table(comparison: Comparison) -> Table | None:
    """The runs that were left out, each with the reason; None if there are none."""
    rows = tuple((x.run, x.reason) for x in comparison.excluded)
    return Table("runs that take no part", ("run", "why"), rows) if rows else None


def shown_in_terminal(table: Table) -> Table:
    """The table without the columns that a terminal has no room for; the files have them."""
    if table.header[:4] != SCORE_HEADER[:4]:
        return table
    kept = [0, 2, 4, 5, 7, 8, len(table.header) - 1]
    return Table(
        table.title, tuple(table.header[i] for i in kept), tuple(tuple(r[i] for i in kept) for r in table.rows)
    )


def _role(comparison: Comparison, row: ComparisonRow) -> str:
    """What stands in place of a corrected p: why there is none."""
    if comparison.primary is not None and comparison.primary.row == row:
        return "primary"
    return "A/A" if row.name in comparison.repeats else ""


def _interval(ends: tuple[float, float] | None, text: Callable[[float], str]) -> str:
    return "-" if ends is None else f"[{text(ends[0])}, {text(ends[1])}]"


def _score_cells(row: ComparisonRow, role: str) -> tuple[str, ...]:
    return (
        row.name,
        str(row.runs) + (f" ({row.paired} paired)" if row.difference is not None and row.paired < row.runs else ""),
        rounded(row.mean) + ("" if row.sd is None else f" ± {row.sd:.3f}"),
        _interval(row.interval, rounded),
        signed(row.difference),
        _interval(row.difference_interval, signed),
        p_text(row.p),
        role or p_text(row.p_max_t),
        rounded(row.detectable),
        f"{row.rank:g}",
    )


def _other_seeds(row: ComparisonRow) -> str:
    return "-" if row.seeds_interval is None else f"{_interval(row.seeds_interval, signed)}, p {p_text(row.seeds_p)}"
