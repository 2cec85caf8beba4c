"""Figures are drawn only for tests that look at them: drawing takes almost half of the time of a small run."""

import contextlib
from collections.abc import Iterator

import matplotlib.figure
import pytest
from PIL import Image

from cggm_med.plots import contours

SAVE, CONTOUR = matplotlib.figure.Figure.savefig, contours._contour


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Figures are made, but not drawn: their files are one grey pixel, and contours are not sought."""
    with _patched(lambda figure, file, **_: Image.new("L", (1, 1)).save(file, "PNG"), lambda *_: None):
        yield


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """Inside, figures are drawn as usual."""
    with _patched(SAVE, CONTOUR):
        yield


@contextlib.contextmanager
def _patched(save, contour) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contours, "_contour", contour)
        patch.setattr(matplotlib.figure.Figure, "savefig", save)
        yield
