"""Figures of the HTML report: gradients in the plane, distributions over cases."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from cggm_med.report.figures import distribution_figure
from cggm_med.report.tsne import embed, gradient_points


def records(count, seed=0):
    """Two modalities whose gradients point in opposite directions, and a fused one between."""
    random = np.random.default_rng(seed)
    found = []
    for step in range(1, count + 1):
        noise = 0.05 * random.standard_normal((3, 8))
        a, b, c = noise + np.eye(8)[0], noise - np.eye(8)[0], noise + np.eye(8)[1]
        own = {"t1": (step * a[0]).tolist(), "t2": b[1].tolist()}
        found.append({"step": step, "own": own, "fused": {"t1+t2": c[2].tolist()}})
    return found


def test_directions_have_length_one_whatever_the_gradients_had():
    found = gradient_points(records(5))
    np.testing.assert_allclose(np.linalg.norm(found.direction, axis=1), 1)
    assert (found.of.count("t1"), found.of.count("t2"), found.of.count("fused")) == (5, 5, 5)


def test_a_gradient_that_vanishes_has_no_direction_and_shorter_ones_are_filled_up():
    found = gradient_points([{"step": 1, "own": {"t1": [0.0, 0.0], "t2": [2.0]}, "fused": {"t1": [0.0, 3.0]}}])
    assert found.of == ("t2", "fused")
    assert found.direction.tolist() == [[1, 0], [0, 1]]


def test_neighbours_in_the_plane_are_neighbours_before():
    found = gradient_points(records(40))
    plane = embed(found.direction)
    of = np.array(found.of)
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + np.diag(np.full(len(plane), np.inf))
    assert (of[distance.argmin(axis=1)] == of).mean() > 0.95


def test_the_plane_is_the_same_each_time():
    direction = gradient_points(records(10)).direction
    assert np.array_equal(embed(direction), embed(direction))


@pytest.mark.parametrize("count", [2, 3, 10, 31])
def test_any_number_of_points_gets_finite_places(count):
    plane = embed(gradient_points(records(count)).direction)
    assert plane.shape == (3 * count, 2)
    assert np.isfinite(plane).all()


def test_too_few_or_equal_points_have_no_places():
    assert embed(gradient_points(records(1)).direction) is None
    assert embed(gradient_points([]).direction) is None
    assert embed(np.ones((20, 3))) is None


def test_every_case_is_a_point_and_boxes_have_the_quartiles():
    scores = {"WT": [0.1, 0.2, 0.3, 0.4, 0.5], "TC": [0.8, None, 0.6, 0.7, 0.0]}
    rows = [{"region": region, "dice": dice} for region, found in scores.items() for dice in found]
    runs = [SimpleNamespace(name=name, report=SimpleNamespace(scores=SimpleNamespace(cases=rows))) for name in "ab"]
    (axes,) = distribution_figure(runs, "dice").axes
    clouds = [part for part in axes.collections if isinstance(part, PathCollection)]
    points = [sorted(cloud.get_offsets()[:, 1].tolist()) for cloud in clouds]
    known = [sorted(x for x in found if x is not None) for found in scores.values()]
    assert points == known + known
    # Each at its region, in the order of the runs.
    middles = [cloud.get_offsets()[:, 0].mean() for cloud in clouds]
    assert [round(middle) for middle in middles] == [0, 1, 0, 1]
    assert middles[0] < middles[2]
    boxes = [[patch.get_y(), patch.get_y() + patch.get_height()] for patch in axes.patches]
    assert boxes[0] == pytest.approx([0.2, 0.4])  # quartiles of 0.1, 0.2, 0.3, 0.4 and 0.5
    assert boxes == [pytest.approx(np.quantile(found, [0.25, 0.75])) for found in known + known]
