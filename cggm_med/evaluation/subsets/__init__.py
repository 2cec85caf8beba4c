"""What a run scores on subsets of its modalities."""
