"""Trained weights to masks: one case, many cases, a DICOM study."""
