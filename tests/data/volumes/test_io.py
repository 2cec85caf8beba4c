"""Image files: every format holds the same numbers in the same place, and damage of any is one line."""

import gzip
import itertools
import shutil
import struct
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it
from scipy.spatial.transform import Rotation

from cggm_med.data import cases
from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes import io
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.io import FORMATS, open_image, write_volume
from cggm_med.data.volumes.preprocess import digests
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import ConfigError, DataError

AFFINE = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [20, -35, 100], degrees=True).as_matrix() * (0.5, 0.75, 4)
OBLIQUE[:3, 3] = (-31.25, 12.5, 77)
OF_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
PACKED = (".nii.gz", ".mgz", ".nrrd", ".mha", ".nhdr", ".mhd")
DTYPES = (np.uint8, np.int16, np.float32)


def write_with_other_libraries(path: Path, volume: np.ndarray, affine: np.ndarray, *, packed: bool = True) -> Path:
    """A file of the format that its ending names, written by nibabel or SimpleITK alone."""
    ending = path.name[len(cases.stem(path.name)) :] or path.suffix
    if ending in OF_ITK:
        order = (2, 1, 0, 3)[: volume.ndim]
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(order)), isVector=volume.ndim == 4)
        lps = np.diag([-1, -1, 1, 1]) @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        sitk.WriteImage(image, str(path), useCompression=packed)
    else:
        kinds = {".mgz": nib.MGHImage, ".mgh": nib.MGHImage, ".hdr": nib.Nifti1Pair, ".img": nib.Nifti1Pair}
        nib.save(kinds.get(ending, nib.Nifti1Image)(volume, affine), path)
    return path


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_format_holds_the_same_volume(tmp_path, ending, dtype):
    """Voxels bit for bit as in NIfTI, and the same affine although ITK counts in LPS+."""
    volume = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    expected = open_image(write_with_other_libraries(tmp_path / "n.nii", volume, OBLIQUE))
    image = open_image(write_with_other_libraries(tmp_path / f"a{ending}", volume, OBLIQUE))
    assert (image.shape, image.dtype, image.axes, image.damage) == ((3, 4, 5), dtype, expected.axes, "")
    voxels = image.voxels()
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, expected.voxels())
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=3e-6)  # of headers in single precision
    np.testing.assert_allclose(image.spacing, (0.5, 0.75, 4), rtol=1e-6)
    # Through the check as well, which knows of no format.
    found = inspect(Case("a", "a", {"n": ImageFile(expected.path), "a": ImageFile(image.path)}, None), None)
    assert found.problems == ()
    np.testing.assert_array_equal(found.volumes["a"], found.volumes["n"])


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_formats_of_itk_without_compression_and_as_itk_reads_them(tmp_path, ending):
    volume = np.random.default_rng(1).normal(size=(4, 3, 2)).astype(np.float32)
    path = write_with_other_libraries(tmp_path / f"a{ending}", volume, OBLIQUE, packed=False)
    image = open_image(path)
    np.testing.assert_array_equal(image.voxels(), sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
    lps = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint((3, 2, 1))
    np.testing.assert_allclose((image.affine @ (3, 2, 1, 1))[:3] * (-1, -1, 1), lps, atol=1e-9)


@pytest.mark.parametrize(
    "space", ["right-anterior-superior", "RAS", "left-anterior-superior", "left-posterior-superior"]
)
def test_the_spaces_of_nrrd(tmp_path, space):
    """One voxel along the first axis is 2 mm towards what the space names first."""
    path = write_with_other_libraries(tmp_path / "a.nrrd", np.ones((2, 3, 4), np.int16), np.diag([2.0, 3, 4, 1]))
    lines = path.read_bytes().replace(b"space: left-posterior-superior", f"space: {space}".encode())
    path.write_bytes(lines.replace(b"(-2,0,0) (0,-3,0) (0,0,4)", b"(2,0,0) (0,3,0) (0,0,4)"))
    signs = {"right": (1, 1, 1), "RAS": (1, 1, 1), "left-anterior": (-1, 1, 1), "left-posterior": (-1, -1, 1)}
    sign = next(sign for name, sign in signs.items() if space.startswith(name))
    np.testing.assert_array_equal(open_image(path).affine, np.diag([*np.multiply(sign, (2, 3, 4)), 1]))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr"])
def test_scaled_values(tmp_path, ending):
    """12 stored with slope 0.5 and intercept -3 is 3, and formats that hold 3.0 itself give the same."""
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = (nib.Nifti1Pair if ending == ".hdr" else nib.Nifti1Image)(stored, AFFINE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / f"a{ending}")
    scaled = open_image(tmp_path / f"a{ending}")
    assert scaled.dtype == np.int16
    assert scaled.voxels()[1, 0, 0] == 3
    for other in (".nrrd", ".mha", ".mgz"):
        same = write_with_other_libraries(tmp_path / f"b{other}", (stored * 0.5 - 3).astype(np.float32), AFFINE)
        np.testing.assert_array_equal(open_image(same).voxels(), scaled.voxels())


@pytest.mark.parametrize("ending", io.WRITTEN)
@pytest.mark.parametrize("dtype", [*DTYPES, np.uint16])
def test_what_is_written_is_read_back_and_by_others(tmp_path, ending, dtype):
    volume = np.arange(60).reshape(3, 4, 5).astype(dtype)
    path = tmp_path / f"a{ending}"
    write_volume(path, volume, AFFINE)
    image = open_image(path)
    assert (image.shape, image.dtype, image.axes) == ((3, 4, 5), dtype, "ALS")
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-12)
    np.testing.assert_allclose(image.spacing, (2, 2, 3))
    np.testing.assert_array_equal(image.voxels(), volume)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T, volume)
    content = path.read_bytes()
    write_volume(path, volume, AFFINE)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    if ending.startswith(".nii"):
        by_nibabel = nib.load(path)
        np.testing.assert_array_equal(by_nibabel.affine, AFFINE)
        assert by_nibabel.header.get_xyzt_units() == ("mm", "unknown")


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("source", FORMATS)
def test_a_mask_lies_on_the_grid_of_an_image_of_any_format(tmp_path, source, ending):
    image = write_with_other_libraries(tmp_path / f"a{source}", np.ones((3, 4, 5), np.int16), OBLIQUE)
    write_volume(tmp_path / f"mask{ending}", np.ones((3, 4, 5), np.uint8), image)
    np.testing.assert_allclose(open_image(tmp_path / f"mask{ending}").affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".nrrd", ".mha"])
