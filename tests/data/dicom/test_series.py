"""DICOM series: found, told apart, read to the voxel, refused when they are no regular volume, and never revealing."""

from __future__ import annotations

import copy
import logging
import shutil
import struct
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (the field writes it so)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pydicom = pytest.importorskip("pydicom")
from helpers.dicom_phantom import (  # noqa: E402
    BETWEEN_COLUMNS,
    BETWEEN_ROWS,
    COLUMN,
    COLUMNS,
    FORBIDDEN,
    NORMAL,
    ORIGIN,
    ROW,
    SLICES,
    STEP,
    UID_ROOT,
    decimal,
    write_series,
)
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.uid import RLELossless  # noqa: E402

from cggm_med.data.dicom.header import quiet  # noqa: E402
from cggm_med.data.dicom.series import Series, assign_modalities, find_series, holds_dicom  # noqa: E402
from cggm_med.data.dicom.series_kinds import kind_of  # noqa: E402
from cggm_med.data.dicom.volume import check_series, read_series, write_nifti  # noqa: E402
from cggm_med.errors import CggmMedError, DataError, MissingExtra, UnknownName  # noqa: E402

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ALL = ("flair", "t1", "t1ce", "t2")


def assert_anonymous(text: str) -> None:
    assert not [word for word in FORBIDDEN if word in text.lower()]


