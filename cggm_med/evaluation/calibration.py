"""Whether a finished run is as sure as it should be: calibration before and after temperature scaling.

ADR 0021 says on which voxels segmentation is judged, and to what the temperature is applied.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.ndimage import distance_transform_edt

from cggm_med import distributed
from cggm_med.classification import ClassificationTask
from cggm_med.config import Tree
from cggm_med.errors import ConfigError, NonFiniteLoss
from cggm_med.evaluation.calibration_scores import (
    BINS,
    COLDEST,
    HOTTEST,
    LARGEST,
    LOG_ODDS,
    Calibration,
    ClassPredictions,
    RegionPredictions,
    at_limit,
    fit_temperature,
)
from cggm_med.evaluation.reliability_figure import reliability_figure
from cggm_med.evaluation.results_folder import write_results
from cggm_med.files import require_unused
from cggm_med.losses import IGNORED
from cggm_med.models.base import MultimodalModel
from cggm_med.precision import precision
from cggm_med.report import Report, Scores, Table, print_report
from cggm_med.run import FinishedRun, checkpoint_rule, new_folder, open_finished, open_validation, provenance, speaker
from cggm_med.samples import require_finite_logits
from cggm_med.segmentation import SegmentationTask
from cggm_med.task import Task

NEAR, WHOLE = "near", "whole"  # which voxels count
REACH_MM = 10.0  # from a region, within which voxels are near it
MEASURES = {"ece": "ECE", "mce": "MCE", "brier": "Brier", "nll": "NLL"}
BEFORE, AFTER = "before", "after"

Autocast = Callable[[], AbstractContextManager[Any]]
Record = dict[str, Any]


@dataclass(frozen=True)
class Temperature:
    """What was fitted, or why nothing was.

    Attributes:
        value: of the run; None if there is none.
        of_region: fitted to one region alone, by region; empty for classes.
        rule: how it came about, for the report.
    """

    value: float | None
    of_region: Mapping[str, float]
    rule: str


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Calibration of a finished run on its own held-out cases or on other data.

    The temperature is fitted to the run's validation split, unless that is what is scored. Writes ``results.json``,
    ``results.csv``, ``results.md`` and ``calibration.png``, all or nothing.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        split: see ``run.open_finished``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        ConfigError: if the run predicts values, not probabilities.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    if out is not None:
        require_unused(out)

    def check(task: Task) -> None:
        if not isinstance(task, (SegmentationTask, ClassificationTask)):
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}', which predicts values without probabilities; "
                "calibration needs a run that segments or tells classes apart"
            )

    say = speaker(console)
    x = open_finished(folder, overrides, say, split=split, check=check)
    of_task = _OfRegions if isinstance(x.task, SegmentationTask) else _OfClasses
    temperature = _temperature(x, overrides, of_task, say)
    say(f"temperature: {temperature.rule}")
    say(f"scoring {len(x.cases)} cases ({x.split})")
    found = of_task(x)
    scores = found.scores(temperature)
    report = Report(
        task=x.config.task.name,
        strategy=x.config.strategy.name,
        split=x.split,
        scores=scores,
        rules={
            **found.rules(),
            "T": f"temperature: {temperature.rule}. T of 1: the probabilities as they are",
            "checkpoint": checkpoint_rule(x.folder, x.task, x.weights, x.split),
        },
        provenance=provenance(x.config, x.device),
    )
    target = out or new_folder(folder / "calibration" / x.name, x.device)
    if distributed.rank() == 0:
        write_results(target, report, lambda folder: found.draw(folder / "calibration.png", report.title, temperature))
        print_report(report, console)
        console.print(f"written: {target / 'results.md'}, results.json, results.csv and calibration.png")
    return report


def _temperature(
    x: FinishedRun,
    overrides: Tree,
    of_task: type[_OfRegions] | type[_OfClasses],
    say: Callable[[str], None],
) -> Temperature:
    """Fit to the run's validation split, if there is one that is not scored itself."""
    validation, reason = open_validation(x, overrides, say)
    if validation is None:
        return Temperature(None, {}, f"none was fitted, since {reason}")
    say(f"fitting the temperature to {len(validation.cases)} validation cases")
    found = of_task(validation)
    value, of_region = found.fit()
    limit = ""
    if at_limit(value):
        limit = f"; this is the end of the range {COLDEST:g} to {HOTTEST:g} that was looked at"
    return Temperature(
        value,
        of_region,
        f"{value:.4f}, fitted to the run's {len(validation.cases)} validation cases: the lowest negative "
        f"log-likelihood of {found.fitted_to}{limit}; all logits are divided by it, which changes no mask at "
        "threshold 0.5 and no predicted class",
    )


