"""Metrics of predicted classes and values, over all cases together, of the fused prediction and of each head."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.results.tables import Table, rounded

FUSED = "fused"


@dataclass(frozen=True)
class Predicted:
    """All samples as one predictor, the fusion or a modality's own head, predicts them.

    Attributes:
        true: ``(sample,)`` class numbers or values.
        predicted: ``(sample,)``, the same.
        probability: ``(sample, class)``; None for values, and where no metric needs it.
    """

    true: NDArray[Any]
    predicted: NDArray[Any]
    probability: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class LabelMetric:
    """A metric over all samples of one predictor.

    Attributes:
        name: in tables, summary and headline.
        function: computes it; None where it is not defined.
        rule: its definition, without the name.
    """

    name: str
    function: Callable[[Predicted], float | None]
    rule: str

    def __call__(self, predicted: Predicted) -> float | None:
        """Its value for all samples together."""
        return self.function(predicted)


def accuracy(predicted: Predicted) -> float:
    """Share of samples whose class is right.

    Example:
        >>> accuracy(Predicted(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])))
        0.75
    """
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(predicted.true, predicted.predicted))


def weighted_f1(predicted: Predicted) -> float:
    """F1 of each class, averaged with the classes' true frequencies as weights."""
    from sklearn.metrics import f1_score

    return float(f1_score(predicted.true, predicted.predicted, average="weighted", zero_division=0))


def unweighted_average_recall(predicted: Predicted) -> float:
    """Recall of each class that occurs, averaged (UAR, also balanced accuracy).

    Example:
        >>> unweighted_average_recall(Predicted(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]))).__round__(3)
        0.833
    """
    from sklearn.metrics import recall_score

    occurring = np.unique(predicted.true)
    return float(recall_score(predicted.true, predicted.predicted, labels=occurring, average="macro", zero_division=0))


def mean_average_precision(predicted: Predicted) -> float:
    """Average precision of each class that occurs, one against the rest, averaged (mAP)."""
    from sklearn.metrics import average_precision_score

    assert predicted.probability is not None  # noqa: S101 - kept for every task that has this metric
    occurring = np.unique(predicted.true)
    precisions = [average_precision_score(predicted.true == c, predicted.probability[:, c]) for c in occurring]
    return float(np.mean(precisions))


def mean_absolute_difference(predicted: Predicted) -> float:
    """Mean absolute error (MAE), in the unit of the target."""
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(predicted.true, predicted.predicted))


def correlation(predicted: Predicted) -> float | None:
    """Pearson's correlation (Corr); None where it is not defined, since one side is constant."""
    if np.ptp(predicted.true) == 0 or np.ptp(predicted.predicted) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that are next to constant
        value = float(np.corrcoef(predicted.true, predicted.predicted)[0, 1])
    return value if np.isfinite(value) else None


def by_name(*metrics: LabelMetric) -> dict[str, LabelMetric]:
    """Metrics by their names, in this order."""
    return {metric.name: metric for metric in metrics}


CLASS_METRICS: Mapping[str, LabelMetric] = by_name(
    LabelMetric("accuracy", accuracy, "share of samples whose class is right"),
    LabelMetric("weighted F1", weighted_f1, "F1 of each class, averaged with the classes' true frequencies as weights"),
    LabelMetric(
        "UAR", unweighted_average_recall, "unweighted average recall: recall of each class that occurs, averaged"
    ),
    LabelMetric(
        "mAP", mean_average_precision, "average precision of each class that occurs, one against the rest, averaged"
    ),
)
VALUE_METRICS: Mapping[str, LabelMetric] = by_name(
    LabelMetric("MAE", mean_absolute_difference, "mean absolute error, in the unit of the target"),
    LabelMetric("Corr", correlation, "Pearson's correlation"),
)


def label_scores(
    by_predictor: Mapping[str, Predicted],
    metrics: Mapping[str, LabelMetric],
    *,
    cases: Sequence[Record],
    heads: Sequence[Record],
    details: Sequence[Table] = (),
) -> Scores:
    """Headline, summary and tables of all samples.

    Args:
        by_predictor: first ``FUSED``, then the modalities with a head.
        metrics: by name.
        cases: one row per case.
        heads: one row per case and head.
        details: further tables.
    """
    values = {p: {name: metric(samples) for name, metric in metrics.items()} for p, samples in by_predictor.items()}
    counts = {p: len(samples.true) for p, samples in by_predictor.items()}
    rows = tuple((p, *map(rounded, row.values()), str(counts[p])) for p, row in values.items())
    case_table = Table("cases", tuple(cases[0]), tuple(tuple(map(_cell, row.values())) for row in cases), detail=True)
    return Scores(
        headline=values[FUSED],
        summary=tuple({"predicted_by": p, **row, "samples": counts[p]} for p, row in values.items()),
        cases=tuple(cases),
        heads=tuple(heads),
        tables=(Table("", ("by", *metrics, "n"), rows), *details, case_table),
    )


def label_case_values(cases: Sequence[Record], name: str, value: Callable[[Any, Any], float]) -> CaseValues:
    """What each case adds to a mean over samples.

    Args:
        cases: rows with ``case``, ``true`` and ``predicted``; a case may have several.
        name: of the metric.
        value: of one true and one predicted class or value.

    Example:
        >>> rows = [{"case": "a", "true": 1.0, "predicted": 3.0}]
        >>> label_case_values(rows, "MAE", lambda true, predicted: abs(true - predicted))
        {'MAE': {'a': (2.0, 1.0)}}
    """
    sums: dict[str, tuple[float, float]] = {}
    for row in cases:
        total, count = sums.get(row["case"], (0.0, 0.0))
        sums[row["case"]] = (total + value(row["true"], row["predicted"]), count + 1)
    return {name: sums}


def class_table(predicted: Predicted, classes: Sequence[str]) -> Table:
    """Precision, recall and F1 of each class that occurs or is predicted."""
    from sklearn.metrics import precision_recall_fscore_support

    seen = np.union1d(predicted.true, predicted.predicted)
    columns = precision_recall_fscore_support(predicted.true, predicted.predicted, labels=seen, zero_division=0)
    rows = tuple(
        (classes[c], *(f"{value:.3f}" for value in values), str(count))
        for c, *values, count in zip(seen.tolist(), *columns, strict=True)
    )
    return Table("classes", ("class", "precision", "recall", "F1", "samples"), rows, detail=len(classes) > 20)


def _cell(value: Any) -> str:
    return rounded(value) if isinstance(value, float) else str(value)
