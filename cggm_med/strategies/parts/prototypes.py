"""Class prototypes: the mean feature of each class in one modality, and how near each sample or voxel is to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.objectives.targets import IGNORED, UNKNOWN
from cggm_med.types import Features

NEVER = torch.tensor(float("-inf"))  # the logit of a class without a prototype


def class_weights(logits: Tensor, target: Tensor, grid: Sequence[int]) -> Tensor:
    """How the weight of each sample, 1, is spread over its classes and positions.

    A sample with one class has all its weight there; an utterance counts as much as the others of its dialogue. Regions
    are groups of two classes each, inside and outside, and class numbers of voxels are one group; the groups count
    alike, and within a group each class that occurs, however few its voxels. Values are groups of two classes each,
    negative and not.

    Args:
        logits: ``(batch, target, ...)``, of the fused prediction.
        target: class numbers ``(batch,)`` or ``(batch, utterance)``; regions ``(batch, region, x, y, z)``; class
            numbers of voxels ``(batch, 1, x, y, z)``; or values ``(batch, value)``. What is not known has no weight.
        grid: spatial shape of the features, over whose cells voxels are averaged; empty for vectors.

    Returns:
        ``(batch, group, class, position)``.

    Example:
        >>> class_weights(torch.zeros(2, 3), torch.tensor([0, 2]), ()).squeeze()
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
    """
    classes = logits.shape[1]
    if target.ndim <= 2 and not target.is_floating_point():
        positions = target.reshape(len(target), -1)
        known = positions != IGNORED
        one_hot = F.one_hot(positions.clamp_min(0), classes).transpose(1, 2) * known[:, None]
        return (one_hot / known.sum(1)[:, None, None].clamp_min(1))[:, None]
    if target.ndim == 2:
        inside = (target >= 0)[..., None].float()
        members = torch.stack([1 - inside, inside], dim=2)
    elif target.shape[1] == classes:
        known = target != UNKNOWN
        inside = torch.where(known, target, 0).float()
        members = torch.stack([known.float() - inside, inside], dim=2)
    else:
        members = F.one_hot(target[:, 0].long(), classes).movedim(-1, 1)[:, None].float()
    if grid:
        x, y, z = grid
        members = F.adaptive_avg_pool3d(members.flatten(1, 2), (x, y, z)).unflatten(1, members.shape[1:3])
    members = members.flatten(3)
    size = members.sum(3, keepdim=True)
    spread = members / torch.where(size > 0, size, 1)
    occurring = (size > 0).sum(2, keepdim=True)
    groups = (occurring > 0).sum(1, keepdim=True)
    return spread / occurring.clamp_min(1) / groups.clamp_min(1)


def position_features(features: Features, positions: int) -> Tensor:
    """The encoder's last map as ``(sample, channel, position)`` in float32, of the samples that have the modality.

    Args:
        features: of one modality.
        positions: for which there are class weights; a sequence whose target is one of the whole is averaged.
    """
    maps = features.maps[-1].float()
    maps = maps[..., None] if maps.ndim == 2 else maps.flatten(2)
    valid = features.valid
    if features.rows is not None:
        maps = maps[features.rows]
        valid = None if valid is None else valid[features.rows]
    if maps.shape[2] == positions:
        return maps
    if valid is None:
        return maps.mean(2, keepdim=True)
    known = valid[:, None].to(maps.dtype)
    return (maps * known).sum(2, keepdim=True) / known.sum(2, keepdim=True).clamp_min(1)


class Nearness(NamedTuple):
    """How near the samples of a batch are to the prototypes.

    Attributes:
        loss: cross-entropy of the classes, the mean over samples.
        entropy: of the classes, the mean over samples.
        sums: additive sums ``(1, 3)`` of the true class's probability, see ``objectives.balance_scores``.
    """

    loss: Tensor
    entropy: Tensor
    sums: Tensor


class Prototypes(nn.Module):
    """The prototype of each class in one modality, ``(group, class, channel)``.

    Within an epoch, weighted features are added up. At its end their mean enters the prototype with weight
    ``1 - momentum``, or is the prototype, if the class has none yet. In the first epoch the mean so far stands for it.

    Buffers, empty before the first features: ``mean`` of the epochs before, and ``epochs``, in how many of them a class
    occurred ``(group, class)``; ``total`` of this epoch, and its ``weight`` ``(group, class)``.
    """

    mean: Tensor
    epochs: Tensor
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "epochs", "total", "weight"):
            self.register_buffer(name, torch.zeros(0))

    @property
    def known(self) -> bool:
        """Whether there are any."""
        return self.mean.numel() > 0

    def add(self, total: Tensor, weight: Tensor, usable: Tensor) -> None:
        """Add features of this epoch.

        Args:
            total: ``(group, class, channel)``, weighted sum.
            weight: ``(group, class)``, sum of the weights.
            usable: boolean scalar; if False, nothing changes.
        """
        if not self.known:
            self.mean, self.total = torch.zeros_like(total), torch.zeros_like(total)
            self.epochs, self.weight = torch.zeros_like(weight), torch.zeros_like(weight)
        self.total += torch.where(usable, total, 0)
        self.weight += torch.where(usable, weight, 0)

    def end_epoch(self, momentum: float) -> None:
        """Let the mean of this epoch enter the prototypes: ``momentum * before + (1 - momentum) * epoch``."""
        if self.known:
            occurred = self.weight > 0
            epoch, _ = self._of_epoch()
            kept = torch.where(self.epochs > 0, momentum, 0.0)[..., None]
            self.mean = torch.where(occurred[..., None], kept * self.mean + (1 - kept) * epoch, self.mean)
            self.epochs = self.epochs + occurred
            self.total, self.weight = torch.zeros_like(self.total), torch.zeros_like(self.weight)

    def current(self) -> tuple[Tensor, Tensor]:
        """The prototypes ``(group, class, channel)``, and which classes have one, ``(group, class)``."""
        epoch, occurred = self._of_epoch()
        earlier = self.epochs > 0
        return torch.where(earlier[..., None], self.mean, epoch), earlier | occurred

    def _of_epoch(self) -> tuple[Tensor, Tensor]:
        occurred = self.weight > 0
        return self.total / torch.where(occurred, self.weight, 1)[..., None], occurred

    def nearness(self, features: Tensor, weights: Tensor) -> Nearness:
        """Compare a batch with the prototypes: ``p_c = softmax over the group's classes of -|h - prototype_c|``.

        Args:
            features: ``(sample, channel, position)``.
            weights: ``(sample, group, class, position)``, see ``class_weights``.
        """
        prototypes, has_one = self.current()
        groups, classes = has_one.shape
        with torch.autocast(features.device.type, enabled=False):
            distance = torch.cdist(
                features.transpose(1, 2),
                prototypes.flatten(0, 1)[None],
                compute_mode="donot_use_mm_for_euclid_dist",  # which loses the digits of small distances
            )
        distance = distance.transpose(1, 2).unflatten(1, (groups, classes))
        # Where no class of a group has a prototype, all are alike, and nothing of it counts.
        comparable = (has_one | ~has_one.any(1, keepdim=True))[:, :, None]
        log_p = torch.where(comparable, -distance, NEVER.to(distance)).log_softmax(2)
        probability = log_p.exp()
        log_p = torch.where(comparable, log_p, 0)
        counted = weights * has_one[:, :, None]
        entropy = -(probability * log_p).sum(2, keepdim=True)
        samples = max(len(features), 1)
        correct, whole = (counted * probability.detach()).sum(), counted.sum()
        return Nearness(
            -(counted * log_p).sum() / samples,
            (counted * entropy).sum() / samples,
            torch.stack([correct, whole, whole])[None],
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Take the shapes that were saved: only the features tell how many classes and channels there are."""
        for name, buffer in list(self.named_buffers()):
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != buffer.shape:
                setattr(self, name, torch.zeros_like(saved, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def weighted_sums(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """What ``Prototypes.add`` needs of a batch, without gradients; see ``Prototypes.nearness`` for the arguments."""
    total = torch.einsum("scp,sgkp->gkc", features.detach(), weights)
    return total, weights.sum((0, 3))