class _OfClasses:
    """Calibration of classes that exclude one another.

    Args:
        x: run and cases.
    """

    fitted_to = "all their predictions"

    def __init__(self, x: FinishedRun) -> None:
        assert isinstance(x.task, ClassificationTask)  # noqa: S101 - for the type checker; it was checked
        self.task = x.task
        autocast = precision(x.config.train.precision, x.device)
        self.places, self.predictions = class_predictions(x.task, x.model, x.cases, device=x.device, autocast=autocast)

    def fit(self) -> tuple[float, Mapping[str, float]]:
        """The temperature of these samples."""
        return fit_temperature(self.predictions.slope), {}

    def scores(self, temperature: Temperature) -> Scores:
        """A row before and one after; of each sample, what was predicted and how surely."""
        summary: list[Record] = []
        for stage, value in _stages(temperature):
            summary.append({"stage": stage, "temperature": value, **_record(self.predictions.scores(value))})
        cases = [dict(place) for place in self.places]
        for stage, value in _stages(temperature):
            logits = torch.from_numpy(self.predictions.logits / value)
            confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
            for row, true, number, p in zip(
                cases, self.predictions.true.tolist(), predicted.tolist(), confidence.tolist(), strict=True
            ):
                row |= {"true": self.task.targets[true], "predicted": self.task.targets[number]}
                row[f"probability_{stage}"] = p
        header = ("T", *MEASURES.values(), "predictions")
        return Scores(
            headline=_headline(summary, temperature),
            summary=tuple(summary),
            cases=tuple(cases),
            heads=(),
            tables=(Table("", header, tuple(map(_cells, summary))),),
        )

    def draw(self, path: Path, title: str, temperature: Temperature) -> None:
        """One reliability diagram."""
        before = self.predictions.scores()
        assert before is not None  # noqa: S101 - for the type checker; a split holds a case
        after = None if temperature.value is None else self.predictions.scores(temperature.value)
        reliability_figure(
            path,
            title,
            {"": (before, after)},
            said="probability of the predicted class",
            counted="samples",
        )

    def rules(self) -> dict[str, str]:
        """Definitions of the scores."""
        return {
            "ECE": f"expected calibration error of the predicted class (top-label), {BINS} bins of equal width over "
            "its probability (Guo et al. 2017): mean of |share that is right - mean probability|, weighted with the "
            "bins' shares",
            "MCE": "the same, of the worst bin that is not empty, however few samples it has",
            "Brier": "sum over classes of (probability - truth)^2, averaged over samples; 0 to 2",
            "NLL": "minus the natural logarithm of the true class's probability, averaged over samples",
        }


