"""Information between volumes: symmetric, most where they agree, and found again where one was moved."""

import numpy as np
import pytest
from scipy import ndimage

from cggm_med.data.checks.alignment import binned, flip_of, gains, information, moved, shifts


@pytest.fixture
def pair():
    """Two smooth images of one thing, with nothing symmetric about it."""
    draw = np.random.default_rng(0)
    thing = ndimage.gaussian_filter(draw.normal(size=(24, 20, 16)), 2)
    inside = np.ones(thing.shape, bool)
    other = np.abs(thing) + 0.02 * ndimage.gaussian_filter(draw.normal(size=thing.shape), 1)
    return binned(thing, inside), binned(other, inside)


def test_information_is_symmetric_and_most_of_a_volume_about_itself(pair):
    a, b = pair
    assert information(a, b) == pytest.approx(information(b, a))
    assert information(a, a) == pytest.approx(1)
    assert 0 < information(a, b) < 1


def test_information_of_two_bits_that_agree_in_three_of_four_voxels():
    a, b = np.array([0, 0, 1, 1], np.uint8), np.array([0, 0, 0, 1], np.uint8)
    # H(a) = 1 bit, H(b) = 0.8113 bit, H(a, b) = 1.5 bit: 2 * 0.3113 / 1.8113.
    assert information(a, b) == pytest.approx(0.3437, abs=1e-4)


def test_information_agrees_with_scikit_learn(pair):
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = (bins.ravel() for bins in pair)
    assert information(a, b) == pytest.approx(metrics.normalized_mutual_info_score(a, b))


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_volume_gains_when_it_is_mirrored_back(pair, axis):
    a, b = pair
    wrong = gains([a], b[flip_of(axis)], [], 10_000)
    assert wrong[f"flip_{'xyz'[axis]}"] > 0.5
    assert all(gains([a], b, [], 10_000)[f"flip_{other}"] < -0.5 for other in "xyz")


def test_a_shifted_volume_gains_when_it_is_shifted_back(pair):
    a, b = pair
    tried = shifts((2.0, 2.0, 2.0), (6.0,), a.shape)
    assert (3, 0, 0) in tried
    assert gains([a], moved(b, (-3, 0, 0)), tried, 4_000)["shift"] > 0.3
    assert gains([a], b, tried, 4_000)["shift"] < -0.3


def test_chance_is_no_gain():
    """Images that say nothing of one another hardly ever say more when mirrored, however few voxels they have."""
    random, inside, said = np.random.default_rng(0), np.ones((8, 8, 8), bool), 0
    for _ in range(100):
        a, b = (binned(random.normal(size=inside.shape), inside) for _ in range(2))
        found = gains([a], b, [], voxels=1000)
        said += max(found[f"flip_{axis}"] for axis in "xyz") > 0
    assert said <= 1
