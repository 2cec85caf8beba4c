"""Writes DICOM series whose voxels are known, with a token in everything that could identify a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage  # noqa: E402

# An oblique slice: orthonormal by construction (two rotations), written with 16 characters as scanners do.
_a, _b = 0.3, -0.2
ROW = np.array([np.cos(_a), np.sin(_a), 0.0])
COLUMN = np.array([-np.sin(_a) * np.cos(_b), np.cos(_a) * np.cos(_b), np.sin(_b)])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([-83.25, 12.5, 41.75])
COLUMNS, ROWS, SLICES = 8, 6, 5
BETWEEN_ROWS, BETWEEN_COLUMNS, STEP = 0.9, 1.3, 3.3

UID_ROOT = "1.2.826.0.1.3680043.9.7777"
TOKENS = ("zzname", "zzid", "zzacc", "zzplace", "zzdoctor", "zzdesc", "zzprivate", "zzpath", "19770707", "20110311")
FORBIDDEN = (*TOKENS, UID_ROOT)


def decimal(*numbers: float) -> list[str]:
    """Numbers as a decimal string (DS) holds them: at most 16 characters."""
    return [f"{number:.12f}"[:16] for number in numbers]


def write_series(
    folder: Path,
    *,
    number: int = 5,
    description: str = "AX T2 FLAIR",
    slices: int = SLICES,
    patient: str = "zzid",
    study: int = 1,
    frame: int = 1,
    uid: int | None = None,
    edit: Callable[[Dataset, int], None] | None = None,
) -> np.ndarray:
    """Write one series, slices in no order of their file names, and return the stored values ``(z, y, x)``.

    ``edit`` changes the header of each slice before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    uid = number if uid is None else uid
    stored = np.random.default_rng(uid).integers(0, 4096, (slices, ROWS, COLUMNS)).astype(np.uint16)
    for k in range(slices):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}.3.{uid}.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{UID_ROOT}.1.{study}", f"{UID_ROOT}.2.{uid}"
        ds.FrameOfReferenceUID = f"{UID_ROOT}.4.{frame}"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "zzname^Ada", patient, "19770707", "F"
        ds.AccessionNumber, ds.StudyID, ds.InstitutionName = "zzacc", "zzid2", "zzplace"
        ds.ReferringPhysicianName, ds.OperatorsName = "zzdoctor^A", "zzdoctor^B"
        ds.StudyDate, ds.SeriesDate, ds.StudyTime, ds.StudyDescription = "20110311", "20110311", "1200", "zzdesc"
        ds.SeriesDescription, ds.ProtocolName = f"{description} zzdesc", "zzdesc protocol"
        ds.private_block(0x0009, "zzprivate", create=True).add_new(0x01, "LO", "zzprivate zzname")
        ds.Modality, ds.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M"]
        ds.SeriesNumber, ds.InstanceNumber = number, k + 1
        ds.ImageOrientationPatient = decimal(*ROW, *COLUMN)
        ds.ImagePositionPatient = decimal(*(ORIGIN + k * STEP * NORMAL))
        ds.PixelSpacing = decimal(BETWEEN_ROWS, BETWEEN_COLUMNS)
        ds.SliceThickness = "3"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = stored[k].tobytes()
        if edit is not None:
            edit(ds, k)
        # The files begin with the second slice, then the first, then the last: names do not tell the order.
        ds.save_as(folder / f"zzpath_{number}_{uid}_{(1 - k) % slices:03}.dcm", enforce_file_format=True)
    return stored


def write_scan(folder: Path, scan: nib.Nifti1Image, *, number: int, description: str, **settings: int) -> None:
    """Write the whole numbers of a NIfTI image as a series: its first axis as columns, the second as rows."""
    voxels, lps = np.asarray(scan.dataobj).astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)

    def edit(ds: Dataset, k: int) -> None:
        ds.Columns, ds.Rows = voxels.shape[:2]
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
        ds.PixelData = voxels[:, :, k].T.tobytes()
        ds.ImageOrientationPatient = decimal(*(lps[:3, 0] / spacing[0]), *(lps[:3, 1] / spacing[1]))
        ds.ImagePositionPatient = decimal(*(lps[:3, 3] + k * lps[:3, 2]))
        ds.PixelSpacing = decimal(spacing[1], spacing[0])

    write_series(folder, number=number, description=description, slices=voxels.shape[2], edit=edit, **settings)


def read_segmentation(path: Path, affine: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Segments of a DICOM segmentation by label, as masks on a grid in RAS+, by the standard's attributes alone."""
    seg = pydicom.dcmread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    labels = {item.SegmentNumber: item.SegmentLabel for item in seg.SegmentSequence}
    masks = {label: np.zeros(shape, bool) for label in labels.values()}
    for pixels, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        label = labels[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        r, c = np.nonzero(pixels)
        # PS3.3, equation C.7.6.2.1-1; then from LPS to RAS and to the grid's voxels
        lps = position[:, None] + np.outer(row, between_columns * c) + np.outer(column, between_rows * r)
        voxel = np.linalg.solve(affine, np.vstack([-lps[0], -lps[1], lps[2], np.ones(len(r))]))[:3]
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)
        assert not masks[label][tuple(np.rint(voxel).astype(int))].any(), "a voxel occurs twice"
        masks[label][tuple(np.rint(voxel).astype(int))] = True
    return masks
