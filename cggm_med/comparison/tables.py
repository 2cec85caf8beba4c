"""Writing a comparison as Markdown, CSV, JSON and PNG, and its tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cggm_med.comparison.compare import Comparison, ComparisonRow, mean_value
from cggm_med.comparison.figure import comparison_figure
from cggm_med.comparison.notes import notes
from cggm_med.files import write_json, write_text
from cggm_med.metrics.regions import LOWER_IS_BETTER
from cggm_med.results.aggregate import mean, median
from cggm_med.results.order import CLEARLY, ORDER
from cggm_med.results.tables import Table, csv_text, markdown_table, p_text, percent, rounded, signed
from cggm_med.runs.finished_run import OVER_SUBSETS, FinishedRun

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
COSTS = ("seconds", "cpu_seconds", "peak_memory_bytes", "step_memory_bytes", "threads", "device")  # of cost.json
COST_HEADER = ("strategy", "runs", "minutes", "time", "memory GB", "memory", "more MB")


def write_comparison(folder: Path, comparison: Comparison, provenance: Mapping[str, str]) -> None:
    """Write ``comparison.md``, ``.csv``, ``.json`` and ``.png``, and ``runs.csv``.

    Args:
        folder: to write to; an older comparison there is replaced.
        comparison: what to write.
        provenance: command, versions and the like.
    """
    tables = comparison_tables(comparison)
    write_text(folder / "comparison.md", _markdown(comparison, tables, provenance))
    write_text(folder / "comparison.csv", csv_text([_plain(row) for row in comparison.rows]))
    write_text(folder / "runs.csv", csv_text(run_rows(comparison)))
    comparison_figure(folder / "comparison.png", comparison)
    content = {
        "task": comparison.task,
        "baseline": comparison.baseline,
        "chosen_by": comparison.chosen_by,
        "lower_is_better": comparison.lower_is_better,
        "rows": [asdict(row) for row in comparison.rows],
        "runs": run_rows(comparison),
        "excluded": [asdict(x) for x in comparison.excluded],
        "absent_controls": dict(comparison.absent_controls),
        "design": {key: value for key, value in asdict(comparison.design).items() if key != "groups"},
        "primary": None if comparison.primary is None else asdict(comparison.primary),
        "notes": notes(comparison),
        "rules": RULES,
        "provenance": dict(provenance),
    }
    write_json(folder / "comparison.json", content)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Tables of the first metric, other metrics, subsets of the modalities, cost, and runs that were left out."""
    tables = []
    for metric in comparison.metrics:
        of_metric = comparison.of_metric(metric)
        rows = tuple(_score_cells(row, _is_primary(comparison, row)) for row in of_metric)
        header: tuple[str, ...] = SCORE_HEADER
        if any(row.seeds_interval for row in of_metric):
            header = (*header[:-1], OTHER_SEEDS, header[-1])
            rows = tuple((*c[:-1], _other_seeds(row), c[-1]) for c, row in zip(rows, of_metric, strict=True))
        title = metric + (LOWER_IS_BETTER if comparison.lower_is_better and metric == comparison.chosen_by else "")
        detail = metric not in (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}")
        tables.append(Table(title, header, rows, detail=detail))
    if order := _order_table(comparison):
        tables.append(order)
    if subsets := _subset_table(comparison):
        tables.append(subsets)
    tables.append(_cost_table(comparison))
    if comparison.excluded:
        rows = tuple((x.run, x.reason) for x in comparison.excluded)
        tables.append(Table("runs that take no part", ("run", "why"), rows))
    return tables


