"""Enhanced DICOM: every frame is read to the voxel at its place, volumes are told apart, the rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
from helpers.dicom_phantom import (  # noqa: E402
    COLUMN,
    FORBIDDEN,
    NORMAL,
    ORIGIN,
    ROW,
    UID_ROOT,
    read_segmentation,
    write_series,
)
from helpers.enhanced_phantom import with_, write_enhanced  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import EnhancedCTImageStorage, JPEGLSLossless, RLELossless  # noqa: E402

from cggm_med.data.dicom.seg import write_segmentation  # noqa: E402
from cggm_med.data.dicom.series import MAX_LISTED, Series, assign_modalities, find_series  # noqa: E402
from cggm_med.data.dicom.volume import check_series, read_series, write_nifti  # noqa: E402
from cggm_med.errors import CggmMedError  # noqa: E402

ORDER = [3, 0, 4, 1, 2]  # of the slices in the file
ECHOES = {"dimensions": ("StackID", "InStackPositionNumber", "EffectiveEchoTime")}


def the_series(folder: Path) -> Series:
    (series,) = find_series(folder)
    return series


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(CggmMedError) as caught:
        call(*args)
    assert not [word for word in FORBIDDEN if word in f"{caught.value!r}".lower()]
    return str(caught.value)


def two_echoes(number: int = 5) -> list[dict[str, Any]]:
    """The frames of two volumes, the one with the longer echo first, slice by slice."""
    return [{"k": k, "echo": echo, "index": [1, k + 1, place]} for k in range(5) for place, echo in ((2, 90), (1, 20))]


# --- one volume


def test_a_straight_stack_by_hand(tmp_path: Path) -> None:
    straight = {"orientation": (1, 0, 0, 0, 1, 0)}
    frames = [{"k": k, "position": (10, 20, 30 + 3 * k), **straight} for k in (1, 0)]
    stored = write_enhanced(tmp_path, frames)
    volume, affine = read_series(the_series(tmp_path))
    # Columns lie 1.3 mm apart and lead to the left (-x in RAS), rows 0.9 mm to the back (-y), slices 3 mm upwards.
    np.testing.assert_allclose(affine, [[-1.3, 0, 0, -10], [0, -0.9, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]], atol=1e-12)
    np.testing.assert_array_equal(volume, stored[::-1].T)


def test_each_frame_lies_at_its_place_and_has_its_own_rescaling(tmp_path: Path) -> None:
    frames = [{"k": k, "slope": 1 + k / 4, "intercept": -3 * k} for k in ORDER]
    stored = write_enhanced(tmp_path / "frames", frames)
    volume, affine = read_series(the_series(tmp_path / "frames"))
    expected = np.stack([stored[ORDER.index(k)] * (1 + k / 4) - 3 * k for k in range(5)]).T
    np.testing.assert_array_equal(volume, expected.astype(np.float32))
    write_series(tmp_path / "files")
    np.testing.assert_allclose(affine, read_series(the_series(tmp_path / "files"))[1], atol=1e-9)
    write_nifti(the_series(tmp_path / "frames"), tmp_path / "out.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").get_fdata(dtype=np.float32), volume)


def test_files_that_highdicom_made_one_enhanced_object_of_give_the_same_volume(tmp_path: Path) -> None:
    """The legacy converted object is another program's work: its groups, its order, its references."""
    write_series(tmp_path / "files", edit=lambda ds, k: setattr(ds, "RescaleIntercept", str(-k)))
    files = [pydicom.dcmread(path) for path in sorted((tmp_path / "files").iterdir())]
    for ds in files:
        ds.ImageType, ds.SliceThickness, ds.Modality = ["ORIGINAL", "PRIMARY"], 3, "MR"
    made = highdicom.legacy.LegacyConvertedEnhancedMRImage(
        files,
        series_instance_uid=f"{UID_ROOT}.9",
        series_number=5,
        sop_instance_uid=f"{UID_ROOT}.9.1",
        instance_number=1,
    )
    (tmp_path / "frames").mkdir()
    made.SeriesDescription = "FLAIR"
    made.save_as(tmp_path / "frames" / "one.dcm")
    single, enhanced = (the_series(tmp_path / name) for name in ("files", "frames"))
    assert enhanced.describe() == "series 5: flair, 5 frames of 8 x 6"
    for of_files, of_frames in zip(read_series(single), read_series(enhanced), strict=True):
        np.testing.assert_array_equal(of_frames, of_files)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_frames(tmp_path: Path, syntax: Any) -> None:
    stored = write_enhanced(tmp_path, [{"k": k} for k in range(5)], edit=lambda ds: ds.compress(syntax))
    np.testing.assert_array_equal(read_series(the_series(tmp_path))[0], stored.T)


