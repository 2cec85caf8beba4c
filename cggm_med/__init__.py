"""Multimodal medical image segmentation whose modalities are balanced while they train.

Example:
    Train one step of a two-modality network with CGGM, without any file:

    >>> import torch
    >>> from cggm_med import CGGM, CGGMConfig, Batch, RegionLoss, SegmentationModel, UnimodalHeads, VoxelwiseHead
    >>> from cggm_med import OptimConfig, Step, make_optimizer, soft_dice_sums, train_step
    >>> model = SegmentationModel(["flair", "t1ce"], regions=3, channels=(4, 8))
    >>> strategy = CGGM(CGGMConfig("cggm"))
    >>> heads = lambda: UnimodalHeads({m: VoxelwiseHead((4, 8), regions=3) for m in model.modalities})
    >>> strategy.setup(model, heads, soft_dice_sums, steps_per_epoch=10)
    >>> optimizer = make_optimizer(model, strategy, OptimConfig(), torch.device("cpu"))
    >>> scans = {m: torch.randn(2, 1, 8, 8, 8) for m in model.modalities}
    >>> batch = Batch(scans, torch.ones(2, 3, 8, 8, 8), ids=("a", "b"))
    >>> losses = train_step(model, strategy, optimizer, RegionLoss(), batch, Step(0, steps=100), clip_norm=1.0)
    >>> sorted(losses)
    ['flair', 't1ce', 'task']
"""

from __future__ import annotations

import importlib
from typing import Any

# Name -> module. Imported when first used, so that the command line starts without torch.
_HOME = {
    "Batch": "typing",
    "Features": "typing",
    "Outputs": "typing",
    "Padded": "typing",
    "UnimodalOutput": "typing",
    "Step": "step",
    "CggmMedError": "errors",
    "ConfigError": "errors",
    "CheckpointError": "errors",
    "DataError": "errors",
    "MissingExtra": "errors",
    "NonFiniteLoss": "errors",
    "OutputError": "errors",
    "PluginError": "errors",
    "UnknownName": "errors",
    "OptimConfig": "config",
    "RunConfig": "config",
    "TrainConfig": "config",
    "MultimodalModel": "models.base",
    "LateFusionModel": "models.late_fusion",
    "vector_heads": "models.late_fusion",
    "ConvEncoder": "models.resnet",
    "SequenceHead": "models.sequence",
    "SequenceModel": "models.sequence",
    "SequenceModelConfig": "models.sequence",
    "SegmentationModel": "models.segmentation",
    "UnimodalHeads": "models.unimodal",
    "UnimodalHead": "models.unimodal",
    "VectorHead": "models.unimodal",
    "VoxelwiseHead": "models.unimodal",
    "RegionLoss": "losses",
    "soft_dice_sums": "scores",
    "true_class_sums": "scores",
    "residual_sums": "scores",
    "BalancingStrategy": "strategies.base",
    "FactorStrategy": "strategies.base",
    "StrategyConfig": "strategies.base",
    "Joint": "strategies.joint",
    "CGGM": "strategies.cggm",
    "CGGMConfig": "strategies.cggm",
    "Task": "task",
    "TaskConfig": "task",
    "SegmentationTask": "segmentation",
    "SegmentationTaskConfig": "segmentation",
    "SegmentationDataConfig": "segmentation",
    "Sample": "samples",
    "SampleDataConfig": "samples",
    "SampleList": "samples",
    "SampleTask": "samples",
    "ClassificationTask": "classification",
    "ClassificationTaskConfig": "classification",
    "RegressionTask": "regression",
    "NamedFiles": "data.layouts",
    "read_npy": "data.arrays",
    "LabelConvention": "data.labels",
    "Report": "report",
    "make_config": "settings",
    "make_optimizer": "engine",
    "train_step": "engine",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cggm_med' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cggm_med.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