def shown_in_terminal(table: Table) -> Table:
    """The table without the columns that a terminal has no room for; the files have them."""
    if table.header[:4] != SCORE_HEADER[:4]:
        return table
    kept = [0, 2, 4, 5, 7, 8, len(table.header) - 1]
    return Table(
        table.title, tuple(table.header[i] for i in kept), tuple(tuple(r[i] for i in kept) for r in table.rows)
    )


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per run: seed, number of cases, every metric, cost."""
    rows = []
    for run in comparison.runs:
        means = {metric: mean_value(values) for metric, values in run.values.items()}
        cost = {key: run.cost.get(key) for key in COSTS}
        plain = {"strategy": run.name, "seed": run.seed, "cases": len(run.tested), "first_case": min(run.tested)}
        rows.append({**plain, **run.headline, **means, **cost, "folder": str(run.path)})
    return rows


def _is_primary(comparison: Comparison, row: ComparisonRow) -> bool:
    return comparison.primary is not None and comparison.primary.row == row


def _interval(ends: tuple[float, float] | None, text: Callable[[float], str]) -> str:
    return "-" if ends is None else f"[{text(ends[0])}, {text(ends[1])}]"


def _score_cells(row: ComparisonRow, primary: bool) -> tuple[str, ...]:
    return (
        row.name,
        str(row.runs) + (f" ({row.paired} paired)" if row.difference is not None and row.paired < row.runs else ""),
        rounded(row.mean) + ("" if row.sd is None else f" ± {row.sd:.3f}"),
        _interval(row.interval, rounded),
        signed(row.difference),
        _interval(row.difference_interval, signed),
        p_text(row.p),
        "primary" if primary else p_text(row.p_max_t),
        rounded(row.detectable),
        f"{row.rank:g}",
    )


def _other_seeds(row: ComparisonRow) -> str:
    return "-" if row.seeds_interval is None else f"{_interval(row.seeds_interval, signed)}, p {p_text(row.seeds_p)}"


def _order_table(comparison: Comparison) -> Table | None:
    """How often fewer modalities score higher, mean over runs, and the subset that is worst on average over runs."""
    metrics = list(dict.fromkeys(metric for run in comparison.runs for metric in run.orders))
    if not metrics:
        return None
    rows = []
    for name in comparison.names:
        runs = [run for run in comparison.runs if run.name == name]
        cells = [name]
        for metric in metrics:
            orders = [order for run in runs if (order := run.orders.get(metric))]
            shares = mean([order.share for order in orders]), mean([order.clear_share for order in orders])
            whole = len(orders) == len(runs)  # else some runs did not score their subsets, and no share is of all
            cells.append(" / ".join("-" if share is None or not whole else percent(share) for share in shares))
        by_subset = subset_means(comparison, runs)
        scored = {subset: value for subset, value in by_subset.items() if value is not None}
        worst = (max if comparison.lower_is_better else min)(scored, key=lambda s: scored[s], default=None)
        rows.append((*cells, "-" if worst is None else f"{worst} ({rounded(scored[worst])})"))
    title = f"{ORDER}: share of cases and nested pairs of subsets in which fewer score higher / by over {CLEARLY:g}"
    return Table(title, ("strategy", *metrics, "worst subset"), tuple(rows))


def subset_means(comparison: Comparison, runs: Sequence[FinishedRun]) -> dict[str, float | None]:
    """Mean of the first metric over runs by subset of the modalities; None where a run lacks it."""
    subsets = dict.fromkeys(subset for run in comparison.runs for subset in run.subset_values)
    return {
        subset: mean(
            [
                mean_value(run.subset_values[subset][comparison.chosen_by]) if subset in run.subset_values else None
                for run in runs
            ]
        )
        for subset in subsets
    }


def _subset_table(comparison: Comparison) -> Table | None:
    """Mean of the first metric of each strategy with each subset of the modalities, over all runs."""
    if not any(run.subsets for run in comparison.runs):
        return None
    by_name = {name: [run for run in comparison.runs if run.name == name] for name in comparison.names}
    means = {name: subset_means(comparison, runs) for name, runs in by_name.items()}
    subsets = list(means[comparison.baseline])
    rows = [(name, *(rounded(means[name][subset]) for subset in subsets)) for name in comparison.names]
    # Subsets are rows, since a table of fifteen columns is too wide.
    turned = tuple(zip(*rows, strict=True))
    body = tuple((subset, *cells) for subset, cells in zip(subsets, turned[1:], strict=True))
    return Table(f"{comparison.chosen_by} by subset of the modalities", ("subset", *turned[0]), body, detail=True)


def _cost_table(comparison: Comparison) -> Table:
    def usual(name: str, key: str) -> float | None:
        return median([run.cost[key] for run in comparison.runs if run.name == name and run.cost.get(key)])

    def ratio(name: str, key: str) -> str:
        own, baseline = usual(name, key), usual(comparison.baseline, key)
        return "-" if own is None or baseline is None else f"{own / baseline:.2f}"

    def scaled(value: float | None, unit: float) -> str:
        return "-" if value is None else f"{value / unit:.2f}"

    def more(name: str, key: str) -> str:
        own, baseline = usual(name, key), usual(comparison.baseline, key)
        return "-" if own is None or baseline is None else f"{(own - baseline) / 1e6:+.1f}"

    rows = []
    for name in comparison.names:
        runs = sum(run.name == name and bool(run.cost) for run in comparison.runs)
        minutes, memory = scaled(usual(name, "seconds"), 60), scaled(usual(name, "peak_memory_bytes"), 1e9)
        of_process = memory, ratio(name, "peak_memory_bytes")
        of_steps = more(name, "step_memory_bytes")
        rows.append((name, str(runs), minutes, ratio(name, "cpu_seconds"), *of_process, of_steps))
    return Table(f"cost of training (time and memory over {comparison.baseline})", COST_HEADER, tuple(rows))


def _markdown(comparison: Comparison, tables: Sequence[Table], provenance: Mapping[str, str]) -> str:
    seeds = sorted({run.seed for run in comparison.runs})
    parts = [
        f"# {comparison.task}: {len(tables[0].rows)} strategies, seeds {', '.join(map(str, seeds))}",
        f"Differences, p and cost are against `{comparison.baseline}`.",
        f"![{comparison.chosen_by} of each strategy](comparison.png)",
    ]
    for table in tables:
        parts += [f"## {table.title[0].upper()}{table.title[1:]}", markdown_table(table.header, table.rows)]
        if table is tables[0]:
            parts += notes(comparison)
    parts += ["## How it was computed", "\n".join(f"- {name}: {text}" for name, text in RULES.items())]
    rules = dict(comparison.runs[0].report.rules)
    if len({run.report.rules["checkpoint"] for run in comparison.runs}) > 1:
        rules["checkpoint"] = f"the one with the best validation {comparison.chosen_by}, for each run by itself"
    parts += ["## How it was scored", "\n".join(f"- {name}: {text}" for name, text in rules.items())]
    parts += ["## Where it comes from", "\n".join(f"- {name}: {text}" for name, text in provenance.items())]
    return "\n\n".join(parts) + "\n"


def _plain(row: ComparisonRow) -> dict[str, Any]:
    """One row with the ends of its intervals side by side."""
    plain = asdict(row)
    for key in ("interval", "difference_interval", "seeds_interval"):
        ends = plain.pop(key) or (None, None)
        plain |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
    return plain
