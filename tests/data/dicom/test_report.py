"""The structured report of a segmentation: its volumes, to which segment each belongs, and whose they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")
from helpers.dicom_phantom import BETWEEN_COLUMNS, BETWEEN_ROWS, STEP, UID_ROOT, write_series  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402

from cggm_med.data.dicom.report import report_beside  # noqa: E402
from cggm_med.data.dicom.seg import write_segmentation  # noqa: E402
from cggm_med.data.dicom.series import find_series  # noqa: E402
from cggm_med_tasks.brats2021 import CODES  # noqa: E402

VOXEL_ML = BETWEEN_COLUMNS * BETWEEN_ROWS * STEP / 1000


def test_each_volume_belongs_to_its_segment(tmp_path: Path) -> None:
    write_series(tmp_path / "in")
    (series,) = find_series(tmp_path / "in")
    masks = {region: np.zeros((8, 6, 5), bool) for region in ("WT", "TC", "ET")}
    masks["WT"][:4, :5, :3] = True  # 60 voxels
    masks["TC"][:2, :3, :2] = True  # 12 voxels, and none of ET
    path = tmp_path / "seg.dcm"
    about = {"algorithm": "cggm-med", "version": "0.1.0", "model": "0123abcd", "codes": CODES, "colours": {}}
    write_segmentation(path, masks, series, report=report_beside(path), **about)
    seg, report = pydicom.dcmread(path), highdicom.sr.srread(tmp_path / "seg_report.dcm")

    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    for element in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber"):
        assert report[element].value == seg[element].value
    assert report.SeriesInstanceUID not in (seg.SeriesInstanceUID, series.uid)

    groups = report.content.get_volumetric_roi_measurement_groups()
    for group, segment, voxels in zip(groups, seg.SegmentSequence, (60, 12, 0), strict=True):
        assert (group.tracking_identifier, group.tracking_uid) == (segment.TrackingID, segment.TrackingUID)
        content = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group[0].ContentSequence}
        (of,) = content["Referenced Segment"].ReferencedSOPSequence
        assert (of.ReferencedSOPInstanceUID, of.ReferencedSegmentNumber) == (seg.SOPInstanceUID, segment.SegmentNumber)
        assert content["Source Series for Segmentation"].UID == series.uid == f"{UID_ROOT}.2.5"
        (volume,) = group.get_measurements()
        assert (volume.name, volume.unit) == (codes.SCT.Volume, codes.UCUM.CubicCentimeter)
        assert volume.value == pytest.approx(voxels * VOXEL_ML, abs=1e-6)
        (of_type,) = segment.SegmentedPropertyTypeCodeSequence
        assert group.finding_type == highdicom.sr.CodedConcept.from_dataset(of_type)
