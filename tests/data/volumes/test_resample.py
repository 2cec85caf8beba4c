"""Resampling onto another grid: what lies at a point in space stays there."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from helpers.nifti import write
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from cggm_med.data.cases import LABEL, Case, ImageFile
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid
from cggm_med.data.volumes.prepared import common_spacing
from cggm_med.data.volumes.preprocess import Preprocessing, prepare
from cggm_med.data.volumes.resample import read_on_one_grid, resample_onto
from cggm_med.errors import DataError
from cggm_med.task.scan_to_mask import SegmentedScan


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


LESION = LabelConvention("test", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1})
T2 = turned([1, 1, 3], [5, -10, 20], [-12, -10, -8])
ADC = turned([2, 2, 3], [5, -10, 20], [-13, -11, -9])
T2_SHAPE, ADC_SHAPE = (24, 20, 8), (14, 12, 8)


def ball(affine, shape, radius):
    """True within so many mm of the middle of the T2."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    places = np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3, None, None, None]
    centre = T2[:3, :3] @ ((np.array(T2_SHAPE) - 1) / 2) + T2[:3, 3]
    return np.linalg.norm(places - centre[:, None, None, None], axis=0) < radius


def prostate(folder, *, label_on=T2, lacks=()):
    """A T2 and an ADC of a body in space, each on its own grid, and a label on either."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    images = {}
    for name, affine, shape in (("adc", ADC, ADC_SHAPE), ("t2", T2, T2_SHAPE)):
        body = ball(affine, shape, 9) * (100 + 5 * random.normal(size=shape))
        images[name] = ImageFile(write(folder / f"{name}.nii.gz", body.astype(np.float32), affine))
    shape = T2_SHAPE if label_on is T2 else ADC_SHAPE
    label = write(folder / "label.nii.gz", ball(label_on, shape, 5).astype(np.uint8), label_on)
    return Case("a", "a", {m: file for m, file in images.items() if m not in lacks}, label)


SMALL = ("implausible_size",)
PREPROCESSING = Preprocessing(("adc", "t2"), LESION, reference="t2", accepted=SMALL)


def test_what_simpleitk_resampled_before_gives_the_same_prepared_case(tmp_path):
    case = prostate(tmp_path / "a")
    adc, t2 = (sitk.ReadImage(str(case.images[m].path)) for m in ("adc", "t2"))
    moved = sitk.Resample(adc, t2, sitk.Transform(), sitk.sitkLinear, 0.0)
    sitk.WriteImage(moved, str(tmp_path / "moved.nii.gz"))
    images = {"adc": ImageFile(tmp_path / "moved.nii.gz"), "t2": case.images["t2"]}
    (mine,) = prepare([case], PREPROCESSING, tmp_path / "cache")
    done_before = Case("b", "b", images, case.label)
    (theirs,) = prepare([done_before], Preprocessing(("adc", "t2"), LESION, accepted=SMALL), tmp_path / "cache")
    np.testing.assert_allclose(mine.image(), theirs.image(), atol=2e-4)
    np.testing.assert_array_equal(mine.target(), theirs.target())
    np.testing.assert_array_equal(mine.native_target(), theirs.native_target())
    assert (mine.facts["grid_of"], mine.facts["resampled"]) == ("t2", ["adc"])
    assert mine.label_grid is None
    # And the volumes themselves, as subsets and artefacts start from them.
    again = mine.scan()
    np.testing.assert_allclose(again.volumes["adc"], sitk.GetArrayFromImage(moved).T, atol=1e-3)
    np.testing.assert_array_equal(again.volumes["t2"], sitk.GetArrayFromImage(t2).T)
    assert common_spacing([mine]) == (1, 1, 3)


def test_a_label_on_another_grid_is_learned_by_nearest_neighbour(tmp_path):
    case = prostate(tmp_path / "a", label_on=ADC)
    (prepared,) = prepare([case], PREPROCESSING, tmp_path / "cache")
    label, t2 = (sitk.ReadImage(str(path)) for path in (case.label, case.images["t2"].path))
    expected = sitk.GetArrayFromImage(sitk.Resample(label, t2, sitk.Transform(), sitk.sitkNearestNeighbor)).T
    _, scan = read_on_one_grid(case, LESION, "t2")
    np.testing.assert_array_equal(scan.volumes[LABEL], expected)
    assert prepared.target().sum() == expected.sum() > 0
    assert prepared.facts["resampled"] == ["adc", LABEL]
    # It is scored as it was drawn.
    grid = prepared.label_grid
    assert (grid.shape, grid.spacing) == (ADC_SHAPE, pytest.approx((2, 2, 3)))
    np.testing.assert_array_equal(prepared.native_target()[0], ball(ADC, ADC_SHAPE, 5))


def test_probabilities_come_to_the_grid_of_the_label():
    """As nibabel's own resampling has it; with axes in another order and direction."""
    flipped = ADC @ np.array([[0, 0, -1, 13], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    probability = np.random.default_rng(0).random((1, *T2_SHAPE)).astype(np.float32)
    oriented = nib.as_closest_canonical(nib.Nifti1Image(probability[0], T2))
    scan = SegmentedScan(oriented.get_fdata(dtype=np.float32)[None], NativeGrid.whole(T2, T2_SHAPE))
    np.testing.assert_array_equal(scan.probability, probability)
    assert scan.on(None) is scan
    shape = (8, 12, 14)
    moved = scan.on(NativeGrid.whole(flipped, shape))
    expected = resample_from_to(nib.Nifti1Image(probability[0], T2), (shape, flipped), order=1, cval=0).get_fdata()
    inside = expected > 0  # nibabel fades at the border, which ITK extends by half a voxel
    assert inside.mean() > 0.4
    deep = resample_from_to(nib.Nifti1Image(np.ones(T2_SHAPE), T2), (shape, flipped), order=1, cval=0).get_fdata() == 1
    np.testing.assert_allclose(moved.probability[0][deep], expected[deep], atol=1e-4)
    np.testing.assert_array_equal(moved.regions(LESION)[0], moved.probability[0] >= 0.5)
    half = np.zeros(T2_SHAPE, bool)
    half[:12] = True
    assert scan.on(NativeGrid.whole(T2, T2_SHAPE), within=half).probability == pytest.approx(probability * half)


def test_a_case_without_the_reference_is_on_the_grid_of_its_label(tmp_path):
    case = prostate(tmp_path / "a", lacks=["t2"])
    (prepared,) = prepare([case], PREPROCESSING, tmp_path / "cache")
    assert (prepared.facts["grid_of"], prepared.facts["resampled"], prepared.modalities) == (LABEL, ["adc"], ("adc",))
    assert prepared.grid.shape == T2_SHAPE
    _, alone = read_on_one_grid(Case("a", "a", case.images, None), None, "t2")
    assert (alone.role, alone.resampled) == ("adc", ())
    images = {"dwi": case.images["adc"], "t1": prostate(tmp_path / "b").images["t2"]}
    _, others = read_on_one_grid(Case("a", "a", images, None), None, "t2")
    assert (others.role, others.resampled) == ("dwi", ("t1",))


def test_without_a_reference_the_option_is_named(tmp_path):
    case = prostate(tmp_path / "a", label_on=ADC)
    with pytest.raises(
        DataError, match=r"one grid for each case \(of several, choose one with --set data\.resample_to="
    ):
        prepare([case], Preprocessing(("adc", "t2"), LESION), tmp_path / "cache")
    # Other problems are never resampled away.
    case.images["adc"].path.write_bytes(b"")
    with pytest.raises(DataError, match="adc .* cannot be read"):
        prepare([case], PREPROCESSING, tmp_path / "cache")


def test_images_and_labels_of_another_place_are_refused(tmp_path):
    case = prostate(tmp_path / "a")
    far = ADC.copy()
    far[:3, 3] += ADC[:3, 0] * 8
    write(case.images["adc"].path, np.ones(ADC_SHAPE, np.float32) * np.arange(8), far)
    with pytest.raises(DataError, match=r"adc covers 4\d% of the grid of t2, expected at least 50%"):
        prepare([case], PREPROCESSING, tmp_path / "cache")
    case = prostate(tmp_path / "b")
    # A label map may be cropped to what is labelled, but that must lie where the image is.
    cropped = np.ones((5, 5, 3), np.uint8)
    near = T2.copy()
    near[:3, 3] = (T2 @ [9, 7, 2, 1])[:3]
    write(case.label, cropped, near)
    (prepared,) = prepare([case], PREPROCESSING, tmp_path / "cache")
    assert prepared.target().sum() == cropped.sum()
    assert prepared.label_grid.shape == (5, 5, 3)
    near[:3, 3] = (T2 @ [-4, 7, 2, 1])[:3]
    write(case.label, cropped, near)
    with pytest.raises(DataError, match="has 20% of its labelled voxels on the grid of t2, expected at least 50%"):
        prepare([case], PREPROCESSING, tmp_path / "cache")


def test_label_maps_of_several_readers_share_one_grid(tmp_path):
    case = prostate(tmp_path / "a", label_on=ADC)
    other = write(tmp_path / "a" / "other.nii.gz", ball(ADC, ADC_SHAPE, 4).astype(np.uint8), ADC)
    read = Case("a", "a", case.images, None, raters={"one": case.label, "two": other})
    (prepared,) = prepare([read], PREPROCESSING, tmp_path / "cache")
    assert prepared.label_grid.shape == ADC_SHAPE
    np.testing.assert_array_equal(prepared.native_target()[0], ball(ADC, ADC_SHAPE, 4))  # both of two
    write(other, ball(T2, T2_SHAPE, 4).astype(np.uint8), T2)
    with pytest.raises(DataError, match="a: its label maps lie on different grids; bring them onto one to score them"):
        prepare([read], PREPROCESSING, tmp_path / "cache")
