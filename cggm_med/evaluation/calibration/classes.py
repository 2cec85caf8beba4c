"""Calibration of mutually exclusive classes: the predicted class and its probability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cggm_med.evaluation.calibration.figure import reliability_figure
from cggm_med.evaluation.calibration.scores import BINS, ClassPredictions, fit_temperature
from cggm_med.evaluation.calibration.table import METRICS, Record, Temperature, cells_of, headline, record, stages
from cggm_med.evaluation.labelled import predict_labels
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.results.results import Scores
from cggm_med.results.tables import Table
from cggm_med.runs.loaded_run import LoadedRun
from cggm_med.task.capabilities import LabelledSamples


class ClassCalibration:
    """Calibration of mutually exclusive classes.

    Args:
        run: the run and its cases.
        samples: what its task offers.
    """

    fitted_to = "all their predictions"

    def __init__(self, run: LoadedRun, samples: LabelledSamples) -> None:
        self.task = run.task
        labels = predict_labels(run, samples)
        self.places, self.predictions = labels.places, ClassPredictions(labels.logits[FUSED], labels.true)

    def fit(self) -> tuple[float, Mapping[str, float]]:
        """The temperature of these samples."""
        return fit_temperature(self.predictions.slope), {}

    def scores(self, temperature: Temperature) -> Scores:
        """One row before and one after scaling; for each sample its predicted class and probability."""
        summary: list[Record] = []
        for stage, value in stages(temperature):
            summary.append({"stage": stage, "temperature": value, **record(self.predictions.scores(value))})
        cases = [dict(place) for place in self.places]
        for stage, value in stages(temperature):
            logits = torch.from_numpy(self.predictions.logits / value)
            confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
            for row, true, number, p in zip(
                cases, self.predictions.true.tolist(), predicted.tolist(), confidence.tolist(), strict=True
            ):
                row |= {"true": self.task.targets[true], "predicted": self.task.targets[number]}
                row[f"probability_{stage}"] = p
        header = ("T", *METRICS.values(), "predictions")
        return Scores(
            headline=headline(summary, temperature),
            summary=tuple(summary),
            cases=tuple(cases),
            tables=(Table("", header, tuple(map(cells_of, summary))),),
        )

    def draw(self, path: Path, title: str, temperature: Temperature) -> None:
        """One reliability diagram."""
        before = self.predictions.scores()
        assert before is not None  # noqa: S101 - for the type checker; a split holds a case
        after = None if temperature.value is None else self.predictions.scores(temperature.value)
        reliability_figure(
            path, title, {"": (before, after)}, x_label="probability of the predicted class", unit="samples"
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
