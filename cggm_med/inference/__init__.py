"""Segment one case, many cases or a DICOM study with a finished run."""
