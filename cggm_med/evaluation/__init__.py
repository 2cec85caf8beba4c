"""Questions to a finished run: modality subsets, artefacts, calibration, linear probes."""
