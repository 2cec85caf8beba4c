"""How often images under wrong names are recognised, and how often right names are refused.

    python benchmarks/exchanged_names.py [--cohort lgg=LIST.json] [--patients 42] [--tiny]

Phantom patients and, with ``--cohort``, the cases of a list with a file of each modality are judged each by all
others, as ``train`` does, and by the other half, as ``predict`` does beside training cases. Where ids tell a site, as
the second part of ``TCGA_CS_4941`` does, each case is judged by those of the other sites as well. Every wrong order of
the names is tried on each case; where it is judged by all others, on every third.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults.catalogue import SEG, Scans
from faults.patients import MIXED, named_lists, phantom

from cggm_med.data.checks.looks import ScanFeatures
from cggm_med.data.checks.measure import measure
from cggm_med.data.volumes.background import background_value
from cggm_med.data.volumes.modality_check import judge, judge_each, summarise
from cggm_med.results.tables import Table, print_table

Judged = tuple[str, bool]  # the order of names, and whether it was called exchanged


def features_of(scans: Scans) -> ScanFeatures:
    """What ``train`` measures of a case."""
    images = {name: volume.astype("float32") for name, (volume, _) in scans.items() if name != SEG}
    backgrounds = {name: background_value(volume) for name, volume in images.items()}
    looks = measure(images, next(iter(scans.values()))[1], backgrounds)["looks"]
    found = ScanFeatures.of_record(looks)
    if isinstance(found, str):
        raise SystemExit(f"a case cannot be measured: {found}")
    return found


def reordered(features: ScanFeatures, order: Sequence[int]) -> ScanFeatures:
    """Those of the same case whose images are given under each other's names."""
    places = list(order)
    return replace(features, single=features.single[places], pair=features.pair[places][:, places])


def orders(modalities: Sequence[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Each order of the names, the right one first, and what is exchanged in it."""
    found = []
    for order in itertools.permutations(range(len(modalities))):
        moved = [modalities[place] for place, image in enumerate(order) if place != image]
        found.append((f"{len(moved)} names" if len(moved) > 2 else " and ".join(moved), order))
    return found


def by_all_others(features: Sequence[ScanFeatures], modalities: Sequence[str]) -> Iterator[Judged]:
    """Each case, rightly named, by all others; every third in each wrong order."""
    for found in judge_each(features, modalities):
        yield "", found.verdict == "swapped"
    for place in range(0, len(features), 3):
        for name, order in orders(modalities)[1:]:
            exchanged = [*features]
            exchanged[place] = reordered(features[place], order)
            yield name, judge_each(exchanged, modalities)[place].verdict == "swapped"


def by_groups(features: Sequence[ScanFeatures], groups: Sequence[str], modalities: Sequence[str]) -> Iterator[Judged]:
    """Each case in each order, by the cases of the other groups."""
    for group in dict.fromkeys(groups):
        others = [of for of, own in zip(features, groups, strict=True) if own != group]
        known = summarise(others, modalities)
        for of, own in zip(features, groups, strict=True):
            if own == group:
                for name, order in orders(modalities):
                    yield name, judge(known, reordered(of, order), modalities).verdict == "swapped"


def rows(name: str, cases: Mapping[str, Scans]) -> list[tuple[str, ...]]:
    """A row for each way of judging and each order of names."""
    modalities = [role for role in next(iter(cases.values())) if role != SEG]
    features = [features_of(scans) for scans in cases.values()]
    halves = [str(place % 2) for place in range(len(cases))]
    ways = {"all others": list(by_all_others(features, modalities))}
    ways["the other half"] = list(by_groups(features, halves, modalities))
    sites = [id.split("_")[1] if id.count("_") > 1 else "" for id in cases]
    if len(set(sites)) > 1:
        ways["other sites"] = list(by_groups(features, sites, modalities))
    found = []
    for way, judged in ways.items():
        for order in dict.fromkeys(order for order, _ in judged):
            said = [called for of, called in judged if of == order]
            found.append((name, way, order or "none", f"{sum(said)} of {len(said)}"))
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", action="append", default=[], metavar="NAME=LIST.json")
    parser.add_argument("--patients", type=int, default=42)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    cohorts = {"phantom": phantom(8 if asked.tiny else asked.patients, preset=MIXED)}
    cohorts |= named_lists(asked.cohort)
    found = [row for name, cases in cohorts.items() for row in rows(name, cases)]
    print_table(Table("names called exchanged", ("cases", "judged by", "exchanged", "found"), tuple(found)), Console())


if __name__ == "__main__":
    main()
