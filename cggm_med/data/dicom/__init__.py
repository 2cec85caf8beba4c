"""DICOM series to volumes, and regions to DICOM segmentations."""
