"""What a run scores on scans with artefacts."""
