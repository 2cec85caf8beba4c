"""Writing the volumes of regions as a DICOM structured report that belongs to their segmentation.

As the segmentation, it bears name, id, birth date and study of the patient, since no archive could file it without.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cggm_med.data.dicom.codes import Code
from cggm_med.data.dicom.header import import_extra

ENDING = "_report.dcm"  # of its name, beside the segmentation
ML_DIGITS = 6
# Of DICOM PS3.16: CID 100, CID 7469, CID 7462 and CID 7474. A cubic centimetre is a millilitre.
_PROCEDURE = Code("SCT", "363679005", "Imaging procedure")
_VOLUME = Code("SCT", "118565006", "Volume")
_UNIT = Code("UCUM", "cm3", "cubic centimeter")
_METHOD = Code("DCM", "126030", "Sum of segmented voxel method for volume")
_DEVICE = Code("DCM", "121007", "Device")


def report_bytes(segmentation: Any, volumes: Mapping[str, float], *, algorithm: str, version: str, model: str) -> bytes:
    """A measurement report (DICOM PS3.16, TID 1500) with the volume of each segment (TID 1411).

    Each refers to its segment, bears its tracking identifiers and codes, and names the series that was segmented. The
    report is complete and not verified: no person has seen it.

    Args:
        segmentation: as highdicom makes it, with tracking identifiers.
        volumes: in mL, by label of each segment, in their order.
        algorithm: name of what made the segmentation.
        version: its version.
        model: what tells one network from another; the device that observed is told by it.

    Raises:
        Exception: whatever highdicom raises of headers that are not valid; the message may hold their values.
    """
    sr = import_extra("DICOM-SR", "highdicom").sr
    pydicom = import_extra("DICOM-SR", "pydicom")

    def coded(code: Code) -> Any:
        return sr.CodedConcept(code.value, code.scheme, code.meaning)

    observer = sr.ObserverContext(
        observer_type=coded(_DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=pydicom.uid.generate_uid(entropy_srcs=[algorithm, model]),
            manufacturer_name="cggm-med",
            model_name=algorithm,
            serial_number=model,
        ),
    )
    (series,) = segmentation.ReferencedSeriesSequence
    groups = [
        sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
            referenced_segment=sr.ReferencedSegment(
                segmentation.SOPClassUID,
                segmentation.SOPInstanceUID,
                segment.SegmentNumber,
                source_series=sr.SourceSeriesForSegmentation(series.SeriesInstanceUID),
            ),
            finding_category=_concept(sr, segment.SegmentedPropertyCategoryCodeSequence[0]),
            finding_type=_concept(sr, segment.SegmentedPropertyTypeCodeSequence[0]),
            algorithm_id=sr.AlgorithmIdentification(name=algorithm, version=version),
            measurements=[
                sr.Measurement(
                    name=coded(_VOLUME), value=round(volume, ML_DIGITS), unit=coded(_UNIT), method=coded(_METHOD)
                )
            ],
        )
        for segment, volume in zip(segmentation.SegmentSequence, volumes.values(), strict=True)
    ]
    report = sr.Comprehensive3DSR(
        evidence=[segmentation],
        content=sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=observer),
            procedure_reported=coded(_PROCEDURE),
            imaging_measurements=groups,
        ),
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=segmentation.SeriesNumber + 1,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
        manufacturer="cggm-med",
        is_complete=True,
    )
    report.SeriesDescription = f"{algorithm} volumes, research use only"
    content = io.BytesIO()
    report.save_as(content)
    return content.getvalue()


def report_beside(segmentation: Path) -> Path:
    """The report of a segmentation's file.

    Example:
        >>> report_beside(Path("masks/a.dcm")).name
        'a_report.dcm'
    """
    return segmentation.with_name(f"{segmentation.name.removesuffix('.dcm')}{ENDING}")


def _concept(sr: Any, item: Any) -> Any:
    return sr.CodedConcept(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
