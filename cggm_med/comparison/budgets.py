"""Budgets of training: which runs are one strategy trained for longer or shorter, and which baseline is theirs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from cggm_med.runs.finished_run import FinishedRun

# Settings that say how long a run trains and nothing else, as they end or stand in names, see ``variant_name``.
KEYS = tuple(
    f"{section}{key}" for section in ("", "train.") for key in ("epochs", "steps_per_epoch", "stop_after", "hours")
)


def without_budget(name: str) -> str:
    """The name of a strategy without its budget.

    Example:
        >>> without_budget("cggm, rho=1.3, epochs=5")
        'cggm, rho=1.3'
    """
    return ", ".join(word for word in name.split(", ") if word.partition("=")[0] not in KEYS)


def budget_of(name: str) -> tuple[str, ...]:
    """The words of a name that say its budget; none if it is that of the settings which all share.

    Example:
        >>> budget_of("cggm, rho=1.3, epochs=5")
        ('epochs=5',)
    """
    return tuple(word for word in name.split(", ") if word.partition("=")[0] in KEYS)


def default_baseline(names: Sequence[str]) -> str:
    """``joint`` if it is there, else the first; without its budget where it was trained for several.

    Example:
        >>> default_baseline(["ogm, epochs=5", "joint, epochs=5", "joint, epochs=9"])
        'joint'
        >>> default_baseline(["joint, epochs=5", "joint, epochs=9"])
        'joint, epochs=5'
    """
    kinds = {name: without_budget(name) for name in names}
    chosen = next((name for name in names if kinds[name] == "joint"), names[0] if names else "joint")
    several = sum(kind == kinds.get(chosen) for kind in kinds.values()) > 1
    return kinds[chosen] if several and len(set(kinds.values())) > 1 else chosen


def baselines(names: Sequence[str], baseline: str) -> dict[str, str | None]:
    """What each strategy is compared with: the baseline, at the budget of the strategy if it was trained for several.

    Args:
        names: of all strategies.
        baseline: a name, with which all are compared; or a name without its budget.

    Returns:
        By name; None for one whose budget the baseline was not trained for. Empty if there is no such baseline.

    Example:
        >>> found = baselines(["joint, epochs=5", "joint, epochs=9", "ogm, epochs=9", "ogm, epochs=20"], "joint")
        >>> found["ogm, epochs=9"], found["ogm, epochs=20"]
        ('joint, epochs=9', None)
    """
    members = {budget_of(name): name for name in names if without_budget(name) == baseline}
    if len(members) > 1 or (members and baseline not in names):
        return {name: members.get(budget_of(name)) for name in names}
    return dict.fromkeys(names, baseline) if baseline in names else {}


def steps_of(runs: Sequence[FinishedRun]) -> int:
    """Steps of these runs; the median where folds or early stopping give each another number."""
    return round(statistics.median(run.steps for run in runs))


def ended_early(runs: Sequence[FinishedRun]) -> list[str]:
    """By strategy, after how many steps its runs ended; empty if none of them ended early."""
    if not any(run.ended for run in runs):
        return []
    found = []
    for name in dict.fromkeys(run.name for run in runs):
        steps = sorted(run.steps for run in runs if run.name == name)
        several = f"{steps[0]:,} to {steps[-1]:,}" if steps[0] < steps[-1] else f"{steps[0]:,}"
        found.append(f"`{name}` {several}")
    return found


def longest(runs: Sequence[FinishedRun]) -> tuple[str, ...]:
    """Names of the runs, of each strategy only that with most steps: what figures without room for all show."""
    steps = {name: steps_of([run for run in runs if run.name == name]) for name in dict.fromkeys(r.name for r in runs)}
    most: dict[str, int] = {}
    for name, number in steps.items():
        most[without_budget(name)] = max(number, most.get(without_budget(name), 0))
    return tuple(name for name, number in steps.items() if number == most[without_budget(name)])


def last_quarter_gain(run: FinishedRun) -> float | None:
    """By how much the best validation score improved over the last quarter of the steps; None without validations.

    Args:
        run: of any strategy.
    """
    if not run.folder.metrics.exists():
        return None
    chosen_by, sign = run.task_class.chosen_by, -1 if run.task_class.lower_is_better else 1
    scores = [
        (record["step"], sign * record["scores"][chosen_by])
        for record in run.records
        if record["kind"] == "validation" and record["scores"].get(chosen_by) is not None
    ]
    early = [score for step, score in scores if step <= 0.75 * steps_of([run])]
    return max(score for _, score in scores) - max(early) if early else None
