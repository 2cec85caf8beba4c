"""External validation: how far volumes agree with the truth, and how scores differ between sites and sizes."""
