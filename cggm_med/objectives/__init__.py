"""Training losses, balance scores, and the subsets of modalities seen while training."""
