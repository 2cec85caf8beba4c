"""Linear probes of segmentation: regions, predicted from each modality's feature maps at every voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cggm_med.data.volumes.augment import Augmentation
from cggm_med.data.volumes.patches import PatchDataset, PatchSampling
from cggm_med.errors import DataError
from cggm_med.evaluation.probe.table import HEAD, PROBE, READ_OUTS, UNTRAINED, Record, read_out_table, untrained
from cggm_med.evaluation.probe.voxels import (
    THRESHOLDS,
    VoxelReadout,
    dice_by_threshold,
    draw_voxels,
    fit_voxels,
    voxel_features,
)
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.metrics.overlap import dice
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.aggregate import MEAN, aggregate, with_mean
from cggm_med.results.results import Scores
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.scan_to_mask import SegmentedScan, segment_scan

MAX_PATCHES, PATCHES_PER_CASE = 64, 4
VOXELS_PER_PATCH = 400
MAX_CASES_TO_CHOOSE = 8  # that choose the thresholds


class VolumeProbe:
    """Linear probes of a segmentation task.

    Args:
        run: the run and the cases to score.
        train: its training cases.
        validation: its validation cases, which choose the thresholds.
    """

    def __init__(self, run: LoadedRun, train: LoadedRun, validation: LoadedRun | None) -> None:
        self.run, self.volumes, self.train = run, run.volumes, train
        self.choice = validation or train
        self.has_validation = validation is not None
        self.patches = min(MAX_PATCHES, PATCHES_PER_CASE * len(train.cases))

    def scores(self, say: Say) -> Scores:
        """One row per case, modality, read-out and region, and their means over the cases."""
        cases: list[Record] = []
        thresholds: dict[tuple[str, str, str], float] = {}
        modalities, regions = self.volumes.modalities, self.volumes.targets
        for by, model in ((UNTRAINED, untrained(self.run)), (PROBE, self.run.model.eval())):
            readouts = {m: self._fit(model, m) for m in modalities}
            say(f"{READ_OUTS[by]}: fitted, now choosing thresholds and scoring")
            # Dice of (modality, region, threshold), summed over cases.
            total = np.zeros((len(modalities), len(regions), len(THRESHOLDS)))
            for id in self.choice.cases[:MAX_CASES_TO_CHOOSE]:
                truth = self._truth(self.choice, id)
                for m, answer in self._predict(self.choice, model, readouts, id):
                    i = modalities.index(m)
                    for j, (p, t) in enumerate(zip(answer.probability, truth, strict=True)):
                        total[i, j] += dice_by_threshold(p, t)
            best = THRESHOLDS[total.argmax(axis=2)]
            for i, m in enumerate(modalities):
                thresholds |= {(by, m, region): float(best[i, j]) for j, region in enumerate(regions)}
            for id in self.run.cases:
                truth = self._truth(self.run, id)
                case = self.volumes.cases[id]
                for m, answer in self._predict(self.run, model, readouts, id):
                    masks = case.scored(answer.regions(self.volumes.convention, best[modalities.index(m)]))
                    for region, p, t in zip(regions, masks, truth, strict=True):
                        if region in case.source.not_drawn:
                            continue
                        value = dice(torch.from_numpy(p), torch.from_numpy(t))
                        cases.append({"case": id, "modality": m, "by": by, "region": region, "dice": value})
        cases += self._own()
        summary: list[Record] = []
        rows = with_mean(cases, ["case", "modality", "by"], "region", ["dice"])
        for row in aggregate(rows, ["modality", "by", "region"], "dice"):
            chosen = thresholds.get((row["by"], row["modality"], row["region"]), 0.5)
            summary.append({**row, "threshold": None if row["region"] == MEAN else chosen})
        means = [row for row in summary if row["region"] == "mean"]
        return Scores(
            headline={f"Dice {row['modality']}": row["dice_mean"] for row in means if row["by"] == PROBE},
            summary=tuple(summary),
            cases=tuple(cases),
            tables=tuple(
                read_out_table(
                    f"Dice, {'mean of ' + ', '.join(regions) if region == 'mean' else region}",
                    [row for row in summary if row["region"] == region],
                    "dice_mean",
                    modalities,
                )
                for region in ("mean", *regions)
            ),
        )

    def panels(self, scores: Scores) -> dict[str, dict[tuple[str, str], float | None]]:
        """The mean over regions, then each region."""
        panels: dict[str, dict[tuple[str, str], float | None]] = {}
        for row in sorted(scores.summary, key=lambda row: row["region"] != "mean"):
            name = "mean of regions" if row["region"] == "mean" else row["region"]
            panels.setdefault(f"Dice, {name}", {})[row["modality"], row["by"]] = row["dice_mean"]
        return panels

    def chosen_by(self, reason: str) -> str:
        """How the thresholds were chosen."""
        count = min(MAX_CASES_TO_CHOOSE, len(self.choice.cases))
        cases = f"{count} validation cases" if self.has_validation else f"{count} training cases, since {reason}"
        return f"the threshold of each modality and region: highest mean Dice of {cases}"

    def rules(self) -> dict[str, str]:
        """How the probe works."""
        rules = self.run.task.rules()
        return {
            **{name: rules[name] for name in ("grid", "regions", "Dice") if name in rules},
            "probe": "logistic regression (scikit-learn, C = 1) of each region on all channels of the encoder's "
            "pyramid, frozen and standardised: a 1x1x1 convolution a scale, summed on the grid of the second scale "
            "(the finest is read at every second voxel, coarser ones at the voxel that covers it), then as for heads: "
            "trilinear to the grid of the image, windows blended",
            "fitted to": f"{self.patches} patches of training cases as in training, not augmented; of each at most "
            f"{VOXELS_PER_PATCH} voxels, half of them in regions (equally many of each), half in none; drawn by the "
            "seed, the same for all modalities and both networks",
            "threshold": "chosen for probes, since their voxels were drawn more often where regions are; 0.5 for heads "
            "and fusion, which were trained for it; what is scored are the regions of the label map painted from them",
        }

    def _fit(self, model: MultimodalModel, modality: str) -> VoxelReadout:
        """A read-out of one encoder, fitted to voxels of training patches."""
        seed = self.run.config.train.seed
        sampling = PatchSampling(self.volumes.patch_size, 0.5, seed)
        prepared = self.train.volumes.cases
        cases = [prepared[id] for id in self.train.cases if modality in prepared[id].modalities]
        if not cases:
            raise DataError(f"no training case has {modality}, so its encoder learned nothing that could be probed")
        dataset = PatchDataset(cases, sampling, Augmentation("none"), self.patches)
        x, y = [], []
        for number in range(self.patches):
            image, target, id = dataset[0, number]
            channel = prepared[id].modalities.index(modality)
            maps = self._encode(model, modality, image[None, channel : channel + 1].to(self.run.device))
            half = F.interpolate(target[None].float(), maps[1].shape[2:], mode="nearest")[0].numpy() > 0
            drawn_by = random_seed(seed, Stream.PROBED_VOXELS, number)
            random = np.random.Generator(np.random.Philox(drawn_by))
            voxels = draw_voxels(half, VOXELS_PER_PATCH, random)
            x.append(voxel_features(maps, voxels))
            y.append(half[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T)
        return fit_voxels(np.concatenate(x), np.concatenate(y), [m.shape[1] for m in maps])

    @torch.no_grad()
    def _encode(self, model: MultimodalModel, modality: str, patch: Tensor) -> tuple[Tensor, ...]:
        with self.run.autocast():
            return model.encode({modality: patch})[modality].maps

    @torch.no_grad()
    def _predict(
        self, source: LoadedRun, model: MultimodalModel, readouts: Mapping[str, VoxelReadout], case: str
    ) -> Iterator[tuple[str, SegmentedScan]]:
        """Each modality that a case has, and its regions as the modality's read-out predicts them."""
        volumes = source.volumes
        prepared = volumes.cases[case]

        def logits(patch: Tensor) -> Tensor:
            odds = [
                F.interpolate(
                    readouts[m](self._encode(model, m, patch[:, i : i + 1])), patch.shape[2:], mode="trilinear"
                )
                for i, m in enumerate(prepared.modalities)
            ]
            return torch.cat(odds, dim=1)

        answers = segment_scan(
            logits,
            prepared.tensor(source.device),
            prepared.grid,
            patch_size=volumes.window_size,
            overlap=volumes.overlap,
            answers=len(prepared.modalities),
        )
        on_label = (answer.on(prepared.label_grid) for answer in answers)
        yield from zip(prepared.modalities, on_label, strict=True)

    def _truth(self, source: LoadedRun, case: str) -> NDArray[np.bool_]:
        return source.volumes.cases[case].native_target()

    def _own(self) -> list[Record]:
        """Dice of the run's own heads and of its fused prediction."""
        run, volumes = self.run, self.volumes
        heads = run.strategy.eval().heads
        rows: list[Record] = []
        for id in run.cases:
            case, truth = volumes.cases[id], self._truth(run, id)
            answers = volumes.segment(
                run.model, case.tensor(run.device), case.grid, case.modalities, run.autocast, heads=heads
            )
            for name, answer in zip((FUSED, *case.modalities), answers, strict=False):
                masks = case.scored(answer.on(case.label_grid).regions(volumes.convention))
                for region, p, t in zip(volumes.targets, masks, truth, strict=True):
                    if region in case.source.not_drawn:
                        continue
                    value = dice(torch.from_numpy(p), torch.from_numpy(t))
                    by = FUSED if name == FUSED else HEAD
                    rows.append({"case": id, "modality": name, "by": by, "region": region, "dice": value})
        return sorted(rows, key=lambda row: row["by"] == FUSED)
