"""How far single voxels go on the phantom: Dice of boosted trees that see the intensities of one voxel and no more.

Run: python benchmarks/phantom_voxels.py [--cases 60] [--seed 0] [--presets balanced imbalanced] [--tiny]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from cggm_med.data.volumes.phantom.cases import PhantomCase, make_case
from cggm_med.data.volumes.phantom.scanner import MODALITIES, PRESETS, scanners_of

REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
SHAPE, SPACING_MM = (60, 60, 40), 4.0
VOXELS = 1000  # of each patient that is learned from
THRESHOLDS = (0.2, 0.3, 0.4, 0.5)


def trees_dice(cases: Sequence[PhantomCase], modalities: Sequence[str]) -> dict[str, float]:
    """Mean Dice by region over the second half of the patients, of trees that learned the first half.

    Intensities are z-scored inside each brain, as for a network. Patients without the region are left out, and the
    threshold is the best of four for the patients that are scored, both in favour of the trees.
    """
    half, rng = len(cases) // 2, np.random.default_rng(0)
    brains = [case.tissue > 0 for case in cases]
    scans = [
        np.stack([case.images[m][brain].astype(np.float64) for m in modalities], 1)
        for case, brain in zip(cases, brains, strict=True)
    ]
    voxels = [(scan - scan.mean(0)) / scan.std(0) for scan in scans]
    drawn = [rng.choice(len(x), min(VOXELS, len(x)), replace=False) for x in voxels[:half]]
    seen = np.concatenate([x[chosen] for x, chosen in zip(voxels, drawn, strict=False)])
    found = {}
    for region, values in REGIONS.items():
        truth = [np.isin(case.labels[brain], values) for case, brain in zip(cases, brains, strict=True)]
        told = np.concatenate([inside[chosen] for inside, chosen in zip(truth, drawn, strict=False)])
        trees = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(seen, told)
        pairs = [(trees.predict_proba(x)[:, 1], y) for x, y in zip(voxels[half:], truth[half:], strict=True) if y.any()]
        dice = [[2 * ((p > t) & y).sum() / ((p > t).sum() + y.sum()) for p, y in pairs] for t in THRESHOLDS]
        found[region] = float(max(np.mean(each) for each in dice))
    return found


def main() -> None:
    """Print the Dice of each modality, of all but one, and of all, for each preset of the scanners."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--tiny", action="store_true", help="the smallest size, only to see that it runs")
    options = parser.parse_args()
    cases, presets = (6, ["balanced"]) if options.tiny else (options.cases, options.presets)
    without = [tuple(m for m in MODALITIES if m != left) for left in MODALITIES]
    print(f"{'preset':14}{'modalities':24}{'WT':>7}{'TC':>7}{'ET':>7}{'mean':>7}")
    for preset in presets:
        scanners = scanners_of(preset, {}, "--presets")
        drawn = [make_case(options.seed, index, SHAPE, SPACING_MM, scanners) for index in range(cases)]
        for modalities in [*((m,) for m in MODALITIES), *without, MODALITIES]:
            dice = trees_dice(drawn, modalities).values()
            numbers = "".join(f"{value:7.3f}" for value in (*dice, float(np.mean(list(dice)))))
            print(f"{preset:14}{' '.join(modalities):24}{numbers}", flush=True)


if __name__ == "__main__":
    main()