def test_a_channel_of_a_4d_file(tmp_path, ending):
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    image = open_image(write_with_other_libraries(tmp_path / f"a{ending}", volume, AFFINE))
    assert image.shape == (3, 4, 5, 2)
    np.testing.assert_array_equal(image.voxels(1), volume[..., 1])
    first, second = image.read([0, 1])
    np.testing.assert_array_equal(np.stack([first, second], -1), volume)


def test_axes_that_hold_one_volume_are_none(tmp_path):
    """One time point is 3-D; vectors in NIfTI are 5-D with one time point."""
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    for name, shape in (("a.nii", (3, 4, 5, 1)), ("b.nii.gz", (3, 4, 5, 1)), ("c.nii", (3, 4, 5, 1, 1))):
        nib.save(nib.Nifti1Image(volume[..., :1].reshape(shape), AFFINE), tmp_path / name)
        image = open_image(tmp_path / name)
        assert image.shape == (3, 4, 5)
        for channel in (None, 0):
            np.testing.assert_array_equal(image.voxels(channel), volume[..., 0])
    for name in ("d.nii", "e.nii.gz"):
        nib.save(nib.Nifti1Image(volume[:, :, :, None], AFFINE), tmp_path / name)
        assert open_image(tmp_path / name).shape == (3, 4, 5, 2)
        np.testing.assert_array_equal(open_image(tmp_path / name).voxels(1), volume[..., 1])
    times = sitk.JoinSeries(sitk.GetImageFromArray(volume[..., 0].T))
    sitk.WriteImage(times, str(tmp_path / "f.mha"))
    assert open_image(tmp_path / "f.mha").shape == (3, 4, 5)
    np.testing.assert_array_equal(open_image(tmp_path / "f.mha").voxels(), volume[..., 0])


@pytest.mark.parametrize("ending", FORMATS)
def test_letter_case_does_not_matter(tmp_path, ending):
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = write_with_other_libraries(tmp_path / f"a{ending}", volume, AFFINE)
    if path.suffix in (".hdr", ".img"):
        for one in (".hdr", ".img"):
            shutil.move(path.with_suffix(one), tmp_path / f"B{one.upper()}")
    else:
        shutil.copy(path, tmp_path / f"B{ending.upper()}")
    np.testing.assert_array_equal(open_image(tmp_path / f"B{ending.upper()}").voxels(), volume)
    assert cases.stem(f"B{ending.upper()}") == ("" if ending == ".img" else "B")


