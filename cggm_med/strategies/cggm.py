"""Classifier-guided gradient modulation (CGGM), Guo et al., NeurIPS 2024, https://arxiv.org/abs/2411.01409.

Classifier heads observe how fast each modality improves; the encoder of a modality that lags gets larger updates, the
encoder of one that leads smaller ones, and the fused gradient may be pulled towards the modalities' own. The paper's
coefficient of modality m is ``B_m = sum_{k != m} d_k / sum_k d_k``, with d_k the change of head k's score between two
batches. Taken literally it has neither mean nor bound, since its denominator crosses zero; so the default applies it to
smoothed, positive quantities (``cggm_coefficients``).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from cggm_med.config import Tree, require
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.balance_scores import ScoreSums
from cggm_med.randomness import Step
from cggm_med.strategies.base import Criterion, FactorStrategy, StrategyConfig
from cggm_med.strategies.parts.cggm_coefficients import RatioCoefficients, StableCoefficients
from cggm_med.strategies.parts.last_layer import cosines, guidance_loss, last_layer_gradients
from cggm_med.types import Outputs

# A total change of accuracies that is less than this is 0 but for rounding: others are at least one in 100,000 samples.
ROUNDING = 1e-6


@dataclass(frozen=True)
class CGGMConfig(StrategyConfig):
    """Settings of CGGM. Those that are None take the value of their mode: stable, or (paper, released).

    Attributes:
        mode: ``stable``; ``paper``, the paper's rule taken literally; or ``released``, what the authors' code does. The
            last two are for ablation.
        unimodal_weight: factor on the heads' gradient that reaches the encoders; 0.3, or (0): detached as in the paper.
        rho: multiplies all factors.
        guidance_weight: weight of the direction term, lambda in the paper; 0, or (0.1), the authors' value for BraTS.
        strength: how far factors may move from one; 0 leaves every encoder alone. Only stable.
        min_factor: smallest factor before rho. Only stable.
        max_factor: largest factor before rho. Only stable.
        warmup_steps: steps with all factors at one; 50 or one epoch, whichever is longer, or (0).
        score: what improvements are those of: ``soft`` balance scores, or (``hard``) ones as in the authors' code:
            accuracy, accuracy of the sign, or Dice of masks. Hard scores may cancel exactly.
    """

    mode: Literal["stable", "paper", "released"] = "stable"
    unimodal_weight: float | None = None
    rho: float = 1.0
    guidance_weight: float | None = None
    strength: float = 0.5
    min_factor: float = 0.5
    max_factor: float = 1.5
    warmup_steps: int | None = None
    score: Literal["soft", "hard"] | None = None

    DEFAULTS: ClassVar = {
        "stable": {"unimodal_weight": 0.3, "guidance_weight": 0.0, "score": "soft"},
        "paper": {"unimodal_weight": 0.0, "guidance_weight": 0.1, "warmup_steps": 0, "score": "hard"},
        "released": {"unimodal_weight": 0.0, "guidance_weight": 0.1, "warmup_steps": 0, "score": "hard"},
    }
    UNSTATED: ClassVar[Tree] = {"score": "soft"}

    def __post_init__(self) -> None:
        for name, value in self.DEFAULTS[self.mode].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # so that the run's settings show what was used
        for name in ("unimodal_weight", "guidance_weight", "strength"):
            require(getattr(self, name) >= 0, f"strategy.{name}", getattr(self, name), "at least 0")
        require(self.rho > 0, "strategy.rho", self.rho, "more than 0")
        require(0 <= self.min_factor < 1, "strategy.min_factor", self.min_factor, "at least 0, below 1")
        require(self.max_factor > 1, "strategy.max_factor", self.max_factor, "more than 1")
        require((self.warmup_steps or 0) >= 0, "strategy.warmup_steps", self.warmup_steps, "at least 0")


class CGGM(FactorStrategy):
    """Heads' losses through the encoders, a factor on each encoder's update, and optionally the direction term.

    With ``unimodal_weight=0`` and ``strength=0`` the model is trained bit for bit as by joint training.

    The direction term ``L_gm = 1/M sum_m (|B_m| - B_m cos(g_m, g_fused))`` compares gradients at the last layers of the
    same batch, in closed form (``last_layer``).

    ``released`` does what the authors' code does, but finds the encoders as that code intends to: gradients are
    multiplied before clipping whatever the optimizer, and the direction term compares parameters, one step late.
    """

    Config: ClassVar[type[StrategyConfig]] = CGGMConfig
    description = "classifier heads through the encoders plus a bounded factor on each encoder's update"
    controls: ClassVar[Sequence[str]] = (*FactorStrategy.controls, "uniform")
    url = "https://arxiv.org/abs/2411.01409"
    config: CGGMConfig
    heads: UnimodalHeads

    def __init__(self, config: CGGMConfig) -> None:
        super().__init__(config)
        if config.mode != "stable":
            warnings.warn(
                f"{config.name} mode={config.mode} is for comparison: its factors have no bound and can be negative; "
                "use strategy cggm with mode=stable to train",
                stacklevel=2,
            )

    def setup(
        self,
        model: MultimodalModel,
        make_heads: Callable[[], UnimodalHeads],
        score_sums: ScoreSums,
        steps_per_epoch: int,
        hard_score_sums: ScoreSums | None = None,
    ) -> None:
        """See the base class.

        Raises:
            ConfigError: if the task has no hard score, and the settings ask for it.
        """
        if self.config.score == "hard":
            if hard_score_sums is None:
                raise ConfigError(
                    "strategy.score is hard, and this task has no accuracy or Dice of a batch; use strategy.score=soft"
                )
            score_sums = hard_score_sums
        super().setup(model, make_heads, score_sums, steps_per_epoch)

    @property
    def unimodal_weight(self) -> float:
        """See the settings."""
        return self.config.unimodal_weight or 0.0

    def check_parts(self, parts: int) -> None:
        """See the base class."""
        weight = self.config.guidance_weight
        if parts > 1 and weight and self.config.mode != "released":
            raise ConfigError(
                f"strategy.guidance_weight is {weight} with train.accumulate {parts}: the direction of a gradient "
                "needs the whole batch at once; set strategy.guidance_weight to 0, or train.accumulate to 1"
            )

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        config = self.config
        self.warmup_steps = max(50, self.steps_per_epoch) if config.warmup_steps is None else config.warmup_steps
        count = len(model.modalities)
        self.coefficients: StableCoefficients | RatioCoefficients
        if config.mode == "stable":
            self.coefficients = StableCoefficients(count, config.strength, config.min_factor, config.max_factor)
        else:
            rounding = ROUNDING if config.score == "hard" else 0.0
            self.coefficients = RatioCoefficients(count, config.mode == "released", rounding)
        if config.mode == "released":
            self.late_guidance = LateGuidance(_weight(model.head))

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """``rho`` times the coefficients of the mode; 1 during the warm-up."""
        coefficients = self.coefficients(rows, score, usable)
        if step.number < self.warmup_steps:
            return torch.ones_like(score)
        return self.config.rho * coefficients

    def losses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> dict[str, Tensor]:
        """The fused loss, each present modality's own, and the direction term if its weight is not 0."""
        losses = super().losses(model, outputs, target, criterion, step)
        weight = self.config.guidance_weight or 0.0
        if weight and self.config.mode == "released":
            losses["guidance"] = weight * self.late_guidance(_weight(model.head))
        elif weight:
            self.check_parts(step.parts)
            pairs = last_layer_gradients(
                model, outputs, target, criterion, heads=self.heads, step=step, differentiable=True
            )
            if not outputs.unimodal.keys() <= pairs.keys():
                raise ValueError(
                    "the direction term compares last layers of one width; make each classifier head's last layer as "
                    "wide as the model's head, or set strategy.guidance_weight to 0"
                )
            coefficients = self.factor[self.rows(pairs)]
            if step.number >= self.warmup_steps:
                coefficients = coefficients / self.config.rho
            losses["guidance"] = weight * guidance_loss(coefficients, cosines(pairs))
        return losses

    def combine(self, model: MultimodalModel) -> None:
        """Average over processes; ``released`` also multiplies here and computes the next step's direction term."""
        super().combine(model)
        if self.config.mode == "released":
            for modality, factor in zip(self.modalities, self.factor.unbind(), strict=True):
                if gradients := model.modality_gradients(modality):
                    torch._foreach_mul_(gradients, factor)
            self.late_guidance.update(model, self.heads, self.factor / self.config.rho)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale each encoder's update by its factor, unless ``combine`` did."""
        if self.config.mode != "released":
            super().modulate(model, optimizer, step)

    def diagnostics(self) -> dict[str, Tensor]:
        """Scores, factors and sign flips; for the ratio also how often it was undefined, and its largest value."""
        values = super().diagnostics()
        if isinstance(self.coefficients, RatioCoefficients):
            values["cancelled"] = self.coefficients.cancelled.clone()
            values["largest_coefficient"] = self.coefficients.largest.clone()
        return values


