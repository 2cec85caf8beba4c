"""Training: the step, the loop around it, monitoring, validation and checkpoints."""
