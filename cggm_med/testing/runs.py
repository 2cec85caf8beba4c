"""Whether two runs ended with the same bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cggm_med.runs.folder import RunFolder
from cggm_med.testing.laws import expect
from cggm_med.training import checkpoint as checkpoints


def expect_same_run(folder: Path, reference: Path) -> None:
    """Weights, states, log and scores.

    Args:
        folder: of a run that was stopped and continued.
        reference: folder of one that never stopped.

    Raises:
        AssertionError: names what differs.
    """
    states, expected = final_state(folder), final_state(reference)
    different = [key for key in expected if not equal(states[key], expected[key])]
    expect(not different, f"a stopped and continued run ends with another {', '.join(different)}")
    expect(logged(folder) == logged(reference), "a stopped and continued run has another metrics.jsonl")
    gradients = [RunFolder(run).read_gradients() for run in (folder, reference)]
    expect(gradients[0] == gradients[1], "a stopped and continued run has other logged gradients")
    scores = [json.loads((run / "results.json").read_text())["cases"] for run in (folder, reference)]
    expect(scores[0] == scores[1], "a stopped and continued run has other scores")


def final_state(folder: Path) -> dict[str, Any]:
    """The last checkpoint, without the settings and how long it took."""
    state = vars(checkpoints.load(folder / "checkpoints" / "last.pt", torch.device("cpu")))
    return {key: value for key, value in state.items() if key not in ("config", "seconds")}


def logged(folder: Path) -> list[dict[str, Any]]:
    """What was logged, without how long it took."""
    records = RunFolder(folder).read_metrics()
    return [{key: value for key, value in record.items() if not key.startswith("seconds")} for record in records]


def equal(a: Any, b: Any) -> bool:
    """Whether two nested values are the same, bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))
