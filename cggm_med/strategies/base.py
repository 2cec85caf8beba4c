"""The contract of a balancing strategy: hooks in the training step, each a no-op by default.

One training step, and where each hook sits in it (``engine.train_step``)::

    encode -> [adapt_features] -> fuse, head -> [losses] -> [backward] -> clip -> [modulate] -> optimizer step
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cggm_med.distributed import average_gradients
from cggm_med.models.base import MultimodalModel
from cggm_med.models.unimodal import UnimodalHeads
from cggm_med.typing import Features, Outputs

Criterion = Callable[[Tensor, Tensor], Tensor]
ScoreSums = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StrategyConfig:
    """Settings that every strategy has.

    Attributes:
        name: registered name.
    """

    name: str


class BalancingStrategy(nn.Module):
    """Base of all strategies.

    Coefficients are buffers and auxiliary heads are modules, so ``state_dict`` resumes exactly.

    Attributes:
        Config: frozen dataclass of the strategy's settings.
        description: one line for ``cggm-med strategies``.
        url: the paper.
        heads: classifier heads on each modality's features, if the strategy trains any.
    """

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    description: ClassVar[str] = ""
    url: ClassVar[str] = ""
    heads: UnimodalHeads | None

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.register_module("heads", None)

    def setup(
        self,
        model: MultimodalModel,
        make_heads: Callable[[], UnimodalHeads],
        score_sums: ScoreSums,
        steps_per_epoch: int,
    ) -> None:
        """Create buffers and heads, once, before training or loading.

        Args:
            model: the network to balance.
            make_heads: creates the task's classifier heads; call it only if they are needed.
            score_sums: maps logits and target to additive sums ``(target, 3)``: numerator and denominator of a score
                in [0, 1] where higher is better, and how much of the target occurred.
            steps_per_epoch: optimizer steps in an epoch.
        """

    def adapt_features(self, features: dict[str, Features], target: Tensor) -> tuple[dict[str, Features], Tensor]:
        """Change what is fused, such as by leaving a modality out."""
        return features, target

    def losses(self, outputs: Outputs, target: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """Named scalar losses; their sum is what ``backward`` differentiates. Coarser predictions count half each."""
        weights = [0.5**i for i in range(1 + len(outputs.deep_logits))]
        every = (outputs.logits, *outputs.deep_logits)
        task = sum((w * criterion(x, target) for w, x in zip(weights, every, strict=True)), torch.zeros(()))
        return {"task": task / sum(weights)}

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """Fill ``.grad``; when it returns, gradients are the mean over all processes."""
        torch.stack(list(losses.values())).sum().backward()
        average_gradients([*model.parameters(), *self.parameters()])

    def modulate(self, model: MultimodalModel, optimizer: Optimizer) -> None:
        """Scale each modality's update, after clipping and before the optimizer's step."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Tensors to log: one value a modality, in the model's order, or a scalar. They stay on the device."""
        return {}


def scale_updates(model: MultimodalModel, optimizer: Optimizer, factors: Mapping[str, Tensor]) -> None:
    """Scale the next update of each modality's parameters by a factor.

    For SGD the gradients are multiplied in place. Adam divides each gradient by its running magnitude, where a factor
    would cancel, so there the learning rate of the modality's parameter group is multiplied instead; the engine sets
    every learning rate anew at the next step.

    Args:
        model: knows which parameters belong to which modality.
        optimizer: its groups carry the key ``modality``.
        factors: scalar tensors by modality.

    Raises:
        ValueError: if a modality matches no parameter.
    """
    adaptive = isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW))
    for modality, factor in factors.items():
        parameters = model.modality_parameters(modality)
        if not adaptive:
            gradients = [p.grad for p in parameters if p.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, factor)
            continue
        groups = [group for group in optimizer.param_groups if group.get("modality") == modality]
        if not groups:
            raise ValueError(f"the optimizer has no parameter group for modality '{modality}'")
        for group in groups:
            # Only the fused optimizer takes a tensor here, and with it nothing waits for the device.
            group["lr"] = group["lr"] * (factor if group.get("fused") else factor.item())
