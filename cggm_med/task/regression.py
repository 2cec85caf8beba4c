"""Base class of regression tasks, which predict one value per sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cggm_med.metrics.classification_regression import (
    FUSED,
    VALUE_METRICS,
    LabelMetric,
    Predicted,
    label_case_values,
    label_scores,
)
from cggm_med.objectives.activation import average_values
from cggm_med.objectives.balance_scores import ScoreSums, residual_sums, sign_accuracy_sums
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.task.base import CaseResult
from cggm_med.task.capabilities import LabelledSamples
from cggm_med.task.samples import SampleTask


class RegressionTask(SampleTask):
    """Base of tasks that predict a value; a subclass reads its data and makes its network.

    The target of a sample is a number; logits are ``(batch, 1)``, in the unit of the target.

    Attributes:
        metrics: the reported ones, by name.
        signed: whether values lie on both sides of 0, and which side is what matters most.
        residual_scale: residual at which a modality's balance score is 1/e, in the unit of the target.
    """

    metrics: ClassVar[Mapping[str, LabelMetric]] = VALUE_METRICS
    residual_scale: ClassVar[float]
    signed: ClassVar[bool] = False
    chosen_by: ClassVar[str] = "MAE"
    lower_is_better: ClassVar[bool] = True
    chance_rule: ClassVar[str] = "the median of the scored samples for all; 0 where a measure is not defined then"

    def average(self, logits: Tensor, weights: Tensor) -> Tensor:
        """The mean value."""
        return average_values(logits, weights)

    def criterion(self) -> nn.Module:
        """Mean absolute error."""
        return nn.L1Loss()

    def score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums of the bounded residual score."""
        return residual_sums(self.residual_scale)(logits, target)

    def hard_score_sums(self) -> ScoreSums | None:
        """Sums of the accuracy of the sign, where it has a meaning."""
        return sign_accuracy_sums if self.signed else None

    def labelled_samples(self) -> LabelledSamples:
        """Values."""
        return LabelledSamples("values", self.metrics, self.evaluation_batches, self.group_of)

    def target_tensor(self, targets: Sequence[Any]) -> Tensor:
        """Values, ``(batch, 1)``."""
        return torch.tensor(targets, dtype=torch.float32)[:, None]

    def finding(self, logits: Tensor, target: Tensor) -> dict[str, Any]:
        """True and predicted value."""
        return {"true": float(target.item()), "predicted": float(logits.item())}

    def label_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The predicted value."""
        return [{"predicted": float(logits.item())}]

    def summarise(self, results: Sequence[CaseResult]) -> Scores:
        """Scores over all samples, of the fusion and of each head."""
        predictors = {name: self._predicted(results, name) for name in results[0].findings}
        heads = [
            {"case": result.case, "modality": predictor, **finding}
            for result in results
            for predictor, finding in result.findings.items()
            if predictor != FUSED
        ]
        cases = [{"case": result.case, **result.findings[FUSED]} for result in results]
        return label_scores(predictors, self.metrics, cases=cases, heads=heads)

    @classmethod
    def case_values(cls, cases: Sequence[Record]) -> CaseValues:
        """Absolute error of each case."""
        return label_case_values(cases, "MAE", lambda true, predicted: abs(true - predicted))

    def chance(self, results: Sequence[CaseResult]) -> dict[str, float | None]:
        """The metrics of the median for every sample; 0 where not defined, as for a correlation."""
        true = self._predicted(results, FUSED).true
        guess = Predicted(true, np.full_like(true, np.median(true)))
        return {name: metric(guess) or 0.0 for name, metric in self.metrics.items()}

    def draw(self, results: Sequence[CaseResult], folder: Path) -> None:
        """Predicted against true values."""
        from cggm_med.plots.classification_regression import scatter_figure

        scatter_figure(folder / "predictions.png", self._predicted(results, FUSED))

    def rules(self) -> dict[str, str]:
        """Definitions of the scores."""
        return {name: metric.rule for name, metric in self.metrics.items()}

    def _predicted(self, results: Sequence[CaseResult], predictor: str) -> Predicted:
        findings = [result.findings[predictor] for result in results]
        return Predicted(np.array([f["true"] for f in findings]), np.array([f["predicted"] for f in findings]))
