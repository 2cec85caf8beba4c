"""Scores of a run on subsets of its modalities."""