class _OfRegions:
    """Calibration of each region's voxels. Several processes share the cases.

    Args:
        x: run and cases.
    """

    fitted_to = f"voxels within {REACH_MM:g} mm of a region, all regions together"

    def __init__(self, x: FinishedRun) -> None:
        assert isinstance(x.task, SegmentationTask)  # noqa: S101 - for the type checker; it was checked
        self.task, self.cases, self.device, self.model = x.task, x.cases, x.device, x.model
        self.autocast = precision(x.config.train.precision, x.device)
        self.keys = [(voxels, region) for voxels in (NEAR, WHOLE) for region in self.task.targets]
        self.pooled = {key: RegionPredictions(np.zeros((2, len(LOG_ODDS)), np.int64)) for key in self.keys}

    def fit(self) -> tuple[float, Mapping[str, float]]:
        """The temperature of all regions together, and of each."""
        self._count(lambda case, found: None)
        near = {region: self.pooled[NEAR, region].slope for region in self.task.targets}
        together = fit_temperature(lambda inverse: sum(slope(inverse) for slope in near.values()))
        return together, {region: fit_temperature(slope) for region, slope in near.items()}

    def scores(self, temperature: Temperature) -> Scores:
        """A row for each region, kind of voxels and stage, of all cases together and of each."""
        rows: dict[str, list[Record]] = {}

        def note(case: str, found: Mapping[tuple[str, str], RegionPredictions]) -> None:
            rows[case] = [
                {"case": case, "voxels": voxels, "region": region, "stage": stage, **_record(p.scores(value))}
                for (voxels, region), p in found.items()
                for stage, value in _stages(temperature)
            ]
            for row in rows[case]:
                del row["bins"]

        self._count(note)
        everything = {id: own for part in distributed.gather_json(rows, self.device) for id, own in part.items()}
        summary: list[Record] = []
        for voxels in (NEAR, WHOLE):
            for stage, value in _stages(temperature):
                mine = [
                    {
                        "voxels": voxels,
                        "region": region,
                        "stage": stage,
                        "temperature": value,
                        "own_temperature": temperature.of_region.get(region),
                        **_record(self.pooled[voxels, region].scores(value)),
                    }
                    for region in self.task.targets
                ]
                summary += [*mine, _mean(mine)]
        tables = tuple(_region_table(summary, voxels, temperature) for voxels in (NEAR, WHOLE))
        return Scores(
            headline=_headline([r for r in summary if (r["voxels"], r["region"]) == (NEAR, "mean")], temperature),
            summary=tuple(summary),
            cases=tuple(row for id in self.cases for row in everything[id]),
            heads=(),
            tables=tables,
        )

    def draw(self, path: Path, title: str, temperature: Temperature) -> None:
        """A reliability diagram for each region that has voxels near it."""
        by_region = {}
        for region in self.task.targets:
            near = self.pooled[NEAR, region]
            if (before := near.scores()) is not None:
                by_region[region] = before, None if temperature.value is None else near.scores(temperature.value)
        reliability_figure(
            path,
            f"{title}\nvoxels within {REACH_MM:g} mm of the region",
            by_region,
            said="probability of the region",
            counted="voxels",
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
            f"brought to the case's grid; to the nearest 1/512, at most {LARGEST}",
        }

    def _count(self, note: Callable[[str, Mapping[tuple[str, str], RegionPredictions]], None]) -> None:
        """Count the voxels of all cases; ``note`` sees each case of this process by itself."""
        pooled = {key: p.counts.copy() for key, p in self.pooled.items()}
        for id in self.cases[distributed.rank() :: distributed.world_size()]:
            found = region_predictions(self.task, self.model, id, device=self.device, autocast=self.autocast)
            for key, p in found.items():
                pooled[key] += p.counts
            note(id, found)
        total = torch.from_numpy(np.stack(list(pooled.values()))).to(self.device)
        summed = distributed.sum_over_processes(total).cpu().numpy()
        self.pooled = {key: RegionPredictions(counts) for key, counts in zip(pooled, summed, strict=True)}


@torch.no_grad()
def class_predictions(
    task: ClassificationTask,
    model: MultimodalModel,
    cases: Sequence[str],
    *,
    device: torch.device,
    autocast: Autocast,
) -> tuple[list[Record], ClassPredictions]:
    """Logits of samples, or of the utterances of conversations, and which of them each row is of.

    Raises:
        NonFiniteLoss: if one is NaN or infinite; names the sample.
    """
    model.eval()
    places: list[Record] = []
    logits, targets = [], []
    for loaded in task.evaluation_batches(cases):
        batch = loaded.to(device)
        with autocast():
            found = model(batch.inputs)
        found = found.float().cpu()
        require_finite_logits({"fused": found}, batch.ids)
        target = loaded.target
        several = target.ndim > 1
        kept = target != IGNORED
        for id, counts in zip(batch.ids, kept, strict=True):
            places += [{"case": id, "utterance": i} for i in range(int(counts.sum()))] if several else [{"case": id}]
        logits.append(found.movedim(1, -1)[kept].double().numpy())
        targets.append(target[kept].numpy())
    return places, ClassPredictions(np.concatenate(logits), np.concatenate(targets))


