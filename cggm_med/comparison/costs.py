"""What the training of each strategy of a comparison took, beside its baseline."""

from __future__ import annotations

from cggm_med.comparison.compare import Comparison
from cggm_med.results.aggregate import median
from cggm_med.results.tables import Table

COSTS = ("seconds", "cpu_seconds", "peak_memory_bytes", "step_memory_bytes", "threads", "device")  # of cost.json
HEADER = ("strategy", "runs", "minutes", "time", "memory GB", "memory", "more MB")


def usual_cost(comparison: Comparison, name: str | None, key: str) -> float | None:
    """The median over the runs of a strategy; None if no run has it.

    Args:
        comparison: of the runs.
        name: of the strategy; None: there is none.
        key: one of ``COSTS``.
    """
    return median([run.cost[key] for run in comparison.runs if run.name == name and run.cost.get(key)])


def cost_ratio(comparison: Comparison, name: str, key: str) -> float | None:
    """The cost of a strategy over that of its baseline; None where one of them is unknown."""
    own, baseline = usual_cost(comparison, name, key), usual_cost(comparison, comparison.baselines[name], key)
    return None if own is None or baseline is None else own / baseline


def cost_table(comparison: Comparison) -> Table:
    """One row per strategy."""

    def scaled(value: float | None, unit: float) -> str:
        return "-" if value is None else f"{value / unit:.2f}"

    def more(name: str, key: str) -> str:
        own, baseline = (usual_cost(comparison, of, key) for of in (name, comparison.baselines[name]))
        return "-" if own is None or baseline is None else f"{(own - baseline) / 1e6:+.1f}"

    rows = []
    for name in comparison.names:
        runs = sum(run.name == name and bool(run.cost) for run in comparison.runs)
        minutes, memory = (
            scaled(usual_cost(comparison, name, key), unit)
            for key, unit in (("seconds", 60), ("peak_memory_bytes", 1e9))
        )
        time, of_process = (cost_ratio(comparison, name, key) for key in ("cpu_seconds", "peak_memory_bytes"))
        ratios = (scaled(time, 1), memory, scaled(of_process, 1))
        rows.append((name, str(runs), minutes, *ratios, more(name, "step_memory_bytes")))
    return Table(f"cost of training (time and memory over {comparison.baseline})", HEADER, tuple(rows))
