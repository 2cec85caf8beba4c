"""Sizes of scans from their headers, and the voxel size that suits them."""

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes.geometry import Geometry, geometries, median_shape, target_spacing


def case(path, **more):
    return Case(path.stem, path.stem, {"t1": ImageFile(path), **more}, None)


def sparse(path, shape, affine):
    """A header that promises more voxels than this disk holds, and a file of that length without content."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4))
    with path.open("r+b") as file:
        file.truncate(352 + int(np.prod(shape)))
    return path


def test_the_order_of_the_stored_axes_says_nothing(tmp_path):
    """The same scan, stored along nine of the 48 orientations."""
    image = nib.Nifti1Image(np.zeros((7, 6, 5), np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    for axes in ("RAS", "LPS", "SAR", "ASR", "PIR", "IRA", "RIA", "SRP", "LAI"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
        )
        nib.save(image.as_reoriented(turn), tmp_path / "a.nii")
        assert geometries([case(tmp_path / "a.nii")]) == [Geometry((7, 6, 5), (1.0, 2.0, 3.0))]


def test_only_headers_are_read_and_bad_ones_left_out(tmp_path):
    huge = sparse(tmp_path / "huge.nii", (4000, 4000, 3000), np.diag([0.3, 0.3, 0.3, 1]))
    flat = sparse(tmp_path / "flat.nii", (4, 4, 4), np.diag([0, 1, 1, 1]))
    (tmp_path / "bad.nii").write_bytes(b"no image")
    with huge.open("rb") as file:
        (tmp_path / "short.nii").write_bytes(file.read(1000))
    others = (tmp_path / f"{name}.nii" for name in ("bad", "short", "absent"))
    found = geometries([case(huge), case(flat), *map(case, others)])
    assert [scan.shape for scan in found] == [(4000, 4000, 3000)]
    np.testing.assert_allclose(found[0].spacing, 0.3, rtol=1e-6)


def test_the_grid_of_a_case_is_that_of_the_reference(tmp_path):
    coarse = sparse(tmp_path / "a.nii", (20, 20, 5), np.diag([1, 1, 4, 1]))
    fine = sparse(tmp_path / "b.nii", (40, 40, 20), np.diag([0.5, 0.5, 1, 1]))
    both = case(coarse, flair=ImageFile(fine))
    assert [scan.shape for scan in geometries([both, case(coarse)], "flair")] == [(40, 40, 20), (20, 20, 5)]


def test_by_hand():
    # Medians: 1, 1 and 6 mm. 6 > 3 x 1 and 18 x 3 < 200, hence the tenth percentile of 3, 6, 6, 6: 3 + 0.3 x 3.
    stacks = [Geometry((200, 200, 18), (1.0, 1.0, mm)) for mm in (3.0, 6.0, 6.0, 6.0)]
    assert target_spacing(stacks) == (1.0, 1.0, 3.9)
    # As many voxels along the coarse axis: nothing but the median.
    cubes = [Geometry((200, 200, 180), scan.spacing) for scan in stacks]
    assert target_spacing(cubes) == (1.0, 1.0, 6.0)
    # 18 slices of 3 mm become 14 of 3.9 mm, of 6 mm 28.
    assert median_shape(stacks, (1.0, 1.0, 3.9)) == (200, 200, 28)


@pytest.mark.parametrize("seed", range(20))
def test_the_rule_of_nnunet(seed):
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    random = np.random.default_rng(seed)
    thick = random.choice([1.0, 4.0, 10.0])
    scans = [
        Geometry(
            tuple(int(n) for n in random.integers((100, 100, 5), (300, 300, 60))),
            tuple(random.uniform(0.5, 2, 3) * (1, 1, thick)),
        )
        for _ in range(random.integers(1, 9))
    ]
    fingerprint = {"spacings": [s.spacing for s in scans], "shapes_after_crop": [s.shape for s in scans]}
    theirs = SimpleNamespace(dataset_fingerprint=fingerprint, overwrite_target_spacing=None, anisotropy_threshold=3)
    expected = ExperimentPlanner.determine_fullres_target_spacing(theirs)
    np.testing.assert_allclose(target_spacing(scans), expected, atol=1e-4)
