"""Image files: what is written is read back, headers are told without voxels, and damage is one line."""

import nibabel as nib
import numpy as np
import pytest

from cggm_med.data import cases
from cggm_med.data.volumes import io
from cggm_med.data.volumes.io import StoredImage, open_image, write_volume
from cggm_med.errors import ConfigError, DataError

AFFINE = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])


@pytest.mark.parametrize("ending", cases.ENDINGS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_what_is_written_is_read_back(tmp_path, ending, dtype):
    volume = np.arange(60).reshape(3, 4, 5).astype(dtype)
    write_volume(tmp_path / f"a{ending}", volume, AFFINE)
    image = open_image(tmp_path / f"a{ending}")
    assert (image.shape, image.dtype, image.spacing, image.axes) == ((3, 4, 5), dtype, (2, 2, 3), "ALS")
    np.testing.assert_array_equal(image.affine, AFFINE)
    np.testing.assert_array_equal(image.voxels(), volume)
    by_nibabel = nib.load(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(np.asanyarray(by_nibabel.dataobj), volume)
    np.testing.assert_array_equal(by_nibabel.affine, AFFINE)
    assert by_nibabel.header.get_xyzt_units() == ("mm", "unknown")


@pytest.mark.parametrize("ending", cases.ENDINGS)
def test_a_channel_of_a_4d_file(tmp_path, ending):
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    write_volume(tmp_path / f"a{ending}", volume, AFFINE)
    np.testing.assert_array_equal(open_image(tmp_path / f"a{ending}").voxels(1), volume[..., 1])


def test_the_header_is_told_without_voxels(tmp_path):
    """Of a file that ends after its header, all but the voxels is known, and so is what is missing."""
    write_volume(tmp_path / "a.nii", np.zeros((3, 4, 5), np.int16), AFFINE)
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes()[:352])
    image = open_image(tmp_path / "a.nii")
    assert image.shape == (3, 4, 5)
    assert image.damage == "its header promises 472 bytes and the file has 352; it is damaged or incomplete"
    with pytest.raises(DataError, match=r"a\.nii cannot be read: .*; it may be damaged or incomplete, copy it anew"):
        image.voxels()


def test_a_missing_or_foreign_file_is_one_line(tmp_path):
    (tmp_path / "a.nii.gz").write_text("<html>404 Not Found</html>")
    for name in ("none.nii", "a.nii.gz", "none.txt"):
        with pytest.raises(DataError, match=f"{name} cannot be read: .*, copy it anew") as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"output is a\.mha, expected a name that ends with \.nii\.gz or \.nii"):
        write_volume(tmp_path / "a.mha", np.zeros((2, 2, 2), np.uint8), AFFINE)


def test_every_ending_has_a_reader_and_a_format_is_one_function(tmp_path, monkeypatch):
    """The example of docs/how-to/add-a-file-format.md."""
    assert set(io.FORMATS) == set(cases.ENDINGS)

    def open_npy(path):
        volume = np.load(path, mmap_mode="r", allow_pickle=False)

        def read(channels):
            yield from (volume if channel is None else volume[..., channel] for channel in channels)

        return StoredImage(path, volume.shape, volume.dtype, np.eye(4), (1.0, 1.0, 1.0), "", read)

    monkeypatch.setattr(io, "FORMATS", {**io.FORMATS, ".npy": open_npy})
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.save(tmp_path / "a.npy", volume)
    np.testing.assert_array_equal(open_image(tmp_path / "a.npy").voxels(), volume)
    write_volume(tmp_path / "mask.nii.gz", (volume > 0).astype(np.uint8), tmp_path / "a.npy")
    np.testing.assert_array_equal(open_image(tmp_path / "mask.nii.gz").voxels(), volume > 0)
