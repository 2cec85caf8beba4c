"""Where nnU-Net finds the trainers: it imports every file of the folders that ``nnUNet_extTrainer`` names."""

from cggm_med.nnunet.trainer import (  # noqa: F401
    nnUNetTrainerCGGM,
    nnUNetTrainerJoint,
    nnUNetTrainerMMPareto,
    nnUNetTrainerOGMGE,
    nnUNetTrainerSubsets,
)