def refused(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The message with which a call is refused, after proof that neither it nor its traceback identifies anyone."""
    with pytest.raises(CggmMedError) as caught:
        call(*args, **kwargs)
    printed = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    assert_anonymous(f"{printed} {caught.value!r} {caught.value.args}")
    return str(caught.value)


@pytest.fixture(autouse=True)
def nothing_is_revealed(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No log line, warning or output of the C++ libraries of any test here identifies anyone."""
    caplog.set_level(logging.DEBUG)
    yield
    printed = capfd.readouterr()
    assert_anonymous(printed.out + printed.err + caplog.text)


def the_series(folder: Path) -> Series:
    (series,) = find_series(folder)
    return series


def refused_series(folder: Path) -> str:
    """Why a folder's only series is refused; from the headers alone, and by everything that reads it."""
    series = the_series(folder)
    message = refused(check_series, series)
    assert refused(read_series, series) == message
    assert refused(write_nifti, series, folder / "out.nii") == message
    assert not (folder / "out.nii").exists()
    return message


# --- where voxels lie and what they hold


def test_affine_of_a_straight_series_by_hand(tmp_path: Path) -> None:
    def straight(ds: Dataset, k: int) -> None:
        ds.ImageOrientationPatient, ds.PixelSpacing = [1, 0, 0, 0, 1, 0], ["2", "0.5"]
        ds.ImagePositionPatient = [10, 20, 30 + 3 * k]

    write_series(tmp_path, edit=straight)
    # Columns lie 0.5 mm apart and lead to the left (-x in RAS), rows 2 mm to the back (-y), slices 3 mm upwards.
    expected = [[-0.5, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(read_series(the_series(tmp_path))[1], expected, atol=1e-12)


def test_every_voxel_of_an_oblique_series_is_where_its_own_file_says(tmp_path: Path) -> None:
    stored = write_series(tmp_path)
    volume, affine = read_series(the_series(tmp_path))
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume, stored.T)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        row, column = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
        between_rows, between_columns = map(float, ds.PixelSpacing)
        r, c, k = 4, 7, ds.InstanceNumber - 1
        # PS3.3, equation C.7.6.2.1-1
        lps = np.array(ds.ImagePositionPatient, float) + row * between_columns * c + column * between_rows * r
        np.testing.assert_allclose((RAS @ affine @ [c, r, k, 1])[:3], lps, atol=1e-6)
        assert volume[c, r, k] == ds.pixel_array[r, c]


# nibabel warns of its own reader as a whole.
@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental:UserWarning")
def test_simpleitk_and_nibabel_agree(tmp_path: Path) -> None:
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    write_series(tmp_path)
    volume, affine = read_series(the_series(tmp_path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    for index in ((0, 0, 0), (7, 2, 4), (3, 5, 1)):
        lps = image.TransformIndexToPhysicalPoint(index)
        found = np.rint(np.linalg.solve(RAS @ affine, [*lps, 1])[:3]).astype(int)
        np.testing.assert_allclose((RAS @ affine @ [*found, 1])[:3], lps, atol=1e-6)
        assert volume[tuple(found)] == image[index]
    for path in tmp_path.iterdir():
        wrapper = wrapper_from_file(path)
        # nibabel's wrapper counts rows first, and knows one slice.
        ours = RAS @ affine
        k = wrapper.get("InstanceNumber") - 1
        np.testing.assert_allclose(wrapper.affine[:3, :2], ours[:3, [1, 0]], atol=1e-6)
        np.testing.assert_allclose(wrapper.affine[:3, 3], ours[:3, 3] + k * ours[:3, 2], atol=1e-6)


def test_slices_that_run_against_their_normal_give_the_same_volume(tmp_path: Path) -> None:
    def backwards(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = decimal(*(ORIGIN + (SLICES - 1 - k) * STEP * NORMAL))

    stored = write_series(tmp_path / "a", edit=backwards)
    volume, affine = read_series(the_series(tmp_path / "a"))
    write_series(tmp_path / "b")
    np.testing.assert_allclose(affine, read_series(the_series(tmp_path / "b"))[1], atol=1e-9)
    np.testing.assert_array_equal(volume, stored[::-1].T)
    assert np.linalg.det(RAS[:3, :3] @ affine[:3, :3]) > 0


def test_each_slice_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    def rescale(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = ["1", "0.3", "2.5", "0.125", "7"][k], ["0", "-5.25", "0", "10", "-1"][k]

    stored = write_series(tmp_path, edit=rescale)
    slope, intercept = np.array([1, 0.3, 2.5, 0.125, 7]), np.array([0, -5.25, 0, 10, -1])
    expected = stored * slope[:, None, None] + intercept[:, None, None]
    np.testing.assert_allclose(read_series(the_series(tmp_path))[0], expected.T, rtol=1e-6)


def test_negative_stored_values(tmp_path: Path) -> None:
    values = np.arange(-24, 24, dtype=np.int16)

    def signed(ds: Dataset, k: int) -> None:
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 1, 16, 15
        ds.PixelData = (values - k).tobytes()

    write_series(tmp_path, edit=signed)
    volume, _ = read_series(the_series(tmp_path))
    np.testing.assert_array_equal(volume[:, :, 3].T.ravel(), values - 3)


def test_rounded_headers_are_accepted(tmp_path: Path) -> None:
    def rounded(ds: Dataset, k: int) -> None:
        ds.ImageOrientationPatient = [f"{float(x):.3f}" for x in ds.ImageOrientationPatient]
        ds.ImagePositionPatient = [f"{float(x):.2f}" for x in ds.ImagePositionPatient]

    stored = write_series(tmp_path, edit=rounded)
    volume, affine = read_series(the_series(tmp_path))
    np.testing.assert_array_equal(volume, stored.T)
    # A qform, and ITK, can only hold perpendicular axes.
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)


def test_lossless_compressions_give_the_same_voxels(tmp_path: Path) -> None:
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    names = ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_implicit", "MR_small")
    for name in names:
        ds = pydicom.dcmread(get_testdata_file(f"{name}.dcm"))
        for k in range(2):
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{k + 1}"
            # The slices of this file are axial.
            ds.ImagePositionPatient[2] = 6.5 + k
            (tmp_path / name).mkdir(exist_ok=True)
            ds.save_as(tmp_path / name / f"{k}.dcm")
        volume, _ = read_series(the_series(tmp_path / name))
        np.testing.assert_array_equal(volume, np.stack([plain.T, plain.T], axis=-1))


def test_nifti_holds_volume_and_affine_and_nothing_else(tmp_path: Path) -> None:
    stored = write_series(tmp_path / "zzpath")
    series = the_series(tmp_path / "zzpath")
    _, affine = read_series(series)
    write_nifti(series, tmp_path / "flair.nii")
    image = nib.load(tmp_path / "flair.nii")
    np.testing.assert_array_equal(image.get_fdata(), stored.T)
    for got, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(got, affine, atol=1e-4)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    assert not image.header.extensions
    assert_anonymous((tmp_path / "flair.nii").read_bytes().decode("latin-1"))
    by_itk = sitk.ReadImage(str(tmp_path / "flair.nii"))
    np.testing.assert_allclose(by_itk.TransformIndexToPhysicalPoint((0, 0, 0)), ORIGIN, atol=1e-4)
    np.testing.assert_allclose(by_itk.GetSpacing(), (BETWEEN_COLUMNS, BETWEEN_ROWS, STEP), atol=1e-5)


# --- finding series


def test_mixed_series_are_grouped_and_other_files_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path / "zzpath", number=12, description="T1 post", slices=3)
    write_series(tmp_path / "zzpath" / "sub", number=12, description="T1 post", slices=2, uid=12, edit=later)
    write_series(tmp_path / "zzpath", number=3, description="T2 tse")
    (tmp_path / "zzpath" / "notes.txt").write_text("zzname")
    (tmp_path / "zzpath" / "._IM1").write_bytes(b"\0" * 200)
    report = Dataset()
    report.SOPClassUID, report.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", f"{UID_ROOT}.2.9"
    save(report, tmp_path / "zzpath" / "report.dcm", report.SOPClassUID)
    directory = Dataset()
    directory.FileSetID = "ZZNAME"
    save(directory, tmp_path / "zzpath" / "DICOMDIR", "1.2.840.10008.1.3.10")
    found = find_series(tmp_path)
    assert [one.describe() for one in found] == [
        "series 3: t2, 5 images of 8 x 6",
        "series 12: t1ce, 5 images of 8 x 6",
    ]
    assert {path.name for path in found[1].paths} == {path.name for path in tmp_path.rglob("zzpath_12_*")}
    assert check_series(found[1]).shape == (8, 6, 5)
    assert_anonymous(repr(found) + str(found) + repr(check_series(found[0])) + repr(found[0].headers))


def later(ds: Dataset, k: int) -> None:
    """Moves a part of a series behind its first three slices, and to the file names of the last two."""
    ds.ImagePositionPatient = decimal(*(ORIGIN + (3 + k) * STEP * NORMAL))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}.3.12.{4 + k}"


def save(ds: Dataset, path: Path, sop_class: str) -> None:
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, "1.2.3"
    ds.save_as(path, enforce_file_format=True)


def test_series_of_one_number_and_of_none_are_told_apart(tmp_path: Path) -> None:
    def no_number(ds: Dataset, k: int) -> None:
        # Some exporters write the date of the examination here.
        ds.SeriesNumber = "20110311"

    for uid in (1, 2):
        write_series(tmp_path, number=7, uid=uid)
    write_series(tmp_path, number=4, edit=no_number)
    assert [one.name for one in find_series(tmp_path)] == ["7.1", "7.2", "x"]
    assert_anonymous(str([one.describe() for one in find_series(tmp_path)]))


def test_a_folder_without_images(tmp_path: Path) -> None:
    folder = tmp_path / "zzpath"
    assert "does not exist" in refused(find_series, folder)
    folder.mkdir()
    assert "no DICOM images" in refused(find_series, folder)


# --- which series is which modality


@pytest.mark.parametrize(
    ("kind", "descriptions"),
    [
        ("flair", ["FLAIR", "T2 FLAIR", "AX T2 FLAIR +C", "t2_tirm_tra_dark-fluid", "t2f", "FLAIR_TIRM"]),
        ("flair", ["T2_SPACE_DARK_FLUID"]),
        ("t1", ["T1", "AX T1 SE", "t1_mprage_sag", "MPRAGE", "T1w", "T1 FLAIR", "SAG T1 pre", "T1 nativ"]),
        ("t1", ["T1 w/o contrast", "t1n", "3DT1", "T1 post-op", "T1 non-contrast", "T1 posterior fossa", "AXT1 FSPGR"]),
        ("t1", ["T1 pre Gd", "T1W_FFE", "T1 COR", "T1 ohne KM"]),
        ("spine", ["T1 C-spine", "T2 sag HWS", "SAG T1 lumbar +C"]),
        ("part of the head or neck", ["T1 Orbita KM", "T2 neck"]),
        ("calibration", ["gre_field_mapping", "SENSE ref T1"]),
        ("t1ce", ["T1 post", "T1ce", "t1c", "T1GD", "T1 +C", "T1_KM", "t1_mprage_sag_post", "T1 Gad", "T1 Gadovist"]),
        ("t1ce", ["AX T1 POST GD", "T1 FLAIR +C", "T1 mit KM", "T1 contrast", "T1 CE", "BRAVO+C"]),
        ("t1ce", ["T1 post-op post Gd", "T1 C+", "SAG T1 contrast-enhanced", "T1POST", "T1 postcontrast", "T1+C"]),
        ("t2", ["T2", "AX T2 TSE", "t2w", "T2 FS", "T2 post", "3D T2 SPACE", "t2_tse_tra_p2"]),
        ("unknown", ["T1 T2", "zzname", "", "T1 pre and post", "PD", "T10 spine", "AX"]),
        ("localiser", ["3-plane LOC", "Localizer", "SCOUT T1", "Survey_SHC", "t1_localiser"]),
        ("susceptibility", ["T2*", "T2 star", "AX T2 GRE", "T2_FL2D_HEMO", "SWI", "T2W_FFE"]),
        ("diffusion", ["DWI b1000", "ADC", "ep2d_diff_3scan_trace", "eADC", "T2 DWI"]),
        ("perfusion", ["DSC perfusion T2", "rCBV", "ASL", "DCE T1"]),
        ("projection", ["T1 post MIP", "T2 reformat"]),
        ("subtraction", ["T1 SUB"]),
        ("map", ["T1 map", "T2Map", "MP2RAGE T1"]),
        ("angiography", ["TOF 3D", "MRA T1"]),
        ("inversion recovery", ["T2 STIR", "t2_tirm_cor"]),
    ],
)  # fmt: skip
def test_what_descriptions_mean(kind: str, descriptions: list[str]) -> None:
    assert {text: kind_of(text) for text in descriptions} == dict.fromkeys(descriptions, kind)


def test_what_hospitals_call_their_series() -> None:
    """In a dozen languages: names were gathered, the rules made, and 82 names gathered after that: none was wrong."""
    lines = (Path(__file__).parent / "series_names.txt").read_text(encoding="utf-8").splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    assert len({name for _, name in rows}) == len(rows) > 700
    told = {name: kind_of(name) for _, name in rows}
    of_four = {name: kind if kind in ALL else "none" for name, kind in told.items()}
    assert {name: of_four[name] for _, name in rows} == {name: kind.removesuffix(" unsaid") for kind, name in rows}
    # A header that names an agent decides only where the name says nothing.
    with_agent = {name: kind_of(name, contrast_agent=True) for _, name in rows}
    unsaid = {name for kind, name in rows if kind == "t1 unsaid"}
    assert {name for name, kind in with_agent.items() if kind != told[name]} == unsaid
    assert {with_agent[name] for name in unsaid} == {"t1ce"}


def test_a_contrast_agent_decides_where_the_description_is_silent() -> None:
    assert [kind_of(text, contrast_agent=True) for text in ("T1", "T1 pre", "T2", "FLAIR")] == [
        "t1ce",
        "t1",
        "t2",
        "flair",
    ]


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("ImageType", ["DERIVED", "SECONDARY", "MPR"], "derived flair"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"], "localiser"),
        ("Modality", "CT", "not MR"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", "secondary capture"),
        ("ContrastBolusAgent", "zzname", "flair"),
        ("BodyPartExamined", "CSPINE", "spine"),
        ("BodyPartExamined", "BRAIN", "flair"),
    ],
)
def test_what_the_rest_of_the_header_tells(tmp_path: Path, keyword: str, value: Any, kind: str) -> None:
    write_series(tmp_path, edit=lambda ds, k: setattr(ds, keyword, value))
    assert the_series(tmp_path).kind == kind


def examination(folder: Path, **names: str) -> Path:
    """One series for each description, numbered from 2."""
    for number, description in enumerate(names.values(), 2):
        write_series(folder, number=number, description=description, slices=2)
    return folder


FULL = {"a": "T2 FLAIR", "b": "T1", "c": "T1 post", "d": "T2 tse", "e": "localizer"}


def test_modalities_are_told_by_name_in_the_order_asked_for(tmp_path: Path) -> None:
    series = find_series(examination(tmp_path, **FULL))
    found = assign_modalities(series, ("t2", "flair", "t1ce", "t1"))
    assert {modality: one.name for modality, one in found.items()} == {"t2": "5", "flair": "2", "t1ce": "4", "t1": "3"}
    assert list(found) == ["t2", "flair", "t1ce", "t1"]
    assert assign_modalities(series[::-1], ("t2", "flair", "t1ce", "t1")) == found


def test_two_series_of_one_kind_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    series = find_series(examination(tmp_path, **FULL, f="T1 post sag"))
    message = refused(assign_modalities, series, ALL)
    assert message.splitlines()[0].startswith("series 4, 7 all fit t1ce; choose each by its number")
    assert "series 6: localiser, 2 images of 8 x 6" in message
    for choice in ("7", f"{UID_ROOT}.2.7", "POST SAG"):
        assert assign_modalities(series, ALL, {"t1ce": choice})["t1ce"].name == "7"
    # A choice also clears the way for the rest.
    assert assign_modalities(series, ALL, {"t1ce": "7", "t1": "4"})["t1"].name == "4"


def test_a_choice_takes_what_no_name_tells(tmp_path: Path) -> None:
    write_series(tmp_path, number=8, edit=lambda ds, k: setattr(ds, "ImageType", ["DERIVED", "SECONDARY"]))
    series = find_series(tmp_path)
    assert "series 8: derived flair" in refused(assign_modalities, series, ["flair"])
    assert assign_modalities(series, ["flair"], {"flair": "8"})["flair"] is series[0]
    assert assign_modalities(series, ["adc"], {"adc": "zzdesc"})["adc"] is series[0]


def test_choices_that_do_not_fit(tmp_path: Path) -> None:
    series = find_series(examination(tmp_path, **FULL))
    assert "no series fits the choice for t1ce" in refused(assign_modalities, series, ALL, {"t1ce": f"{UID_ROOT}.99"})
    # Description "T2 tse" holds a 2, and yet a number is a number.
    assert assign_modalities(series, ["t2"], {"t2": "2"})["t2"].name == "2"
    assert "no series fits" in refused(assign_modalities, series, ["t2"], {"t2": "1"})
    assert "no series fits" in refused(assign_modalities, series, ["t2"], {"t2": ""})
    assert "series 2, 3, 4, 5, 6 all fit the choice" in refused(assign_modalities, series, ["t2"], {"t2": "zzdesc"})
    assert "are the same" in refused(assign_modalities, series, ("t1", "t2"), {"t1": "3", "t2": "3"})
    with pytest.raises(UnknownName, match="no modality 't3'"):
        assign_modalities(series, ALL, {"t3": "5"})


def test_missing_modalities_are_an_error(tmp_path: Path) -> None:
    series = find_series(examination(tmp_path, a="FLAIR", b="T2"))
    assert refused(assign_modalities, series, ALL).startswith("no series found for t1, t1ce; use fewer modalities")
    assert list(assign_modalities(series, ("flair", "t2"))) == ["flair", "t2"]


def test_patients_and_studies_are_not_mixed(tmp_path: Path) -> None:
    write_series(tmp_path / "a", number=2, description="FLAIR")
    write_series(tmp_path / "a", number=3, description="T2", patient="zzid9")
    message = refused(assign_modalities, find_series(tmp_path / "a"), ("flair", "t2"))
    assert message.startswith("flair (series 2) and t2 (series 3) show different patients")
    # Two patients are refused even when chosen; two studies of one patient only when not.
    assert "different patients" in refused(
        assign_modalities, find_series(tmp_path / "a"), ("flair", "t2"), {"flair": "2", "t2": "3"}
    )
    # Exports without PatientID, or with one for all, are told apart by name and birth date.
    for number, (ids, names, alike) in enumerate(
        [
            (("", ""), ("zzname^Ada", "zzname^Ada"), True),
            (("", ""), ("zzname^Ada", "zzname^Eva"), False),
            (("", ""), ("zzname^Ada", ""), False),
            (("anon", "anon"), ("zzname^Ada", "ZZNAME^A."), True),
            (("anon", "anon"), ("zzname^Ada", "zzdoctor^Eva"), False),
            (("anon", "anon"), ("zzname^Ada", ""), True),
        ]
    ):
        folder = tmp_path / "names" / str(number)
        for series, (id, name, description) in enumerate(zip(ids, names, ("FLAIR", "T2"), strict=True), 2):
            bears = put("PatientName", name, only=None)
            write_series(folder, number=series, description=description, patient=id, slices=2, edit=bears)
        found = find_series(folder)
        if alike:
            assert len(assign_modalities(found, ("flair", "t2"))) == 2
        else:
            by = "PatientName or PatientBirthDate" if ids[0] else "PatientID"
            assert f"show different patients, by their {by}" in refused(assign_modalities, found, ("flair", "t2"))
    write_series(tmp_path / "b", number=2, description="FLAIR")
    write_series(tmp_path / "b", number=3, description="T2", study=2)
    series = find_series(tmp_path / "b")
    assert "different studies" in refused(assign_modalities, series, ("flair", "t2"))
    assert len(assign_modalities(series, ("flair", "t2"), {"flair": "2", "t2": "3"})) == 2
    # Positions in two frames of reference, as after the patient got up, cannot be compared.
    write_series(tmp_path / "c", number=2, description="FLAIR")
    write_series(tmp_path / "c", number=3, description="T2", frame=2)
    series = find_series(tmp_path / "c")
    assert "have different frames of reference" in refused(assign_modalities, series, ("flair", "t2"))
    assert len(assign_modalities(series, ("flair", "t2"), {"flair": "2", "t2": "3"})) == 2


def test_one_series_uid_of_two_patients_is_two_series(tmp_path: Path) -> None:
    write_series(tmp_path / "a", number=2, description="FLAIR")
    write_series(tmp_path / "b", number=2, description="FLAIR", patient="zzid9")
    series = find_series(tmp_path)
    assert [one.describe() for one in series] == [f"series 2.{k}: flair, 5 images of 8 x 6" for k in (1, 2)]
    assert refused(assign_modalities, series, ["flair"]).startswith("series 2.1, 2.2 all fit flair")


def test_whether_a_folder_is_taken_for_dicom(tmp_path: Path) -> None:
    assert not holds_dicom(tmp_path)
    (tmp_path / "readme.txt").write_text("none")
    assert not holds_dicom(tmp_path)
    write_series(tmp_path / "deep" / "down")
    assert holds_dicom(tmp_path)
    (tmp_path / "a.nii.gz").touch()
    assert not holds_dicom(tmp_path)


# --- what is refused


def drop(keyword: str) -> Callable[[Dataset, int], None]:
    return lambda ds, k: delattr(ds, keyword) if k == 2 else None


def put(keyword: str, value: Any, only: int | None = 2) -> Callable[[Dataset, int], None]:
    """Sets an element, of one slice or of all, without pydicom's own checks."""

    def edit(ds: Dataset, k: int) -> None:
        if only is None or k == only:
            vr = pydicom.datadict.dictionary_VR(keyword)
            tag = pydicom.tag.Tag(keyword)
            if isinstance(value, str):
                ds[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value.encode(), 0, False, True)
            else:
                setattr(ds, keyword, value)

    return edit


def shift(direction: np.ndarray, by: Callable[[int], float]) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = decimal(*(ORIGIN + k * STEP * NORMAL + by(k) * direction))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (shift(NORMAL, lambda k: STEP * (k > 2)), "instance 3 and instance 4 are 6.6 mm apart, most others 3.3 mm"),
        (shift(NORMAL, lambda k: 0.3 * k * k), "slices are missing or spaced unevenly"),
        (shift(NORMAL, lambda k: -STEP * (k == 4)), "instance 5 and instance 4 lie at the same place"),
        (shift(COLUMN, lambda k: 0.1 * k), "its slices are shifted against each other by up to 0.444 pixels (tilted"),
        (shift(ROW, lambda k: -0.4 * (k == 2)), "by up to 0.308 pixels (tilted gantry"),
        (put("Columns", 7), "instance 2 and instance 3 differ in size"),
        (put("PixelSpacing", ["0.95", "1.3"]), "instance 2 and instance 3 differ in pixel spacing"),
        (put("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), "instance 2 and instance 3 differ in orientation"),
        (put("ImageOrientationPatient", [1, 0, 0, 0.1, 1, 0]), "instance 3: ImageOrientationPatient is not two perp"),
        (drop("ImagePositionPatient"), "instance 3: ImagePositionPatient is absent or damaged; expected 3 numbers"),
        (drop("PixelData"), "instance 3: it has 0 bytes of pixel data, expected 96"),
        (drop("Rows"), "instance 3: Rows is absent or damaged"),
        (put("PixelData", b"\0" * 90), "instance 3: it has 90 bytes of pixel data, expected 96"),
        (put("SamplesPerPixel", 3), "instance 3: it is in colour"),
        (put("PhotometricInterpretation", "MONOCHROME1"), "instance 3: it is in colour or inverted"),
        (put("NumberOfFrames", "20"), "instance 3: it holds several frames, and no functional groups that"),
        (put("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4.1"), "instance 3: it holds several frames"),
        (put("BitsAllocated", 32), "instance 3: it is 8 x 6 of 32 bits"),
        (put("BitsAllocated", 8), "instance 3: it has 96 bytes of pixel data, expected 48"),
        (put("BitsStored", 1), "instance 3: BitsStored is 1, HighBit 11 and PixelRepresentation 0; expected 8 to"),
        (put("BitsStored", 17), "instance 3: BitsStored is 17, HighBit 11"),
        (put("HighBit", 15), "instance 3: BitsStored is 12, HighBit 15"),
        (put("PixelRepresentation", 2), "instance 3: BitsStored is 12, HighBit 11 and PixelRepresentation 2"),
        (put("PixelRepresentation", 1), "instance 2 and instance 3 differ in whether their pixels have a sign"),
        (put("FrameOfReferenceUID", "1.2.3"), "instance 2 and instance 3 differ in frame of reference"),
        (put("PatientName", "zzname^Bert"), None),
        (put("PatientName", "zzdoctor^Bert"), "instance 2 and instance 3 differ in PatientName or PatientBirthDate"),
        (put("PatientBirthDate", "20110311"), "instance 2 and instance 3 differ in PatientName or PatientBirthDate"),
        (put("Rows", 65535), "instance 3: it is 8 x 65535 of 16 bits; expected up to 4096"),
        (put("RescaleSlope", "0"), "instance 3: RescaleSlope is 0"),
        (put("RescaleSlope", "nan"), "instance 3: RescaleSlope is absent or damaged; expected 1 number"),
        (put("RescaleSlope", "1e400"), "instance 3: RescaleSlope is absent or damaged"),
        (put("RescaleIntercept", "-inf"), "instance 3: RescaleIntercept is absent or damaged"),
        (put("RescaleIntercept", "9" * 60), "instance 3: RescaleIntercept is absent or damaged"),
        (put("RescaleSlope", "1\\2"), "instance 3: RescaleSlope is absent or damaged"),
        (put("PixelSpacing", "0\\1"), "instance 3: PixelSpacing is absent or damaged; expected 2 numbers from 0.01 to"),
        (put("PixelSpacing", "1,5\\1,5"), "instance 3: PixelSpacing is absent or damaged"),
        (put("PixelSpacing", "zzname\\zzid"), "instance 3: PixelSpacing is absent or damaged"),
        (put("PixelSpacing", "19770707\\20110311"), "instance 3: PixelSpacing is absent or damaged"),
        (put("ImagePositionPatient", "0x10\\1\\1"), "instance 3: ImagePositionPatient is absent or damaged"),
        (put("ImagePositionPatient", "1_0\\1\\٣"), "instance 3: ImagePositionPatient is absent or damaged"),
        (put("ImagePositionPatient", "1e30\\0\\0"), "instance 3: ImagePositionPatient is absent or damaged"),
        (put("PhotometricInterpretation", "zzname"), "instance 3: it is in colour or inverted"),
    ],
)  # fmt: skip
def test_what_is_no_regular_volume_is_refused(
    tmp_path: Path, edit: Callable[[Dataset, int], None], message: str | None
) -> None:
    write_series(tmp_path / "zzpath", edit=edit)
    if message is None:  # so that it is not the test that refuses
        check_series(the_series(tmp_path / "zzpath"))
        return
    found = refused_series(tmp_path / "zzpath")
    assert message in found
    assert found.startswith("series 5 (flair)")


def test_columns_that_shear_are_told_by_how_many_pixels(tmp_path: Path) -> None:
    # 0.0015 rad over 200 columns is 0.3 pixels; over 8 columns it is nothing.
    for name, columns in (("small", COLUMNS), ("large", 200)):

        def sheared(ds: Dataset, k: int, columns: int = columns) -> None:
            ds.ImageOrientationPatient = decimal(*ROW, *(COLUMN + 0.0015 * ROW))
            ds.Columns, ds.PixelData = columns, bytes(2 * columns * ds.Rows)

        write_series(tmp_path / name, edit=sheared)
    check_series(the_series(tmp_path / "small"))
    assert (
        "instance 2: ImageOrientationPatient is not two perpendicular directions: its columns shear by 0.3 pixels"
        in (refused_series(tmp_path / "large"))
    )


@pytest.mark.parametrize(
    ("stored", "signed", "value", "sound"),
    [(8, 0, 255, True), (8, 0, 256, False), (12, 1, 0xFFFF, True), (12, 1, 0x0FFF, True), (12, 1, 0x2001, False)],
)
def test_pixels_that_need_more_bits_than_the_header_states(
    tmp_path: Path, stored: int, signed: int, value: int, sound: bool
) -> None:
    """Readers cut the highest bits off: a pixel of 256 would become 0 where BitsStored is 8."""

    def edit(ds: Dataset, k: int) -> None:
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = stored, stored - 1, signed
        ds.PixelData = np.full((ds.Rows, ds.Columns), value, np.uint16).tobytes()

    write_series(tmp_path, edit=edit)
    if sound:
        assert (read_series(the_series(tmp_path))[0] == (-1 if signed else 255)).all()
    else:
        assert f"need more than {stored} bits" in refused(read_series, the_series(tmp_path))
        # A drawing of an older scanner in just that bit is no number.
        write_series(tmp_path, edit=lambda ds, k: (edit(ds, k), ds.add_new(0x60000102, "US", value.bit_length() - 1)))
        assert (read_series(the_series(tmp_path))[0] == value % (1 << stored)).all()


@pytest.mark.parametrize("kept", [0, 50, 131])
@pytest.mark.parametrize("instance", [1, 5])
def test_a_file_of_which_hardly_anything_is_left_is_not_passed_over(tmp_path: Path, kept: int, instance: int) -> None:
    """What lies at an end would be missing, and nothing else would tell it."""
    write_series(tmp_path)
    (tmp_path / "notes.txt").write_text("zzname")
    (end,) = [p for p in tmp_path.glob("*.dcm") if pydicom.dcmread(p).InstanceNumber == instance]
    end.write_bytes(end.read_bytes()[:kept])
    message = refused(find_series, tmp_path)
    assert "of 6, sorted by folder and name: it is called like the images beside it, and does not begin as" in message
    assert message.count("\n") == 1


def test_an_image_of_ct_that_is_cut_short_is_not_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path, edit=lambda ds, k: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"))
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:700])
    assert "file 1 of 5" in refused(find_series, tmp_path)


@pytest.mark.parametrize(
    ("removed", "edit", "seen"),
    [
        ((), None, []),
        ((1,), None, ["has 4 images with instance numbers from 2 to 5"]),
        ((5,), None, []),  # nothing tells it
        ((5,), put("ImagesInAcquisition", "5", only=None), ["has 4 images, where ImagesInAcquisition says 5"]),
        ((2, 4), None, ["has 3 images with instance numbers from 1 to 5"]),
        (
            (1, 3, 5),
            put("SpacingBetweenSlices", "3.3", only=None),
            ["has 2 images with instance numbers from 2 to 4", "has slices that are 6.6 mm apart, where Sp"],
        ),
        ((), put("SpacingBetweenSlices", "0.3", only=None), []),  # the gap between slices of 3 mm
        ((), put("SpacingBetweenSlices", "zzname", only=None), []),
    ],
)
def test_slices_that_are_not_there_are_told_where_headers_count_them(
    tmp_path: Path, removed: tuple[int, ...], edit: Callable[[Dataset, int], None] | None, seen: list[str]
) -> None:
    write_series(tmp_path, edit=edit)
    for path in tmp_path.iterdir():
        if pydicom.dcmread(path).InstanceNumber in removed:
            path.unlink()
    findings = check_series(the_series(tmp_path)).findings
    assert {finding.kind.name for finding in findings} <= {"missing_slices"}
    assert len(findings) == len(seen)
    assert all(finding.seen.startswith(one) for finding, one in zip(findings, seen, strict=True))
    assert_anonymous(repr(findings))


def test_a_series_whose_images_say_different_things_is_not_chosen_by_name(tmp_path: Path) -> None:
    write_series(tmp_path, edit=put("SeriesDescription", "T1 post zzdesc"))
    assert the_series(tmp_path).kind == "mixed"
    assert "series 5: mixed" in refused(assign_modalities, [the_series(tmp_path)], ["flair"])


def test_two_readers_that_disagree_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path)
    series = the_series(tmp_path)
    for by, agree in ((0.01, True), (0.3, False)):
        stack = check_series(series)
        stack.affine[:3, 3] += by * stack.affine[:3, 2]
        monkeypatch.setattr("cggm_med.data.dicom.volume.check_series", lambda series, stack=stack: stack)
        if agree:
            read_series(series)
        else:
            assert "two readers disagree on where it lies" in refused(read_series, series)
        monkeypatch.undo()


