"""DICOM segmentations, read back by following the standard's attributes by hand: same voxels, at the same places."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (the field writes it so)

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
from helpers.dicom_phantom import FORBIDDEN, NORMAL, ORIGIN, STEP, UID_ROOT, read_segmentation, write_series  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from cggm_med.data.dicom.codes import UNDECLARED, SegmentCodes  # noqa: E402
from cggm_med.data.dicom.seg import write_segmentation  # noqa: E402
from cggm_med.data.dicom.series import Series, find_series  # noqa: E402
from cggm_med.data.dicom.volume import read_series  # noqa: E402
from cggm_med.errors import DataError, MissingExtra, OutputError, UnknownName  # noqa: E402
from cggm_med_tasks.brats2021 import CODES  # noqa: E402

ABOUT: dict[str, Any] = {
    "algorithm": "cggm-med",
    "version": "0.1.0",
    "model": "0123abcd",
    "codes": CODES,
    "colours": {},
}


def nested_masks(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Overlapping regions without any symmetry, the first slice empty."""
    noise = np.random.default_rng(1).random(shape)
    noise[:, :, 0] = 1
    return {"WT": noise < 0.5, "TC": noise < 0.3, "ET": noise < 0.1}


def series_in(folder: Path, **settings: Any) -> Series:
    write_series(folder, **settings)
    (series,) = find_series(folder)
    return series


def test_every_voxel_is_in_its_segment_at_its_place_and_refers_to_its_image(tmp_path: Path) -> None:
    series = series_in(tmp_path / "in")
    _, affine = read_series(series)
    masks = nested_masks((8, 6, 5))
    write_segmentation(tmp_path / "seg.dcm", masks, series, **ABOUT)

    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    sources = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, series.paths)}
    assert [item.SegmentLabel for item in seg.SegmentSequence] == list(masks)
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (f"{UID_ROOT}.1.1", f"{UID_ROOT}.4.1")
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.uid
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == set(sources)

    assert len(seg.PerFrameFunctionalGroupsSequence) == 3 * 5
    for groups in seg.PerFrameFunctionalGroupsSequence:
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        # The frame lies where the image that it refers to lies.
        np.testing.assert_allclose(
            position, np.array(sources[source.ReferencedSOPInstanceUID].ImagePositionPatient, float), atol=1e-6
        )
    found = read_segmentation(tmp_path / "seg.dcm", affine, (8, 6, 5))
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)
        assert mask.any()


def test_simpleitk_reads_the_same_frames(tmp_path: Path) -> None:
    series = series_in(tmp_path / "in")
    masks = nested_masks((8, 6, 5))
    write_segmentation(tmp_path / "seg.dcm", masks, series, **ABOUT)
    # It gives the frames in the order of the file, and leaves what they are to its user.
    frames = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "seg.dcm"))) > 0
    found = {name: np.zeros_like(mask) for name, mask in masks.items()}
    for frame, groups in zip(
        frames, pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence, strict=True
    ):
        name = list(masks)[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1]
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        found[name][:, :, round(float((position - ORIGIN) @ NORMAL) / STEP)] = frame.T
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "seg.dcm", nested_masks((8, 6, 5)), series_in(tmp_path / "in"), **ABOUT)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (seg.Modality, seg.SegmentationType) == ("SEG", "BINARY")
    assert (seg.Manufacturer, seg.SoftwareVersions, seg.DeviceSerialNumber) == ("cggm-med", "0.1.0", "0123abcd")
    assert seg.SeriesDescription == "cggm-med segmentation, research use only"
    # An archive files it with the patient, whom it hence has to name.
    assert (str(seg.PatientName), seg.PatientID) == ("zzname^Ada", "zzid")
    for item in seg.SegmentSequence:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = item.SegmentationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("cggm-med", "0.1.0")
    types = [item.SegmentedPropertyTypeCodeSequence[0] for item in seg.SegmentSequence]
    assert [(code.CodeValue, code.CodingSchemeDesignator) for code in types] == [
        ("WT", "99CGGM"),
        ("TC", "99CGGM"),
        ("C113842", "NCIt"),
    ]


def in_list(code: Any, group: Any) -> bool:
    """Whether pydicom has the code, under these words, in one of the standard's context groups."""
    return tuple(code) in {(c.scheme_designator, c.value, c.meaning) for c in (getattr(group, n) for n in group.dir())}


def test_codes_are_those_of_the_standard() -> None:
    from pydicom.sr.codedict import codes

    from cggm_med.data.dicom.seg import _ARTIFICIAL_INTELLIGENCE

    assert in_list(CODES["ET"].type, codes.cid7159)
    assert all(in_list(each.category, codes.cid7150) for each in (*CODES.values(), UNDECLARED))
    assert in_list(UNDECLARED.type, codes.cid7191)
    assert (_ARTIFICIAL_INTELLIGENCE.value, "DCM") == tuple(codes.DCM.ArtificialIntelligence)[:2]


KIDNEY = {
    "category": ["SCT", "91723000", "Anatomical Structure"],
    "type": ["SCT", "64033007", "Kidney"],
    "modifier": ["SCT", "7771000", "Left"],
}


