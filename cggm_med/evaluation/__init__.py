"""Questions to a finished run: subsets of the modalities, artefacts, calibration, linear probes."""