def region_predictions(
    task: SegmentationTask, model: MultimodalModel, case: str, *, device: torch.device, autocast: Autocast
) -> dict[tuple[str, str], RegionPredictions]:
    """The voxels of a case, counted near each region and everywhere, by kind of voxels and region.

    Raises:
        NonFiniteLoss: if a probability is NaN.
    """
    model.eval()
    prepared = task.cases[case]
    image = torch.from_numpy(np.array(prepared.image())).to(device)
    volume = prepared.grid.to_native(task.probabilities(model, image, task.modalities, autocast))
    if not np.isfinite(volume).all():
        raise NonFiniteLoss(
            f"the prediction of {case} is NaN; look at this case, or train with a lower optim.lr or "
            "train.precision=float32"
        )
    truth = prepared.native_target(task.convention)
    found = {}
    for region, p, t in zip(task.targets, volume, truth, strict=True):
        near = nearby((p >= 0.5) | t, prepared.grid.spacing)
        found[NEAR, region] = RegionPredictions.count(p[near], t[near])
    for region, p, t in zip(task.targets, volume, truth, strict=True):
        found[WHOLE, region] = RegionPredictions.count(p, t)
    return found


def nearby(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Voxels no more than ``REACH_MM`` from one of a mask, centre to centre.

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
    box = []
    for axis, mm in enumerate(spacing_mm):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(REACH_MM / mm) + 1
        box.append(slice(max(0, filled[0] - margin), filled[-1] + 1 + margin))
    inside = tuple(box)
    near[inside] = distance_transform_edt(~mask[inside], sampling=tuple(spacing_mm)) <= REACH_MM
    return near


def _stages(temperature: Temperature) -> list[tuple[str, float]]:
    after = [] if temperature.value is None else [(AFTER, temperature.value)]
    return [(BEFORE, 1.0), *after]


def _record(calibration: Calibration | None) -> Record:
    if calibration is None:
        return {**dict.fromkeys(MEASURES), "count": 0, "bins": []}
    return {**asdict(calibration), "bins": [asdict(b) for b in calibration.bins]}


def _mean(rows: Sequence[Record]) -> Record:
    """The mean over the regions that have voxels."""
    known = [row for row in rows if row["count"]]
    means = {name: statistics.fmean(row[name] for row in known) if known else None for name in MEASURES}
    count = sum(row["count"] for row in rows)
    return {**rows[0], "region": "mean", "own_temperature": None, **means, "count": count, "bins": []}


def _headline(rows: Sequence[Record], temperature: Temperature) -> dict[str, float | None]:
    found: dict[str, float | None] = {f"ECE {row['stage']}": row["ece"] for row in rows}
    return {**found, "temperature": temperature.value}


def _cells(row: Record) -> tuple[str, ...]:
    """Temperature, scores and count; a temperature of 1 leaves probabilities as they are."""
    numbers = ("-" if row[name] is None else f"{row[name]:.4f}" for name in MEASURES)
    return f"{row['temperature']:.3f}", *numbers, _short(row["count"])


def _short(count: int) -> str:
    """A count in three digits, since millions of voxels would fill the table."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)


def _region_table(summary: Sequence[Record], voxels: str, temperature: Temperature) -> Table:
    """Before and after, one below the other; and what would suit each region by itself."""
    with_own = voxels == NEAR and bool(temperature.of_region)
    rows = []
    for row in (r for r in summary if r["voxels"] == voxels):
        own = row["own_temperature"]
        cells = (row["region"], *_cells(row))
        rows.append((*cells, "-" if own is None else f"{own:.3f}") if with_own else cells)
    kind = f"within {REACH_MM:g} mm of the region" if voxels == NEAR else "in the whole image"
    header = ("region", "T", *MEASURES.values(), "voxels", *(("own T",) if with_own else ()))
    return Table(f"voxels {kind}", header, tuple(rows))
