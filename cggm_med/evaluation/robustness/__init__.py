"""Scores of a run on scans with artefacts."""
