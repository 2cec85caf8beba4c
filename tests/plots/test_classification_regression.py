"""Pictures of classes and values show the numbers, and do not break on what is rare."""

import numpy as np
import pytest

from cggm_med.metrics.classification_regression import Predicted
from cggm_med.plots import classification_regression as label_figures
from cggm_med.plots.classification_regression import confusion_figure, scatter_figure

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture
def shown(monkeypatch):
    """The figures instead of their files."""
    figures = []
    monkeypatch.setattr(label_figures, "write_figure", lambda path, figure: figures.append(figure))
    return figures


def test_the_matrix_shows_the_share_of_each_true_class(shown, tmp_path):
    predicted = Predicted(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 2, 2]))
    confusion_figure(tmp_path / "x.png", predicted, ["a", "b", "c"])
    axes = shown[0].axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 1], [0, 0, 0]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "3", (1, 0): "1", (2, 1): "2"}  # across: predicted; down: true


def test_the_scatter_shows_every_sample_and_the_diagonal(shown, tmp_path):
    predicted = Predicted(np.array([1.0, -2.0]), np.array([0.5, 3.0]))
    scatter_figure(tmp_path / "x.png", predicted)
    axes = shown[0].axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[1.0, 0.5], [-2.0, 3.0]])
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[-2, -2], [3, 3]])


@pytest.mark.parametrize("classes", [2, 13, 101])
def test_any_number_of_classes_and_one_sample(classes, tmp_path):
    one = Predicted(np.array([classes - 1]), np.array([0]))
    confusion_figure(tmp_path / "x.png", one, [f"a class named {c}" for c in range(classes)])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("true", "guess"), [([1.0], [1.0]), ([1.0, 2.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_one_sample_and_constant_values(true, guess, tmp_path):
    scatter_figure(tmp_path / "x.png", Predicted(np.array(true), np.array(guess)))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
