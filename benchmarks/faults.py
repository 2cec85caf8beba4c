"""How many seeded faults each command finds, kind by kind, and how many sound cases it objects to.

    python benchmarks/faults.py [--cohort lgg=LIST.json] [--seeds 3] [--json FILE] [--tiny]

Faults are those of ``tests/faults/catalogue.py``, on phantom patients and, with ``--cohort``, on the cases of a list
with one folder for each (a file of each modality, and ``seg``). Every other case of such a cohort is sound company; the
faults befall the rest. No limit of the checks was set on the seeds of the phantom that are drawn here.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.catalogue import FAULTS, SEG, Fault, Scans
from faults.commands import BRATS2021, Answer, Cohort

from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.results.tables import Table, print_table

COMMANDS = ("train", "predict", "evaluate")
PHANTOM_SEED = 41
LESION = LabelConvention("lesion", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1})
# Faults that need several label numbers.
NUMBERS = ("label of one number", "labels 1 and 4 exchanged", "labels 2 and 4 exchanged", "label number unknown")


def phantom(count: int, shape: tuple[int, int, int], mm: float) -> dict[str, Scans]:
    """Phantom patients."""
    affine = np.diag([-mm, -mm, mm, 1.0])
    cases = {}
    for index in range(count):
        case = make_case(PHANTOM_SEED, index, shape, mm)
        cases[f"p{index}"] = {**{m: (v, affine) for m, v in case.images.items()}, SEG: (case.labels, affine)}
    return cases


def listed(path: Path) -> dict[str, Scans]:
    """The cases of a declared list that have all modalities."""
    content = json.loads(path.read_text())
    names = [*content["modalities"], "label"]
    cases = {}
    for entry in content["training"]:
        if all(name in entry for name in names):
            files = {SEG if name == "label" else name: nib.load(path.parent / entry[name]) for name in names}
            cases[entry["id"]] = {role: (np.asanyarray(file.dataobj), file.affine) for role, file in files.items()}
    return cases


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
        for id in rest:
            for command in COMMANDS:
                found = getattr(cohort, command)(id, cases[id])
                yield {"cohort": name, "fault": "", "command": command, "case": id, **found.record()}
        for number, (kind, fault) in enumerate(FAULTS.items()):
            if convention is LESION and kind in NUMBERS:
                continue
            for seed in range(seeds):
                draw = np.random.default_rng([PHANTOM_SEED, seed, number])
                places = sound if fault.again else rest
                id, other = (places[int(i)] for i in draw.choice(len(places), 2, replace=False))
                for command, found in answers(cohort, fault, (id, cases[id]), cases[other], draw).items():
                    row = {"cohort": name, "fault": kind, "command": command, "case": id, "seed": seed}
                    yield {**row, "expected": getattr(fault, command), **found.record()}


def table(rows: list[dict[str, Any]]) -> Table:
    """Found of all, kind by kind; the last lines are the means of kinds and the sound cases."""
    lines, shares = [], {command: [] for command in COMMANDS}
    for kind in FAULTS:
        cells = []
        for command in COMMANDS:
            of = [row for row in rows if row["fault"] == kind and row["command"] == command]
            hits = sum(row["outcome"] != "nothing" for row in of)
            cells.append(f"{hits} of {len(of)}" if of else "-")
            if of:
                shares[command].append(hits / len(of))
        lines.append((kind, *cells))
    lines.append(("mean of the kinds", *(f"{np.mean(shares[command]):.0%}" for command in COMMANDS)))
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        cells = []
        for command in COMMANDS:
            of = [row for row in rows if not row["fault"] and (row["command"], row["cohort"]) == (command, cohort)]
            cells.append(f"{sum(row['outcome'] != 'nothing' for row in of)} of {len(of)}")
        lines.append((f"sound cases of {cohort}", *cells))
    return Table("faults that are found", ("fault", *COMMANDS), tuple(lines))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", action="append", default=[], metavar="NAME=LIST.json")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    cohorts = {"phantom": (phantom(10 if asked.tiny else 24, (40, 40, 26), 6.0), BRATS2021)}
    for word in asked.cohort:
        name, _, path = word.partition("=")
        cohorts[name] = (listed(Path(path)), LESION)
    if asked.tiny:
        for kind in list(FAULTS)[3:]:
            del FAULTS[kind]
    seeds = 1 if asked.tiny else asked.seeds
    rows = [row for name, (cases, convention) in cohorts.items() for row in measured(name, cases, convention, seeds)]
    print_table(table(rows), Console())
    print(f"{sum(bool(row['fault']) and row['command'] == 'train' for row in rows)} faults of {len(FAULTS)} kinds")
    for row in rows:
        if not row["fault"] and row["outcome"] != "nothing":
            print(f"sound, but {row['command']} says of {row['case']}: {', '.join(row['kinds'])}")
    if asked.json is not None:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
