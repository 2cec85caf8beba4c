"""The read-outs that a probe compares: the untrained network, the run's heads, the probe itself; and their table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cggm_med.metrics.labels import FUSED
from cggm_med.models.base import MultimodalModel
from cggm_med.results.tables import Table, rounded
from cggm_med.runs.loaded import LoadedRun

UNTRAINED, HEAD, PROBE = "untrained", "head", "probe"
# What is said of each modality, in the order of the bars.
READ_OUTS = {
    UNTRAINED: "probe, untrained encoder",
    HEAD: "this run's own head",
    PROBE: "probe, this run's encoder",
}

Record = dict[str, Any]
Say = Callable[[str], Any]


def untrained(x: LoadedRun) -> MultimodalModel:
    """The network as training of this run started from, by its seed."""
    torch.manual_seed(x.config.train.seed)
    return x.task.model().to(x.device).eval()


def read_out_table(title: str, summary: Sequence[Record], score: str, modalities: Sequence[str]) -> Table:
    """A row for each modality, a column for each read-out; the fused prediction below."""
    values = {(row["modality"], row["by"]): row[score] for row in summary}
    rows = [(m, *(rounded(values.get((m, by))) for by in READ_OUTS), "-") for m in modalities]
    rows.append((FUSED, *("-" for _ in READ_OUTS), rounded(values.get((FUSED, FUSED)))))
    return Table(title, ("modality", *READ_OUTS.values(), FUSED), tuple(rows))
