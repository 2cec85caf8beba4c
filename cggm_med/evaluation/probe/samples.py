"""Probes of tasks on samples: classes and values, read out of each modality's feature vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.device import precision
from cggm_med.errors import DataError
from cggm_med.evaluation.probe.readouts import FOLDS, Rows, class_probabilities, fit_readout, pooled
from cggm_med.evaluation.probe.table import HEAD, PROBE, READ_OUTS, UNTRAINED, Record, Say, read_out_table, untrained
from cggm_med.metrics.labels import CLASS_MEASURES, FUSED, Measure, Predicted
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.losses import IGNORED
from cggm_med.randomness import random_seed
from cggm_med.results.results import Scores
from cggm_med.runs.train import FinishedRun
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.regression import RegressionTask
from cggm_med.task.samples import SampleTask

MOST_SAMPLES = 10_000  # of the training split


class SampleProbe:
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
            tables=tuple(read_out_table(name, summary, name, self.task.modalities) for name in self.measures),
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
