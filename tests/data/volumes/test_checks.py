"""Checking images: whatever is wrong with real files is told before anything is computed from them."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.layouts import find_cases
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.grids import largest_displacement
from cggm_med.data.volumes.labels import LabelConvention

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real data are not here")

BRATS2021 = LabelConvention(
    "brats2021",
    {1: "NCR", 2: "ED", 4: "ET"},
    {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    {"WT": 2, "TC": 1, "ET": 4},
)
BRATS2013 = LabelConvention(
    "brats2013",
    {1: "necrosis", 2: "oedema", 3: "non-enhancing", 4: "enhancing"},
    {"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)},
    {"WT": 2, "TC": 1, "ET": 4},
)
LPS = np.diag([-1.0, -2.0, 3.0, 1.0])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, shape).astype(np.int16)


def write(path: Path, data: np.ndarray, affine: np.ndarray = LPS) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def make_case(*images: Path, label: Path | None = None) -> Case:
    names = ("flair", "t1", "t1ce", "t2")
    return Case("a", "a", {name: ImageFile(path) for name, path in zip(names, images, strict=False)}, label)


def only_problem(*images: Path, label: Path | None = None, convention: LabelConvention | None = BRATS2021) -> str:
    (problem,) = list(inspect(make_case(*images, label=label), convention).problems)
    return problem


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_sound_case_has_no_problem(tmp_path: Path, extension: str) -> None:
    images = [write(tmp_path / f"{k}.nii", noise(4, 5, 6, seed=k)) for k in range(2)]
    label = write(tmp_path / "seg.nii", noise(4, 5, 6) % 3)
    for path in (*images, label):
        packed = path.with_suffix(extension)
        content = path.read_bytes()
        packed.write_bytes(gzip.compress(content) if extension.lower().endswith("gz") else content)
    case = make_case(*(path.with_suffix(extension) for path in images), label=label.with_suffix(extension))
    assert list(inspect(case, BRATS2021).problems) == []


# Files that cannot be read


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, -1, -9])
def test_truncated_gzip(tmp_path: Path, kept: float) -> None:
    """A fraction of the file, or all but its last bytes: the checksum alone is enough to miss."""
    path = write(tmp_path / "a.nii.gz", noise(16, 16, 16))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept) if kept < 0 else int(kept * len(content))])
    assert "cannot be read" in only_problem(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_a_gzip_never_passes_with_other_voxels(tmp_path: Path, data: st.DataObject) -> None:
    voxels = noise(8, 8, 8)
    path = write(tmp_path / "a.nii.gz", voxels)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    if not list(inspect(make_case(path), None).problems):
        np.testing.assert_array_equal(np.asanyarray(nib.load(path).dataobj), voxels)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=16), packed=st.booleans())
def test_a_damaged_header_is_a_problem_or_harmless_but_never_a_crash(
    tmp_path: Path, changes: dict[int, int], packed: bool
) -> None:
    content = bytearray(write(tmp_path / "a.nii", noise(8, 8, 8)).read_bytes())
    for place, value in changes.items():
        content[place] = value
    path = tmp_path / ("b.nii.gz" if packed else "b.nii")
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    assert all(problem.startswith("a: flair") for problem in list(inspect(make_case(path), None).problems))


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_sizes_that_the_file_cannot_hold_are_refused_before_allocation(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.int16)
    header["vox_offset"] = 352
    path = tmp_path / f"a{extension}"
    content = header.binaryblock + bytes(4 + 1000)
    path.write_bytes(gzip.compress(content) if extension == ".nii.gz" else content)
    monkeypatch.setattr(nib.Nifti1Image, "dataobj", property(lambda image: _Refuses(image._dataobj.offset)))
    # 2 x 30000^3 bytes of voxels after 352 of header.
    assert "promises 54000000000352 bytes" in only_problem(path)


class _Refuses:
    """Stands in for nibabel's access to the voxels and fails the test if they are read."""

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("voxels were read")


def test_truncated_plain_file_names_both_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", noise(8, 8, 8))
    path.write_bytes(path.read_bytes()[:-1])
    assert "promises 1376 bytes and the file has 1375" in only_problem(path), "352 + 2 x 8^3"


def test_files_of_another_kind(tmp_path: Path) -> None:
    text = tmp_path / "a.nii.gz"
    text.write_text("<html>404 Not Found</html>")
    assert "cannot be read" in only_problem(text)
    nib.save(nib.MGHImage(noise(4, 4, 4).astype(np.float32), LPS), tmp_path / "a.mgz")
    assert "cannot be read" in only_problem((tmp_path / "a.mgz").rename(tmp_path / "b.nii.gz"))


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_real_numbers(tmp_path: Path, dtype: object) -> None:
    path = write(tmp_path / "a.nii", np.zeros((3, 3, 3), dtype))
    assert "expected real numbers" in only_problem(path)


