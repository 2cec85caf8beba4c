"""Gaussian noise on gradients, with their own spread: the GE of OGM-GE, Peng et al., CVPR 2022."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step, Stream

NOISE_FLOOR = 1e-8  # added to the standard deviation of a gradient, as the papers' code does


def gradient_spreads(model: MultimodalModel) -> dict[str, list[Tensor]]:
    """Standard deviation of each gradient tensor of each modality, over its own elements."""
    return {
        m: [g.float().std(correction=0) + NOISE_FLOOR for g in model.modality_gradients(m)] for m in model.modalities
    }


def add_gradient_noise(model: MultimodalModel, spreads: Mapping[str, list[Tensor]], step: Step) -> None:
    """Add Gaussian noise to every gradient of every modality.

    Args:
        model: has gradients.
        spreads: standard deviations, from ``gradient_spreads`` before anything was modulated.
        step: for random numbers that are equal on all processes; they are drawn in float32.
    """
    for modality in model.modalities:
        gradients = model.modality_gradients(modality)
        if not gradients:
            continue
        generator = step.generator(f"{Stream.GRADIENT_NOISE.value} {modality}", gradients[0].device)
        for gradient, spread in zip(gradients, spreads[modality], strict=True):
            noise = torch.randn(gradient.shape, generator=generator, device=gradient.device)
            gradient.add_((noise * spread).to(gradient.dtype))
