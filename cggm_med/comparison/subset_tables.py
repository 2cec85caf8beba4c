"""Tables of a comparison about subsets of the modalities: the scores of each, and order violations."""

from __future__ import annotations

from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.subset_scores import subsets_of
from cggm_med.results.aggregate import mean
from cggm_med.results.order import CLEARLY, ORDER
from cggm_med.results.tables import Table, percent, rounded


def subset_table(comparison: Comparison) -> Table | None:
    """The means; None without subsets. Subsets are rows, since a table of fifteen columns is too wide."""
    if not comparison.subset_scores:
        return None
    means = {(score.name, score.subset): score.mean for score in comparison.subset_scores}
    body = tuple(
        (subset, *(rounded(means.get((name, subset))) for name in comparison.names))
        for subset in subsets_of(comparison.runs)
    )
    title = f"{comparison.chosen_by} by subset of the modalities"
    return Table(title, ("subset", *comparison.names), body, detail=True)


def order_table(comparison: Comparison) -> Table | None:
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
        own = [score for score in comparison.subset_scores if score.name == name]
        worst = (max if comparison.lower_is_better else min)(own, key=lambda score: score.mean, default=None)
        rows.append((*cells, "-" if worst is None else f"{worst.subset} ({rounded(worst.mean)})"))
    title = f"{ORDER}: share of cases and nested pairs of subsets in which fewer score higher / by over {CLEARLY:g}"
    return Table(title, ("strategy", *metrics, "worst subset"), tuple(rows))
