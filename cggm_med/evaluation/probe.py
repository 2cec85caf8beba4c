"""How well each encoder of a finished run was trained: a new linear read-out of each modality's frozen features.

Beside it stand the same read-out of an untrained network, the run's own classifier heads and its fused prediction.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from cggm_med import distributed
from cggm_med.classification import ClassificationTask
from cggm_med.config import Tree
from cggm_med.data.augment import Augmentation
from cggm_med.data.patches import PatchDataset, PatchSampling
from cggm_med.data.windows import predict_volume
from cggm_med.errors import ConfigError, DataError
from cggm_med.evaluation.probe_figure import probe_figure
from cggm_med.evaluation.probe_readouts import FOLDS, Rows, class_probabilities, fit_readout, pooled
from cggm_med.evaluation.probe_voxels import (
    THRESHOLDS,
    VoxelReadout,
    dice_by_threshold,
    draw_voxels,
    fit_voxels,
    voxel_features,
)
from cggm_med.evaluation.results_folder import write_results
from cggm_med.files import require_unused
from cggm_med.label_scores import CLASS_MEASURES, FUSED, Measure, Predicted
from cggm_med.losses import IGNORED
from cggm_med.metrics import dice
from cggm_med.models.base import MultimodalModel
from cggm_med.precision import precision
from cggm_med.regression import RegressionTask
from cggm_med.report import Report, Scores, Table, print_report
from cggm_med.run import (
    FinishedRun,
    checkpoint_rule,
    new_folder,
    open_finished,
    open_own,
    open_validation,
    provenance,
    speaker,
)
from cggm_med.samples import SampleTask
from cggm_med.segmentation import SegmentationTask
from cggm_med.step import random_seed
from cggm_med.task import Task

UNTRAINED, HEAD, PROBE = "untrained", "head", "probe"
# What is said of each modality, in the order of the bars.
READ_OUTS = {
    UNTRAINED: "probe, untrained encoder",
    HEAD: "this run's own head",
    PROBE: "probe, this run's encoder",
}
MOST_SAMPLES = 10_000  # of the training split
MOST_PATCHES, PATCHES_A_CASE = 64, 4
VOXELS_A_PATCH = 400
MOST_CASES_TO_CHOOSE = 8  # thresholds by

Record = dict[str, Any]
Say = Callable[[str], Any]


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Probe a finished run on its own held-out cases or on other data.

    Read-outs are fitted to the run's training split. Writes ``results.json``, ``results.csv``, ``results.md`` and
    ``probe.png``, all or nothing. Several processes each do the same.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path``; ``train.seed`` decides what is drawn.
        console: for progress and tables.
        split: see ``run.open_finished``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        ConfigError: if no probe is known for the run's task.
        DataError: if the run's own training cases are no longer there, or are all of one class.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    if out is not None:
        require_unused(out)
    started = time.monotonic()

    def check(task: Task) -> None:
        if not isinstance(task, (SegmentationTask, ClassificationTask, RegressionTask)):
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}'; a probe needs one that segments, tells classes "
                "apart or predicts values"
            )

    say = speaker(console)
    x = open_finished(folder, overrides, say, split=split, check=check)
    train = open_own(folder, overrides, say, split="train")
    validation, reason = open_validation(x, overrides, say)
    of_task = _OfVolumes if isinstance(x.task, SegmentationTask) else _OfSamples
    probe = of_task(x, train, validation)
    scores = probe.scores(say)
    seconds = time.monotonic() - started
    report = Report(
        task=x.config.task.name,
        strategy=x.config.strategy.name,
        split=x.split,
        scores=scores,
        rules={
            **probe.rules(),
            "chosen by": probe.chosen_by(reason),
            UNTRAINED: "the same read-out of a network with the weights that training of this seed started from",
            HEAD: "the run's own classifier head of the modality, as it was trained; not every strategy has heads",
            "checkpoint": checkpoint_rule(x.folder, x.task, x.weights, x.split),
        },
        provenance={**provenance(x.config, x.device), "seconds": f"{seconds:.0f}"},
    )
    target = out or new_folder(folder / "probe" / x.name, x.device)
    if distributed.rank() == 0:

        def draw(folder: Path) -> None:
            probe_figure(folder / "probe.png", report.title, probe.panels(scores), x.task.modalities, READ_OUTS, FUSED)

        write_results(target, report, draw)
        print_report(report, console)
        console.print(f"written: {target / 'results.md'}, results.json, results.csv and probe.png ({seconds:.0f} s)")
    return report


def untrained(x: FinishedRun) -> MultimodalModel:
    """The network as training of this run started from, by its seed."""
    torch.manual_seed(x.config.train.seed)
    return x.task.model().to(x.device).eval()


class _OfSamples:
    """Probes of tasks on samples.

    Args:
        x: the run, and what is scored.
        train: its training samples.
        validation: its validation samples, to choose the amount of regularisation by.
    """

    def __init__(self, x: FinishedRun, train: FinishedRun, validation: FinishedRun | None) -> None:
        assert isinstance(x.task, (ClassificationTask, RegressionTask))  # noqa: S101 - for the type checker
        self.x, self.task, self.train, self.validation = x, x.task, train, validation
        self.classes = isinstance(x.task, ClassificationTask)
        measures: Mapping[str, Measure] = x.task.measures if isinstance(x.task, RegressionTask) else {}
        if isinstance(x.task, ClassificationTask):
            measures = {name: CLASS_MEASURES[name] for name in x.task.measures}
        self.measures = measures

    def scores(self, say: Say) -> Scores:
        """A row for each modality and read-out, and one for the fused prediction."""
        chosen = self.train.cases
        if len(chosen) > MOST_SAMPLES:
            random = np.random.Generator(np.random.Philox(random_seed(self.x.config.train.seed, 8)))
            chosen = tuple(chosen[i] for i in sorted(random.permutation(len(chosen))[:MOST_SAMPLES]))
        self.fitted_to = len(chosen)
        summary: list[Record] = []
        cases: list[Record] = []
        for by, model in ((UNTRAINED, untrained(self.x)), (PROBE, self.x.model.eval())):
            fit_to, _ = self._rows(self.train, model, chosen)
            choose_by: dict[str, Rows] = {}
            if self.validation is not None:
                choose_by, _ = self._rows(self.validation, model, self.validation.cases)
            test, places = self._rows(self.x, model, self.x.cases)
            for modality in self.task.modalities:
                self._require_classes(fit_to[modality].y)
                readout, strength = fit_readout(fit_to[modality], choose_by.get(modality), classes=self.classes)
                y = test[modality].y
                guess = readout.predict(test[modality].x)
                probability = None
                if self.classes:
                    probability = class_probabilities(readout, test[modality].x, len(self.task.targets))
                predicted = Predicted(y, guess, probability)
                values = {name: measure(predicted) for name, measure in self.measures.items()}
                summary.append({"modality": modality, "by": by, **values, "samples": len(y), "strength": strength})
                cases += [
                    {**place, "modality": modality, "by": by, "true": self._named(t), "predicted": self._named(g)}
                    for place, t, g in zip(places, y.tolist(), guess.tolist(), strict=True)
                ]
                say(f"{modality}: {READ_OUTS[by]} done")
        summary += self._own()
        return Scores(
            headline={
                f"{self.task.chosen_by} {r['modality']}": r[self.task.chosen_by] for r in summary if r["by"] == PROBE
            },
            summary=tuple(summary),
            cases=tuple(cases),
            heads=(),
            tables=tuple(_table(name, summary, name, self.task.modalities) for name in self.measures),
        )

    def panels(self, scores: Scores) -> dict[str, dict[tuple[str, str], float | None]]:
        """The score that the task goes by."""
        name = self.task.chosen_by
        better = "lower" if self.task.lower_is_better else "higher"
        return {f"{name} ({better} is better)": {(r["modality"], r["by"]): r[name] for r in scores.summary}}

    def chosen_by(self, reason: str) -> str:
        """How the amount of regularisation was found."""
        measure = "accuracy" if self.classes else "mean absolute error"
        if self.validation is not None:
            return f"the amount of regularisation: {measure} on the {len(self.validation.cases)} validation cases"
        return (
            f"the amount of regularisation: {measure} over {FOLDS} folds of the training cases that divide no "
            f"{self.task.group_kind}, since {reason}"
        )

    def rules(self) -> dict[str, str]:
        """What was done."""
        kind = "logistic regression" if self.classes else "ridge regression"
        rules = {name: text for name, text in self.task.rules().items() if name in self.measures}
        return {
            **rules,
            "probe": f"{kind} (scikit-learn) on the encoder's frozen, standardised features, without augmentation, "
            f"fitted to {self.fitted_to} training cases and nothing else",
            "features": "the encoder's vector; of sequences the mean over valid time, of conversations each utterance; "
            "of images the mean over the grid, if the encoder leaves one",
        }

    @torch.no_grad()
    def _rows(
        self, source: FinishedRun, model: MultimodalModel, cases: Sequence[str]
    ) -> tuple[dict[str, Rows], list[Record]]:
        """Frozen features of each modality, and which case each row is of."""
        task = source.task
        assert isinstance(task, SampleTask)  # noqa: S101 - for the type checker
        autocast = precision(source.config.train.precision, source.device)
        numbers = {group: n for n, group in enumerate(dict.fromkeys(task.samples[id].group for id in cases))}
        found: dict[str, list[NDArray[np.float64]]] = {m: [] for m in task.modalities}
        targets, places = [], []
        for loaded in task.evaluation_batches(cases):
            batch = loaded.to(source.device)
            with autocast():
                features = model.encode(batch.inputs)
            each: Tensor | None = None
            if self.classes and loaded.target.ndim > 1:
                each = loaded.target != IGNORED
                places += [
                    {"case": id, "utterance": i}
                    for id, counts in zip(loaded.ids, each, strict=True)
                    for i in range(int(counts.sum()))
                ]
            else:
                places += [{"case": id} for id in loaded.ids]
            for modality in task.modalities:
                found[modality].append(pooled(features[modality], each))
            targets.append((loaded.target if each is None else loaded.target[each]).numpy().reshape(-1))
        y = np.concatenate(targets)
        groups = np.array([numbers[task.samples[str(place["case"])].group] for place in places])
        return {m: Rows(np.concatenate(x), y, groups) for m, x in found.items()}, places

    def _own(self) -> list[Record]:
        """What the run's own heads and its fused prediction score."""
        x = self.x
        autocast = precision(x.config.train.precision, x.device)
        heads = x.strategy.eval().heads
        results = list(x.task.evaluate(x.model, heads, x.cases, device=x.device, autocast=autocast, full=False))
        rows = []
        for row in x.task.summarise(results).summary:
            who = row["predicted_by"]
            values = {name: row[name] for name in self.measures}
            by = FUSED if who == FUSED else HEAD
            rows.append({"modality": who, "by": by, **values, "samples": row["samples"], "strength": None})
        return rows

    def _named(self, value: float) -> Any:
        return self.task.targets[int(value)] if self.classes else value

    def _require_classes(self, y: NDArray[Any]) -> None:
        if self.classes and len(np.unique(y)) < 2:
            only = self._named(y[0])
            raise DataError(
                f"all training cases are of class '{only}'; a probe needs at least two classes to tell apart"
            )


