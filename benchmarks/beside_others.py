"""What is said of the patients of one list beside those of another, such as heads with skull beside stripped ones.

    python benchmarks/beside_others.py skull=A.json stripped=B.json [--tiny]

Lists give the same modalities. Names are right and nothing is wrong with the scans but that those of the other list
look otherwise; each patient is judged as ``predict`` does for a run that was trained on the other list.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.catalogue import FAULTS, SEG, Scans
from faults.commands import LESION, Cohort
from faults.patients import named_lists, phantom

from cggm_med.results.tables import Table, print_table


def rows(name: str, cases: Mapping[str, Scans], beside: str, others: Mapping[str, Scans]) -> list[tuple[str, ...]]:
    """How many of the cases the command stops at, and of how many each kind of finding is told."""
    with tempfile.TemporaryDirectory() as folder:
        known = Cohort.of(Path(folder), others, LESION)
        answers = [known.predict(id, scans) for id, scans in cases.items()]
    kinds = Counter(kind for answer in answers for kind in answer.kinds)
    kinds["stopped"] = sum(answer.outcome == "stopped" for answer in answers)
    return [(name, beside, kind, f"{count} of {len(cases)}") for kind, count in kinds.most_common()]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="*", metavar="NAME=LIST.json")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    cohorts = named_lists(asked.lists)
    if asked.tiny or not cohorts:
        stripped = cohorts["stripped"] = phantom(6 if asked.tiny else 24)
        draw, skull = np.random.default_rng(0), FAULTS["skull left on"]
        cohorts["skull"] = {f"{id}-skull": skull.change(scans, scans, draw) for id, scans in stripped.items()}
    for cases in cohorts.values():
        for scans in cases.values():
            labels, affine = scans[SEG]
            scans[SEG] = (labels > 0).astype("uint8"), affine
    found = [row for (a, of), (b, by) in itertools.permutations(cohorts.items(), 2) for row in rows(a, of, b, by)]
    print_table(Table("said of sound patients", ("patients", "beside", "said", "of"), tuple(found)), Console())


if __name__ == "__main__":
    main()
