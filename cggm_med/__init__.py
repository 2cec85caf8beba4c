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

import lazy_loader

# The names are listed in __init__.pyi; each is imported on first use, so that the command line starts without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
