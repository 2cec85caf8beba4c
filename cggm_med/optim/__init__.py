"""The optimizer: one parameter group per modality, learning rates, clipping, and the scaling of updates."""