def test_numbers_with_a_sign(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(-2048, 2048, (5, 6, 8)).astype(np.int16)

    def signed(ds: Dataset) -> None:
        ds.PixelRepresentation = 1

    write_enhanced(tmp_path, [{"k": k} for k in range(5)], stored=stored, edit=signed)
    np.testing.assert_array_equal(read_series(the_series(tmp_path))[0], stored.T)


def test_enhanced_ct_is_read_when_it_is_chosen(tmp_path: Path) -> None:
    def ct(ds: Dataset) -> None:
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
        ds.Modality = "CT"

    stored = write_enhanced(tmp_path, [{"k": k, "intercept": -1024} for k in range(5)], edit=ct)
    chosen = assign_modalities(find_series(tmp_path), ["ct"], {"ct": "5"})["ct"]
    np.testing.assert_array_equal(read_series(chosen)[0], stored.T - 1024.0)


# --- several volumes


def test_volumes_are_told_apart_by_what_differs_at_one_place(tmp_path: Path) -> None:
    stored = write_enhanced(tmp_path, two_echoes(), **ECHOES)
    first, second = find_series(tmp_path)
    assert first.describe() == "series 5.1: flair, 5 frames of 8 x 6, volume 1 of 2 by EffectiveEchoTime"
    np.testing.assert_array_equal(read_series(first)[0], stored[1::2].T)
    np.testing.assert_array_equal(read_series(second)[0], stored[0::2].T)
    message = refused(assign_modalities, [first, second], ["flair"])
    assert message.startswith("series 5.1, 5.2 all fit flair; choose each by its number")
    assert assign_modalities([first, second], ["flair"], {"flair": "5.2"})["flair"] is second


def test_volumes_are_told_apart_without_dimensions_too(tmp_path: Path) -> None:
    kinds = [["ORIGINAL", "PRIMARY", "T2", of] for of in ("PHASE MAP", "NONE")]
    frames = [{"k": k, "kind": kind, "index": []} for kind in kinds for k in range(5)]
    stored = write_enhanced(tmp_path, frames, edit=lambda ds: ds.__delattr__("DimensionIndexSequence"))
    series = find_series(tmp_path)
    assert [one.volume for one in series] == ["volume 1 of 2 by FrameType", "volume 2 of 2 by FrameType"]
    np.testing.assert_array_equal(read_series(series[0])[0], stored[5:].T)


def test_what_the_place_decides_divides_nothing(tmp_path: Path) -> None:
    frames = [{"k": k, "echo": 20 + k, "index": [1, k + 1, k + 1]} for k in ORDER]
    write_enhanced(tmp_path, frames, **ECHOES)
    assert the_series(tmp_path).describe() == "series 5: flair, 5 frames of 8 x 6"


def test_stacks_are_volumes_of_their_own(tmp_path: Path) -> None:
    """Two stacks that cross, as those of a localiser do: at one place, in other directions."""
    turned = {"stack": "2", "orientation": (*COLUMN, *NORMAL)}
    frames = [{"k": k, "index": [1, k + 1]} for k in range(5)]
    frames += [{"k": k, "index": [2, k + 1], "position": ORIGIN + k * ROW, **turned} for k in range(4)]
    stored = write_enhanced(tmp_path, frames)
    first, second = find_series(tmp_path)
    assert (first.volume, second.volume) == ("volume 1 of 2 by StackID", "volume 2 of 2 by StackID")
    np.testing.assert_array_equal(read_series(second)[0], stored[5:].T)
    assert nib.affines.voxel_sizes(read_series(second)[1]) == pytest.approx([1.3, 0.9, 1.0])


def test_a_volume_may_stand_in_several_files_and_several_in_as_many(tmp_path: Path) -> None:
    halves = [write_enhanced(tmp_path / "a", [{"k": k} for k in of], file=n) for n, of in ((1, (0, 3)), (2, (2, 1, 4)))]
    expected = np.concatenate(halves)[[0, 3, 2, 1, 4]]
    np.testing.assert_array_equal(read_series(the_series(tmp_path / "a"))[0], expected.T)
    whole = [write_enhanced(tmp_path / "b", [{"k": k} for k in range(5)], file=n) for n in (1, 2)]
    series = find_series(tmp_path / "b")
    assert [one.volume for one in series] == ["volume 1 of 2 by file", "volume 2 of 2 by file"]
    np.testing.assert_array_equal(read_series(series[1])[0], whole[1].T)


def test_a_series_of_very_many_volumes_takes_two_lines(tmp_path: Path) -> None:
    times = range(MAX_LISTED + 1)
    frames = [{"k": k, "index": [1, k + 1, time + 1]} for time in times for k in range(2)]
    write_enhanced(tmp_path, frames, dimensions=("StackID", "InStackPositionNumber", "TemporalPositionIndex"))
    message = refused(assign_modalities, find_series(tmp_path), ["t1"])
    assert message.splitlines()[1:] == [
        "  series 5.1: flair, 2 frames of 8 x 6, volume 1 of 9 by TemporalPositionIndex",
        "  series 5.2 to 5.9: 8 more volumes of it",
    ]


# --- what a series shows


def test_a_contrast_agent_that_was_given_makes_a_t1_enhanced(tmp_path: Path) -> None:
    for number, (given, kind) in enumerate((("YES", "t1ce"), ("NO", "t1"), (None, "t1ce")), 1):

        def edit(ds: Dataset, given: str | None = given) -> None:
            ds.ContrastBolusAgentSequence = [with_(CodeMeaning="zzdesc")]
            if given:
                usage = with_(ContrastBolusAgentAdministered=given)
                ds.SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence = [usage]

        write_enhanced(tmp_path / str(number), [{"k": 0}, {"k": 1}], description="AX T1", edit=edit)
        assert the_series(tmp_path / str(number)).kind == kind


# --- what cannot be read


def without(group: str, place: int = 1) -> Any:
    def edit(ds: Dataset) -> None:
        del ds.PerFrameFunctionalGroupsSequence[place][group]

    return edit


def cut(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[: -2 * ds.Rows * ds.Columns - 4]


def more(ds: Dataset) -> None:
    ds.PixelData += bytes(2 * ds.Rows * ds.Columns)


def wide(ds: Dataset) -> None:
    ds.BitsStored, ds.HighBit = 11, 10


def zero(ds: Dataset) -> None:
    ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleSlope = "0"


NO_GROUPS = "instance 1: it holds several frames, and no functional groups that say of each where it lies; convert it"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("PlanePositionSequence"), "frame 2: ImagePositionPatient is absent or damaged; expected 3 numbers"),
        (without("PlaneOrientationSequence"), "frame 2: ImageOrientationPatient is absent or damaged"),
        (cut, "frame 4: it has 92 bytes of pixel data, expected 96; copy it anew"),
        (more, "frame 5: it has 192 bytes of pixel data, expected 96; copy it anew"),
        (wide, "the pixels of instance 1 need more than 11 bits"),
        (zero, "frame 3: RescaleSlope is 0, which makes all pixels alike"),
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), NO_GROUPS),
        (lambda ds: ds.__delattr__("SharedFunctionalGroupsSequence"), NO_GROUPS),
        (lambda ds: ds.__setattr__("NumberOfFrames", 50), NO_GROUPS),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, edit: Any, message: str) -> None:
    write_enhanced(tmp_path, [{"k": k} for k in range(5)], edit=edit)
    found = refused(read_series, the_series(tmp_path))
    assert message in found
    assert found.startswith("series 5 (flair)")


