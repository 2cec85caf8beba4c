"""Two runs compared bit by bit, and a kill that this process survives."""

import json

import torch

from cggm_med.runs.folder import RunFolder
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training import loop

CPU = torch.device("cpu")


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def final_state(folder):
    state = vars(checkpoints.load(folder / "checkpoints" / "last.pt", CPU))
    return {key: value for key, value in state.items() if key != "config"}


def metrics(folder):
    """What was logged, without how long it took."""
    records = RunFolder(folder).read_metrics()
    return [{key: value for key, value in record.items() if key != "seconds_per_step"} for record in records]


def assert_same_run(folder, reference):
    assert equal(final_state(folder), final_state(reference))
    assert metrics(folder) == metrics(reference)
    assert RunFolder(folder).read_gradients() == RunFolder(reference).read_gradients()
    scores = [json.loads((f / "results.json").read_text())["cases"] for f in (folder, reference)]
    assert scores[0] == scores[1]


class Killed(Exception):
    """Stands for a kill that this process survives."""


def kill_at(monkeypatch, step):
    """Die right after the optimizer step with this number, before anything is logged or written."""
    real = loop.train_step
    count = iter(range(1, 1000))

    def train_step(*args, **kwargs):
        losses = real(*args, **kwargs)
        if next(count) == step:
            raise Killed
        return losses

    monkeypatch.setattr(loop, "train_step", train_step)
