"""A label follows the images most where it was drawn, also at the edge of the volume."""

import functools

import numpy as np
import pytest

from cggm_med.data.checks.labelled import lies_of
from cggm_med.data.checks.measure import measure


def numbers(target, image):
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    label = functools.partial(lies_of, target[None].astype(np.uint8), ["tumour"])
    return measure({"t1": image}, affine, {"t1": 0.0}, label)["numbers"]


@pytest.mark.parametrize("corner", [(0, 0, 0), (14, 20, 11)])
def test_a_label_that_was_shifted_or_mirrored_follows_the_image_elsewhere(corner):
    draw = np.random.default_rng(0)
    image = draw.uniform(1, 2, (32, 30, 22)).astype(np.float32)
    drawn = np.zeros(image.shape, bool)
    drawn[tuple(slice(a, a + 7) for a in corner)] = True
    image[drawn] += 1
    right = numbers(drawn, image)
    assert right["label.shift"] < -0.2
    assert right["label.flip_x"] < -1
    assert right["tumour.volume"] == pytest.approx(np.log(7**3 * 8 / 1000), abs=1e-4)
    assert numbers(np.roll(drawn, 4, 1), image)["label.shift"] > 0.5
    assert numbers(drawn[::-1], image)["label.flip_x"] > 0.5