def test_harmless_deviations_are_not_refused(tmp_path: Path) -> None:
    for name, edit in {
        "uneven": shift(NORMAL, lambda k: 0.02 * STEP * (k % 2)),
        "shifted": shift(COLUMN, lambda k: 0.01 * k),
        "padded": put("RescaleSlope", " 1.0 ", only=None),
        "exponent": put("RescaleSlope", "+1.E0", only=None),
    }.items():
        stored = write_series(tmp_path / name, edit=edit)
        np.testing.assert_array_equal(read_series(the_series(tmp_path / name))[0], stored.T)


def test_a_removed_slice_and_a_copied_one_are_noticed(tmp_path: Path) -> None:
    write_series(tmp_path)
    (second,) = [path for path in tmp_path.iterdir() if pydicom.dcmread(path).InstanceNumber == 2]
    shutil.copy(second, tmp_path / "copy.dcm")
    assert "instance 2 and instance 2 lie at the same place; remove copies" in refused_series(tmp_path)
    (tmp_path / "copy.dcm").unlink()
    second.unlink()
    assert "instance 1 and instance 3 are 6.6 mm apart" in refused_series(tmp_path)


def test_a_single_image_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, slices=1)
    assert "is a single image" in refused_series(tmp_path)


def test_an_instance_number_that_may_be_a_date_is_not_shown(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.InstanceNumber = "20110311"
        put("RescaleSlope", "nan")(ds, k)

    write_series(tmp_path, edit=edit)
    # Slice 2 of 0..4 is written to file (1 - 2) % 5 = 4, the last in sorted order.
    assert "file 5 of 5: RescaleSlope" in refused_series(tmp_path)


@pytest.mark.parametrize("kept", [0.4, 0.97, 0.995])
def test_truncated_files_are_refused(tmp_path: Path, kept: float) -> None:
    write_series(tmp_path / "zzpath")
    path = sorted((tmp_path / "zzpath").iterdir())[1]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    try:
        series = find_series(tmp_path)
    except DataError:
        assert "file 2 of 5, sorted by folder and name: " in refused(find_series, tmp_path)
    else:
        assert "1 of 5 images cannot be used" in refused(check_series, series[0])


def test_a_truncated_file_of_another_origin(tmp_path: Path) -> None:
    shutil.copy(get_testdata_file("MR_truncated.dcm"), tmp_path)
    assert "it has 8130 bytes of pixel data, expected 8192" in refused_series(tmp_path)


def test_truncated_compressed_pixels_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, edit=lambda ds, k: ds.compress(RLELossless))
    check_series(the_series(tmp_path))
    path = sorted(tmp_path.iterdir())[0]
    content = path.read_bytes()
    for cut in (8, 30):
        path.write_bytes(content[:-cut])
        assert "its compressed pixel data are incomplete" in refused_series(tmp_path)


