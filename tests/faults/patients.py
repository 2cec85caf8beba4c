"""Patients whose scans faults befall: of the phantom, and of a list of cases."""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.data.volumes.phantom.scanner import PRESETS, scanners_of
from faults.catalogue import SEG, Scans

PHANTOM_SEED = 41
SHAPE, MM = (40, 40, 26), 6.0
MIXED = "scanners that differ"


def phantom(count: int, seed: int = PHANTOM_SEED, preset: str = "balanced") -> dict[str, Scans]:
    """Phantom patients."""
    affine = np.diag([-MM, -MM, MM, 1.0])
    cases = {}
    for index in range(count):
        name = list(PRESETS)[index % len(PRESETS)] if preset == MIXED else preset
        case = make_case(seed, index, SHAPE, MM, scanners_of(name, {}, "scanners"))
        cases[f"p{seed}-{index}"] = {**{m: (v, affine) for m, v in case.images.items()}, SEG: (case.labels, affine)}
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


def named_lists(words: Sequence[str]) -> dict[str, dict[str, Scans]]:
    """The cases of each list that is given as ``NAME=LIST.json``."""
    return {name: listed(Path(path)) for name, _, path in (word.partition("=") for word in words)}
