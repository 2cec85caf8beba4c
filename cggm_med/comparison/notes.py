"""What stands under the first table of a comparison: what its numbers are about, and what was declared."""

from __future__ import annotations

from collections.abc import Iterator

from cggm_med.comparison.compare import Comparison, Primary
from cggm_med.comparison.controls import controls_line
from cggm_med.comparison.design import DIVIDED, FRESH
from cggm_med.comparison.statistics import MIN_PATIENTS
from cggm_med.results.tables import p_text, signed


def notes(comparison: Comparison) -> list[str]:
    """One line each: the primary comparison, the others, what the differences are about, and absent controls."""
    absent = controls_line(comparison.absent_controls, [run.strategy for run in comparison.runs])
    return [_primary_line(comparison), *_exploratory(comparison), _about(comparison), *([absent] if absent else [])]


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
