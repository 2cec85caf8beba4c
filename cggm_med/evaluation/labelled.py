"""Predictions of a run's labelled samples, one row per label, by its fused prediction and its heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.metrics.classification_regression import FUSED
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.targets import IGNORED
from cggm_med.results.results import Record
from cggm_med.runs.loaded_run import LoadedRun
from cggm_med.task.capabilities import LabelledSamples
from cggm_med.task.samples import require_finite_logits
from cggm_med.types import Batch


@dataclass(frozen=True)
class LabelPredictions:
    """True and predicted labels, one row per label.

    Attributes:
        places: the case of each row and, where a case has several labels, the number of its part.
        true: ``(row,)`` class numbers or values.
        logits: ``(row, class)``, or ``(row, 1)`` for values, by predictor: the fusion, then the heads.
    """

    places: list[Record]
    true: NDArray[Any]
    logits: Mapping[str, NDArray[np.float64]]


def labels_of(samples: LabelledSamples, batch: Batch) -> tuple[Tensor | None, Iterator[dict[str, Any]]]:
    """The positions of a batch that hold a label (None if each sample has just one), and the place of each row."""
    if samples.labels == "values" or batch.target.ndim == 1:
        return None, ({"case": id} for id in batch.ids)
    labelled = batch.target != IGNORED
    counts = zip(batch.ids, labelled.sum(dim=1).tolist(), strict=True)
    return labelled, ({"case": id, "utterance": i} for id, count in counts for i in range(count))


@torch.no_grad()
def predict_labels(run: LoadedRun, samples: LabelledSamples, heads: UnimodalHeads | None = None) -> LabelPredictions:
    """Predict the cases of a run.

    Args:
        run: the run and its cases.
        samples: what its task offers.
        heads: in evaluation mode; predict as well.

    Raises:
        NonFiniteLoss: if a prediction is NaN or infinite; names the sample.
    """
    run.model.eval()
    places: list[Record] = []
    true: list[NDArray[Any]] = []
    logits: dict[str, list[NDArray[np.float64]]] = {}
    for loaded in samples.batches(run.cases):
        batch = loaded.to(run.device)
        with run.autocast():
            features = run.model.encode(batch.inputs)
            outputs = {FUSED: run.model.head(run.model.fuse(features)[0])}
            if heads is not None:
                outputs |= {m: output.logits for m, output in heads(features).items()}
        outputs = {name: output.float().cpu() for name, output in outputs.items()}
        require_finite_logits(outputs, batch.ids)
        labelled, batch_places = labels_of(samples, loaded)
        places += batch_places
        for name, output in outputs.items():
            rows = output if labelled is None else output.movedim(1, -1)[labelled]
            logits.setdefault(name, []).append(rows.double().numpy())
        true.append((loaded.target if labelled is None else loaded.target[labelled]).numpy().reshape(-1))
    return LabelPredictions(places, np.concatenate(true), {name: np.concatenate(x) for name, x in logits.items()})
