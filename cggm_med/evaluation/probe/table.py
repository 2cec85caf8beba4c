"""The read-outs that a probe compares (untrained network, the run's heads, the probe itself) and their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cggm_med.metrics.classification_regression import FUSED
from cggm_med.models.base import MultimodalModel
from cggm_med.results.tables import Table, rounded
from cggm_med.runs.loaded_run import LoadedRun

UNTRAINED, HEAD, PROBE = "untrained", "head", "probe"
# The rows of each modality, in the order of the bars.
READ_OUTS = {
    UNTRAINED: "probe, untrained encoder",
    HEAD: "this run's own head",
    PROBE: "probe, this run's encoder",
}

Record = dict[str, Any]


def untrained(run: LoadedRun) -> MultimodalModel:
    """The network that training of this run started from, by its seed."""
    torch.manual_seed(run.config.train.seed)
    return run.task.network().to(run.device).eval()


def read_out_table(title: str, summary: Sequence[Record], metric: str, modalities: Sequence[str]) -> Table:
    """One row per modality, one column per read-out; the fused prediction below."""
    values = {(row["modality"], row["by"]): row[metric] for row in summary}
    rows = [(m, *(rounded(values.get((m, by))) for by in READ_OUTS), "-") for m in modalities]
    rows.append((FUSED, *("-" for _ in READ_OUTS), rounded(values.get((FUSED, FUSED)))))
    return Table(title, ("modality", *READ_OUTS.values(), FUSED), tuple(rows))
