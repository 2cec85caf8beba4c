"""Parts of the HTML report by themselves: gradients in the plane, escaping, tables."""

import numpy as np
import pytest

from cggm_med.report.markup import Markup, element, text
from cggm_med.report.tables import Cell, table
from cggm_med.report.tsne import embed, points


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
    found = points(records(5))
    np.testing.assert_allclose(np.linalg.norm(found.direction, axis=1), 1)
    assert (found.of.count("t1"), found.of.count("t2"), found.of.count("fused")) == (5, 5, 5)


def test_a_gradient_that_vanishes_has_no_direction_and_shorter_ones_are_filled_up():
    found = points([{"step": 1, "own": {"t1": [0.0, 0.0], "t2": [2.0]}, "fused": {"t1": [0.0, 3.0]}}])
    assert found.of == ("t2", "fused")
    assert found.direction.tolist() == [[1, 0], [0, 1]]


def test_neighbours_in_the_plane_are_neighbours_before():
    found = points(records(40))
    plane = embed(found.direction)
    of = np.array(found.of)
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=-1) + np.diag(np.full(len(plane), np.inf))
    assert (of[distance.argmin(axis=1)] == of).mean() > 0.95


def test_the_plane_is_the_same_each_time():
    direction = points(records(10)).direction
    assert np.array_equal(embed(direction), embed(direction))


@pytest.mark.parametrize("count", [2, 3, 10, 31])
def test_any_number_of_points_gets_finite_places(count):
    plane = embed(points(records(count)).direction)
    assert plane.shape == (3 * count, 2)
    assert np.isfinite(plane).all()


def test_too_few_or_equal_points_have_no_places():
    assert embed(points(records(1)).direction) is None
    assert embed(points([]).direction) is None
    assert embed(np.ones((20, 3))) is None


def test_text_is_escaped_once_and_markup_never():
    assert text("<&>") == "&lt;&amp;&gt;"
    assert text(text("<&>")) == "&lt;&amp;&gt;"
    assert element("p", "<", Markup("<br>"), title='"<') == '<p title="&quot;&lt;">&lt;<br></p>'


def test_numbers_of_a_column_have_equally_many_decimals_and_keep_their_value():
    made = table("t", ["a", "b", "c"], [["x", 79.04, 0.5], ["y", 4.472136, None], ["z", Cell("1 s", 1.25), 1e-6]])
    assert '<td class="number" data-value="79.04">79.0</td>' in made
    assert '<td class="number" data-value="4.472136">4.5</td>' in made
    assert '<td class="number">–</td>' in made
    assert ">1e-06</td>" in made
    assert '<th scope="col" class="number">b</th>' in made
    assert '<th scope="col">a</th>' in made
