"""Resampling onto another grid: what lies at a point in space stays there."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from cggm_med.data.volumes.resample import resample_onto


def turned(spacing, angles, origin):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    return affine


def test_its_own_grid_changes_nothing():
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    affine = turned([1, 2, 3], [10, 20, 30], [5, -7, 11])
    moved, covered = resample_onto(volume, affine, volume.shape, affine, outside=-1)
    np.testing.assert_allclose(moved, volume, atol=1e-5)
    assert covered == 1


def test_a_ramp_in_space_stays_that_ramp():
    """Linear interpolation gives a linear function back exactly: the value is x + 10 y + 100 z in mm, on any grid."""

    def ramp(affine, shape):
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
        x, y, z = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
        return (x + 10 * y + 100 * z).astype(np.float32)

    fine, coarse = turned([1, 1, 1], [0, 0, 0], [-20, -20, -20]), turned([2, 1.5, 3], [5, -10, 15], [-4, -3, -5])
    moved, covered = resample_onto(ramp(fine, (40, 40, 40)), fine, (5, 6, 4), coarse, outside=np.nan)
    np.testing.assert_allclose(moved, ramp(coarse, (5, 6, 4)), atol=0.01)
    assert covered == 1


def test_what_is_not_reached_gets_the_value_outside():
    shifted = np.eye(4)
    shifted[0, 3] = 2
    moved, covered = resample_onto(np.ones((4, 4, 4), np.float32), np.eye(4), (4, 4, 4), shifted, outside=-3)
    np.testing.assert_array_equal(moved[:, 0, 0], [1, 1, -3, -3])
    assert covered == 0.5


def test_nibabel_agrees():
    volume = np.random.default_rng(1).normal(size=(12, 13, 9)).astype(np.float32)
    here = turned([1, 1, 2], [0, 0, 0], [0, 0, 0])
    there = turned([1.5, 1.2, 1.7], [8, 4, -6], [2, 3, 4])
    expected = resample_from_to(nib.Nifti1Image(volume, here), ((5, 5, 5), there), order=1, cval=0)
    moved, _ = resample_onto(volume, here, (5, 5, 5), there, outside=0)
    assert moved == pytest.approx(expected.get_fdata(), abs=1e-4)
