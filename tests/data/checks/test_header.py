"""What a header says is held against itself, and converted, told or asked in words that name the field."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.checks.finding import merged
from cggm_med.data.volumes.checks import header_findings, inspect
from cggm_med.data.volumes.io import open_image, write_volume
from cggm_med.data.volumes.labels import LabelConvention

AFFINE = np.array([[0, -4.0, 0, 9], [5.0, 0, 0, -8], [0, 0, 6.0, 7], [0, 0, 0, 1]])
SHAPE = (10, 9, 8)
VOXELS = np.random.default_rng(0).integers(1, 99, SHAPE).astype(np.int16)
LESION = LabelConvention("lesion", {1: "a", 2: "b", 4: "c"}, {"A": (1,), "B": (2, 4)}, {"A": 1, "B": 2})


def save(path, *, affine=AFFINE, sform=1, qform=1, qform_of=None, units="mm", voxels=VOXELS, **fields):
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform_of is None else qform_of, qform)
    image.header.set_xyzt_units(units)
    content = bytearray(image.to_bytes())
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else content)
    return path


def kinds(path):
    return {finding.kind.name: finding.seen for finding in open_image(path).findings}


def test_a_sound_header_has_no_finding_and_the_affine_that_was_written(tmp_path):
    random = np.random.default_rng(1)
    for n in range(20):
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        affine = nib.affines.from_matvec(turn @ np.diag(random.uniform(4, 6, 3)), random.uniform(-90, 90, 3))
        path = save(tmp_path / f"{n}.nii.gz", affine=affine, sform=n % 3, qform=1 if n % 3 == 0 else n % 2)
        assert kinds(path) == {}
        np.testing.assert_allclose(open_image(path).affine, affine, atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "before", "line", "mm"),
    [
        (".nrrd", b"space directions", b'space units: "um" "um" "um"', 0.001),
        (".nrrd", b"space directions", b'space units: "m" "m" "m"', 1000.0),
        (".nrrd", b"space directions", b'space units: "mm" "mm" "mm"', 1.0),
        (".nrrd", b"space directions", b'space units: "" "" ""', 1.0),
        (".mha", b"ElementType", b"DistanceUnits = cm", 10.0),
        (".mha", b"ElementType", b"DistanceUnits = ?", 1.0),
    ],
)
def test_units_of_headers_in_text_are_converted_to_mm(tmp_path, ending, before, line, mm):
    path = tmp_path / f"a{ending}"
    write_volume(path, VOXELS, np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ AFFINE)
    path.write_bytes(path.read_bytes().replace(before, line + b"\n" + before, 1))
    image = open_image(path)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(image.spacing, [5, 4, 6], rtol=1e-6)
    assert set(kinds(path)) == ({"converted_units"} if mm != 1 else set())


@pytest.mark.parametrize(("units", "mm"), [("meter", 1000.0), ("micron", 0.001), ("unknown", 1.0)])
def test_units_are_converted_to_mm_and_repeated_in_what_is_written(tmp_path, units, mm):
    in_unit = np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ AFFINE
    path = save(tmp_path / "a.nii", affine=in_unit, units=units)
    image = open_image(path)
    np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
    np.testing.assert_allclose(image.spacing, [5, 4, 6], rtol=1e-6)
    assert set(kinds(path)) == ({"converted_units"} if mm != 1 else set())
    for name in ("mask.nii.gz", "mask.mha"):
        write_volume(tmp_path / name, VOXELS, path)
        np.testing.assert_allclose(open_image(tmp_path / name).affine, AFFINE, rtol=1e-5)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").affine, in_unit, rtol=1e-6)


def test_a_unit_that_does_not_exist_is_none_and_nothing_stops(tmp_path):
    path = save(tmp_path / "a.nii", xyzt_units=5)
    np.testing.assert_allclose(open_image(path).affine, AFFINE, atol=1e-5)
    write_volume(tmp_path / "mask.nii", VOXELS, path)


@pytest.mark.parametrize("sform", [0, 1])
def test_a_quaternion_that_rounding_made_longer_than_1_is_the_rotation_that_was_meant(tmp_path, sform):
    half_turn = np.diag([-5.0, -4, 6, 1])
    path = save(tmp_path / "a.nii.gz", affine=half_turn, sform=sform, quatern_d=np.sqrt(1 + 2e-6))
    assert kinds(path) == {}
    np.testing.assert_allclose(open_image(path).affine, half_turn, atol=1e-5)
    np.testing.assert_array_equal(open_image(path).voxels(), VOXELS)
    write_volume(tmp_path / "mask.nii.gz", VOXELS, path)
    np.testing.assert_allclose(nib.load(tmp_path / "mask.nii.gz").get_qform(), half_turn, atol=1e-5)


def test_a_quaternion_that_is_none_is_told_beside_an_sform_and_refused_without(tmp_path):
    path = save(tmp_path / "a.nii", quatern_b=2)
    assert "quatern_b, c, d are" in kinds(path)["broken_qform"]
    np.testing.assert_allclose(open_image(path).affine, AFFINE, atol=1e-5)
    write_volume(tmp_path / "mask.nii", VOXELS, path)
    assert kinds(tmp_path / "mask.nii") == {}
    alone = save(tmp_path / "b.nii", sform=0, quatern_b=2)
    (problem,) = inspect(Case("a", "a", {"t1": ImageFile(alone)}, None), None).problems
    assert "quatern_b, quatern_c, quatern_d are 2" in problem
    assert "Traceback" not in problem


def test_an_sform_without_voxel_size_gives_way_to_a_qform_with_one(tmp_path):
    unit = AFFINE / [5, 4, 6, 1]
    path = save(tmp_path / "a.nii", affine=unit, qform_of=AFFINE)
    assert kinds(path) == {"size_of_qform": "has an sform with voxels of 1 mm, and 5 x 4 x 6 in its qform"}
    np.testing.assert_allclose(open_image(path).affine, AFFINE, atol=1e-5)
    # Without a qform nobody can tell which is right.
    path = save(tmp_path / "b.nii", affine=unit, qform=0, pixdim=[1, 5, 4, 6, 1, 1, 1, 1])
    said = {"contradicting_sizes": "has voxels of 1 x 1 x 1 in its sform, and of 5 x 4 x 6 in pixdim"}
    assert {name: seen for name, seen in kinds(path).items() if name != "implausible_size"} == said


def test_forms_that_differ_are_told_and_asked_about_if_they_exchange_left_and_right(tmp_path):
    aside = AFFINE.copy()
    aside[0, 3] += 3
    path = save(tmp_path / "a.nii", qform_of=aside, sform=2)
    said = "is placed up to 3 apart by its sform and its qform (sform_code 2 and qform_code 1)"
    assert kinds(path) == {"forms_apart": said}
    mirrored = np.diag([-1, 1, 1, 1]) @ AFFINE
    path = save(tmp_path / "b.nii", qform_of=mirrored)
    assert kinds(path) == {"contradicting_sides": "has axes that point to ALS by sform, ARS by qform"}
    np.testing.assert_allclose(open_image(path).affine, AFFINE, atol=1e-5)


def test_an_orientation_that_is_not_stated_is_not_claimed(tmp_path):
    image = open_image(save(tmp_path / "a.nii", sform=0, qform=0))
    assert not image.oriented
    assert [finding.kind.name for finding in image.findings] == ["unknown_orientation"]
    assert open_image(save(tmp_path / "b.nii", sform=0)).oriented


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_what_stands_after_the_last_voxel_is_told_and_whole_slices_are_asked_about(tmp_path, ending):
    longer = np.concatenate([VOXELS, VOXELS[..., :2]], axis=2)
    path = save(tmp_path / f"a{ending}", voxels=longer, dim=[3, *SHAPE, 1, 1, 1, 1])
    assert kinds(path) == {
        "slices_after_end": "holds 360 bytes, enough for 2 further slices, after those that its header promises (dim)"
    }
    np.testing.assert_array_equal(open_image(path).voxels(), VOXELS)
    content = gzip.decompress(path.read_bytes()) if ending == ".nii.gz" else path.read_bytes()
    path.write_bytes(gzip.compress(content[:-300]) if ending == ".nii.gz" else content[:-300])
    assert set(kinds(path)) == {"bytes_after_end"}


def test_a_negative_slope_is_legal_and_told(tmp_path):
    path = save(tmp_path / "a.nii.gz", scl_slope=-2, scl_inter=500)
    assert kinds(path) == {"negative_slope": "multiplies its stored numbers by -2 (scl_slope)"}
    np.testing.assert_array_equal(open_image(path).voxels(), 500 - 2.0 * VOXELS)


@pytest.mark.parametrize(
    ("factor", "why"),
    [(0.1, "at least 30 mm long"), (100, "at most 3 m long"), (3, "at most 10 mm long in every direction")],
)
def test_a_size_that_no_scan_has_is_asked_about_of_images_but_not_of_cropped_labels(tmp_path, factor, why):
    scaled = AFFINE @ np.diag([factor, factor, factor, 1])
    image, label = save(tmp_path / "t1.nii", affine=scaled), save(tmp_path / "seg.nii", affine=scaled)
    (finding,) = header_findings(Case("a", "a", {"t1": ImageFile(image)}, label))
    assert (finding.kind.name, finding.kind.severity, finding.roles) == ("implausible_size", "asked", ("t1",))
    assert why in finding.seen
    # A mask that is scored by itself has nothing beside it.
    assert [finding.roles for finding in header_findings(Case("a", "a", {}, label))] == [("label",)]


def test_labels_that_are_whole_but_for_rounding_are_whole_and_others_stay_as_they_are(tmp_path):
    numbers = np.array([0, 1, 2, 4])[VOXELS % 4]
    image = ImageFile(save(tmp_path / "t1.nii"))

    def inspected(voxels, **fields):
        label = save(tmp_path / "seg.nii", voxels=voxels, **fields)
        return inspect(Case("a", "a", {"t1": image}, label), LESION)

    for voxels, fields in [
        ((numbers * np.float32(0.99999994)).astype(np.float32), {}),
        (np.rint(numbers * (32767 / 4)).astype(np.int16), {"scl_slope": 4 / 32767, "scl_inter": 0}),
    ]:
        found = inspected(voxels, **fields)
        np.testing.assert_array_equal(found.volumes["label"], numbers)
        assert not found.problems
        assert [(f.kind.name, f.roles) for f in found.findings] == [("rounded_labels", ("label",))]
    found = inspected(numbers * 0.25)
    assert found.problems[0].partition("it holds ")[2].startswith("0.25, 0.5; convention lesion declares")
    assert inspected(numbers.astype(np.float32)).findings == ()


def test_what_several_files_of_a_case_say_alike_is_one_finding(tmp_path):
    images = {role: ImageFile(save(tmp_path / f"{role}.nii", sform=0, qform=0)) for role in ("t1", "t2")}
    found = inspect(Case("a", "a", images, None), None)
    assert merged(found.findings) == list(found.findings)
    assert [finding.roles for finding in found.findings] == [("t1", "t2")]
    assert not found.oriented
    assert header_findings(Case("a", "a", images, None)) == list(found.findings)
