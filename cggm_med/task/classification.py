"""Base class of classification tasks, for samples or for each utterance of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from cggm_med.config import require
from cggm_med.data.splits import Splits
from cggm_med.errors import DataError, first_of
from cggm_med.metrics.classification_regression import (
    CLASS_METRICS,
    FUSED,
    Predicted,
    class_table,
    label_case_values,
    label_scores,
)
from cggm_med.objectives.balance_scores import ScoreSums, accuracy_sums, true_class_sums
from cggm_med.objectives.targets import IGNORED
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.task.base import CaseResult, TaskConfig
from cggm_med.task.capabilities import LabelledSamples, UnlabelledSamples
from cggm_med.task.samples import SampleTask


@dataclass(frozen=True)
class ClassificationTaskConfig(TaskConfig):
    """Settings of a classification task.

    Attributes:
        classes: names in the order of their numbers; default: the task's own, or the data's.
    """

    classes: tuple[str, ...] | None = None


class ClassificationTask(SampleTask):
    """Base of tasks that predict classes; a subclass names them in ``targets``, reads its data, makes its network.

    The target of a sample is its class number, or one for each utterance of a conversation; logits are
    ``(batch, class)`` or ``(batch, class, utterance)``. Each sample weighs the same in the loss.

    Attributes:
        metrics: the reported ones of ``accuracy``, ``weighted F1``, ``UAR`` and ``mAP``.
    """

    TaskConfig = ClassificationTaskConfig
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "weighted F1")
    chosen_by: ClassVar[str] = "accuracy"
    chance_rule: ClassVar[str] = (
        "the most frequent class of the scored samples for all, with the classes' frequencies as probabilities"
    )

    def settle_classes(self, names: Sequence[str], where: Path) -> None:
        """Number the classes in the order of ``names`` or, if the run has classes already, in theirs.

        For tasks whose classes only the data tell; to be called by ``read``.

        Raises:
            DataError: if the data have classes that the run does not know.
        """
        known = self.config.task.classes
        if known is not None and (foreign := sorted(set(names) - set(known))):
            shown, ours = (first_of(some, 10) for some in (foreign, known))
            raise DataError(f"{where}: unknown classes {shown}; known: {ours}")
        if known is None:
            known = tuple(names)
            self.settle(task=replace(self.config.task, classes=known))
        self.targets = known

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples of ``splits``, and report classes without a training sample."""
        super().prepare(splits, say)
        named = self.config.task.classes
        require(named in (None, self.targets), "task.classes", named, f"the task's own: {', '.join(self.targets)}")
        seen = {number for id in splits.train for number in self._numbers(id)}
        absent = [name for number, name in enumerate(self.targets) if number not in seen]
        if splits.train and absent:
            shown = first_of(absent, 10)
            say(f"{len(absent)} of {len(self.targets)} classes have no training sample: {shown}")

    def _numbers(self, id: str) -> tuple[int, ...]:
        target = self.samples[id].target
        assert target is not None  # noqa: S101 - samples that are prepared for training or scoring have one
        return target if isinstance(target, tuple) else (int(target),)

    def criterion(self) -> nn.Module:
        """Cross-entropy, the mean over samples."""
        return nn.CrossEntropyLoss()

    def score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums of the true class's probability."""
        return true_class_sums(logits, target)

    def hard_score_sums(self) -> ScoreSums | None:
        """Sums of the accuracy."""
        return accuracy_sums

    def labelled_samples(self) -> LabelledSamples:
        """Classes."""
        metrics = {name: CLASS_METRICS[name] for name in self.metrics}
        return LabelledSamples("classes", metrics, self.evaluation_batches, self.group_of)

    def target_tensor(self, targets: Sequence[Any]) -> Tensor:
        """Class numbers, ``(batch,)`` or ``(batch, utterance)``, the latter padded with ``IGNORED``."""
        if targets and isinstance(targets[0], tuple):
            rows = [torch.tensor(t) for t in targets]
            return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)
        return torch.tensor(targets)

    def finding(self, logits: Tensor, target: Tensor) -> dict[str, Any]:
        """True and predicted class with its probability, for each utterance; all probabilities if mAP needs them."""
        true = target.reshape(-1)
        valid = true != IGNORED
        probability = torch.softmax(logits.double(), dim=0).reshape(len(logits), -1).T[valid]
        best, predicted = probability.max(dim=1)
        finding = {"true": true[valid].tolist(), "predicted": predicted.tolist(), "probability": best.tolist()}
        return {**finding, "probabilities": probability.tolist()} if "mAP" in self.metrics else finding

    def unlabelled_samples(self) -> UnlabelledSamples | None:
        """See the base class; the classes are those of the run."""
        self.targets = self.config.task.classes or self.targets
        return super().unlabelled_samples()

    def label_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The predicted class with its probability, and that of every class, for each utterance."""
        several = logits.ndim > 1
        rows = []
        for i, probabilities in enumerate(torch.softmax(logits.double(), dim=0).reshape(len(logits), -1).T.tolist()):
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            row: dict[str, Any] = {"utterance": i} if several else {}
            row |= {"predicted": self.targets[best], "probability": probabilities[best]}
            rows.append({**row, **{f"probability {n}": p for n, p in zip(self.targets, probabilities, strict=True)}})
        return rows

    def summarise(self, results: Sequence[CaseResult]) -> Scores:
        """Scores over all samples, of the fusion and of each head."""
        predictors = {name: self._predicted(results, name) for name in results[0].findings}
        cases, heads = [], []
        for result in results:
            several = isinstance(self.samples[result.case].target, tuple)
            for predictor, finding in result.findings.items():
                for i, (true, predicted) in enumerate(zip(finding["true"], finding["predicted"], strict=True)):
                    row: dict[str, Any] = {"case": result.case}
                    if several:
                        row["utterance"] = i
                    row |= {"true": self.targets[true], "predicted": self.targets[predicted]}
                    row["probability"] = finding["probability"][i]
                    if predictor == FUSED:
                        cases.append(row)
                    else:
                        heads.append({"modality": predictor, **row})
        return label_scores(
            predictors,
            {name: CLASS_METRICS[name] for name in self.metrics},
            cases=cases,
            heads=heads,
            details=(class_table(predictors[FUSED], self.targets),),
        )

    @classmethod
    def case_values(cls, cases: Sequence[Record]) -> CaseValues:
        """Number of right classes of each case, and of all its classes."""
        return label_case_values(cases, "accuracy", lambda true, predicted: float(true == predicted))

    def chance(self, results: Sequence[CaseResult]) -> dict[str, float | None]:
        """The metrics of the most frequent class for every sample."""
        true = self._predicted(results, FUSED).true
        shares = np.bincount(true, minlength=len(self.targets)) / len(true)
        guess = Predicted(true, np.full_like(true, shares.argmax()), np.tile(shares, (len(true), 1)))
        return {name: CLASS_METRICS[name](guess) for name in self.metrics}

    def draw(self, results: Sequence[CaseResult], folder: Path) -> None:
        """The confusion matrix of the fused prediction."""
        from cggm_med.plots.classification_regression import confusion_figure

        confusion_figure(folder / "confusion.png", self._predicted(results, FUSED), self.targets)

    def rules(self) -> dict[str, str]:
        """Definitions of the scores."""
        return {name: CLASS_METRICS[name].rule for name in self.metrics} | {
            "predicted class": "the one with the highest probability"
        }

    def _predicted(self, results: Sequence[CaseResult], predictor: str) -> Predicted:
        findings = [result.findings[predictor] for result in results]
        probability = None
        if "mAP" in self.metrics:
            probability = np.array([row for f in findings for row in f["probabilities"]])
        return Predicted(
            np.array([x for f in findings for x in f["true"]]),
            np.array([x for f in findings for x in f["predicted"]]),
            probability,
        )