# Shapes and channels


def test_several_time_points_name_the_shape(tmp_path: Path) -> None:
    """One time point is a volume; of two, nobody said which."""
    assert inspect(make_case(write(tmp_path / "a.nii", noise(4, 5, 6, 1))), None).problems == ()
    assert "shape 4 x 5 x 6 x 2; expected 3 axes" in only_problem(write(tmp_path / "b.nii", noise(4, 5, 6, 2)))


def test_shapes_that_differ_name_both_files_and_shapes(tmp_path: Path) -> None:
    flair, t1 = write(tmp_path / "f.nii", noise(4, 5, 6)), write(tmp_path / "t.nii", noise(4, 5, 7))
    assert only_problem(flair, t1) == (f"a: flair {flair} and t1 {t1} differ in shape: 4 x 5 x 6 and 4 x 5 x 7")
    label = write(tmp_path / "s.nii", np.ones((5, 4, 6), np.uint8))
    assert "flair" in (problem := only_problem(flair, label=label))
    assert f"label {label} differ in shape: 4 x 5 x 6 and 5 x 4 x 6" in problem


def four(path: Path, *names: str) -> Case:
    images = {name: ImageFile(path, ["flair", "t1", "t1ce", "t2"].index(name)) for name in names}
    return Case("a", "a", images, None)


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_channels_of_a_4d_file(tmp_path: Path, extension: str) -> None:
    data = noise(4, 5, 6, 4)
    data[..., 2] = 7
    path = write(tmp_path / f"a{extension}", data)
    assert list(inspect(four(path, "t2", "flair"), None).problems) == []
    (problem,) = list(inspect(four(path, "flair", "t1ce"), None).problems)
    assert problem == f"a: t1ce {path}: image is constant (7): no signal"


def test_channel_that_the_file_does_not_have(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", noise(4, 5, 6, 3))
    (problem,) = list(inspect(four(path, "flair", "t2"), None).problems)
    assert "shape 4 x 5 x 6 x 3; expected 4 axes (x, y, z, modality) with at least 4" in problem
    (problem,) = list(inspect(four(write(path, noise(4, 5, 6)), "t1"), None).problems)
    assert "shape 4 x 5 x 6; expected 4 axes" in problem
    assert inspect(four(path, "flair"), None).problems == ()  # the only channel there is


def test_compressed_4d_file_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii.gz", noise(4, 5, 6, 4))
    reads: list[int] = []
    real = nib.arrayproxy.ArrayProxy.__array__
    monkeypatch.setattr(
        nib.arrayproxy.ArrayProxy, "__array__", lambda self, *a, **k: (reads.append(1), real(self, *a, **k))[1]
    )
    assert list(inspect(four(path, "flair", "t1", "t1ce", "t2"), None).problems) == []
    assert len(reads) == 1


def test_plain_4d_file_is_read_by_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that is not asked for may be unusable: it is never looked at."""
    data = noise(4, 5, 6, 4).astype(np.float32)
    data[..., 1] = np.nan
    path = write(tmp_path / "a.nii", data)
    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "__array__", lambda *_: pytest.fail("the whole file was read"))
    assert list(inspect(four(path, "flair", "t2"), None).problems) == []


# Affines


@pytest.mark.parametrize(("shift_mm", "allowed"), [(0.04, True), (0.06, False)])
def test_tolerance_is_a_fraction_of_a_voxel(tmp_path: Path, shift_mm: float, allowed: bool) -> None:
    """Along x a voxel has 1 mm, so 0.05 voxel is 0.05 mm; along z it has 3 mm, and 0.06 mm is 0.02 voxel."""
    for axis, passes in ((0, allowed), (2, True)):
        moved = LPS.copy()
        moved[axis, 3] += shift_mm
        images = write(tmp_path / "f.nii", noise(4, 5, 6)), write(tmp_path / "t.nii", noise(4, 5, 6), moved)
        assert (list(inspect(make_case(*images), None).problems) == []) == passes


def test_affines_that_differ_name_files_and_displacement(tmp_path: Path) -> None:
    moved = LPS.copy()
    moved[2, 3] = 6.0
    flair, t1 = write(tmp_path / "f.nii", noise(4, 5, 6)), write(tmp_path / "t.nii", noise(4, 5, 6), moved)
    assert only_problem(flair, t1) == (
        f"a: flair {flair} and t1 {t1} differ in affine; a corner moves by 2 voxels, allowed are 0.05"
    )


def test_orientation_that_differs_is_said(tmp_path: Path) -> None:
    flipped = LPS @ np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = -3.0  # the same box in space, its x axis read the other way
    flair, t1 = write(tmp_path / "f.nii", noise(4, 5, 6)), write(tmp_path / "t.nii", noise(4, 5, 6), flipped)
    assert "differ in orientation: LPS and RPS; a corner moves by 4 voxels" in only_problem(flair, t1)


@given(
    matrix=st.lists(st.floats(-2, 2), min_size=12, max_size=12),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    change=st.lists(st.floats(-0.1, 0.1), min_size=12, max_size=12),
)
def test_no_point_moves_further_than_the_corners(
    matrix: list[float], shape: tuple[int, int, int], change: list[float]
) -> None:
    """A displacement is affine, so its length is largest at a corner: brute force over a fine grid of points."""
    reference, affine = np.eye(4), np.eye(4)
    reference[:3] += np.reshape(matrix, (3, 4)) / 10
    affine[:3] = reference[:3] + np.reshape(change, (3, 4))
    edges = [np.linspace(-0.5, n - 0.5, 5) for n in shape]
    points = np.stack(np.meshgrid(*edges, np.ones(1), indexing="ij")).reshape(4, -1)
    moved = np.linalg.solve(reference, affine @ points) - points
    assert largest_displacement(reference, affine, shape) == pytest.approx(
        np.linalg.norm(moved, axis=0).max(), abs=1e-9
    )


def rewrite_header(path: Path, **fields: object) -> Path:
    """Change header fields behind nibabel's back, which would not write them."""
    content = path.read_bytes()
    header = np.frombuffer(bytearray(content[:348]), nib.nifti1.header_dtype).copy()
    for field, value in fields.items():
        header[0][field] = value
    path.write_bytes(header.tobytes() + content[348:])
    return path


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan, np.inf])
def test_spacing_must_be_positive(tmp_path: Path, size: float) -> None:
    path = rewrite_header(write(tmp_path / "a.nii", noise(4, 5, 6)), pixdim=[1, 1, size, 1, 0, 0, 0, 0])
    assert f"spacing 1 x {size:g} x 1 mm; expected positive numbers" in only_problem(path)