def test_declared_codes_and_colours_are_written_and_read_by_highdicom(tmp_path: Path) -> None:
    masks = {"left kidney": np.ones((8, 6, 5), bool), "other": np.zeros((8, 6, 5), bool)}
    about = {**ABOUT, "codes": {"left kidney": SegmentCodes.from_json(KIDNEY, "left kidney")}}
    about["colours"] = {"left kidney": "#D55E00"}
    write_segmentation(tmp_path / "seg.dcm", masks, series_in(tmp_path / "in"), **about)
    seg = highdicom.seg.segread(tmp_path / "seg.dcm")
    kidney, other = (seg.get_segment_description(number) for number in (1, 2))
    assert kidney.segmented_property_category == coded(*KIDNEY["category"])
    assert kidney.segmented_property_type == coded(*KIDNEY["type"])
    (modifier,) = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    assert (modifier.CodingSchemeDesignator, modifier.CodeValue, modifier.CodeMeaning) == tuple(KIDNEY["modifier"])
    colour = highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue)
    np.testing.assert_allclose(colour.to_rgb(), (0xD5, 0x5E, 0x00), atol=1)
    assert (other.segment_label, other.segmented_property_type.meaning) == ("other", "Tissue")
    assert "RecommendedDisplayCIELabValue" not in other


def coded(scheme: str, value: str, meaning: str) -> Any:
    return highdicom.sr.CodedConcept(value, scheme, meaning)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"type": None}, ValueError, r"type of kidney is None; expected \[scheme, value, meaning\]"),
        ({"type": ["SCT", "64033007"]}, ValueError, "expected .scheme, value, meaning"),
        ({"type": ["SCT", 64033007, "Kidney"]}, ValueError, "expected .scheme, value, meaning"),
        ({"type": ["SCT", "64033007", "K" * 65]}, ValueError, "has 65 letters; DICOM allows 64"),
        ({"side": ["SCT", "7771000", "Left"]}, UnknownName, "no code of kidney 'side'"),
    ],
)
def test_codes_that_dicom_cannot_hold_are_refused(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SegmentCodes.from_json({**KIDNEY, **change}, "kidney")


def test_regions_without_codes_and_empty_ones(tmp_path: Path) -> None:
    long = "a region whose name is longer than sixteen letters, and even longer than sixty-four"
    masks = {long: np.ones((8, 6, 5), bool), "lesion": np.zeros((8, 6, 5), bool)}
    write_segmentation(tmp_path / "seg.dcm", masks, series_in(tmp_path / "in"), **ABOUT)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [long[:64], "lesion"]
    assert seg.NumberOfFrames == 10
    assert seg.pixel_array.sum() == 8 * 6 * 5


def test_missing_identity_is_written_as_empty(tmp_path: Path) -> None:
    def anonymise(ds: Dataset, k: int) -> None:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate"):
            delattr(ds, keyword)

    write_segmentation(tmp_path / "seg.dcm", nested_masks((8, 6, 5)), series_in(tmp_path, edit=anonymise), **ABOUT)
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientID in ("", None)


def test_what_cannot_be_referred_to_is_refused_without_a_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)

    def without_frame(ds: Dataset, k: int) -> None:
        del ds.FrameOfReferenceUID

    series = series_in(tmp_path / "zzpath", edit=without_frame)
    with pytest.raises(DataError, match="not valid enough for a DICOM segmentation") as caught:
        write_segmentation(tmp_path / "seg.dcm", nested_masks((8, 6, 5)), series, **ABOUT)
    assert list(tmp_path.iterdir()) == [tmp_path / "zzpath"]

    def repeat(**settings: Any) -> None:
        raise ValueError(str(settings["source_images"]))

    monkeypatch.setattr(highdicom.seg, "Segmentation", repeat)
    with pytest.raises(DataError, match="not valid enough") as other:
        write_segmentation(tmp_path / "seg.dcm", nested_masks((8, 6, 5)), series, **ABOUT)
    said = "".join(traceback.format_exception(caught.value) + traceback.format_exception(other.value))
    said += caplog.text + "".join(capfd.readouterr())
    assert not [word for word in FORBIDDEN if word in said.lower()]


def test_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = series_in(tmp_path / "in")
    with pytest.raises(ValueError, match="no masks"):
        write_segmentation(tmp_path / "seg.dcm", {}, series, **ABOUT)
    with pytest.raises(ValueError, match=r"WT is bool of shape \(5, 6, 8\); expected bool of shape \(8, 6, 5\)"):
        write_segmentation(tmp_path / "seg.dcm", {"WT": np.ones((5, 6, 8), bool)}, series, **ABOUT)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        write_segmentation(tmp_path / "file" / "seg.dcm", nested_masks((8, 6, 5)), series, **ABOUT)
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(MissingExtra, match="DICOM-SEG needs highdicom"):
        write_segmentation(tmp_path / "seg.dcm", nested_masks((8, 6, 5)), series, **ABOUT)