def test_slices_that_are_not_there(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "between", [{"k": k} for k in (0, 1, 3, 4)])
    assert "frame 2 and frame 3 are 6.6 mm apart" in refused(read_series, the_series(tmp_path / "between"))
    write_enhanced(tmp_path / "before", [{"k": k} for k in (1, 2, 3)])
    (finding,) = check_series(the_series(tmp_path / "before")).findings
    assert finding.seen == "has 3 images with instance numbers from 2 to 4"


# --- segmentations of it


def test_a_segmentation_refers_to_the_frames_of_its_volume(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", two_echoes(), **ECHOES)
    second = find_series(tmp_path / "in")[1]
    _, affine = read_series(second)
    mask = np.random.default_rng(1).random((8, 6, 5)) < 0.5
    about = {"algorithm": "cggm-med", "version": "0.1.0", "model": "0123abcd", "codes": {}, "colours": {}}
    write_segmentation(tmp_path / "seg.dcm", {"WT": mask, "ET": ~mask}, second, **about)
    np.testing.assert_array_equal(read_segmentation(tmp_path / "seg.dcm", affine, mask.shape)["WT"], mask)
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(second.paths[0])
    for groups in seg.PerFrameFunctionalGroupsSequence:
        (of,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert of.ReferencedSOPInstanceUID == source.SOPInstanceUID
        frame = source.PerFrameFunctionalGroupsSequence[of.ReferencedFrameNumber - 1]
        assert frame.MREchoSequence[0].EffectiveEchoTime == 90
        positions = [one.PlanePositionSequence[0].ImagePositionPatient for one in (frame, groups)]
        np.testing.assert_allclose(*np.array(positions, float), atol=1e-6)
