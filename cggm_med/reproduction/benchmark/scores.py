"""The figures of a benchmark from finished runs: each case from each subset, and means over cases, splits and seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cggm_med.data.splits import Splits
from cggm_med.errors import ConfigError
from cggm_med.reproduction.benchmark.case_lists import number_of
from cggm_med.reproduction.benchmark.catalogue import MODALITIES, REGIONS, SUBSETS, Benchmark, Convention
from cggm_med.results.aggregate import MEAN, grouped, mean, sd
from cggm_med.results.results import Record
from cggm_med.runs.finished_run import FinishedRun

ALL_SUBSETS = "mean over subsets"
DICE, HD95 = "dice", "hd95_mm"
Subset = tuple[str, ...]

RULES = {
    "mean ± sd": "over seeds; the value of a seed is the mean over the cases of each split, then over its splits",
    MEAN: "of the regions WT, TC and ET",
    ALL_SUBSETS: f"of the {len(SUBSETS)} rows above it, each counts the same",
    "order of the subsets": "that of RFNet (github.com/dyh127/RFNet@6938e79 train.py), which mmFormer has too",
}


def scored_cases(
    benchmark: Benchmark, lists: Sequence[Splits], runs: Mapping[str, Sequence[FinishedRun]]
) -> list[Record]:
    """One row per run, case, subset and region, with the subsets in the field's order.

    Args:
        benchmark: for messages.
        lists: its splits.
        runs: by the name of what was trained.

    Raises:
        ConfigError: for a run on other splits, other modalities or regions, or without scores of every subset.
    """
    return [row for name, group in runs.items() for run in group for row in _of_run(benchmark, lists, name, run)]


def require_benchmark(benchmark: Benchmark, lists: Sequence[Splits], run: FinishedRun) -> int:
    """The number of the split that a run was trained on.

    Raises:
        ConfigError: if it was trained, chosen or tested on other cases, or has other modalities or regions.
    """
    number = number_of(run.splits, lists)
    if number is None:
        closest = min(lists, key=lambda of: len({*of.test} ^ {*run.splits.test}))
        differing = [
            f"{split}: {len(extra)} of {len(ids)} unlisted, {len(lacking)} of {len(listed)} missing"
            for (split, ids), (_, listed) in zip(run.splits.items(), closest.items(), strict=True)
            if (extra := {*ids} - {*listed}) | (lacking := {*listed} - {*ids})
        ]
        raise ConfigError(
            f"{run.path} was not trained on {benchmark.name}, whose cases are others: "
            f"{'; '.join(differing)}; train it with 'cggm-med benchmark {benchmark.name} --data PATH'"
        )
    regions = {row.get("region") for row in run.report.scores.cases}
    if {*run.modalities} != {*MODALITIES} or regions != {*REGIONS}:
        raise ConfigError(
            f"{run.path} has modalities {', '.join(run.modalities)} and regions {', '.join(map(str, regions))}; "
            f"expected {', '.join(MODALITIES)} and {', '.join(REGIONS)}"
        )
    return number


def _of_run(benchmark: Benchmark, lists: Sequence[Splits], name: str, run: FinishedRun) -> Iterator[Record]:
    number = require_benchmark(benchmark, lists, run)
    scored = {(row["case"], frozenset(row["subset"].split("+")), row["region"]): row for row in run.subsets}
    for case, subset, region in itertools.product(run.splits.test, SUBSETS, REGIONS):
        row = scored.get((case, frozenset(subset), region))
        if row is None or HD95 not in row:
            what = "HD95 of" if row else "scores of"
            raise ConfigError(
                f"{run.path / 'subsets'} lacks {what} {'+'.join(subset)} in {case}; move that folder away and repeat, "
                "which scores all subsets, with HD95"
            )
        yield {
            "strategy": name,
            "seed": run.seed,
            "split": number,
            "case": case,
            "subset": "+".join(subset),
            "region": region,
            DICE: row[DICE],
            HD95: row[HD95],
            "empty": row["empty"],
        }


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, and its spread; None where it is not defined."""

    mean: float | None
    sd: float | None = None


def figures(rows: Sequence[Record], value: Callable[[Record], float | None]) -> dict[tuple[str, str, str], Figure]:
    """The mean of a value by strategy, subset and region, also over regions and over subsets.

    Args:
        rows: see ``scored_cases``.
        value: of a row; None: the row is left out.
    """
    by_seed: dict[tuple[str, str, str], dict[int, float | None]] = {}
    for (name, seed), of_seed in grouped(rows, ["strategy", "seed"]).items():
        table = _of_seed(of_seed, value)
        for subset, region in itertools.product([*map("+".join, SUBSETS), ALL_SUBSETS], [*REGIONS, MEAN]):
            inner = [
                table[s, r]
                for s in (map("+".join, SUBSETS) if subset == ALL_SUBSETS else [subset])
                for r in (REGIONS if region == MEAN else [region])
            ]
            by_seed.setdefault((name, subset, region), {})[int(seed)] = mean(inner)
    return {key: Figure(mean([*seeds.values()]), sd([*seeds.values()])) for key, seeds in by_seed.items()}


def of_convention(convention: Convention) -> Callable[[Record], float | None]:
    """HD95 of a row by a convention for empty masks."""
    by_kind = {"both": convention.both_mm, "missed": convention.one_mm, "false": convention.one_mm}
    return lambda row: by_kind[row["empty"]] if row["empty"] in by_kind else row[HD95]


def incomplete(rows: Sequence[Record], splits: int) -> list[str]:
    """What is said of seeds that were not trained on every split."""
    said = []
    for (name, seed), of_seed in grouped(rows, ["strategy", "seed"]).items():
        held = sorted({row["split"] for row in of_seed})
        if len(held) < splits:
            which = ", ".join(map(str, held))
            said.append(f"{name}, seed {seed}: only split {which} of {splits}; published figures are means over all")
    return said


def _of_seed(rows: Sequence[Record], value: Callable[[Record], float | None]) -> dict[tuple[str, str], float | None]:
    """The mean over the cases of each split, and over the splits, by subset and region."""
    means: dict[tuple[str, str], list[float | None]] = {}
    for (_, subset, region), group in grouped(rows, ["split", "subset", "region"]).items():
        known = [v for row in group if (v := value(row)) is not None]
        means.setdefault((str(subset), str(region)), []).append(mean(known))
    return {key: mean(of_splits) for key, of_splits in means.items()}
