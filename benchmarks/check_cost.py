"""What checking voxels costs, as a share of preparing cases, in one process.

    python benchmarks/check_cost.py [--cases 3] [--tiny]

Phantom cases of the size of BraTS (240 x 240 x 155 voxels, four modalities) are prepared as training does. Preparation
is everything until they lie in the cache: digests of the files, reading, headers and label numbers, cropping, z-scores
and writing. Checking is what is measured of their voxels meanwhile, and comparing the cases with one another when all
are there. Both are processor seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cggm_med.data.checks.cohort import findings_among, learn, usual_among
from cggm_med.data.layouts import find_cases
from cggm_med.data.volumes import preprocess
from cggm_med.data.volumes.phantom.cases import write_phantom
from cggm_med_tasks.brats2021 import BraTS2021

MODALITIES = ("flair", "t1", "t1ce", "t2")


def timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """The function, whose processor seconds are added to ``spent``."""

    def of(*args: Any, **kwargs: Any) -> Any:
        begun = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.process_time() - begun)

    return of


def main() -> None:
    """Measure, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    shape, mm = ((40, 40, 26), 6.0) if asked.tiny else ((240, 240, 155), 1.0)
    spent: list[float] = []
    preprocess.measure = timed(preprocess.measure, spent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder / "data", cases=asked.cases, seed=5, shape=shape, spacing_mm=mm)
        found = find_cases(
            folder / "data",
            MODALITIES,
            BraTS2021.layouts,
            decathlon_modalities={},
            decathlon_convention="brats2021",
            known_modalities=MODALITIES,
        )
        settings = preprocess.Preprocessing(MODALITIES, BraTS2021.conventions["brats2021"])
        begun = time.process_time()
        prepared = preprocess.prepare(found.cases, settings, folder / "cache")
        whole = time.process_time() - begun
        begun = time.process_time()
        findings_among(prepared, MODALITIES, {case.id: "train" for case in prepared}, {})
        usual_among(prepared), learn(prepared, MODALITIES)
        comparing = time.process_time() - begun
    measuring = sum(spent)
    preparing = whole - measuring
    each = [f"{of / asked.cases * 1000:.0f} ms" for of in (preparing, measuring, comparing)]
    print(f"of a case, preparing it takes {each[0]}, measuring it {each[1]}, comparing it with others {each[2]}")
    print(f"checking costs {(measuring + comparing) / preparing:.1%} of preparation")


if __name__ == "__main__":
    main()