def test_endings_and_readers():
    """Of a pair, the header alone is found on disk: else every case would have each of its images twice."""
    assert set(FORMATS) == {*cases.ENDINGS, ".img"}


def damaged_ones(path: Path) -> list[bytes]:
    """The file cut at several places, and with changed bytes near its end."""
    content = path.read_bytes()
    cut = [content[: int(len(content) * share)] for share in (0, 0.05, 0.5, 0.9)] + [content[:-1], content[:-9]]
    flipped = bytearray(content)
    flipped[-20] ^= 255
    return [*cut, bytes(flipped)]


@pytest.mark.parametrize("ending", FORMATS)
def test_damage_of_any_format_is_one_line(tmp_path, ending, capfd):
    volume = np.random.default_rng(0).integers(0, 2000, (9, 8, 7)).astype(np.int16)
    path = write_with_other_libraries(tmp_path / f"a{ending}", volume, AFFINE)
    parts = (path, *open_image(path).parts)
    assert [part.name for part in parts[1:]] == {
        ".nhdr": ["a.raw.gz"], ".mhd": ["a.zraw"], ".hdr": ["a.img"], ".img": ["a.hdr"]
    }.get(ending, [])  # fmt: skip
    for part in parts:
        content = part.read_bytes()
        for number, damaged in enumerate(damaged_ones(part)):
            part.write_bytes(damaged)
            problems = inspect(Case("c", "c", {"flair": ImageFile(path)}, None), None).problems
            assert len(problems) <= 1
            assert not any("\n" in problem or "flair" not in problem for problem in problems)
            # A header in text may lose its end, and .mgh what follows the voxels; of plain voxels, a changed bit is
            # another image.
            in_text, plain = part.suffix in (".nhdr", ".mhd"), ending not in PACKED
            if number < (3 if in_text else 4 if ending == ".mgh" else 6) or (number == 6 and not (in_text or plain)):
                assert problems, (part, number)
        part.unlink()
        (problem,) = inspect(Case("c", "c", {"flair": ImageFile(path)}, None), None).problems
        assert "does not exist" in problem, problem
        part.write_bytes(content)
    assert capfd.readouterr() == ("", "")  # ITK's readers print what is wrong, beside raising it


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".nrrd", b"sizes: 3 4 5", b"sizes: 300000 400000 50000"),
        (".mha", b"DimSize = 3 4 5", b"DimSize = 300000 400000 50000"),
        (".mgh", struct.pack(">3i", 3, 4, 5), struct.pack(">3i", 30000, 40000, 50000)),
        (".hdr", struct.pack("<3h", 3, 4, 5), struct.pack("<3h", 30000, 30000, 30000)),
    ],
)
def test_nothing_impossible_is_allocated(tmp_path, ending, old, new):
    path = write_with_other_libraries(tmp_path / f"a{ending}", np.ones((3, 4, 5), np.int16), AFFINE, packed=False)
    path.write_bytes(path.read_bytes().replace(old, new))
    image = open_image(path)
    assert image.damage.startswith("its header promises ")
    (problem,) = inspect(Case("c", "c", {"flair": ImageFile(path)}, None), None).problems
    assert problem == f"c: flair {path}: {image.damage}"
    with pytest.raises(DataError, match="cannot be read"):
        image.voxels()


