"""Probabilities at another temperature: no mask changes, whatever the temperature and however close to one half."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from cggm_med.inference.temperature import at_temperatures

probabilities = st.one_of(
    st.floats(0, 1, width=32), st.integers(-8, 8).map(lambda n: 0.5 + n * 2.0**-25), st.sampled_from([0.0, 1.0])
)


@given(st.lists(probabilities, min_size=1), st.floats(0.05, 20))
def test_no_voxel_crosses_one_half(values, temperature):
    p = np.array(values, np.float32).reshape(1, -1, 1, 1)
    scaled = at_temperatures(p, [temperature])
    np.testing.assert_array_equal(scaled >= 0.5, p >= 0.5)
    assert scaled.dtype == np.float32
    assert (scaled >= 0).all()
    assert (scaled <= 1).all()


def test_each_region_has_its_own():
    p = np.full((2, 1, 1, 1), 0.9, np.float32)
    found = at_temperatures(p, [1.0, 2.0]).ravel()
    assert found.tolist() == pytest.approx([0.9, expit(logit(0.9) / 2)])
    assert found[1] == pytest.approx(0.75)  # odds of 9 become 3


def test_voxels_outside_the_scan_stay_0():
    assert at_temperatures(np.zeros((1, 2, 2, 2), np.float32), [20.0]).max() == 0
