"""The scores of a run, with the rules behind them and where they come from, as table, JSON and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

EMPTY_KINDS = {"missed": "missed", "false": "made up", "both": "rightly empty"}


@dataclass(frozen=True)
class CaseScore:
    """One region of one case.

    Attributes:
        case: id.
        region: name.
        dice: in [0, 1].
        hd95_mm: 95th percentile Hausdorff distance.
        empty: ``none``, ``both``, ``missed`` or ``false``: which of target and prediction had no voxel.
        target_ml: true volume.
        predicted_ml: predicted volume.
    """

    case: str
    region: str
    dice: float
    hd95_mm: float
    empty: str
    target_ml: float
    predicted_ml: float


@dataclass(frozen=True)
class HeadScore:
    """One region of one case as one modality's own classifier head sees it; ``dice`` in [0, 1]."""

    case: str
    modality: str
    region: str
    dice: float


@dataclass(frozen=True)
class RegionSummary:
    """One region over all cases; ``sd`` is the sample standard deviation, None for a single case."""

    region: str
    dice_mean: float
    dice_sd: float | None
    dice_median: float
    hd95_mean: float
    hd95_median: float
    cases: int
    empty: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """Everything that is said about one evaluation.

    Attributes:
        task, strategy: registered names.
        split: which cases were scored.
        scores: a row for each case and region.
        head_scores: a row for each case, modality and region; empty without classifier heads.
        rules: definitions of the scores.
        provenance: command, versions, seed and the like.
    """

    task: str
    strategy: str
    split: str
    scores: tuple[CaseScore, ...]
    head_scores: tuple[HeadScore, ...]
    rules: Mapping[str, str]
    provenance: Mapping[str, str]

    @property
    def regions(self) -> list[str]:
        """Names in order of appearance."""
        return list(dict.fromkeys(score.region for score in self.scores))

    def summary(self) -> list[RegionSummary]:
        """One row a region, then ``mean``: each case's average over regions, summarised in the same way."""
        rows = [_summarise(name, [s for s in self.scores if s.region == name]) for name in self.regions]
        by_case: dict[str, list[CaseScore]] = {}
        for score in self.scores:
            by_case.setdefault(score.case, []).append(score)
        means = [
            CaseScore(
                case,
                "mean",
                statistics.fmean(s.dice for s in scores),
                statistics.fmean(s.hd95_mm for s in scores),
                "none",
                0.0,
                0.0,
            )
            for case, scores in by_case.items()
        ]
        return [*rows, _summarise("mean", means)]

    def head_summary(self) -> dict[str, dict[str, float]]:
        """Mean Dice by modality and region, and ``mean`` over regions."""
        table: dict[str, dict[str, float]] = {}
        for modality in dict.fromkeys(score.modality for score in self.head_scores):
            mine = [s for s in self.head_scores if s.modality == modality]
            row = {r: statistics.fmean(s.dice for s in mine if s.region == r) for r in self.regions}
            table[modality] = {**row, "mean": statistics.fmean(row.values())}
        return table

    def to_json(self) -> dict[str, Any]:
        """Plain values, the summary included so that other programs need not compute it."""
        plain = asdict(self)
        plain["scores"], plain["head_scores"] = list(plain["scores"]), list(plain["head_scores"])
        return {**plain, "summary": [asdict(row) for row in self.summary()], "head_summary": self.head_summary()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """The report that ``to_json`` wrote."""
        return cls(
            task=content["task"],
            strategy=content["strategy"],
            split=content["split"],
            scores=tuple(CaseScore(**score) for score in content["scores"]),
            head_scores=tuple(HeadScore(**score) for score in content["head_scores"]),
            rules=content["rules"],
            provenance=content["provenance"],
        )

    def to_markdown(self) -> str:
        """Tables and lists for people."""
        parts = [f"# {self.title}", _markdown(SUMMARY_HEADER, self.summary_rows())]
        if self.head_scores:
            parts += ["## Each modality's own head (Dice)", _markdown(self.head_header, self.head_rows())]
        header = ["case", "region", "Dice", "HD95 mm", "true ml", "predicted ml", "empty"]
        rows = [
            [
                s.case,
                s.region,
                f"{s.dice:.3f}",
                f"{s.hd95_mm:.1f}",
                f"{s.target_ml:.1f}",
                f"{s.predicted_ml:.1f}",
                EMPTY_KINDS.get(s.empty, "-"),
            ]
            for s in self.scores
        ]
        parts += ["## Cases", _markdown(header, rows)]
        parts += ["## How it was scored", "\n".join(f"- {name}: {text}" for name, text in self.rules.items())]
        parts += ["## Where it comes from", "\n".join(f"- {name}: {text}" for name, text in self.provenance.items())]
        return "\n\n".join(parts) + "\n"

    @property
    def title(self) -> str:
        """What was scored, in one line."""
        return f"{self.task}, {self.strategy}: {len({s.case for s in self.scores})} cases, split {self.split}"

    def summary_rows(self) -> list[list[str]]:
        """The summary as text, for tables with ``SUMMARY_HEADER``."""
        return [
            [
                row.region,
                f"{row.dice_mean:.3f}" + ("" if row.dice_sd is None else f" ± {row.dice_sd:.3f}"),
                f"{row.hd95_mean:.1f} ({row.hd95_median:.1f})",
                str(row.cases),
                ", ".join(f"{n} {EMPTY_KINDS[kind]}" for kind, n in row.empty.items()) or "-",
            ]
            for row in self.summary()
        ]

    @property
    def head_header(self) -> list[str]:
        """Columns of ``head_rows``."""
        return ["modality", *self.regions, "mean"]

    def head_rows(self) -> list[list[str]]:
        """The heads' mean Dice as text."""
        return [[modality, *(f"{v:.3f}" for v in row.values())] for modality, row in self.head_summary().items()]


SUMMARY_HEADER = ["region", "Dice mean ± sd", "HD95 mm mean (median)", "cases", "empty"]


def print_report(report: Report, console: Console) -> None:
    """Show the summary in a terminal."""
    table = Table(*SUMMARY_HEADER, title=report.title)
    for row in report.summary_rows():
        table.add_row(*row)
    console.print(table)
    if report.head_scores:
        heads = Table(*report.head_header, title="each modality's own head (Dice)")
        for row in report.head_rows():
            heads.add_row(*row)
        console.print(heads)


def _summarise(region: str, scores: Sequence[CaseScore]) -> RegionSummary:
    dices, distances = [s.dice for s in scores], [s.hd95_mm for s in scores]
    return RegionSummary(
        region=region,
        dice_mean=statistics.fmean(dices),
        dice_sd=statistics.stdev(dices) if len(dices) > 1 else None,
        dice_median=statistics.median(dices),
        hd95_mean=statistics.fmean(distances),
        hd95_median=statistics.median(distances),
        cases=len(scores),
        empty={kind: n for kind in EMPTY_KINDS if (n := sum(s.empty == kind for s in scores))},
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
