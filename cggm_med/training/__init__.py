"""The training loop: step, optimizer, checkpoints, and what is logged."""