def test_affine_that_is_not_finite_or_flat(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", noise(4, 5, 6))
    assert "its affine holds NaN" in only_problem(rewrite_header(path, srow_x=[1, np.nan, 0, 0]))
    assert "its affine is degenerate" in only_problem(rewrite_header(path, srow_x=[0, 0, 3, 0]))


# Voxels and labels


def test_voxels_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    data = noise(4, 5, 6).astype(np.float32)
    data[0, 0, :3], data[1, 1, :2] = np.nan, (np.inf, -np.inf)
    path = write(tmp_path / "a.nii.gz", data)
    assert only_problem(path) == f"a: flair {path}: 3 NaN voxels and 2 infinite voxels of 120"


def test_label_values_outside_the_convention(tmp_path: Path) -> None:
    image, label = write(tmp_path / "f.nii", noise(2, 2, 2)), tmp_path / "s.nii"
    write(label, np.array([0, 1, 2, 4, 3, 0.5, np.nan, 4], np.float32).reshape(2, 2, 2))
    assert only_problem(image, label=label) == (
        f"a: label {label}: it holds 0.5, 3, nan; convention brats2021 declares 0 background, 1 NCR, 2 ED, 4 ET"
    )
    assert list(inspect(make_case(image, label=label), None).problems) == [], (
        "without a convention values are not judged"
    )


def test_an_image_taken_for_a_label_shows_a_few_values_only(tmp_path: Path) -> None:
    image = write(tmp_path / "f.nii", np.arange(10, 18, dtype=np.int16).reshape(2, 2, 2))
    label = write(tmp_path / "s.nii", np.arange(10, 18, dtype=np.int16).reshape(2, 2, 2))
    assert "it holds 10, 11, 12, 13, 14, ... and 3 more;" in only_problem(image, label=label)


def test_a_label_without_tumour_is_allowed(tmp_path: Path) -> None:
    image, label = write(tmp_path / "f.nii", noise(2, 2, 2)), write(tmp_path / "s.nii", np.zeros((2, 2, 2), np.uint8))
    assert list(inspect(make_case(image, label=label), BRATS2021).problems) == []


# Real scans


@needs_shared
def test_real_infinite_voxels() -> None:
    path = SHARED / "sct" / "mt" / "mtr.nii.gz"
    assert only_problem(path) == f"a: flair {path}: 633 infinite voxels of 8000"


@needs_shared
def test_real_affine_noise_is_allowed() -> None:
    """The cord mask's origin lies 0.1 to 0.2 micrometres off the image's."""
    folder = SHARED / "sct" / "mt"
    image, label = folder / "mt0.nii.gz", folder / "mt0_seg.nii.gz"
    assert not np.array_equal(nib.load(image).affine, nib.load(label).affine)
    cord = LabelConvention("cord", {1: "cord"}, {"cord": (1,)}, {"cord": 1})
    assert list(inspect(make_case(image, label=label), cord).problems) == []


@needs_shared
def test_real_glioma_case_through_a_datalist(tmp_path: Path) -> None:
    folder = SHARED / "brats2013_3d" / "brats_2013_pat0001_1"
    entry = {"id": "pat0001", "flair": str(folder / "Flair_subtrMeanDivStd.nii.gz")}
    entry |= {"t1ce": str(folder / "T1c_subtrMeanDivStd.nii.gz"), "label": str(folder / "OTMultiClass.nii.gz")}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry]}))
    modalities = ("flair", "t1ce")
    options = {"decathlon_modalities": {}, "decathlon_convention": "msd", "known_modalities": modalities}
    found = find_cases(tmp_path / "list.json", modalities, (), **options)
    assert list(inspect(found.cases[0], BRATS2013).problems) == []
    (problem,) = list(inspect(found.cases[0], BRATS2021).problems)
    assert "it holds 3; convention brats2021" in problem


