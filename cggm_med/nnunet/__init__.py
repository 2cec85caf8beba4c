"""nnU-Net as host and baseline: data sets in its format, its commands, and trainers that balance modalities."""