def test_itk_would_take_a_damaged_stream_for_an_image(tmp_path):
    """Hence MetaImage is not read with ITK: its reader gives whatever stands in memory, or ends the process."""
    volume = np.random.default_rng(0).integers(1, 2000, (9, 8, 7)).astype(np.int16)
    path = write_with_other_libraries(tmp_path / "a.mha", volume, AFFINE)
    content = bytearray(path.read_bytes())
    content[-300] ^= 255
    path.write_bytes(content)
    by_itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="MetaImageIO")).T
    assert (by_itk != volume).any()
    with pytest.raises(DataError, match="cannot be read"):
        open_image(path).voxels()


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("ending", "old", "new", "reason"),
    [
        (".nrrd", b"space: left-posterior-superior\n", b"", "its space is not given, so that nothing"),
        (".nrrd", b"left-posterior-superior", b"scanner-xyz", "its space is scanner-xyz, so that nothing says"),
        (".nrrd", b"encoding: raw", b"encoding: text", "its encoding is text; expected raw or gzip"),
        (".nrrd", b"encoding: raw", b"encoding: raw\nline skip: 2", "it skips lines"),
        (".nhdr", b"data file: a.raw", b"data file: LIST", "its voxels are spread over several files"),
        (".nrrd", b"(0,0,3)", b"(0,0,0)", "spacing 2 x 2 x 0 mm; expected positive numbers"),
        (".nrrd", b"(0,0,3)", b"(0,1,3)", "its axes are not at right angles"),
        (".nrrd", b"type: short", b"type: block\nblock size: 2", "cannot be read"),
        (".mhd", b"a.raw", b"%03d.raw 1 5 1", "its voxels are spread over several files"),
        (".mha", b"BinaryData = True", b"BinaryData = False", "its voxels are text"),
        (".mha", b"ElementType", b"ElementToIntensityFunctionSlope = 2\nElementType", "it scales voxels by 2"),
        (".mha", b"ElementSpacing = 2 2 3", b"ElementSpacing = 2 2 -3", "spacing 2 x 2 x -3 mm"),
        (".mha", b"DimSize = 3 4 5\n", b"", "its header has no DimSize"),
        (".mha", b"DimSize = 3 4 5", b"DimSize = -3 4 5", "its DimSize is -3 4 5; expected 2 to 4 positive numbers"),
        (".mha", b"MET_SHORT", b"MET_STRING", "its ElementType is STRING; expected one of MET_CHAR"),
        (".mha", b"0 0 1\n", b"0 0 0\n", "its affine is degenerate"),
        (".mha", b"NDims = 3", b"NDims = 99", "cannot be read"),
    ],
)  # fmt: skip
def test_what_itk_would_guess_is_refused(tmp_path, ending, old, new, reason):
    volume = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = write_with_other_libraries(tmp_path / f"a{ending}", volume, AFFINE, packed=False)
    (problem,) = inspect(Case("c", "c", {"flair": ImageFile(replaced(path, old, new))}, None), None).problems
    assert reason in problem
    assert str(path) in problem


def test_values_that_are_no_image_are_refused(tmp_path):
    """Complex numbers and colours, from ITK's formats as from NIfTI."""
    sitk.WriteImage(sitk.Image([3, 4, 5], sitk.sitkVectorUInt8, 3), str(tmp_path / "a.mha"))
    sitk.WriteImage(sitk.Image([3, 4], sitk.sitkInt16), str(tmp_path / "b.mha"))
    for name, reason in (("a.mha", "shape 3 x 4 x 5 x 3; expected 3 axes"), ("b.mha", "shape 3 x 4; expected 3 axes")):
        (problem,) = inspect(Case("c", "c", {"flair": ImageFile(tmp_path / name)}, None), None).problems
        assert reason in problem


def test_analyze_is_read_where_spm_says_how_it_lies(tmp_path):
    volume = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nib.save(nib.Spm99AnalyzeImage(volume, OBLIQUE), tmp_path / "a.hdr")
    for name in ("a.hdr", "a.img"):
        image = open_image(tmp_path / name)
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
        np.testing.assert_array_equal(image.voxels(), volume)
        assert {part.name for part in (image.path, *image.parts)} == {"a.hdr", "a.img", "a.mat"}
    (tmp_path / "a.mat").unlink()
    for name in ("a.hdr", "a.img"):
        with pytest.raises(DataError, match=r"it is an Analyze file, which does not say which side is left") as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", FORMATS)
def test_the_digest_of_a_file_covers_its_voxels(tmp_path, ending):
    """Also where they lie in another file: else the cache would not notice that they changed."""
    volume = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    found = set()
    for changed in (volume, volume + 1):
        path = write_with_other_libraries(tmp_path / f"a{ending}", changed, AFFINE)
        found.add(digests(Case("c", "c", {"flair": ImageFile(path)}, None))["flair"])
    assert len(found) == 2


def test_the_header_is_told_without_voxels(tmp_path):
    """Of a file that ends after its header, all but the voxels is known, and so is what is missing."""
    write_volume(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16), AFFINE)
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:352])
    image = open_image(tmp_path / "a.nii")
    assert image.shape == (3, 4, 5)
    assert image.damage == "its header promises 472 bytes and the file has 352"
    with pytest.raises(DataError, match=r"a\.nii cannot be read: .*; it may be damaged or incomplete, copy it anew"):
        image.voxels()