def test_compressed_pixels_that_are_garbage_are_refused(tmp_path: Path) -> None:
    def garbage(ds: Dataset, k: int) -> None:
        ds.PixelData = pydicom.encaps.encapsulate([b"zzname" * 20])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless

    write_series(tmp_path / "zzpath", edit=garbage)
    series = the_series(tmp_path)
    check_series(series)
    assert "its pixels cannot be decoded (transfer syntax 1.2.840.10008.1.2.4.90)" in refused(read_series, series)


def test_unsupported_encodings_are_refused(tmp_path: Path) -> None:
    shutil.copy(get_testdata_file("MR_small_bigendian.dcm"), tmp_path)
    assert "its transfer syntax is not supported; convert it" in refused_series(tmp_path)
    shutil.copy(get_testdata_file("image_dfl.dcm"), tmp_path)
    assert "file 2 of 2, sorted by folder and name: its header is deflated" in refused(find_series, tmp_path)


def test_a_damaged_header_is_told_and_not_passed_over(tmp_path: Path) -> None:
    write_series(tmp_path / "zzpath")
    path = sorted((tmp_path / "zzpath").iterdir())[2]
    content = path.read_bytes()
    uid = pydicom.dcmread(path).SeriesInstanceUID.encode()
    path.write_bytes(content[: content.index(uid)])
    assert "file 3 of 5, sorted by folder and name: " in refused(find_series, tmp_path)