# Default settings of the authors' scripts by data set; the script of BraTS never clips.
AUTHORS_SETTINGS: dict[str, Tree] = {
    "food101": {"strategy": {"rho": 1.3, "guidance_weight": 0.05}, "optim": {"clip_norm": 0.8}},
    "mosi": {"strategy": {"rho": 1.3, "guidance_weight": 0.2}, "optim": {"clip_norm": 0.8}},
    "iemocap": {"strategy": {"rho": 1.3, "guidance_weight": 0.2}, "optim": {"clip_norm": 0.8}},
    "brats2021": {"strategy": {"rho": 1.0, "guidance_weight": 0.1}, "optim": {"clip_norm": math.inf}},
}


@dataclass(frozen=True)
class CGGMPaperConfig(CGGMConfig):
    """Settings of CGGM, of which those that are None take the value of mode ``paper``."""

    mode: Literal["paper"] = "paper"


class CGGMPaper(CGGM):
    """The paper's rule taken literally: ``rho B_m`` of hard scores, and the direction term.

    ``rho``, lambda and the largest norm of the gradient are the authors' for the data set, whatever the task's preset.
    """

    Config = CGGMPaperConfig
    description = "CGGM's rule taken literally, with the authors' settings for the data set; its factors have no bound"
    controls = FactorStrategy.controls  # its heads teach no encoder

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """The authors' settings, where they have this data set."""
        return AUTHORS_SETTINGS.get(task, {})


