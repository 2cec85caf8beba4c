"""What stands under the first table of a comparison: what its numbers are about, and what was declared."""

from __future__ import annotations

from collections.abc import Iterator

from cggm_med.comparison.budgets import ended_early, last_quarter_gain, longest, steps_of
from cggm_med.comparison.compare import Comparison, Primary
from cggm_med.comparison.controls import controls_line
from cggm_med.comparison.design import DIVIDED, FRESH
from cggm_med.comparison.repeats import typical_gap
from cggm_med.comparison.statistics import MIN_PATIENTS
from cggm_med.results.aggregate import mean_of
from cggm_med.results.tables import p_text, signed
from cggm_med.runs.finished_run import OVER_SUBSETS


def notes(comparison: Comparison) -> list[str]:
    """One line each: the primary comparison, the others, what the differences are about, and absent controls."""
    absent = controls_line(comparison.absent_controls, [run.strategy for run in comparison.runs])
    lines = [_primary_line(comparison), *_exploratory(comparison), _about(comparison)]
    return [*lines, *_same_again(comparison), *_budget(comparison), *([absent] if absent else [])]


def _primary_line(comparison: Comparison) -> str:
    primary = comparison.primary
    if primary is None:
        return "No primary comparison was declared (`--primary`): all of this is exploratory."
    declared = primary.declaration
    by = f"`{declared.name}` against `{declared.baseline}` by {primary.metric}"
    if declared.margin is not None:
        by += f", not to be worse by {declared.margin:g} or more"
    return f"Primary comparison: {by}. {_outcome(comparison, primary)} It was declared {_when(comparison, primary)}."


def _outcome(comparison: Comparison, primary: Primary) -> str:
    row, margin = primary.row, primary.declaration.margin
    if row is None:
        return f"No runs of it can be paired here, against `{comparison.baseline}`."
    if row.difference_interval is None or primary.p is None:
        return f"Difference {signed(row.difference)}; too few runs for a test."
    low, high = row.difference_interval
    found = f"Difference {signed(row.difference)} [{signed(low)}, {signed(high)}]"
    p = p_text(primary.p)
    if margin is None:
        return f"{found}, p {p} (two-sided): {'better' if primary.shown else 'not shown to be better'}."
    verdict = "not inferior" if primary.shown else "not shown to be non-inferior"
    better = ", and better" if primary.better else ""
    return f"{found}; that it is worse by the margin, p {p} (one-sided, at 0.025): {verdict}{better}."


def _when(comparison: Comparison, primary: Primary) -> str:
    declared = primary.declaration
    finished = f"after {declared.finished} runs were finished" if declared.finished else "before any run was finished"
    replaced = f" in place of {', '.join(f'`{name}`' for name in primary.replaced)}" if primary.replaced else ""
    seeds = tuple(sorted({run.seed for run in comparison.runs}))
    others = "" if seeds == declared.seeds else f"; for seeds {_list(declared.seeds)}, and here are {_list(seeds)}"
    return f"{declared.declared}, {finished}{replaced}{others}"


def _exploratory(comparison: Comparison) -> Iterator[str]:
    corrected = [row for row in comparison.rows if row.score == comparison.metrics[0] and row.p_max_t is not None]
    if not corrected:
        return
    others = "All others are exploratory" if comparison.primary else "Each metric's p (max-t) is corrected"
    count = f"{len(corrected)} comparison{'s' * (len(corrected) > 1)}"
    line = f"{others}: p (max-t) allows for {count}." if comparison.primary else f"{others} for {count}."
    least = comparison.smallest_p
    if least is not None and least > 0.05:
        line += f" With so few runs it cannot fall below {least:.3g}, whatever they show."
    yield line