def test_a_length_of_four_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    write_series(tmp_path)
    path = sorted(tmp_path.iterdir())[0]
    content = path.read_bytes()
    # An element of 32-bit length (OB) in the place of the series description, which claims 4 GB.
    at = content.index(b"\x08\x00\x3e\x10")
    path.write_bytes(content[:at] + b"\x08\x00\x3e\x10OB\0\0" + struct.pack("<I", 0xFFFFFFF0) + content[at + 12 :])
    assert "file 1 of 5, sorted by folder and name: it has no SeriesInstanceUID" in refused(find_series, tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    write_series(folder, slices=3)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_whatever_bytes_are_changed_the_answer_is_a_volume_or_one_clear_error(
    sound: list[bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(sound[1])
    for _ in range(data.draw(st.integers(1, 4))):
        # The preamble before byte 128 means nothing.
        place = data.draw(st.integers(128, len(content) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 0x2E, 0x39, 0x5C, 0x7F, 0xFF]))
    content = content[: data.draw(st.integers(200, len(content)) | st.just(len(content)))]
    for name, part in zip("abc", (sound[0], bytes(content), sound[2]), strict=True):
        (tmp_path / name).write_bytes(part)
    try:
        for series in find_series(tmp_path):
            volume, affine = read_series(series)
            assert np.isfinite(volume).all()
            assert np.isfinite(affine).all()
    except DataError as error:
        assert_anonymous("".join(traceback.format_exception(error)))


# --- what must not be said


def test_the_libraries_would_tell(tmp_path: Path) -> None:
    """The tokens are where they ought to be: without care they would show."""
    write_series(tmp_path / "zzpath", edit=put("ImageComments", "zzname"))
    path = sorted((tmp_path / "zzpath").iterdir())[0]
    ds = pydicom.dcmread(path)
    assert all(word in str(ds) or word in str(path) for word in FORBIDDEN)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(RuntimeError, match="zzpath"):
        sitk.ReadImage(str(path))


def test_what_the_libraries_say_is_silenced(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    write_series(tmp_path, edit=shift(NORMAL, lambda k: STEP * (k > 2)))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    with quiet():
        warnings.warn("zzname", stacklevel=1)
        logging.getLogger("pydicom").error("zzname")
        sitk.ReadImage(names)
    assert capfd.readouterr().err == caplog.text == ""
    # The last of them would have been heard: ITK notices the gap.
    sitk.ReadImage(names)
    assert "WARNING" in capfd.readouterr().err


def test_errors_of_the_decoder_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reader: object) -> None:
        raise RuntimeError("zzname")

    write_series(tmp_path)
    monkeypatch.setattr(sitk.ImageSeriesReader, "Execute", fail)
    assert "its pixels cannot be decoded" in refused(read_series, the_series(tmp_path))


def test_no_text_of_any_element_is_shown(tmp_path: Path) -> None:
    """A token of its own in every element of the standard that holds free text: over 700, and none comes out."""
    elements = [
        (tag, entry[0]) for tag, entry in pydicom.datadict.DicomDictionary.items() if entry[4] and tag >> 16 > 2
    ]
    texts = [(tag, vr) for tag, vr in elements if vr in ("LO", "SH", "PN", "LT", "ST", "UT", "UC")]
    assert len(texts) > 700

    def plant(ds: Dataset, k: int) -> None:
        for tag, vr in texts:
            ds.add_new(tag, vr, f"zz{tag:08x}")
        ds.SeriesDescription = "T2 FLAIR zz0008103e"

    write_series(tmp_path / "zzpath", edit=plant)
    series = find_series(tmp_path / "zzpath")
    write_nifti(series[0], tmp_path / "flair.nii")
    said = [repr(series), series[0].describe(), repr(check_series(series[0]))]
    said += [refused(assign_modalities, series, ["t1"]), refused(assign_modalities, series, ["t1"], {"t1": "zz0010"})]
    write_series(tmp_path / "zzpath", edit=lambda ds, k: (plant(ds, k), put("RescaleSlope", "zz00281053")(ds, k)))
    said += [refused(read_series, find_series(tmp_path / "zzpath")[0])]
    assert "zz" not in " ".join(said).lower()
    assert b"zz0" not in (tmp_path / "flair.nii").read_bytes().lower()


def test_pydicom_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"DICOM needs pydicom: pip install 'cggm-med\[dicom\]'"):
        find_series(tmp_path)


def test_headers_hold_no_identity(tmp_path: Path) -> None:
    write_series(tmp_path)
    headers = copy.copy(the_series(tmp_path).headers)
    kept = {name for header in headers for name in header.values}
    assert not kept & {"PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"}
    values = b" ".join(value for header in headers for value in header.values.values())
    for word in ("zzname", "zzid", "zzacc", "zzplace", "zzdoctor", "zzprivate", "19770707", "20110311"):
        assert word.encode() not in values
