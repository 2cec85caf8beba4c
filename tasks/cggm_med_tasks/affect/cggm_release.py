"""How the release of CGGM (Guo et al., NeurIPS 2024, github.com/zrguo/CGGM) trains on CMU-MOSI and on IEMOCAP."""

from __future__ import annotations

from cggm_med.config import Tree

TRAINING: Tree = {
    "optim": {
        "name": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "warmup_fraction": 0.0,
        "schedule": "plateau",
        "plateau_by": "loss",
        "heads_lr": 5e-4,
        "clip_norm": 0.8,
    },
    "train": {"batch_size": 64, "epochs": 30, "steps_per_epoch": 0, "validate_every": 1},
}
# For generated data on a CPU; epochs are up to the task.
TINY: Tree = {
    "model": {"encoder_layers": 1, "fusion_layers": 1, "head_layers": 1},
    "optim": {"schedule": "cosine", "heads_lr": None},
}
