"""A label in several files, one for each region, is the label map that one would have painted of them."""

from pathlib import Path

import numpy as np
import pytest

from cggm_med.data.cases import Case, ImageFile, RegionFile, RegionFiles
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.io import nifti_bytes
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention, painting_order
from cggm_med.data.volumes.preprocess import digests
from cggm_med.errors import DataError


def convention(regions, *, exclusive=False):
    numbers = sorted({number for held in regions.values() for number in held})
    return LabelConvention("x", {n: f"label {n}" for n in numbers}, regions, painting_order(regions), exclusive)


@pytest.fixture
def drawn(tmp_path):
    """A function that writes a mask for each region and returns them as one label."""

    def write(**masks):
        files = []
        for name, voxels in masks.items():
            path = tmp_path / f"{name}.nii"
            path.write_bytes(nifti_bytes(np.asarray(voxels, np.uint8).reshape(-1, 1, 1), np.eye(4)))
            files.append((name, RegionFile(path)))
        return RegionFiles(tuple(files))

    return write


@pytest.mark.parametrize(
    ("regions", "masks", "expected"),
    [
        ({"a": (1,), "b": (2,)}, {"a": [1, 0, 0, 0], "b": [0, 0, 1, 0]}, [1, 0, 2, 0]),
        ({"WT": (1, 2), "TC": (2,)}, {"WT": [1, 1, 0, 0], "TC": [0, 1, 0, 0]}, [1, 2, 0, 0]),
        ({"WT": (1, 2), "TC": (2,)}, {"WT": [1, 0, 0, 0], "TC": [0, 1, 0, 0]}, [1, 2, 0, 0]),  # TC lies in WT
        ({"a": (1, 3), "b": (2, 3)}, {"a": [1, 1, 0, 0], "b": [0, 1, 1, 0]}, [1, 3, 2, 0]),
        ({"a": (1,), "b": (2,)}, {"b": [0, 1, 0, 0]}, [0, 2, 0, 0]),
    ],
)
def test_regions_are_painted_as_the_convention_says(drawn, regions, masks, expected):
    of = convention(regions)
    opened = open_label(drawn(**masks), of)
    assert opened.voxels().ravel().tolist() == expected
    assert (opened.shape, opened.voxels().dtype) == ((4, 1, 1), np.uint8)
    overlapping = sum(map(len, regions.values())) > len(of.meanings)
    for region, mask in masks.items():
        index = list(regions).index(region)
        read = of.to_regions(opened.voxels())[index].ravel()
        assert read.tolist() == mask if not overlapping or region != "WT" else (read >= np.array(mask, bool)).all()


def test_where_regions_exclude_one_another_the_later_one_wins(drawn):
    of = convention({"a": (1,), "b": (2,)}, exclusive=True)
    assert open_label(drawn(a=[1, 1, 0], b=[0, 1, 1]), of).voxels().ravel().tolist() == [1, 2, 2]


def test_files_may_be_those_of_the_meanings_of_numbers(drawn):
    of = LabelConvention("x", {1: "core", 2: "rim"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})
    assert open_label(drawn(core=[0, 1, 0], rim=[1, 0, 0]), of).voxels().ravel().tolist() == [2, 1, 0]
    with pytest.raises(DataError, match=r"files of regions \['x'\]; expected some of \['core', 'rim'\]"):
        open_label(drawn(x=[1, 0]), of).voxels()


def test_a_region_is_one_number_of_a_channel(drawn, tmp_path):
    (tmp_path / "s.nii").write_bytes(
        nifti_bytes(np.array([[0, 1], [1, 7], [0, 7]], np.uint8)[:, None, None], np.eye(4))
    )
    label = RegionFiles((("a", RegionFile(tmp_path / "s.nii", 0)), ("b", RegionFile(tmp_path / "s.nii", 1, 7))))
    assert open_label(label, convention({"a": (1,), "b": (2,)})).voxels().ravel().tolist() == [0, 2, 2]
    with pytest.raises(DataError, match=r"s.nii holds 1, 7; expected one region, .*\"value\": number"):
        open_label(RegionFiles((("a", RegionFile(tmp_path / "s.nii", 1)),))).voxels()


def test_files_on_different_grids_are_no_label(drawn, tmp_path):
    label = drawn(a=[1, 0], b=[1, 0, 0])
    with pytest.raises(DataError, match=r"a .*a.nii and b .*b.nii differ in shape.*bring the regions"):
        open_label(label)


def test_a_case_with_files_of_regions_is_checked_and_told_apart_like_any(drawn, tmp_path):
    (tmp_path / "t1.nii").write_bytes(nifti_bytes(np.arange(3, dtype=np.int16).reshape(3, 1, 1), np.eye(4)))
    of = convention({"a": (1,), "b": (2,)})
    case = Case("1", "1", {"t1": ImageFile(tmp_path / "t1.nii")}, drawn(a=[1, 0, 0], b=[0, 0, 1]))
    assert inspect(case, of).problems == ()
    assert inspect(case, of).volumes["label"].ravel().tolist() == [1, 0, 2]
    before = digests(case)["label"]
    swapped = RegionFiles((("b", case.label.files[0][1]), ("a", case.label.files[1][1])))
    assert digests(Case("1", "1", case.images, swapped))["label"] != before
    drawn(a=[1, 1, 0])
    assert digests(case)["label"] != before
    (Path(tmp_path) / "b.nii").unlink()
    assert "b.nii" in inspect(case, of).problems[0]
