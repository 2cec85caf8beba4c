"""Training: the step, the loop around it, what is watched, and checkpoints."""
