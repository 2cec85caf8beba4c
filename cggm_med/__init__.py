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
    "Batch": "types",
    "Features": "types",
    "Outputs": "types",
    "Padded": "types",
    "UnimodalOutput": "types",
    "Step": "randomness",
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
    "UnimodalHeads": "models.heads",
    "UnimodalHead": "models.heads",
    "VectorHead": "models.heads",
    "VoxelwiseHead": "models.heads",
    "RegionLoss": "objectives.losses",
    "soft_dice_sums": "objectives.balance_scores",
    "true_class_sums": "objectives.balance_scores",
    "residual_sums": "objectives.balance_scores",
    "BalancingStrategy": "strategies.base",
    "FactorStrategy": "strategies.base",
    "StrategyConfig": "strategies.base",
    "Joint": "strategies.joint",
    "CGGM": "strategies.cggm",
    "CGGMConfig": "strategies.cggm",
    "Task": "task.base",
    "TaskConfig": "task.base",
    "SegmentationTask": "task.segmentation",
    "SegmentationTaskConfig": "task.segmentation",
    "SegmentationDataConfig": "task.segmentation",
    "Sample": "task.samples",
    "SampleDataConfig": "task.samples",
    "SampleList": "task.samples",
    "SampleTask": "task.samples",
    "ClassificationTask": "task.classification",
    "ClassificationTaskConfig": "task.classification",
    "RegressionTask": "task.regression",
    "NamedFiles": "data.layouts",
    "read_npy": "data.arrays",
    "LabelConvention": "data.volumes.labels",
    "Report": "results.results",
    "make_config": "runs.settings",
    "make_optimizer": "training.loop",
    "train_step": "training.loop",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cggm_med' has no attribute '{name}'")
    return getattr(importlib.import_module(f"cggm_med.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