class _OfVolumes:
    """Probes of segmentation.

    Args:
        x: the run, and what is scored.
        train: its training cases.
        validation: its validation cases, to choose thresholds by.
    """

    def __init__(self, x: FinishedRun, train: FinishedRun, validation: FinishedRun | None) -> None:
        assert isinstance(x.task, SegmentationTask)  # noqa: S101 - for the type checker
        self.x, self.task, self.train = x, x.task, train
        self.choice = validation or train
        self.has_validation = validation is not None
        self.autocast = precision(x.config.train.precision, x.device)
        self.patches = min(MOST_PATCHES, PATCHES_A_CASE * len(train.cases))

    def scores(self, say: Say) -> Scores:
        """A row for each case, modality, read-out and region, and what they say together."""
        cases: list[Record] = []
        thresholds: dict[tuple[str, str, str], float] = {}
        modalities, regions = self.task.modalities, self.task.targets
        for by, model in ((UNTRAINED, untrained(self.x)), (PROBE, self.x.model.eval())):
            readouts = {m: self._fit(model, m) for m in modalities}
            say(f"{READ_OUTS[by]}: fitted, now choosing thresholds and scoring")
            # Dice of (modality, region, threshold), summed over cases.
            total = np.zeros((len(modalities), len(regions), len(THRESHOLDS)))
            for id in self.choice.cases[:MOST_CASES_TO_CHOOSE]:
                for i, volumes in enumerate(self._predict(self.choice, model, readouts, id)):
                    for j, (p, t) in enumerate(zip(volumes, self._truth(self.choice, id), strict=True)):
                        total[i, j] += dice_by_threshold(p, t)
            best = THRESHOLDS[total.argmax(axis=2)]
            for i, m in enumerate(modalities):
                thresholds |= {(by, m, region): float(best[i, j]) for j, region in enumerate(regions)}
            for id in self.x.cases:
                truth = self._truth(self.x, id)
                for i, (m, volumes) in enumerate(
                    zip(modalities, self._predict(self.x, model, readouts, id), strict=True)
                ):
                    for j, (region, p, t) in enumerate(zip(regions, volumes, truth, strict=True)):
                        value = dice(torch.from_numpy(p >= best[i, j]), torch.from_numpy(t))
                        cases.append({"case": id, "modality": m, "by": by, "region": region, "dice": value})
        cases += self._own()
        summary = self._summarise(cases, thresholds)
        means = [row for row in summary if row["region"] == "mean"]
        return Scores(
            headline={f"Dice {row['modality']}": row["dice_mean"] for row in means if row["by"] == PROBE},
            summary=tuple(summary),
            cases=tuple(cases),
            heads=(),
            tables=tuple(
                _table(
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
        """How the thresholds were found."""
        count = min(MOST_CASES_TO_CHOOSE, len(self.choice.cases))
        cases = f"{count} validation cases" if self.has_validation else f"{count} training cases, since {reason}"
        return f"the threshold of each modality and region: highest mean Dice of {cases}"

    def rules(self) -> dict[str, str]:
        """What was done."""
        rules = self.task.rules()
        return {
            **{name: rules[name] for name in ("grid", "regions", "Dice") if name in rules},
            "probe": "logistic regression (scikit-learn, C = 1) of each region on all channels of the encoder's "
            "pyramid, frozen and standardised: a 1x1x1 convolution a scale, summed on the grid of the second scale "
            "(the finest is read at every second voxel, coarser ones at the voxel that covers it), then as for heads: "
            "trilinear to the grid of the image, windows blended",
            "fitted to": f"{self.patches} patches of training cases as in training, not augmented; of each at most "
            f"{VOXELS_A_PATCH} voxels, half of them in regions (equally many of each), half in none; drawn by the "
            "seed, the same for all modalities and both networks",
            "threshold": "chosen for probes, since their voxels were drawn more often where regions are; 0.5 for heads "
            "and fusion, which were trained for it",
        }

    def _fit(self, model: MultimodalModel, modality: str) -> VoxelReadout:
        """A read-out of one encoder, fitted to voxels of training patches."""
        task, settings = self.train.task, self.x.config
        assert isinstance(task, SegmentationTask)  # noqa: S101 - for the type checker
        sampling = PatchSampling(settings.data.patch_size, 0.5, settings.train.seed)
        cases = [task.cases[id] for id in self.train.cases]
        dataset = PatchDataset(cases, sampling, Augmentation("none"), self.patches)
        channel = task.modalities.index(modality)
        x, y = [], []
        for number in range(self.patches):
            image, target, _ = dataset[0, number]
            maps = self._encode(model, modality, image[None, channel : channel + 1].to(self.x.device))
            half = F.interpolate(target[None].float(), maps[1].shape[2:], mode="nearest")[0].numpy() > 0
            random = np.random.Generator(np.random.Philox(random_seed(settings.train.seed, 9, number)))
            voxels = draw_voxels(half, VOXELS_A_PATCH, random)
            x.append(voxel_features(maps, voxels))
            y.append(half[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T)
        return fit_voxels(np.concatenate(x), np.concatenate(y), [m.shape[1] for m in maps])

    @torch.no_grad()
    def _encode(self, model: MultimodalModel, modality: str, patch: Tensor) -> tuple[Tensor, ...]:
        with self.autocast():
            return model.encode({modality: patch})[modality].maps

    @torch.no_grad()
    def _predict(
        self, source: FinishedRun, model: MultimodalModel, readouts: Mapping[str, VoxelReadout], case: str
    ) -> list[NDArray[np.float32]]:
        """Probabilities ``(region, x, y, z)`` of each modality, on the case's own grid."""
        task = source.task
        assert isinstance(task, SegmentationTask)  # noqa: S101 - for the type checker

        def predict(patch: Tensor) -> Tensor:
            odds = [
                F.interpolate(
                    readouts[m](self._encode(model, m, patch[:, i : i + 1])), patch.shape[2:], mode="trilinear"
                )
                for i, m in enumerate(task.modalities)
            ]
            return torch.sigmoid(torch.cat(odds, dim=1))

        image = torch.from_numpy(np.array(task.cases[case].image())).to(source.device)
        data = source.config.data
        volume = predict_volume(predict, image, data.patch_size, overlap=data.overlap)
        grid = task.cases[case].grid
        return [grid.to_native(part) for part in volume.split(len(task.targets))]

    def _truth(self, source: FinishedRun, case: str) -> NDArray[np.bool_]:
        task = source.task
        assert isinstance(task, SegmentationTask)  # noqa: S101 - for the type checker
        return task.cases[case].native_target(task.convention)

    def _own(self) -> list[Record]:
        """Dice of the run's own heads and of its fused prediction."""
        x = self.x
        heads = x.strategy.eval().heads
        results = list(x.task.evaluate(x.model, heads, x.cases, device=x.device, autocast=self.autocast, full=False))
        scores = x.task.summarise(results)
        rows = [(row, row["modality"], HEAD) for row in scores.heads]
        rows += [(row, FUSED, FUSED) for row in scores.cases]
        return [
            {"case": row["case"], "modality": modality, "by": by, "region": row["region"], "dice": row["dice"]}
            for row, modality, by in rows
        ]

    def _summarise(self, cases: Sequence[Record], thresholds: Mapping[tuple[str, str, str], float]) -> list[Record]:
        found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        for row in cases:
            of_case = found.setdefault((row["modality"], row["by"]), {}).setdefault(row["case"], {})
            of_case[row["region"]] = row["dice"]
        rows = []
        for (modality, by), of_cases in found.items():
            for region in (*self.task.targets, "mean"):
                values = [statistics.fmean(d.values()) if region == "mean" else d[region] for d in of_cases.values()]
                rows.append(
                    {
                        "modality": modality,
                        "by": by,
                        "region": region,
                        "dice_mean": statistics.fmean(values),
                        "dice_sd": statistics.stdev(values) if len(values) > 1 else None,
                        "cases": len(values),
                        "threshold": None if region == "mean" else thresholds.get((by, modality, region), 0.5),
                    }
                )
        return rows


def _table(title: str, summary: Sequence[Record], score: str, modalities: Sequence[str]) -> Table:
    """A row for each modality, a column for each read-out; the fused prediction below."""
    values = {(row["modality"], row["by"]): row[score] for row in summary}

    def cell(modality: str, by: str) -> str:
        value = values.get((modality, by))
        return "-" if value is None else f"{value:.3f}"

    rows = [(m, *(cell(m, by) for by in READ_OUTS), "-") for m in modalities]
    rows.append((FUSED, *("-" for _ in READ_OUTS), cell(FUSED, FUSED)))
    return Table(title, ("modality", *READ_OUTS.values(), FUSED), tuple(rows))