@needs_shared
def test_real_modality_on_another_grid() -> None:
    folder = SHARED / "isles22" / "rawdata" / "sub-strokecase0009" / "ses-0001"
    images = [folder / f"sub-strokecase0009_ses-0001_{name}.nii.gz" for name in ("dwi", "adc", "flair")]
    problem = only_problem(*images)
    assert "dwi.nii.gz" in problem
    assert problem.endswith("flair.nii.gz differ in shape: 112 x 112 x 73 and 512 x 512 x 29")


@needs_shared
def test_real_scan_that_was_not_copied_to_its_end(tmp_path: Path) -> None:
    path = Path(shutil.copy(SHARED / "sct" / "mt" / "t1w.nii.gz", tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read: Compressed file ended before the end-of-stream marker" in only_problem(path)


def test_volumes_are_what_stands_in_the_files(tmp_path):
    images = [write(tmp_path / f"{k}.nii.gz", noise(4, 5, 6, seed=k)) for k in range(2)]
    label = write(tmp_path / "seg.nii.gz", np.ones((4, 5, 6), np.uint8))
    found = inspect(make_case(*images, label=label), BRATS2021)
    assert list(found.volumes) == ["flair", "t1", "label"]
    assert found.volumes["t1"].dtype == np.float32
    assert found.volumes["label"].dtype == np.uint8
    np.testing.assert_array_equal(found.volumes["t1"], noise(4, 5, 6, seed=1))
    np.testing.assert_array_equal(found.affines["t1"], LPS)


def test_other_grids_are_told_from_other_problems(tmp_path):
    small, damaged = write(tmp_path / "small.nii", noise(4, 5, 5)), write(tmp_path / "damaged.nii", noise(4, 5, 6))
    damaged.write_bytes(damaged.read_bytes()[:400])
    found = inspect(make_case(write(tmp_path / "a.nii", noise(4, 5, 6)), small, damaged), None)
    (other_grid,) = found.differing
    assert "differ in shape" in other_grid
    assert len(found.problems) == 2
    assert set(found.volumes) == {"flair", "t1"}


@pytest.mark.parametrize(("shear", "sound"), [(5e-4, True), (0.01, False)])
def test_axes_that_are_not_at_right_angles(tmp_path, shear, sound):
    affine = np.eye(4)
    affine[0, 1] = shear  # the second axis leans; the cosine between the first two is the shear itself
    found = inspect(make_case(write(tmp_path / "a.nii", noise(4, 5, 6), affine)), None)
    assert (found.problems == ()) == sound
    assert sound or "not at right angles" in found.problems[0]
    assert sound or "is 0.01, allowed is 0.001" in found.problems[0]


def test_an_oblique_scan_is_sound(tmp_path):
    """Turned, not sheared: as an independent authority, SciPy's rotation."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix() * [1.0, 0.5, 3.0]
    assert inspect(make_case(write(tmp_path / "a.nii", noise(4, 5, 6), affine)), None).problems == ()


def test_numbers_that_single_precision_does_not_hold(tmp_path):
    large = np.linspace(0, 1e39, 120).reshape(4, 5, 6)
    (problem,) = inspect(make_case(write(tmp_path / "a.nii", large)), None).problems
    assert "infinite voxels" in problem


def test_a_volume_that_no_memory_holds_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.nii.gz", noise(16, 16, 16))
    monkeypatch.setattr("cggm_med.data.volumes.checks.memory_bytes", lambda: 4 * 16**3 - 1)
    assert "shape 16 x 16 x 16 takes 1.64e-05 GB of memory, and this machine has" in only_problem(path)
