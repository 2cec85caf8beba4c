"""Runs without their pictures, for tests that look at something else."""

import contextlib

import pytest


@contextlib.contextmanager
def without_pictures():
    """Figures are made, but not drawn: their files are empty, and contours are not sought."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cggm_med.plots.contours._contour", lambda *_: None)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        yield
