"""A study in DICOM gives the very mask that its volumes give as NIfTI, in the same places, and names nobody."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import os
import re
import signal
import stat
import tempfile

import nibabel as nib
import numpy as np
import pytest
from helpers.command_line import command
from helpers.small_runs import trained_run

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
import highdicom
import pydicom
from helpers.dicom_phantom import FORBIDDEN, TOKENS, UID_ROOT, read_segmentation, write_scan

from cggm_med.data.volumes.io import write_volume
from cggm_med.errors import ConfigError, DataError, MissingExtra, UnknownName
from cggm_med.inference import dicom_study as prediction_dicom
from cggm_med.inference.dicom_study import predict_study
from cggm_med.inference.predictor import Predictor
from cggm_med.inference.side_car import volumes_in_words

DESCRIPTIONS = {"flair": "AX T2 FLAIR", "t1": "SAG T1", "t1ce": "SAG T1 post Gd", "t2": "AX T2 TSE"}
CASE = "BraTS2021_00000"


def anonymous(text: str) -> bool:
    return not [word for word in FORBIDDEN if word in text.lower()]


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    # Enough to find regions of different sizes.
    learning = {"train__epochs": "6", "train__steps_per_epoch": "12", "optim__lr": "0.02", "train__validate_every": "6"}
    easy = {"data__foreground": "1.0", "data__augmentation": "none", "model__channels": "[8,16]"}
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, **easy, **learning)


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, "cpu")


@pytest.fixture(scope="module")
def scans(phantom):
    return {m: phantom / CASE / f"{CASE}_{m}.nii.gz" for m in DESCRIPTIONS}


@pytest.fixture(scope="module")
def study(scans, tmp_path_factory):
    """The case as four sagittal series: other axes and directions than those of the NIfTI files."""
    folder = tmp_path_factory.mktemp("dicom") / "zzname_zzpath_19770707"
    to_sagittal = nib.orientations.axcodes2ornt("PIL")
    for number, (modality, description) in enumerate(DESCRIPTIONS.items(), 3):
        scan = nib.load(scans[modality])
        turn = nib.orientations.ornt_transform(nib.io_orientation(scan.affine), to_sagittal)
        write_scan(folder / f"zzpath{number}", scan.as_reoriented(turn), number=number, description=description)
    return folder


@pytest.fixture(scope="module")
def expected(predictor, scans):
    """The prediction from the NIfTI files, in which every region occurs."""
    found = predictor.predict("case", scans)
    regions = dict(zip(found.convention.regions, found.convention.to_regions(found.labels), strict=True))
    assert all(0 < mask.sum() < mask.size for mask in regions.values())
    assert len({int(mask.sum()) for mask in regions.values()}) == 3
    return found, regions


def test_nifti_of_dicom(run, study, scans, expected, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command(monkeypatch, "predict", run, study, "-o", tmp_path / "out" / "mask.nii.gz")
    printed = capfd.readouterr()
    lines, facts = printed.out.splitlines(), (tmp_path / "out" / "mask.json").read_text()
    # The memory is that of this process, which is more than torch alone takes.
    assert re.fullmatch(
        r"1 of 1: mask, 3 windows of 32 x 32 x 16 voxels, the process takes about \d+\.\d GB on cpu", lines[4]
    )
    assert lines[:4] + lines[5:] == [
        "flair is series 3: flair, 48 images of 48 x 32",
        "t1 is series 4: t1, 48 images of 48 x 32",
        "t1ce is series 5: t1ce, 48 images of 48 x 32",
        "t2 is series 6: t2, 48 images of 48 x 32",
        f"  written: {tmp_path / 'out' / 'mask.nii.gz'}; {volumes_in_words(json.loads(facts))}",
        f"mask: flair, t1, t1ce and t2 hold voxels that the run was trained on, as {CASE}; what is predicted or scored "
        "there says nothing about new patients",
    ]
    # Nothing is left of the converted volumes, and nothing else was written.
    assert {path.name for path in tmp_path.rglob("*")} == {"out", "mask.nii.gz", "mask.json"}
    content = gzip.decompress((tmp_path / "out" / "mask.nii.gz").read_bytes()).decode("latin-1")
    assert anonymous(printed.out + printed.err + caplog.text + content + facts)
    assert json.loads(facts)["modalities"] == list(DESCRIPTIONS)
    series = b"".join(path.read_bytes() for path in sorted((study / "zzpath3").iterdir()))
    assert json.loads(facts)["inputs"]["flair"] == hashlib.blake2b(series, digest_size=20).hexdigest()

    mask, truth = nib.load(tmp_path / "out" / "mask.nii.gz"), expected[0].labels
    assert mask.shape == (48, 32, 48)
    assert nib.aff2axcodes(mask.affine) != nib.aff2axcodes(nib.load(scans["flair"]).affine)
    index = np.indices(mask.shape).reshape(3, -1)
    there = np.linalg.inv(nib.load(scans["flair"]).affine) @ mask.affine @ np.vstack([index, np.ones(index.shape[1])])
    np.testing.assert_allclose(there[:3], np.rint(there[:3]), atol=1e-3)
    values = np.asarray(mask.dataobj)
    np.testing.assert_array_equal(values.ravel(), truth[tuple(np.rint(there[:3]).astype(int))])
    # Every voxel of the one grid is met once.
    assert len(np.unique(np.rint(there[:3]), axis=1).T) == truth.size


def test_dicom_segmentation(run, study, scans, expected, tmp_path, monkeypatch, capfd):
    command(monkeypatch, "predict", run, study, "-o", tmp_path / "mask.dcm", "--extra", "uncertainty")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("mask.dcm", "mask_report.dcm", "mask.json", "mask_uncertainty.nii.gz")
    }
    printed = capfd.readouterr()
    assert anonymous(printed.out + printed.err + (tmp_path / "mask.json").read_text())
    found = read_segmentation(tmp_path / "mask.dcm", nib.load(scans["flair"]).affine, expected[0].labels.shape)
    assert list(found) == ["WT", "TC", "ET"]
    for region, mask in expected[1].items():
        assert found[region].sum() == mask.sum()
        np.testing.assert_array_equal(found[region], mask)
    seg = pydicom.dcmread(tmp_path / "mask.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{UID_ROOT}.2.3"
    instances = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert instances == {f"{UID_ROOT}.3.3.{k + 1}" for k in range(48)}
    report = highdicom.sr.srread(tmp_path / "mask_report.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    volumes = {group.tracking_identifier: group.get_measurements()[0].value for group in groups}
    assert volumes == json.loads((tmp_path / "mask.json").read_text())["volume_ml"]
    assert report.PatientID == seg.PatientID
    assert seg.DeviceSerialNumber == json.loads((tmp_path / "mask.json").read_text())["weights"]


def test_series_may_be_chosen_and_modalities_left_out(run, scans, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "zzname"
    for number, description in ((7, "AX T1 +C"), (8, "COR T1 +C"), (9, "T2")):
        write_scan(folder, nib.load(scans["t2" if number == 9 else "t1ce"]), number=number, description=description)
    words = ["predict", run, folder, "-o", tmp_path / "mask.nii.gz", "--modalities", "t1ce,t2"]
    command(monkeypatch, *words, code=1)
    error = capfd.readouterr().err
    assert error.startswith("DataError: series 7, 8 all fit t1ce; choose each by its number")
    assert "series 8: t1ce, 32 images of 48 x 48" in error
    command(monkeypatch, *words, "--series", "t1ce=COR")
    assert json.loads((tmp_path / "mask.json").read_text())["modalities"] == ["t1ce", "t2"]
    command(monkeypatch, "predict", run, folder, "-o", tmp_path / "mask.nii.gz", "--series", "t1ce=7", code=1)
    error += capfd.readouterr().err
    assert "no series found for flair, t1; use fewer modalities (--modalities;" in error
    assert anonymous(error)


def test_series_on_other_grids_are_refused_as_files_are(predictor, scans, tmp_path, monkeypatch):
    scan = nib.load(scans["t1"])
    write_scan(tmp_path / "zzname", nib.load(scans["flair"]), number=1, description="FLAIR")
    write_scan(tmp_path / "zzname", scan.slicer[:40], number=2, description="T1")
    said = []
    failed = predict_study(
        predictor, tmp_path / "zzname", tmp_path / "a.dcm", modalities=["flair", "t1"], say=said.append
    )
    assert "t1_series_2.nii differ in shape: 48 x 48 x 32 and 40 x 48 x 32" in failed["a"]
    assert anonymous(" ".join(said))
    assert {path.name for path in tmp_path.iterdir()} == {"zzname"}


def test_slices_that_are_not_there_are_told_and_recorded(predictor, scans, tmp_path):
    write_scan(tmp_path / "zzname", nib.load(scans["flair"]), number=1, description="FLAIR")
    for path in (tmp_path / "zzname").iterdir():
        if pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber == 1:
            path.unlink()
    said = []
    assert not predict_study(predictor, tmp_path / "zzname", tmp_path / "a.nii", modalities=["flair"], say=said.append)
    assert "a: flair has 31 images with instance numbers from 2 to 32; look whether it was exported whole" in said
    (found,) = [one for one in json.loads((tmp_path / "a.json").read_text())["findings"] if "missing" in one["kind"]]
    assert found["seen"] == "has 31 images with instance numbers from 2 to 32"


def test_volumes_are_private_and_do_not_outlive_a_request_to_stop(predictor, study, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []

    def stopped(series, path):
        path.write_bytes(b"voxels")
        modes.append(stat.S_IMODE(path.parent.stat().st_mode))
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(prediction_dicom, "write_nifti", stopped)
    with pytest.raises(SystemExit) as end:
        predict_study(predictor, study, tmp_path / "a.nii.gz", say=lambda text: None)
    assert end.value.code == 128 + signal.SIGTERM
    assert modes == [0o700]
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_segmentation_lacks_is_told_before_the_work(predictor, study, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "predict", None)
    folder = tmp_path / "zzname"
    for path in sorted(study.rglob("zzpath_3_*")):
        ds = pydicom.dcmread(path)
        del ds.FrameOfReferenceUID
        folder.mkdir(exist_ok=True)
        ds.save_as(folder / path.name)
    with pytest.raises(DataError, match="not valid enough for a DICOM segmentation"):
        predict_study(predictor, folder, tmp_path / "a.dcm", modalities=["flair"], say=lambda text: None)
    assert {path.name for path in tmp_path.iterdir()} == {"zzname"}


def test_bad_requests(run, predictor, study, scans, tmp_path, monkeypatch, capfd):
    with pytest.raises(ConfigError, match=r"ends with \.nii\.gz, .*\.mha or \.dcm"):
        predict_study(predictor, study, tmp_path / "masks")
    with pytest.raises(UnknownName, match="no modality in this run 'adc'"):
        predict_study(predictor, study, tmp_path / "a.nii", modalities=["adc"])
    with pytest.raises(ConfigError, match=r"ends with \.nii\.gz, \.nii, \.nrrd, \.mha"):
        write_volume(tmp_path / "a.dcm", np.zeros((48, 48, 32), np.uint8), scans["t1"])
    for wrong in (["--series", "5"], ["--series", "t1=zzname", "--series", "t1=zzid"]):
        command(monkeypatch, "predict", run, study, "-o", tmp_path / "a.nii", *wrong, code=2)
    command(monkeypatch, "predict", run, "--t1", scans["t1"], "-o", tmp_path / "a.nii", "--series", "t1=4", code=2)
    command(monkeypatch, "predict", run, tmp_path / "zzpath", "-o", tmp_path / "a.nii", "--series", "t1=4", code=1)
    error = capfd.readouterr().err
    assert "the given folder, or one below it, does not exist or cannot be read" in error
    assert not [word for word in TOKENS if word in error]
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(MissingExtra, match=r"DICOM-SEG needs highdicom: pip install 'cggm-med\[dicom\]'"):
        predict_study(predictor, study, tmp_path / "a.dcm")
    assert not list(tmp_path.iterdir())


# --- a folder of many studies


def name_of(study: int) -> str:
    return f"study_{hashlib.sha256(f'{UID_ROOT}.1.{study}'.encode()).hexdigest()[:12]}"


@pytest.fixture(scope="module")
def archive(scans, tmp_path_factory):
    """Studies as an archive exports them: 1 whole, 2 with a file that cannot be read, 3 without flair."""
    folder = tmp_path_factory.mktemp("export") / "zzname_zzpath"
    for study in (1, 2, 3):
        for number, modality in ((1, "flair"), (2, "t1ce")):
            if (study, modality) != (3, "flair"):
                of = folder / f"zzpath_patient{study}" / f"zzpath_study{study}" / modality
                settings = {"study": study, "patient": f"zzid{study}", "uid": 10 * study + number}
                write_scan(of, nib.load(scans[modality]), number=number, description=DESCRIPTIONS[modality], **settings)
    damaged = sorted((folder / "zzpath_patient2").rglob("*.dcm"))[0]
    damaged.write_bytes(damaged.read_bytes()[:200])
    (folder / "zzpath_patient1" / "zzpath.txt").write_text("zzname")
    return folder


def test_each_study_of_a_folder_is_segmented_and_an_odd_one_stops_no_other(
    run, predictor, archive, scans, tmp_path, monkeypatch, capfd
):
    words = ["predict", run, archive, "-o", tmp_path / "masks", "--modalities", "flair,t1ce"]
    command(monkeypatch, *words, code=1)
    printed = capfd.readouterr()
    assert anonymous(printed.out + printed.err)
    one, two, three = map(name_of, (1, 2, 3))
    assert f"2 of 3 cases failed: {', '.join(sorted((two, three)))}" in printed.err
    assert f"{two} FAILED: DICOM files that cannot be read; copy them anew or remove them: file " in printed.out
    assert f"{three} FAILED: no series found for flair; use fewer modalities" in printed.out
    expected = ["cohort.csv", "lesions.csv", f"{one}.json", f"{one}.nii.gz"]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == sorted(expected)
    of_files = predictor.predict("case", {m: scans[m] for m in ("flair", "t1ce")})
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "masks" / f"{one}.nii.gz").dataobj), of_files.labels)
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "masks" / "cohort.csv").read_text().splitlines())}
    assert {name: bool(row["failed"]) for name, row in rows.items()} == {one: False, two: True, three: True}
    assert (rows[one]["present"], rows[one]["absent"]) == ("flair+t1ce", "t1+t2")
    assert {(rows[odd]["present"], rows[odd]["absent"]) for odd in (two, three)} == {("", "")}  # not known

    # What is there stays, and what is not required may be absent.
    before = (tmp_path / "masks" / f"{one}.nii.gz").stat().st_mtime_ns
    command(monkeypatch, *words, "--require", "t1ce", "--skip-existing", code=1)
    printed = capfd.readouterr()
    assert printed.out.startswith("1 of 3 are there already\n")
    assert (tmp_path / "masks" / f"{one}.nii.gz").stat().st_mtime_ns == before
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "masks" / "cohort.csv").read_text().splitlines())}
    assert rows[three]["present"] == "t1ce"
    assert [row["failed"] for row in rows.values()].count("") == 2
    assert anonymous(printed.out + printed.err + (tmp_path / "masks" / "cohort.csv").read_text())


def test_segmentations_of_many_studies(run, archive, tmp_path, monkeypatch, capfd):
    folder = archive / "zzpath_patient1"
    command(monkeypatch, "predict", run, folder, "-o", tmp_path, "--modalities", "t1ce", "--ending", ".dcm")
    seg = pydicom.dcmread(tmp_path / f"{name_of(1)}.dcm")
    assert (seg.PatientID, seg.StudyInstanceUID) == ("zzid1", f"{UID_ROOT}.1.1")
    command(monkeypatch, "predict", run, folder, "-o", tmp_path, "--modalities", "t1ce", "--ending", ".png", code=1)
    assert "expected an output that ends with .nii.gz" in capfd.readouterr().err
