"""What is measured of the voxels of a case."""

import numpy as np
import pytest

from cggm_med.data.checks.measure import measure

SHAPE = (40, 40, 30)


def _head(top: int = 30) -> np.ndarray:
    """A ball of varying brightness in empty air, with nothing in the slices from ``top`` on."""
    rng = np.random.default_rng(0)
    places = np.indices(SHAPE) - np.array([20, 20, 15])[:, None, None, None]
    ball = (places**2).sum(0) < 13**2
    volume = np.where(ball, 100 + rng.normal(0, 5, SHAPE), 0).astype(np.float32)
    volume[..., top:] = 0
    return volume


def _numbers(**images):
    return measure(images, np.diag([2.0, 2.0, 2.0, 1.0]), dict.fromkeys(images, 0.0))["numbers"]


def test_an_image_that_ends_before_the_others_shows_less():
    numbers = _numbers(flair=_head(), t1=_head(), t1ce=_head(top=15))
    # Of 25 slices, from 3 to 27 but for specks at the poles, those up to 14 are left.
    assert numbers["t1ce.inside"] == pytest.approx(0.5, abs=0.05)
    assert numbers["t1ce.reach"] == pytest.approx(np.log(12 / 24), abs=0.1)
    assert numbers["flair.reach"] == numbers["t1.reach"] == 0
    assert numbers["flair.inside"] == numbers["t1.inside"] == 1


def test_noise_in_the_air_of_one_image_makes_no_other_one_short():
    noisy = _head()
    air = np.random.default_rng(1).random(SHAPE) < 0.35  # dense enough to join the head, and too sparse to be one
    noisy[(noisy == 0) & air] = 3
    numbers = _numbers(flair=_head(), t1=_head(), t1ce=noisy)
    assert {numbers[f"{m}.reach"] for m in ("flair", "t1", "t1ce")} == {0}
    assert min(numbers[f"{m}.inside"] for m in ("flair", "t1", "t1ce")) > 0.95


def test_of_two_images_the_shorter_one_is_short():
    numbers = _numbers(ct=_head(), pet=_head(top=15))
    assert numbers["pet.reach"] < -0.5
    assert numbers["ct.reach"] == 0


def test_an_empty_image_reaches_nowhere_and_misleads_nobody():
    numbers = _numbers(flair=_head(), t1=np.zeros(SHAPE, np.float32))
    assert numbers["t1.inside"] == 0
    assert numbers["flair.inside"] == 1