def _same_again(comparison: Comparison) -> Iterator[str]:
    """What an A/A row shows, at its longest training: differences that are none."""
    for name in (name for name in comparison.repeats if name in longest(comparison.runs)):
        found = []
        for metric in (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}"):
            row = next((row for row in comparison.of_metric(metric) if row.name == name), None)
            if row is not None and row.difference is not None:
                gap = typical_gap(_pairs(comparison, name, metric))
                ends = row.difference_interval
                interval = "" if ends is None else f" [{signed(ends[0])}, {signed(ends[1])}]"
                found.append(f"{metric} {signed(row.difference)}{interval}, single runs by {gap:.3f}")
        if found:
            yield (
                f"A/A: `{name}` is `{comparison.baselines[name]}` again, from other initial weights. By chance alone "
                f"it differs in {'; in '.join(found)} (mean absolute difference of a pair). This is the noise floor: a "
                "difference that is no larger says nothing."
            )


def _pairs(comparison: Comparison, name: str, metric: str) -> list[tuple[float, float]]:
    """The metric of each run of a strategy, and of its baseline's run with the same seed and cases."""
    partner = {run.pair: run for run in comparison.runs if run.name == comparison.baselines[name]}
    pairs = [(run, partner[run.pair]) for run in comparison.runs if run.name == name and run.pair in partner]
    return [(mean_of(run.values[metric]), mean_of(other.values[metric])) for run, other in pairs]


def _budget(comparison: Comparison) -> Iterator[str]:
    """Whether strategies are compared at one budget, and whether the baseline had learned what it can by its end."""
    early = ended_early(comparison.runs)
    if comparison.by_budget:
        same = "the same limits of its training" if early else "the same number of steps"
        yield f"Each strategy is compared with `{comparison.baseline}` trained for {same}."
    if early:
        yield (
            f"Trainings that ended early, by {_limits(comparison)}: steps trained: {', '.join(early)}. These are not "
            "equal, so a difference between strategies is also one of the length of training."
        )
    if alone := [name for name, baseline in comparison.baselines.items() if baseline is None]:
        names = ", ".join(f"`{name}`" for name in alone)
        yield f"No `{comparison.baseline}` was trained as long as {names}."
    for name in (name for name in longest(comparison.runs) if name in comparison.baselines.values()):
        runs = [run for run in comparison.runs if run.name == name]
        gains = [gain for run in runs if (gain := last_quarter_gain(run)) is not None]
        if len(gains) == len(runs):
            yield (
                f"Budget: {steps_of(runs):,} steps. Over the last quarter of them the best validation "
                f"{comparison.chosen_by} of `{name}` improved by {sum(gains) / len(gains):.3f} (mean over runs); while "
                "it still improves, a ranking is also one of speeds."
            )


def _limits(comparison: Comparison) -> str:
    """The settings that may have ended a training before its last step."""
    keys = [key for key in ("stop_after", "hours") if any(run.settings["train"].get(key) for run in comparison.runs)]
    return " or ".join(f"`train.{key}`" for key in keys)


def _about(comparison: Comparison) -> str:
    design, kind = comparison.design, comparison.runs[0].task_class.group_kind
    many = f"{design.patients} {kind}{'s' * (design.patients != 1)}"
    seeds = f"{design.seeds} seed{'s' * (design.seeds != 1)}"
    if design.kind == FRESH:
        return (
            f"Differences, intervals and p speak for other {kind}s and other seeds: every seed has {kind}s of its own, "
            f"so each of the {seeds} is an independent value (paired t-test)."
        )
    if design.kind == DIVIDED:
        return (
            f"Differences, intervals and p speak for other {kind}s and other seeds: the runs divide {many} in several "
            f"ways, and the t-test allows for the {kind}s that they share (Nadeau and Bengio 2003)."
        )
    if design.by_patient:
        return (
            f"Differences, intervals and p speak for other {kind}s, with the networks of the {seeds} trained here "
            f"(bootstrap over whole {kind}s): all seeds score the same {many}, so the seeds cannot speak for others. "
            f"'Other seeds' speaks for training again, on these {kind}s (paired t-test over seeds). A gain of the "
            "strategy shows in both."
        )
    return (
        f"Differences, intervals and p speak for other seeds on these {many} (paired t-test over seeds); for other "
        f"{kind}s they cannot, since all seeds score the same ones and there are fewer than {MIN_PATIENTS}."
    )


def _list(seeds: tuple[int, ...]) -> str:
    return ", ".join(map(str, seeds)) or "none"
