"""Linear probes of sample tasks: classes or values, predicted from each modality's feature vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cggm_med.errors import DataError
from cggm_med.evaluation.labelled import labels_of, predict_labels
from cggm_med.evaluation.probe.readouts import FOLDS, Rows, class_probabilities, fit_readout, pooled
from cggm_med.evaluation.probe.table import HEAD, PROBE, READ_OUTS, UNTRAINED, Record, read_out_table, untrained
from cggm_med.metrics.classification_regression import FUSED, Predicted
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.results import Scores
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.capabilities import LabelledSamples

MAX_SAMPLES = 10_000  # of the training split


class SampleProbe:
    """Linear probes of a sample task.

    Args:
        run: the run and the cases to score.
        samples: what its task offers.
        train: its training samples.
        validation: its validation samples, which choose the amount of regularisation.
    """

    def __init__(
        self, run: LoadedRun, samples: LabelledSamples, train: LoadedRun, validation: LoadedRun | None
    ) -> None:
        self.run, self.task, self.train, self.validation = run, run.task, train, validation
        self.samples, self.metrics = samples, samples.metrics
        self.classes = samples.labels == "classes"

    def scores(self, say: Say) -> Scores:
        """One row per modality and read-out, and one for the fused prediction."""
        chosen = self.train.cases
        if len(chosen) > MAX_SAMPLES:
            random = np.random.Generator(
                np.random.Philox(random_seed(self.run.config.train.seed, Stream.PROBED_SAMPLES))
            )
            chosen = tuple(chosen[i] for i in sorted(random.permutation(len(chosen))[:MAX_SAMPLES]))
        self.fitted_to = len(chosen)
        summary: list[Record] = []
        cases: list[Record] = []
        for by, model in ((UNTRAINED, untrained(self.run)), (PROBE, self.run.model.eval())):
            fit_to, _ = self._rows(self.train, model, chosen)
            choose_by: dict[str, Rows] = {}
            if self.validation is not None:
                choose_by, _ = self._rows(self.validation, model, self.validation.cases)
            test, places = self._rows(self.run, model, self.run.cases)
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
            tables=tuple(read_out_table(name, summary, name, self.task.modalities) for name in self.metrics),
        )

    def panels(self, scores: Scores) -> dict[str, dict[tuple[str, str], float | None]]:
        """The metric that the task chooses checkpoints by."""
        name = self.task.chosen_by
        better = "lower" if self.task.lower_is_better else "higher"
        return {f"{name} ({better} is better)": {(r["modality"], r["by"]): r[name] for r in scores.summary}}

    def chosen_by(self, reason: str) -> str:
        """How the amount of regularisation was chosen."""
        metric = "accuracy" if self.classes else "mean absolute error"
        if self.validation is not None:
            return f"the amount of regularisation: {metric} on the {len(self.validation.cases)} validation cases"
        return (
            f"the amount of regularisation: {metric} over {FOLDS} folds of the training cases that divide no "
            f"{self.task.group_kind}, since {reason}"
        )

    def rules(self) -> dict[str, str]:
        """How the probe works."""
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
        """Frozen features of each modality, and the case of each row."""
        samples = source.task.labelled_samples()
        assert samples is not None  # noqa: S101 - the task of one run offers them whatever the cases
        numbers = {group: n for n, group in enumerate(dict.fromkeys(map(samples.group, cases)))}
        vectors: dict[str, list[NDArray[np.float64]]] = {m: [] for m in self.task.modalities}
        targets: list[NDArray[Any]] = []
        places: list[Record] = []
        for loaded in samples.batches(cases):
            batch = loaded.to(source.device)
            with source.autocast():
                features = model.encode(batch.inputs)
            labelled, batch_places = labels_of(samples, loaded)
            places += batch_places
            for modality in self.task.modalities:
                vectors[modality].append(pooled(features[modality], labelled))
            targets.append((loaded.target if labelled is None else loaded.target[labelled]).numpy().reshape(-1))
        y = np.concatenate(targets)
        groups = np.array([numbers[samples.group(str(place["case"]))] for place in places])
        return {m: Rows(np.concatenate(x), y, groups) for m, x in vectors.items()}, places

    def _own(self) -> list[Record]:
        """Scores of the run's own heads and of its fused prediction."""
        labels = predict_labels(self.run, self.samples, self.run.strategy.eval().heads)
        rows = []
        for name, logits in labels.logits.items():
            predicted = Predicted(labels.true, logits[:, 0])
            if self.classes:
                probability = torch.softmax(torch.from_numpy(logits), dim=1)
                predicted = Predicted(labels.true, probability.max(dim=1).indices.numpy(), probability.numpy())
            values = {key: metric(predicted) for key, metric in self.metrics.items()}
            by = FUSED if name == FUSED else HEAD
            rows.append({"modality": name, "by": by, **values, "samples": len(labels.true), "strength": None})
        return rows

    def _named(self, value: float) -> Any:
        return self.task.targets[int(value)] if self.classes else value

    def _require_classes(self, y: NDArray[Any]) -> None:
        if self.classes and len(np.unique(y)) < 2:
            only = self._named(y[0])
            raise DataError(
                f"all training cases are of class '{only}'; a probe needs at least two classes to tell apart"
            )
