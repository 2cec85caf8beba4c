"""Writing regions as a DICOM segmentation that belongs to the series on which they were found.

The file bears name, id, birth date and study of the patient, copied from the series: without them an archive could not
file it, and a viewer would not show it over its images. It is the only thing this package writes that identifies a
person; see `cggm_med.data.dicom.series` for the rules that all the rest follows.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.dicom.codes import UNDECLARED, Code, SegmentCodes
from cggm_med.data.dicom.header import Header, import_extra, quiet
from cggm_med.data.dicom.report import report_bytes
from cggm_med.data.dicom.series import Series
from cggm_med.data.dicom.volume import check_series
from cggm_med.errors import DataError
from cggm_med.files import atomic_file

_ARTIFICIAL_INTELLIGENCE = Code("DCM", "123110", "Artificial Intelligence")
# May be empty but not absent in a valid object; exports for research leave them out.
_MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)


def write_segmentation(
    path: Path,
    masks: Mapping[str, NDArray[np.bool_]],
    reference: Series,
    *,
    algorithm: str,
    version: str,
    model: str,
    codes: Mapping[str, SegmentCodes],
    colours: Mapping[str, str],
    report: Path | None = None,
) -> None:
    """Write regions, which may overlap, as a DICOM segmentation of binary segments.

    Segments lie on the grid of the series, slice by slice, those without a voxel included, and refer to its images.
    A region without codes is tissue to the standard, and has its name as its label.

    Args:
        path: the file to write, whole or not at all.
        masks: by region name, in the order of the segments: bool ``(x, y, z)`` as `read_series` orders the axes.
        reference: the series that the masks lie on.
        algorithm: name of what made the masks.
        version: its version.
        model: what tells one network from another, such as a digest of its weights; stands for the serial number.
        codes: of regions, by name.
        colours: of regions, such as ``#56B4E9``, by name, in which viewers should show them.
        report: if given, where to write a structured report with their volumes; it is there before the segmentation.

    Raises:
        MissingExtra: if highdicom is not installed.
        DataError: if the series is not one regular volume or lacks what a segmentation must refer to.
        OutputError: if the file cannot be written.
        ValueError: if there is no mask, or one is not bool or of another shape.
    """
    highdicom = import_extra("DICOM-SEG", "highdicom")
    stack = check_series(reference)
    if stack.headers[0].part and len(reference.paths) > 1:
        raise DataError(
            f"series {reference.name} ({reference.kind}): its frames stand in {len(reference.paths)} files, where a "
            "DICOM segmentation can refer to those of one; write NIfTI instead"
        )
    if not masks:
        raise ValueError("no masks; expected at least one region")
    for region, mask in masks.items():
        if mask.dtype != np.bool_ or mask.shape != stack.shape:
            raise ValueError(f"{region} is {mask.dtype} of shape {mask.shape}; expected bool of shape {stack.shape}")
    # (x, y, z) of each region -> (slice, row, column, segment)
    pixels = np.stack([mask.T for mask in masks.values()], axis=-1)
    segments = []
    for number, region in enumerate(masks, 1):
        segment = _segment(highdicom, number, region, codes.get(region, UNDECLARED), algorithm, version)
        if region in colours:
            colour = highdicom.color.CIELabColor.from_string(colours[region])
            segment.RecommendedDisplayCIELabValue = list(colour.value)
        segments.append(segment)
    content = io.BytesIO()
    try:
        with quiet():
            segmentation = highdicom.seg.Segmentation(
                source_images=_source_images(stack.headers),
                pixel_array=pixels,
                segmentation_type="BINARY",
                segment_descriptions=segments,
                series_instance_uid=highdicom.UID(),
                # Above the numbers that scanners give.
                series_number=9000,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="cggm-med",
                manufacturer_model_name=algorithm,
                software_versions=version,
                device_serial_number=model,
                content_label="SEGMENTATION",
                # Readers that give only the slices between the first and the last voxel would lose the grid.
                omit_empty_frames=False,
            )
            _refer_to_frames(segmentation, stack.headers)
            segmentation.SeriesDescription = f"{algorithm} segmentation, research use only"
            segmentation.save_as(content)
            ml = abs(float(np.linalg.det(stack.affine[:3, :3]))) / 1000
            volumes = {region: int(mask.sum()) * ml for region, mask in masks.items()}
            if report is not None:
                said = report_bytes(segmentation, volumes, algorithm=algorithm, version=version, model=model)
    except Exception:
        # Messages of highdicom and pydicom repeat values of the header.
        raise DataError(
            f"series {reference.name} ({reference.kind}): its headers are not valid enough for a DICOM segmentation to "
            "refer to (such as study, frame of reference, patient); write NIfTI instead, or export the series anew"
        ) from None
    if report is not None:
        with atomic_file(report) as file:
            file.write(said)
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def _source_images(images: Sequence[Header]) -> list[Any]:
    """Headers of the images that a segmentation refers to, in the order of the slices.

    Of an enhanced object, one that holds only these frames, in this order: highdicom takes each slice for the frame of
    the same place in the object, and an orientation that does not stand with all frames together for none.
    """
    pydicom = import_extra("DICOM-SEG", "pydicom")
    sources = []
    for path in dict.fromkeys(image.path for image in images):
        source = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in _MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, None)
        sources.append(source)
    if images[0].part is None:
        return sources
    (source,) = sources
    (shared,), frames = source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence
    source.PerFrameFunctionalGroupsSequence = [frames[image.part.number - 1] for image in images if image.part]
    source.NumberOfFrames = len(images)
    for group in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if group not in shared:
            setattr(shared, group, source.PerFrameFunctionalGroupsSequence[0][group].value)
    return [source]


def _refer_to_frames(segmentation: Any, images: Sequence[Header]) -> None:
    """Let references to frames, which count those of `_source_images`, count those of the file."""
    if images[0].part is None:
        return
    # Frames of several segments at one place share one item, which must be changed once.
    sources = {
        id(source): source
        for groups in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in groups.DerivationImageSequence
        for source in derivation.SourceImageSequence
    }
    for source in sources.values():
        if part := images[int(source.ReferencedFrameNumber) - 1].part:
            source.ReferencedFrameNumber = part.number


def _segment(highdicom: Any, number: int, region: str, codes: SegmentCodes, algorithm: str, version: str) -> Any:
    def coded(code: Code) -> Any:
        return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning)

    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=region[:64],
        segmented_property_category=coded(codes.category),
        segmented_property_type=coded(codes.type),
        algorithm_type="AUTOMATIC",
        tracking_uid=highdicom.UID(),
        tracking_id=region[:64],
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm, version=version, family=coded(_ARTIFICIAL_INTELLIGENCE)
        ),
    )
    if codes.modifier is not None:
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(codes.modifier)]
    return segment
