"""Classification of samples, or of each utterance of a conversation: everything that such tasks share."""

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
from cggm_med.metrics.labels import CLASS_METRICS, FUSED, Predicted, class_table, label_case_values, label_scores
from cggm_med.objectives.balance_scores import true_class_sums
from cggm_med.objectives.losses import IGNORED
from cggm_med.plots.labels import confusion_figure
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.task.base import CaseResult, TaskConfig
from cggm_med.task.capabilities import LabelledSamples
from cggm_med.task.samples import SampleTask


@dataclass(frozen=True)
class ClassificationTaskConfig(TaskConfig):
    """Settings of a classification task.

    Attributes:
        classes: names in the order of their numbers; default: the task's own, or the data's.
    """

    classes: tuple[str, ...] | None = None


class ClassificationTask(SampleTask):
    """Base of tasks that tell classes apart; a subclass names them in ``targets``, reads its data, makes its network.

    The target of a sample is its class number, or one for each utterance of a conversation; logits are
    ``(batch, class)`` or ``(batch, class, utterance)``. Each sample weighs the same in the loss.

    Attributes:
        metrics: which of ``accuracy``, ``weighted F1``, ``UAR`` and ``mAP`` are reported.
    """

    TaskConfig = ClassificationTaskConfig
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "weighted F1")
    chosen_by: ClassVar[str] = "accuracy"
    chance_rule: ClassVar[str] = (
        "the most frequent class of the scored samples for all, with the classes' frequencies as probabilities"
    )

    def settle_classes(self, found: Sequence[str], where: Path) -> None:
        """Number the classes as the data name them, or, if the run has classes already, as it does.

        For tasks whose classes are known only from the data; to be called by ``read``.

        Raises:
            DataError: if the data have classes that the run does not know.
        """
        known = self.config.task.classes
        if known is not None and (foreign := sorted(set(found) - set(known))):
            shown, ours = (first_of(names, 10) for names in (foreign, known))
            raise DataError(f"{where}: unknown classes {shown}; known: {ours}")
        if known is None:
            known = tuple(found)
            self.settle(task=replace(self.config.task, classes=known))
        self.targets = known

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples of ``splits``, and say which classes cannot be learned."""
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
        return target if isinstance(target, tuple) else (int(target),)

    def criterion(self) -> nn.Module:
        """Cross-entropy, the mean over samples."""
        return nn.CrossEntropyLoss()

    def score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums of the true class's probability."""
        return true_class_sums(logits, target)

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
        """True and predicted class and its probability, of each utterance; all probabilities where mAP needs them."""
        true = target.reshape(-1)
        valid = true != IGNORED
        probability = torch.softmax(logits.double(), dim=0).reshape(len(logits), -1).T[valid]
        best, predicted = probability.max(dim=1)
        found = {"true": true[valid].tolist(), "predicted": predicted.tolist(), "probability": best.tolist()}
        return {**found, "probabilities": probability.tolist()} if "mAP" in self.metrics else found

    def summarise(self, results: Sequence[CaseResult]) -> Scores:
        """Scores over all samples, of the fusion and of each head."""
        predictors = {who: self._predicted(results, who) for who in results[0].findings}
        cases, heads = [], []
        for result in results:
            several = isinstance(self.samples[result.case].target, tuple)
            for who, found in result.findings.items():
                for i, (true, predicted) in enumerate(zip(found["true"], found["predicted"], strict=True)):
                    row: dict[str, Any] = {"case": result.case}
                    if several:
                        row["utterance"] = i
                    row |= {"true": self.targets[true], "predicted": self.targets[predicted]}
                    row["probability"] = found["probability"][i]
                    if who == FUSED:
                        cases.append(row)
                    else:
                        heads.append({"modality": who, **row})
        return label_scores(
            predictors,
            {name: CLASS_METRICS[name] for name in self.metrics},
            cases=cases,
            heads=heads,
            details=(class_table(predictors[FUSED], self.targets),),
        )

    @classmethod
    def case_values(cls, cases: Sequence[Record]) -> CaseValues:
        """Right classes of each case, and of how many."""
        return label_case_values(cases, "accuracy", lambda true, predicted: float(true == predicted))

    def chance(self, results: Sequence[CaseResult]) -> dict[str, float | None]:
        """The metrics of the most frequent class for every sample."""
        true = self._predicted(results, FUSED).true
        shares = np.bincount(true, minlength=len(self.targets)) / len(true)
        guess = Predicted(true, np.full_like(true, shares.argmax()), np.tile(shares, (len(true), 1)))
        return {name: CLASS_METRICS[name](guess) for name in self.metrics}

    def draw(self, results: Sequence[CaseResult], folder: Path) -> None:
        """The confusion matrix of the fused prediction."""
        confusion_figure(folder / "confusion.png", self._predicted(results, FUSED), self.targets)

    def rules(self) -> dict[str, str]:
        """Definitions of the scores."""
        return {name: CLASS_METRICS[name].rule for name in self.metrics} | {
            "predicted class": "the one with the highest probability"
        }

    def _predicted(self, results: Sequence[CaseResult], who: str) -> Predicted:
        found = [result.findings[who] for result in results]
        probability = None
        if "mAP" in self.metrics:
            probability = np.array([row for f in found for row in f["probabilities"]])
        return Predicted(
            np.array([x for f in found for x in f["true"]]),
            np.array([x for f in found for x in f["predicted"]]),
            probability,
        )