def test_a_missing_or_foreign_file_is_one_line(tmp_path, capfd):
    for ending in FORMATS:
        (tmp_path / f"a{ending}").write_text("<html>404 Not Found</html>")
    for name in ("none.txt", *itertools.chain(*((f"none{ending}", f"a{ending}") for ending in FORMATS))):
        with pytest.raises(DataError) as caught:
            open_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    expected = r"output is a\.mhd, expected a name that ends with \.nii\.gz, \.nii, \.nrrd, \.mha"
    with pytest.raises(ConfigError, match=expected):
        write_volume(tmp_path / "a.mhd", np.zeros((2, 2, 2), np.uint8), AFFINE)


def test_what_is_said_of_a_file_that_cannot_be_read_helps(tmp_path):
    """A file that is called what it is not is read under the name that the message gives."""
    volume = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_volume(tmp_path / "whole.nii", volume, AFFINE)
    content = (tmp_path / "whole.nii").read_bytes()
    for name, wrong in (("plain.nii.gz", content), ("packed.nii", gzip.compress(content))):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(DataError, match=r"cannot be read: .*compressed, call it (\S+)$") as error:
            open_image(tmp_path / name)
        better = str(error.value).split()[-1]
        (tmp_path / name).rename(tmp_path / better)
        np.testing.assert_array_equal(open_image(tmp_path / better).voxels(), volume)
    for beginning, advice in (
        (b"", "it is empty; copy it anew"),
        (b"version https://git-lfs.github.com/spec/v1", "fetch its content with git lfs pull"),
        (b"<!DOCTYPE html>", "it is a page of the web; download the file anew"),
        (bytes(128) + b"DICM", "it is a DICOM file, give the folder of its study"),
        (b"damaged", "it may be damaged or incomplete, copy it anew"),
    ):
        (tmp_path / "a.nii.gz").write_bytes(beginning)
        with pytest.raises(DataError, match=f"{advice}$"):
            open_image(tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="it is a folder, give one of its files$"):
        open_image(tmp_path)
    for name in ("a.png", "a.txt", "a.par"):  # copying it anew would not help
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(DataError, match=r"it does not begin as an image does; convert it to one of \.nii, "):
            open_image(tmp_path / name)


def test_a_mistyped_path_is_told_with_the_nearest_that_exists(tmp_path):
    (tmp_path / "case_07").mkdir()
    there = tmp_path / "case_07" / "case_07_flair.nii.gz"
    write_volume(there, np.zeros((3, 4, 5), np.int16), AFFINE)
    for wrong in ("case_07/case_07_fliar.nii.gz", "case07/case_07_flair.nii.gz", "Case_07/case_07_flair.nii"):
        with pytest.raises(DataError, match=r"does not exist \(did you mean (.*)\?\)$") as error:
            open_image(tmp_path / wrong)
        assert str(error.value).endswith(f"(did you mean {there}?)")
    with pytest.raises(DataError, match="does not exist$"):
        open_image(tmp_path / "elsewhere" / "t2.nii")


def test_streams_of_several_gzip_members(tmp_path):
    """As parallel compressors write them."""
    volume = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = write_with_other_libraries(tmp_path / "a.nhdr", volume, AFFINE)
    raw = gzip.decompress((tmp_path / "a.raw.gz").read_bytes())
    (tmp_path / "a.raw.gz").write_bytes(gzip.compress(raw[:50]) + gzip.compress(raw[50:]))
    np.testing.assert_array_equal(open_image(path).voxels(), volume)
    zipped = write_with_other_libraries(tmp_path / "b.mhd", volume, AFFINE)
    assert zlib.decompress((tmp_path / "b.zraw").read_bytes()) == raw
    np.testing.assert_array_equal(open_image(zipped).voxels(), volume)


def test_a_format_is_one_function(tmp_path, monkeypatch):
    """The example of docs/how-to/add-a-file-format.md."""

    def open_npy(path):
        volume = np.load(path, mmap_mode="r", allow_pickle=False)

        def read(channels):
            yield from (volume if channel is None else volume[..., channel] for channel in channels)

        return StoredImage(path, volume.shape, volume.dtype, np.eye(4), (1.0, 1.0, 1.0), "", read)

    monkeypatch.setattr(io, "FORMATS", {**FORMATS, ".npy": open_npy})
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.save(tmp_path / "a.npy", volume)
    np.testing.assert_array_equal(open_image(tmp_path / "a.npy").voxels(), volume)
    write_volume(tmp_path / "mask.nii.gz", (volume > 0).astype(np.uint8), tmp_path / "a.npy")
    np.testing.assert_array_equal(open_image(tmp_path / "mask.nii.gz").voxels(), volume > 0)