@dataclass(frozen=True)
class CGGMReleasedConfig(CGGMConfig):
    """Settings of CGGM, of which those that are None take the value of mode ``released``."""

    mode: Literal["released"] = "released"


class CGGMReleased(CGGM):
    """What the authors' code does, with its settings for the data set, whatever the task's preset."""

    Config = CGGMReleasedConfig
    description = "CGGM as its authors' code does it, with its settings for the data set; its factors have no bound"
    controls = FactorStrategy.controls  # its heads teach no encoder

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """See ``CGGMPaper``."""
        return AUTHORS_SETTINGS.get(task, {})


class LateGuidance(nn.Module):
    """The direction term of the authors' code: cosines of last-layer parameters, applied one step late.

    Its gradient reaches the fused head's weight alone and was computed at that weight's old value, so the value and
    that gradient are all that must be stored. Buffers: ``value`` (scalar) and ``gradient``, shaped like the weight.

    Args:
        weight: of the fused head.
    """

    value: Tensor
    gradient: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("gradient", torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The previous step's value, whose derivative is the previous step's gradient."""
        return self.value + (self.gradient * (weight - weight.detach())).sum()

    @torch.enable_grad()
    def update(self, model: MultimodalModel, heads: UnimodalHeads, coefficients: Tensor) -> None:
        """Compute value and gradient for the next step from the parameters before this step."""
        cosine = torch.stack(
            [
                F.cosine_similarity(heads.last_weight(m).detach().flatten(), model.head_weight(m).flatten(), dim=0)
                for m in model.modalities
            ]
        )
        value = guidance_loss(coefficients, cosine)
        (gradient,) = torch.autograd.grad(value, _weight(model.head))
        self.value.copy_(value.detach())
        self.gradient.copy_(gradient)


def _weight(head: nn.Module) -> Tensor:
    return next(p for p in head.parameters() if p.ndim > 1)
