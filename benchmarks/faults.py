"""How many seeded faults each command finds, kind by kind, and how many sound cases it objects to.

    python benchmarks/faults.py [--cohort lgg=LIST.json] [--seeds 3] [--sound 60] [--json FILE] [--tiny]

Faults are those of ``tests/faults/catalogue.py``, on phantom patients and, with ``--cohort``, on the cases of a list
with a file of each modality and ``label``. Every other case of such a cohort is sound company; the faults befall the
rest, and each half is judged as sound beside the other. Sound are as well patients of other seeds of the phantom, under
each of its presets and with scanners that differ from patient to patient. No limit of the checks was set on the seeds
of the phantom that are drawn here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.catalogue import FAULTS, Fault, Scans
from faults.commands import BRATS2021, LESION, Answer, Cohort
from faults.patients import MIXED, PHANTOM_SEED, named_lists, phantom

from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.phantom.scanner import PRESETS
from cggm_med.results.tables import Table, print_table

COMMANDS = ("train", "predict", "evaluate")
SOUND_SEEDS = 42, 43, 44
# Faults that need several label numbers, or heads without skull.
NOT_OF_LISTS = (
    "skull left on",
    "label of one number",
    "labels 1 and 4 exchanged",
    "labels 2 and 4 exchanged",
    "label number unknown",
)


def answers(cohort: Cohort, fault: Fault, case: tuple[str, Scans], other: Scans, draw: Any) -> dict[str, Answer]:
    """What each command says of a fault."""
    id, scans = case
    if fault.again:
        return {"train": cohort.train(f"{id}-again", fault.change(scans, other, draw), side="test")}
    faulty = fault.change(scans, other, draw)
    return {name: getattr(cohort, name)(id, faulty) for name in COMMANDS if getattr(fault, name) != "nothing"}


def measured(
    name: str, cases: Mapping[str, Scans], convention: LabelConvention, seeds: int
) -> Iterator[dict[str, Any]]:
    """A row for each fault and command, and for each sound case and command."""
    ids = list(cases)
    sound, rest = ids[::2], ids[1::2]
    with tempfile.TemporaryDirectory() as folder:
        cohort = Cohort.of(Path(folder), {id: cases[id] for id in sound}, convention)
        yield from judged_sound(name, cohort, {id: cases[id] for id in rest})
        for number, (kind, fault) in enumerate(FAULTS.items()):
            if convention is LESION and kind in NOT_OF_LISTS:
                continue
            for seed in range(seeds):
                draw = np.random.default_rng([PHANTOM_SEED, seed, number])
                places = sound if fault.again else rest
                id, other = (places[int(i)] for i in draw.choice(len(places), 2, replace=False))
                for command, found in answers(cohort, fault, (id, cases[id]), cases[other], draw).items():
                    row = {"cohort": name, "fault": kind, "command": command, "case": id, "seed": seed}
                    yield {**row, "expected": getattr(fault, command), **found.record()}


def judged_sound(name: str, cohort: Cohort, cases: Mapping[str, Scans]) -> Iterator[dict[str, Any]]:
    """A row for each command and sound case."""
    for id, scans in cases.items():
        for command in COMMANDS:
            found = getattr(cohort, command)(id, scans)
            yield {"cohort": name, "fault": "", "command": command, "case": id, **found.record()}


def more_sound(count: int) -> Iterator[dict[str, Any]]:
    """The same of so many patients of each kind of phantom, beside a dozen of it."""
    for preset in (*PRESETS, MIXED):
        with tempfile.TemporaryDirectory() as folder:
            cohort = Cohort.of(Path(folder), phantom(12, preset=preset))
            for seed in SOUND_SEEDS:
                cases = phantom(-(-count // len(SOUND_SEEDS)), seed, preset)
                yield from judged_sound(f"phantom, {preset}", cohort, cases)


def other_half(name: str, cases: Mapping[str, Scans], convention: LabelConvention) -> Iterator[dict[str, Any]]:
    """The same of the cases that were company, beside the others."""
    ids = list(cases)
    with tempfile.TemporaryDirectory() as folder:
        cohort = Cohort.of(Path(folder), {id: cases[id] for id in ids[1::2]}, convention)
        yield from judged_sound(name, cohort, {id: cases[id] for id in ids[::2]})


def of_faults(rows: list[dict[str, Any]], cohort: str) -> Table:
    """Found of all, kind by kind; the last line is the mean of the kinds."""
    lines, shares = [], {command: [] for command in COMMANDS}
    for kind in FAULTS:
        cells = []
        for command in COMMANDS:
            of = [row for row in rows if (row["cohort"], row["fault"], row["command"]) == (cohort, kind, command)]
            hits = sum(row["outcome"] != "nothing" for row in of)
            cells.append(f"{hits} of {len(of)}" if of else "-")
            if of:
                shares[command].append(hits / len(of))
        lines.append((kind, *cells))
    lines.append(("mean of the kinds", *(f"{np.mean(shares[command]):.0%}" for command in COMMANDS)))
    return Table(f"faults that are found, {cohort}", ("fault", *COMMANDS), tuple(lines))


def of_sound(rows: list[dict[str, Any]]) -> Table:
    """How many sound cases of each kind are objected to or told of."""
    lines = []
    for outcome, words in (("stopped", "objected to"), ("told", "told of")):
        for cohort in (*dict.fromkeys(row["cohort"] for row in rows), ""):
            cells = []
            for command in COMMANDS:
                of = [row for row in rows if not row["fault"] and row["command"] == command]
                of = [row for row in of if row["cohort"] == cohort or not cohort]
                cells.append(f"{sum(row['outcome'] == outcome for row in of)} of {len(of)}")
            lines.append((f"{words}: {cohort or 'all'}", *cells))
    return Table("sound cases", ("cases", *COMMANDS), tuple(lines))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", action="append", default=[], metavar="NAME=LIST.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sound", type=int, default=60)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    cohorts = {"phantom": (phantom(10 if asked.tiny else 24), BRATS2021)}
    cohorts |= {name: (cases, LESION) for name, cases in named_lists(asked.cohort).items()}
    if asked.tiny:
        for kind in list(FAULTS)[3:]:
            del FAULTS[kind]
    seeds = 1 if asked.tiny else asked.seeds
    rows = [row for name, (cases, convention) in cohorts.items() for row in measured(name, cases, convention, seeds)]
    for name, (cases, convention) in list(cohorts.items())[1:]:
        rows += other_half(name, cases, convention)
    rows += more_sound(0 if asked.tiny else asked.sound)
    for name in cohorts:
        print_table(of_faults(rows, name), Console())
    print_table(of_sound(rows), Console())
    print(f"{sum(bool(row['fault']) and row['command'] == 'train' for row in rows)} faults of {len(FAULTS)} kinds")
    for row in rows:
        if not row["fault"] and row["outcome"] != "nothing":
            print(f"sound, but {row['command']} says of {row['case']}: {', '.join(row['kinds'])}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
