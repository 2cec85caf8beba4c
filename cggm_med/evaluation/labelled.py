"""What a run's fused prediction and heads say of labelled samples, a row for each label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.metrics.labels import FUSED
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.losses import IGNORED
from cggm_med.results.results import Record
from cggm_med.runs.loaded import LoadedRun
from cggm_med.task.capabilities import LabelledSamples
from cggm_med.task.samples import require_finite_logits
from cggm_med.types import Batch


@dataclass(frozen=True)
class LabelPredictions:
    """Rows of labels.

    Attributes:
        places: case of each row, and which of its parts, if it has several.
        true: ``(row,)`` class numbers or values.
        logits: ``(row, class)``, or ``(row, 1)`` of values, by who predicts.
    """

    places: list[Record]
    true: NDArray[Any]
    logits: Mapping[str, NDArray[np.float64]]


def labels_of(samples: LabelledSamples, batch: Batch) -> tuple[Tensor | None, Iterator[dict[str, Any]]]:
    """Which positions of a batch hold a label, None where a sample has one label; and the place of each row."""
    if samples.labels == "values" or batch.target.ndim == 1:
        return None, ({"case": id} for id in batch.ids)
    each = batch.target != IGNORED
    counts = zip(batch.ids, each.sum(dim=1).tolist(), strict=True)
    return each, ({"case": id, "utterance": i} for id, count in counts for i in range(count))


@torch.no_grad()
def predict_labels(x: LoadedRun, samples: LabelledSamples, heads: UnimodalHeads | None = None) -> LabelPredictions:
    """Predict the cases of a run.

    Args:
        x: the run and its cases.
        samples: what its task offers.
        heads: in evaluation mode, to be asked as well.

    Raises:
        NonFiniteLoss: if a prediction is NaN or infinite; names the sample.
    """
    x.model.eval()
    places: list[Record] = []
    true: list[NDArray[Any]] = []
    logits: dict[str, list[NDArray[np.float64]]] = {}
    for loaded in samples.batches(x.cases):
        batch = loaded.to(x.device)
        with x.autocast():
            features = x.model.encode(batch.inputs)
            outputs = {FUSED: x.model.head(x.model.fuse(features)[0])}
            if heads is not None:
                outputs |= {m: output.logits for m, output in heads(features).items()}
        outputs = {who: output.float().cpu() for who, output in outputs.items()}
        require_finite_logits(outputs, batch.ids)
        each, of_batch = labels_of(samples, loaded)
        places += of_batch
        for who, output in outputs.items():
            rows = output if each is None else output.movedim(1, -1)[each]
            logits.setdefault(who, []).append(rows.double().numpy())
        true.append((loaded.target if each is None else loaded.target[each]).numpy().reshape(-1))
    return LabelPredictions(places, np.concatenate(true), {who: np.concatenate(of) for who, of in logits.items()})
