"""Which controls a comparison lacks: strategies beside which one of its strategies says it has to be seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cggm_med import registry
from cggm_med.runs.finished_run import FinishedRun


def absent_controls(runs: Sequence[FinishedRun]) -> dict[str, tuple[str, ...]]:
    """By control that no run has, the strategies that name it (``BalancingStrategy.controls``).

    A control stands for runs on the same modalities; runs on one modality need none. Of a strategy that is no longer
    installed, nothing is known.

    Args:
        runs: of the comparison.
    """
    there = {(run.strategy, run.modalities) for run in runs}
    installed = registry.names(registry.STRATEGIES)
    absent: dict[str, dict[str, None]] = {}
    for strategy, modalities in sorted(there):
        if len(modalities) > 1 and strategy in installed:
            for control in registry.load(registry.STRATEGIES, strategy).controls:
                if (control, modalities) not in there:
                    absent.setdefault(control, {})[strategy] = None
    return {control: tuple(absent[control]) for control in sorted(absent)}


def controls_line(absent: Mapping[str, Sequence[str]], strategies: Sequence[str]) -> str:
    """The same in one line; empty if no control is absent.

    Args:
        absent: see ``absent_controls``.
        strategies: of the comparison.

    Example:
        >>> controls_line({"joint": ["cggm", "ogm"], "uniform": ["cggm"]}, ["cggm", "ogm"])
        'Controls not in this comparison: joint (of every strategy), uniform (of cggm).'
    """
    everyone = set(strategies)

    def of(names: Sequence[str]) -> str:
        return "every strategy" if len(everyone) > 1 and set(names) == everyone else ", ".join(names)

    lacking = ", ".join(f"{control} (of {of(names)})" for control, names in absent.items())
    return f"Controls not in this comparison: {lacking}." if lacking else ""
