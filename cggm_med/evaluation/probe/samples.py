"""Probes of tasks on samples: classes and values, read out of each modality's feature vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.errors import DataError
from cggm_med.evaluation.labelled import labels_of, predict_labels
from cggm_med.evaluation.probe.readouts import FOLDS, Rows, class_probabilities, fit_readout, pooled
from cggm_med.evaluation.probe.table import HEAD, PROBE, READ_OUTS, UNTRAINED, Record, Say, read_out_table, untrained
from cggm_med.metrics.labels import FUSED, Predicted
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.results import Scores
from cggm_med.runs.loaded import LoadedRun
from cggm_med.task.capabilities import LabelledSamples

MAX_SAMPLES = 10_000  # of the training split


class SampleProbe:
    """Probes of tasks on samples.

    Args:
        x: the run, and what is scored.
        samples: what its task offers.
        train: its training samples.
        validation: its validation samples, to choose the amount of regularisation by.
    """

    def __init__(self, x: LoadedRun, samples: LabelledSamples, train: LoadedRun, validation: LoadedRun | None) -> None:
        self.x, self.task, self.train, self.validation = x, x.task, train, validation
        self.samples, self.metrics = samples, samples.metrics
        self.classes = samples.labels == "classes"

    def scores(self, say: Say) -> Scores:
        """A row for each modality and read-out, and one for the fused prediction."""
        chosen = self.train.cases
        if len(chosen) > MAX_SAMPLES:
            random = np.random.Generator(np.random.Philox(random_seed(self.x.config.train.seed, Stream.PROBED_SAMPLES)))
            chosen = tuple(chosen[i] for i in sorted(random.permutation(len(chosen))[:MAX_SAMPLES]))
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
                values = {name: metric(predicted) for name, metric in self.metrics.items()}
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
            tables=tuple(read_out_table(name, summary, name, self.task.modalities) for name in self.metrics),
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
        rules = {name: text for name, text in self.task.rules().items() if name in self.metrics}
        return {
            **rules,
            "probe": f"{kind} (scikit-learn) on the encoder's frozen, standardised features, without augmentation, "
            f"fitted to {self.fitted_to} training cases and nothing else",
            "features": "the encoder's vector; of sequences the mean over valid time, of conversations each utterance; "
            "of images the mean over the grid, if the encoder leaves one",
        }

    @torch.no_grad()
    def _rows(
        self, source: LoadedRun, model: MultimodalModel, cases: Sequence[str]
    ) -> tuple[dict[str, Rows], list[Record]]:
        """Frozen features of each modality, and which case each row is of."""
        samples = source.task.labelled_samples()
        assert samples is not None  # noqa: S101 - the task of one run offers them whatever the cases
        numbers = {group: n for n, group in enumerate(dict.fromkeys(map(samples.group, cases)))}
        found: dict[str, list[NDArray[np.float64]]] = {m: [] for m in self.task.modalities}
        targets: list[NDArray[Any]] = []
        places: list[Record] = []
        for loaded in samples.batches(cases):
            batch = loaded.to(source.device)
            with source.autocast():
                features = model.encode(batch.inputs)
            each, of_batch = labels_of(samples, loaded)
            places += of_batch
            for modality in self.task.modalities:
                found[modality].append(pooled(features[modality], each))
            targets.append((loaded.target if each is None else loaded.target[each]).numpy().reshape(-1))
        y = np.concatenate(targets)
        groups = np.array([numbers[samples.group(str(place["case"]))] for place in places])
        return {m: Rows(np.concatenate(x), y, groups) for m, x in found.items()}, places

    def _own(self) -> list[Record]:
        """What the run's own heads and its fused prediction score."""
        found = predict_labels(self.x, self.samples, self.x.strategy.eval().heads)
        rows = []
        for who, logits in found.logits.items():
            predicted = Predicted(found.true, logits[:, 0])
            if self.classes:
                probability = torch.softmax(torch.from_numpy(logits), dim=1)
                predicted = Predicted(found.true, probability.max(dim=1).indices.numpy(), probability.numpy())
            values = {name: metric(predicted) for name, metric in self.metrics.items()}
            by = FUSED if who == FUSED else HEAD
            rows.append({"modality": who, "by": by, **values, "samples": len(found.true), "strength": None})
        return rows

    def _named(self, value: float) -> Any:
        return self.task.targets[int(value)] if self.classes else value

    def _require_classes(self, y: NDArray[Any]) -> None:
        if self.classes and len(np.unique(y)) < 2:
            only = self._named(y[0])
            raise DataError(
                f"all training cases are of class '{only}'; a probe needs at least two classes to tell apart"
            )
