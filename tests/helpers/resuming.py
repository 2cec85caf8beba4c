"""A kill that this process survives."""

from cggm_med.training import loop


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
