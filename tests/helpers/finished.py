"""Finished runs as they lie on disk, made up from the Dice of each case, without training anything."""

import json
from pathlib import Path

import yaml

from cggm_med.config import parse_overrides, to_tree
from cggm_med.runs.settings import make_config


def finished_run(
    folder: Path,
    dice,
    *,
    strategy="joint",
    seed=0,
    settings=(),
    train=("t1", "t2", "t3"),
    subsets=None,
    groups=None,
    regions=("WT", "ET"),
):
    """A run of ``brats2021``; ``dice`` is a number by case, ``subsets`` by case and subset, ``groups`` a patient."""
    words = [f"train.seed={seed}", *settings]
    tree = to_tree(make_config("brats2021", [parse_overrides(words)], preset="tiny", strategy=strategy))
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    cases = [{"case": c, "region": r, "dice": d, "hd95_mm": 1.0} for c, d in dice.items() for r in regions]
    mean = sum(dice.values()) / len(dice)
    report = {
        "task": "brats2021",
        "strategy": strategy,
        "split": "test",
        "headline": {"Dice WT": mean, "Dice ET": mean, "Dice mean": mean},
        "summary": [],
        "cases": cases,
        "heads": [],
        "tables": [],
        "rules": {"Dice": "as usual", "checkpoint": "last step"},
        "provenance": {},
    }
    (folder / "results.json").write_text(json.dumps(report))
    (folder / "splits.json").write_text(json.dumps({"train": list(train), "validation": [], "test": list(dice)}))
    (folder / "data.json").write_text(json.dumps({c: {"prepared": f"digest-{c}"} for c in [*train, *dice]}))
    if groups is not None:
        (folder / "groups.json").write_text(json.dumps(groups))
    cost = {
        "seconds": 60.0,
        "cpu_seconds": 50.0,
        "peak_memory_bytes": 10**9,
        "step_memory_bytes": 10**8,
        "threads": 1,
        "device": "CPU",
    }
    (folder / "cost.json").write_text(json.dumps(cost))
    if subsets is not None:
        rows = [{"case": c, "subset": s, "region": r, "dice": d} for (c, s), d in subsets.items() for r in regions]
        (folder / "subsets" / "test").mkdir(parents=True)
        (folder / "subsets" / "test" / "results.json").write_text(json.dumps({"cases": rows}))
    return folder
