"""Calibration of each region's voxels, near the region and in the whole image (ADR 0021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from cggm_med import distributed
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.errors import NonFiniteLoss
from cggm_med.evaluation.calibration.figure import reliability_figure
from cggm_med.evaluation.calibration.scores import BINS, LOG_ODDS, MAX_LOG_ODDS, RegionPredictions, fit_temperature
from cggm_med.evaluation.calibration.table import METRICS, Record, Temperature, cells_of, headline, record, stages
from cggm_med.results.aggregate import mean
from cggm_med.results.results import Scores
from cggm_med.results.tables import Table
from cggm_med.runs.loaded_run import LoadedRun
from cggm_med.task.scan_to_mask import SegmentedScan

NEAR, WHOLE = "near", "whole"  # the voxels that count
REACH_MM = 10.0  # from a region, within which voxels are near it


class RegionCalibration:
    """Calibration of each region's voxels. Several processes share the cases.

    Args:
        run: the run and its cases.
    """

    fitted_to = f"voxels within {REACH_MM:g} mm of a region, all regions together"

    def __init__(self, run: LoadedRun) -> None:
        self.run, self.regions = run, run.volumes.targets
        self.keys = [(voxels, region) for voxels in (NEAR, WHOLE) for region in self.regions]
        self.pooled = {key: RegionPredictions(np.zeros((2, len(LOG_ODDS)), np.int64)) for key in self.keys}

    def fit(self) -> tuple[float, Mapping[str, float]]:
        """The temperature of all regions together, and of each."""
        self._count(lambda case, predictions: None)
        near = {region: self.pooled[NEAR, region].slope for region in self.regions}
        together = fit_temperature(lambda inverse: sum(slope(inverse) for slope in near.values()))
        return together, {region: fit_temperature(slope) for region, slope in near.items()}

    def scores(self, temperature: Temperature) -> Scores:
        """One row per region, kind of voxels and stage, for all cases together and for each case."""
        rows: dict[str, list[Record]] = {}

        def note(case: str, predictions: Mapping[tuple[str, str], RegionPredictions]) -> None:
            rows[case] = [
                {"case": case, "voxels": voxels, "region": region, "stage": stage, **record(p.scores(value))}
                for (voxels, region), p in predictions.items()
                for stage, value in stages(temperature)
            ]
            for row in rows[case]:
                del row["bins"]

        self._count(note)
        summary: list[Record] = []
        for voxels in (NEAR, WHOLE):
            for stage, value in stages(temperature):
                mine = [
                    {
                        "voxels": voxels,
                        "region": region,
                        "stage": stage,
                        "temperature": value,
                        "own_temperature": temperature.of_region.get(region),
                        **record(self.pooled[voxels, region].scores(value)),
                    }
                    for region in self.regions
                ]
                summary += [*mine, _mean(mine)]
        tables = tuple(_region_table(summary, voxels, temperature) for voxels in (NEAR, WHOLE))
        return Scores(
            headline=headline([r for r in summary if (r["voxels"], r["region"]) == (NEAR, "mean")], temperature),
            summary=tuple(summary),
            cases=tuple(row for of_case in self.run.gathered(rows) for row in of_case),
            tables=tables,
        )

    def draw(self, path: Path, title: str, temperature: Temperature) -> None:
        """A reliability diagram for each region that has voxels near it."""
        by_region = {}
        for region in self.regions:
            near = self.pooled[NEAR, region]
            if (before := near.scores()) is not None:
                by_region[region] = before, None if temperature.value is None else near.scores(temperature.value)
        reliability_figure(
            path,
            f"{title}\nvoxels within {REACH_MM:g} mm of the region",
            by_region,
            x_label="probability of the region",
            unit="voxels",
        )

    def rules(self) -> dict[str, str]:
        """Definitions of the scores."""
        return {
            "own T": "the temperature that fits this region alone, to be compared",
            "grid": "each case's own grid; voxels of all cases count alike, so large regions weigh more",
            NEAR: f"voxels no more than {REACH_MM:g} mm from one where the region is or is predicted; a case in which "
            "it neither is nor is predicted has none",
            WHOLE: "all voxels of the image; nearly all are background that no network mistakes, so these errors are "
            "small whatever the network is worth",
            "ECE": f"expected calibration error of the region's probability, {BINS} bins of equal width (Guo et al. "
            "2017; for each region by itself, foreground): mean of |share of voxels inside - mean probability|, "
            "weighted with the bins' shares",
            "MCE": "the same, of the worst bin that is not empty, however few voxels it has",
            "Brier": "(probability - truth)^2, averaged over voxels",
            "NLL": "minus the natural logarithm of the probability of what is true, averaged over voxels",
            "logits": "log-odds of the probabilities that evaluation thresholds, after windows were blended and "
            f"brought to the case's grid; to the nearest 1/512, at most {MAX_LOG_ODDS}",
        }

    def _count(self, note: Callable[[str, Mapping[tuple[str, str], RegionPredictions]], None]) -> None:
        """Count the voxels of all cases; ``note`` receives the counts of each case of this process."""
        pooled = {key: p.counts.copy() for key, p in self.pooled.items()}
        for id in self.run.share:
            predictions = region_predictions(self.run, id)
            for key, p in predictions.items():
                pooled[key] += p.counts
            note(id, predictions)
        total = torch.from_numpy(np.stack(list(pooled.values()))).to(self.run.device)
        summed = distributed.sum_over_processes(total).cpu().numpy()
        self.pooled = {key: RegionPredictions(counts) for key, counts in zip(pooled, summed, strict=True)}


def region_predictions(run: LoadedRun, case: str) -> dict[tuple[str, str], RegionPredictions]:
    """The voxels of a case, counted by kind of voxels (near a region, everywhere) and region.

    Raises:
        NonFiniteLoss: if a probability is NaN.
    """
    run.model.eval()
    prepared = run.volumes.cases[case]
    (segmented,) = run.volumes.segment(
        run.model, prepared.tensor(run.device), prepared.grid, prepared.modalities, run.autocast
    )
    return counted_voxels(segmented, prepared, prepared.native_target(), run.volumes.targets)


def counted_voxels(
    segmented: SegmentedScan,
    prepared: PreparedCase,
    truth: NDArray[np.bool_],
    regions: Sequence[str],
    kinds: Sequence[str] = (NEAR, WHOLE),
) -> dict[tuple[str, str], RegionPredictions]:
    """Voxels of a segmented case on the grid of its label, counted by kind of voxels and region.

    Args:
        segmented: on the case's own grid.
        prepared: the case.
        truth: ``(region, x, y, z)``, its ``native_target``.
        regions: their names.
        kinds: of voxels.

    Raises:
        NonFiniteLoss: if a probability is NaN.
    """
    segmented = segmented.on(prepared.label_grid)
    volume = segmented.probability
    if not np.isfinite(volume).all():
        raise NonFiniteLoss(
            f"the prediction of {prepared.id} is NaN; look at this case, or train with a lower optim.lr or "
            "train.precision=float32"
        )
    annotated = prepared.annotated()
    known = np.ones(truth.shape[1:], bool) if annotated is None else annotated
    predictions = {}
    for kind in kinds:
        for region, p, t in zip(regions, volume, truth, strict=True):
            counted = known & (region not in prepared.source.not_drawn)
            if kind == NEAR:
                counted &= nearby((p >= 0.5) | t, segmented.grid.spacing)
            predictions[kind, region] = RegionPredictions.count(p[counted], t[counted])
    return predictions


def nearby(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Voxels no more than ``REACH_MM`` from a voxel of a mask, centre to centre.

    Args:
        mask: ``(x, y, z)``.
        spacing_mm: voxel size along these axes.

    Example:
        >>> nearby(np.array([[[True]], [[False]], [[False]]]), (6.0, 1.0, 1.0)).ravel().tolist()
        [True, True, False]
    """
    near = np.zeros_like(mask)
    if not mask.any():
        return near
    (box,) = find_objects(mask.view(np.uint8))
    margins = [int(REACH_MM / mm) + 1 for mm in spacing_mm]
    inside = tuple(slice(max(0, a.start - n), a.stop + n) for a, n in zip(box, margins, strict=True))
    near[inside] = distance_transform_edt(~mask[inside], sampling=tuple(spacing_mm)) <= REACH_MM
    return near


def _mean(rows: Sequence[Record]) -> Record:
    """The mean over the regions that have voxels."""
    known = [row for row in rows if row["count"]]
    means = {name: mean([row[name] for row in known]) for name in METRICS}
    count = sum(row["count"] for row in rows)
    return {**rows[0], "region": "mean", "own_temperature": None, **means, "count": count, "bins": []}


def _region_table(summary: Sequence[Record], voxels: str, temperature: Temperature) -> Table:
    """Before and after scaling, one below the other, and the temperature that fits each region alone."""
    with_own = voxels == NEAR and bool(temperature.of_region)
    rows = []
    for row in (r for r in summary if r["voxels"] == voxels):
        own = row["own_temperature"]
        cells = (row["region"], *cells_of(row))
        rows.append((*cells, "-" if own is None else f"{own:.3f}") if with_own else cells)
    kind = f"within {REACH_MM:g} mm of the region" if voxels == NEAR else "in the whole image"
    header = ("region", "T", *METRICS.values(), "voxels", *(("own T",) if with_own else ()))
    return Table(f"voxels {kind}", header, tuple(rows))
