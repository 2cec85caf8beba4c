"""The optimizer: a parameter group for each modality, its learning rate, and what happens to an update on its way."""
