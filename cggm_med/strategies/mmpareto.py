"""MMPareto, Wei and Hu, ICML 2024, https://arxiv.org/abs/2405.17730.

Each encoder learns from the fused loss and from its own classifier head; where the two gradients conflict, their
shortest combination is taken, which descends on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.optim import Optimizer

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.optim.optimizer import scale_updates
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, StrategyConfig
from cggm_med.strategies.parts.pareto import ParetoGradients, Rescale


@dataclass(frozen=True)
class MMParetoConfig(StrategyConfig):
    """Settings of MMPareto.

    Attributes:
        gamma: factor on each encoder's update; 1.5 is the authors' value for CREMA-D.
        rescale: restore the length of a conflicting gradient for the whole ``encoder``, or for each ``tensor`` as the
            authors' code does, which can turn it away from a common descent.
    """

    gamma: float = 1.5
    rescale: Rescale = "encoder"

    def __post_init__(self) -> None:
        require(self.gamma > 0, "strategy.gamma", self.gamma, "more than 0")


class MMPareto(BalancingStrategy):
    """Two tasks for each encoder, combined without conflict; fusion, decoder and heads use the plain sum."""

    Config: ClassVar[type[StrategyConfig]] = MMParetoConfig
    description = "each encoder's own gradient and the fused one, combined without conflict"
    url = "https://arxiv.org/abs/2405.17730"
    controls: ClassVar[Sequence[str]] = (*BalancingStrategy.controls, "uniform_full", "mmpareto_unscaled")
    modulates = True
    unimodal_weight = 1.0  # the unimodal losses reach the encoders in full
    config: MMParetoConfig
    heads: UnimodalHeads

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        self.pareto = ParetoGradients(len(model.modalities), self.config.rescale)

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """One backward pass for the unimodal losses, one for the others."""
        self.pareto.backward(losses, model, self.heads)

    def combine(self, model: MultimodalModel) -> None:
        """Average over processes, then combine the two gradients of each encoder."""
        super().combine(model)
        self.pareto.combine(model, some_lack=self.incomplete)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale every encoder's update, not its gradient, by gamma: a constant factor on a gradient cancels in Adam."""
        gamma = self.pareto.cosine.new_tensor(self.config.gamma)
        scale_updates(optimizer, dict.fromkeys(model.modalities, gamma))

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score, and the cosine between its encoder's two gradients."""
        return {**super().diagnostics(), "conflict_cosine": self.pareto.cosine.clone()}


@dataclass(frozen=True)
class MMParetoPaperConfig(MMParetoConfig):
    """Settings of MMPareto, with the length restored for each tensor."""

    rescale: Literal["tensor"] = "tensor"


class MMParetoPaper(MMPareto):
    """As the authors' code does it: the length is restored tensor by tensor, so the result need not be a descent."""

    Config = MMParetoPaperConfig
    description = "MMPareto as its authors' code does it: lengths restored tensor by tensor, gamma 1.5"


@dataclass(frozen=True)
class MMParetoUnscaledConfig(StrategyConfig):
    """Settings of MMPareto without gamma.

    Attributes:
        rescale: see MMPareto.
    """

    rescale: Rescale = "encoder"


class MMParetoUnscaled(MMPareto):
    """MMPareto with gamma 1: the rule alone, since another gamma is another learning rate of the encoders."""

    Config = MMParetoUnscaledConfig
    description = "MMPareto's combination of gradients alone, without its larger steps (gamma 1): a control"
    controls = (*BalancingStrategy.controls, "uniform_full")
    modulates = False  # an encoder whose two gradients agree is trained as by uniform_full

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Nothing is scaled."""
