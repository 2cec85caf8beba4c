"""Lesions one by one: laws, hand values, and SimpleITK and marching cubes as authorities."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import label
from scipy.spatial.distance import pdist

from cggm_med.data.volumes.itk_formats import place
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesion_list import MAX_LESIONS, list_lesions

TURNED = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([-0.8, 1.5, 3.0]), [20.0, -40.0, 7.0]
)


def blobs(rng, shape=(24, 20, 12), boxes=4):
    mask = np.zeros(shape, bool)
    for _ in range(boxes):
        start = rng.integers(0, np.array(shape) - 3)
        mask[tuple(slice(a, a + n) for a, n in zip(start, rng.integers(1, 8, 3), strict=True))] = True
    return mask & (rng.random(shape) < 0.9)


def measured(mask, affine, rules=None):
    return [lesion.record() for lesion in list_lesions(mask, affine, rules or LesionRules()).lesions]


def test_a_box_by_hand():
    """4 x 3 voxels of 2 x 4 mm across, two slices of 5 mm: 8 x 12 mm."""
    mask = np.zeros((20, 20, 20), bool)
    mask[4:8, 10:13, 6:8] = True
    affine = np.diag([2.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = -20, -30, 100
    (lesion,) = measured(mask, affine)
    assert lesion["voxels"] == 24
    assert lesion["ml"] == pytest.approx(0.96)  # of 40 mm3
    assert (lesion["right_mm"], lesion["anterior_mm"], lesion["superior_mm"]) == (-9.0, 14.0, 132.5)
    # Between (3 mm, 6 mm) and the opposite end of that face: the faces' centres lie half a voxel inside the edges.
    assert lesion["longest_axial_mm"] == pytest.approx(np.hypot(6, 12), abs=0.005)
    # In 3-D between centres of faces in both slices, from one end in y to the other.
    assert lesion["longest_mm"] == pytest.approx(np.sqrt(6**2 + 12**2 + 5**2), abs=0.005)


def test_one_voxel_has_its_own_size():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    (lesion,) = measured(mask, np.diag([1.0, 1.0, 3.0, 1.0]))
    assert [lesion[name] for name in ("longest_axial_mm", "perpendicular_axial_mm", "longest_mm")] == [1.0, 1.0, 3.0]


def test_what_is_one_lesion_and_what_counts_the_rules_say():
    mask = np.zeros((20, 8, 8), bool)
    mask[2:6, 2:6, 2:6] = mask[8:10, 2:6, 2:6] = mask[16, 2, 2] = True  # 64 voxels, 32 two voxels away, 1
    found = list_lesions(mask, np.eye(4), LesionRules())
    assert ([of.voxels for of in found.lesions], found.count, found.small) == ([64, 32, 1], 3, 0)
    found = list_lesions(mask, np.eye(4), LesionRules(dilations=1, min_mm3=1.0))
    assert ([of.voxels for of in found.lesions], found.count, found.small) == ([96], 1, 1)
    assert found.ml == pytest.approx(0.097)
    nothing = list_lesions(np.zeros((4, 4, 4), bool), np.eye(4), LesionRules())
    assert (nothing.ml, nothing.lesions, nothing.count) == (0.0, (), 0)
    noise = list_lesions(np.indices((16, 16, 16)).sum(0) % 2 == 0, np.eye(4), LesionRules(connectivity=6))
    assert (noise.count, len(noise.lesions)) == (2048, MAX_LESIONS)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_axes_in_the_file_changes_nothing(seed):
    mask = blobs(np.random.default_rng(seed))
    image = nib.Nifti1Image(mask.astype(np.uint8), TURNED)
    turned = image.as_reoriented(nib.orientations.axcodes2ornt("SLA"))
    one, other = measured(mask, TURNED), measured(np.asarray(turned.dataobj) > 0, turned.affine)
    key = lambda of: (of["voxels"], of["right_mm"])  # noqa: E731 - equally large ones may change places
    for mine, its in zip(sorted(one, key=key), sorted(other, key=key), strict=True):
        assert its == pytest.approx(mine, abs=0.011)


@pytest.mark.parametrize("seed", range(3))
def test_against_simpleitk_and_marching_cubes(seed):
    """Place and volume as SimpleITK has them; the longest diameter of the vertices of scikit-image's mesh."""
    measure = pytest.importorskip("skimage.measure")
    mask = blobs(np.random.default_rng(seed))
    parts, number = label(mask, np.ones((3, 3, 3)))
    image = SimpleITK.GetImageFromArray(parts.T.astype(np.uint16))
    place(image, TURNED)
    statistics = SimpleITK.LabelShapeStatisticsImageFilter()
    statistics.Execute(image)
    expected = []
    for k in range(1, number + 1):
        left, posterior, superior = statistics.GetCentroid(k)
        vertices, *_ = measure.marching_cubes(np.pad(parts == k, 1).astype(float), 0.5)
        longest = pdist(vertices @ TURNED[:3, :3].T).max()
        expected.append((statistics.GetPhysicalSize(k) / 1000, -left, -posterior, superior, longest))
    found = [
        (of["ml"], of["right_mm"], of["anterior_mm"], of["superior_mm"], of["longest_mm"])
        for of in measured(mask, TURNED)
    ]
    np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.006)
