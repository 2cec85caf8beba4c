"""Writes enhanced MR objects whose voxels are known: several frames in a file, described by functional groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_phantom import (
    BETWEEN_COLUMNS,
    BETWEEN_ROWS,
    COLUMN,
    COLUMNS,
    NORMAL,
    ORIGIN,
    ROW,
    ROWS,
    STEP,
    UID_ROOT,
    decimal,
)

pydicom = pytest.importorskip("pydicom")
from pydicom.datadict import tag_for_keyword  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian  # noqa: E402


def with_(**values: Any) -> Dataset:
    """An item that holds these elements."""
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def write_enhanced(
    folder: Path,
    frames: Sequence[dict[str, Any]],
    *,
    dimensions: Sequence[str] = ("StackID", "InStackPositionNumber"),
    number: int = 5,
    description: str = "AX T2 FLAIR",
    shape: tuple[int, int] = (COLUMNS, ROWS),
    stored: np.ndarray | None = None,
    file: int = 1,
    edit: Callable[[Dataset], None] = lambda ds: None,
    **shared: Any,
) -> np.ndarray:
    """Write an enhanced MR object and return its stored values, (frame, y, x).

    Args:
        folder: into which it is written.
        frames: of each frame, ``k``, its place among the slices, and perhaps ``stack``, ``index`` (its dimension index
            values), ``orientation``, ``position``, ``slope``, ``intercept``, ``echo`` (ms), ``kind`` (its FrameType).
        dimensions: keywords of what the dimension index values count.
        number: of the series.
        description: of the series.
        shape: columns and rows.
        stored: values; default: random ones of 12 bits.
        file: which file of its series.
        edit: changes the object before it is written.
        shared: further groups that all frames share, such as ``PlaneOrientationSequence=[...]``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if stored is None:
        stored = np.random.default_rng(number + file).integers(0, 4096, (len(frames), *shape[::-1])).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}.6.{number}.{file}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{UID_ROOT}.1.1", f"{UID_ROOT}.2.{number}"
    ds.FrameOfReferenceUID, ds.PatientName, ds.PatientID = f"{UID_ROOT}.4.1", "zzname^Ada", "zzid"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime = "19770707", "F", "20110311", "1200"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "zzacc", "zzid2", "zzdoctor^A"
    ds.SeriesDescription, ds.SeriesNumber, ds.InstanceNumber = f"{description} zzdesc", number, file
    ds.Modality, ds.ImageType, ds.NumberOfFrames = "MR", ["ORIGINAL", "PRIMARY", "T2", "NONE"], len(frames)
    ds.Columns, ds.Rows = shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.DimensionIndexSequence = [with_(DimensionIndexPointer=tag_for_keyword(name) or name) for name in dimensions]
    measures = with_(PixelSpacing=decimal(BETWEEN_ROWS, BETWEEN_COLUMNS), SliceThickness="3")
    ds.SharedFunctionalGroupsSequence = [with_(PixelMeasuresSequence=[measures], **shared)]
    ds.PerFrameFunctionalGroupsSequence = [_groups(frame) for frame in frames]
    ds.PixelData = stored.tobytes()
    edit(ds)
    ds.save_as(folder / f"zzpath_{number}_{file}.dcm", enforce_file_format=True)
    return stored


def _groups(frame: dict[str, Any]) -> Dataset:
    k, stack = frame["k"], frame.get("stack", "1")
    content = with_(StackID=stack, InStackPositionNumber=k + 1, DimensionIndexValues=frame.get("index", [1, k + 1]))
    orientation = frame.get("orientation", (*ROW, *COLUMN))
    position = frame.get("position", ORIGIN + k * STEP * NORMAL)
    groups = with_(
        FrameContentSequence=[content],
        PlanePositionSequence=[with_(ImagePositionPatient=decimal(*position))],
        PlaneOrientationSequence=[with_(ImageOrientationPatient=decimal(*orientation))],
        PixelValueTransformationSequence=[
            with_(
                RescaleIntercept=str(frame.get("intercept", 0)),
                RescaleSlope=str(frame.get("slope", 1)),
                RescaleType="US",
            )
        ],
    )
    if "echo" in frame:
        groups.MREchoSequence = [with_(EffectiveEchoTime=float(frame["echo"]))]
    if "kind" in frame:
        groups.MRImageFrameTypeSequence = [with_(FrameType=frame["kind"])]
    return groups
