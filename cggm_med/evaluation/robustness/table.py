"""Dice in every condition: summary rows, tables, and the rules behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cggm_med.data.volumes.artefacts import ARTEFACTS, SEVERITIES
from cggm_med.evaluation.robustness.conditions import CLEAN, MISSING, Condition
from cggm_med.results.aggregate import aggregate, with_mean
from cggm_med.results.results import Record, Scores
from cggm_med.results.tables import Table
from cggm_med.task.capabilities import Volumes


def robustness_scores(rows: Sequence[Record], conditions: Sequence[Condition], modalities: Sequence[str]) -> Scores:
    """Dice over all cases, and a table for each artefact.

    Args:
        rows: see ``score_conditions``.
        conditions: clean scans first.
        modalities: the run's modalities.
    """
    regions = list(dict.fromkeys(row["region"] for row in rows))
    names = list(conditions[0].record)
    summary = aggregate(with_mean(rows, ["case", *names], "region", ["dice"]), [*names, "region"], "dice")
    clean = {row["region"]: row["dice_mean"] for row in summary if row["artefact"] == CLEAN}
    summary = [{**row, "dice_drop": clean[row["region"]] - row["dice_mean"]} for row in summary]
    means = {(_key(row), row["region"]): row["dice_mean"] for row in summary}

    def cell(condition: Condition, region: str) -> str:
        return f"{means[_key(condition.record), region]:.3f}"

    def label(affected: tuple[str, ...]) -> str:
        return "all at once" if len(affected) > 1 and affected == tuple(modalities) else "+".join(affected)

    tables = []
    for artefact in dict.fromkeys(c.artefact for c in conditions if c.severity):
        mine = [c for c in conditions if c.artefact == artefact]
        levels = sorted({c.severity for c in mine})
        affected = dict.fromkeys(c.modalities for c in mine)
        for region in ("mean", *regions):
            lines = tuple(
                (
                    label(s),
                    cell(conditions[0], region),
                    *(cell(Condition(artefact, s, level), region) for level in levels),
                )
                for s in affected
            )
            title = f"{artefact}: Dice by severity, {'mean of ' + ', '.join(regions) if region == 'mean' else region}"
            header = ("modality", "clean", *map(str, levels))
            tables.append(Table(title, header, lines, detail=region != "mean"))
    if absent := [c for c in conditions if c.artefact == MISSING]:
        lines = tuple(
            ("+".join(c.modalities) or "none", *(cell(c, region) for region in (*regions, "mean")))
            for c in (conditions[0], *absent)
        )
        tables.append(Table("missing modalities: Dice", ("missing", *regions, "mean"), lines))
    if not tables:
        tables.append(Table("", ("region", "Dice"), tuple((r, cell(conditions[0], r)) for r in (*regions, "mean"))))
    headline = {f"Dice {region}": value for region, value in clean.items()}
    return Scores(headline=headline, summary=tuple(summary), cases=tuple(rows), tables=tuple(tables))


def robustness_rules(volumes: Volumes, conditions: Sequence[Condition]) -> dict[str, str]:
    """Definitions of the scores, the artefacts and their severities."""
    rules = volumes.dice_rules()
    rules["clean"] = "the scans as they are, through the same steps; severity 0 of every artefact"
    used = dict.fromkeys(c.artefact for c in conditions if c.severity)
    if used:
        rules["artefacts"] = (
            "applied to each image on its own grid before preprocessing, to one modality at a time or to all at once; "
            "only voxels that differ from the constant background are changed, as after skull stripping; the signal is "
            "what lies above the image's darkest voxel; values that fall below it are kept"
        )
        rules["randomness"] = (
            "each artefact of each modality of each case has one geometry, which follows from the seed and these names "
            "alone; the severity decides the amount"
        )
    for name in used:
        artefact = ARTEFACTS[name]
        amounts = ", ".join(f"{artefact.amount(s):g}" for s in SEVERITIES)
        rules[name] = f"{artefact.description}. Severity 1 to {len(SEVERITIES)}: {amounts} ({artefact.unit})"
    if any(c.artefact == MISSING for c in conditions):
        rules["missing"] = "these modalities are left out; the fusion is of those that are there"
    return rules


def _key(row: Record) -> tuple[Any, ...]:
    """What tells conditions apart."""
    return row["artefact"], row["modalities"], row["severity"]
