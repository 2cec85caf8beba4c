"""The contract of a balancing strategy: hooks in the training step, each a no-op by default.

Before the first step of an epoch comes ``start_epoch``. One training step, and where each hook sits in it
(``training.step``)::

    for each part of the batch:
        [see] -> encode -> [adapt_features] -> fuse, head, classifier heads -> [watch] -> [losses] -> [backward]
    [combine] -> clip -> [modulate] -> optimizer step
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cggm_med.config import Tree
from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.activation import Average
from cggm_med.objectives.balance_scores import ScoreSums, mean_score
from cggm_med.optim.exchange import GradientExchange
from cggm_med.optim.optimizer import scale_updates
from cggm_med.randomness import Step
from cggm_med.types import Batch, Features, Outputs, UnimodalOutput

Criterion = Callable[[Tensor, Tensor], Tensor]
# Of a split, ``train`` or ``validation``: the mean losses of its cases, see ``BalancingStrategy.start_epoch``.
MeasuredLosses = Callable[[str], Mapping[str, Tensor]]

RECENT = 0.9  # decay of the running mean of the scores


@dataclass(frozen=True)
class StrategyConfig:
    """Settings that every strategy has.

    Attributes:
        name: registered name.
        UNSTATED: what keys meant in runs from before they existed, where that is not their default (ADR 0036).
    """

    name: str

    UNSTATED: ClassVar[Tree] = {}


class BalancingStrategy(nn.Module):
    """Base of all strategies: classifier heads that observe each modality, and hooks that do nothing.

    Coefficients are buffers and heads are modules, so ``state_dict`` resumes exactly. Buffers, ``(modality,)`` each:
    ``score`` of the last step, its running mean ``recent`` (without bias correction), and ``seen``, the count of steps.

    Where cases lack modalities, a modality is scored and its own loss taken over the samples that have it; what is
    remembered of a modality that no sample of a batch has does not change.

    Attributes:
        Config: frozen dataclass of the strategy's settings.
        description: one line for ``cggm-med strategies``.
        url: the paper.
        controls: registered names of the strategies beside which it has to be seen, since they are what it is without
            its rule; a comparison names those that it lacks.
        modulates: whether it changes the update of every encoder.
        measures_losses: whether ``start_epoch`` measures losses of validation cases, which a run must then have.
        teacher: the strategy of the finished run that it learns from, whose folder is its setting ``teacher``; empty if
            it needs none.
        from_shares: whether modalities are scored by their share of a linear fused head, where the model has one,
            instead of by their classifier heads.
        heads: classifier heads on each modality's features, or None.
        exchange: of gradients with other processes; None: at once, in ``combine``.
    """

    Config: ClassVar[type[StrategyConfig]] = StrategyConfig
    description: ClassVar[str] = ""
    url: ClassVar[str] = ""
    controls: ClassVar[Sequence[str]] = ("joint", "unimodal_ensemble")
    modulates: ClassVar[bool] = False
    measures_losses: ClassVar[bool] = False
    teacher: ClassVar[str] = ""
    from_shares: ClassVar[bool] = False
    config: Any
    heads: UnimodalHeads | None
    exchange: GradientExchange | None = None
    score: Tensor
    recent: Tensor
    seen: Tensor

    def __init__(self, config: StrategyConfig) -> None:
        super().__init__()
        self.config = config
        self.register_module("heads", None)

    @classmethod
    def network(
        cls, modalities: Sequence[str], make: Callable[[Sequence[str]], MultimodalModel], average: Average
    ) -> MultimodalModel:
        """The network to train, where it is not simply the task's; called whenever a run's network is made.

        Args:
            modalities: of the run.
            make: makes the task's network of some of these.
            average: see ``models.ensemble.Ensemble``.
        """
        return make(modalities)

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """Settings that come with the strategy, above those of a preset of the task and below the user's.

        Args:
            task: registered name, for settings that the authors chose by data set.
        """
        return {}

    @property
    def unimodal_weight(self) -> float:
        """Factor on the heads' gradient that reaches the encoders; with 0 the heads only observe."""
        return 0.0

    @property
    def has_heads(self) -> bool:
        """Whether classifier heads are trained."""
        return True

    def check_parts(self, parts: int) -> None:
        """Refuse a batch that comes in parts (``train.accumulate``), if this cannot be computed of parts.

        Raises:
            ConfigError: naming the setting that needs the whole batch at once.
        """

    def setup(
        self,
        model: MultimodalModel,
        make_heads: Callable[[], UnimodalHeads],
        score_sums: ScoreSums,
        steps_per_epoch: int,
        hard_score_sums: ScoreSums | None = None,
    ) -> None:
        """Create heads and buffers, once, before training or loading.

        Args:
            model: the network to balance.
            make_heads: creates the task's classifier heads; not called where the network has heads of its own, which
                are then the strategy's as well.
            score_sums: maps logits and target to additive sums ``(target, 3)``, see ``objectives.balance_scores``.
            steps_per_epoch: optimizer steps in an epoch.
            hard_score_sums: the same of predicted classes or masks instead of probabilities; None where the task has
                none.

        Raises:
            ValueError: if a modality matches no parameter.
        """
        for modality in model.modalities:
            model.modality_parameters(modality)
        self.modalities = model.modalities
        self.score_sums = score_sums
        self.steps_per_epoch = steps_per_epoch
        if self.has_heads:
            self.heads = make_heads() if model.heads is None else model.heads
        self.prepare(model)

    def prepare(self, model: MultimodalModel) -> None:
        """Register buffers; the last part of ``setup``."""
        for name in ("score", "recent", "seen"):
            self.register_buffer(name, torch.zeros(len(model.modalities)))
        self._sums: dict[str, Tensor] = {}
        self.incomplete = False  # whether cases lack modalities, the same in all processes

    def start_epoch(self, model: MultimodalModel, epoch: int, losses: MeasuredLosses) -> None:
        """Look back on the epochs so far, before the first step of an epoch.

        Args:
            model: the network.
            epoch: number of the epoch that starts, from 0.
            losses: measures cases of a split, ``train`` or ``validation``, without augmentation and in evaluation mode:
                the mean loss of the fused prediction (``task``) and of each classifier head (by modality), scalars on
                the device, the same in all processes. Nothing is computed unless it is called.
        """

    def learn_from(self, teacher: MultimodalModel) -> None:
        """Receive the network of the finished run that ``teacher`` asks for, once, before training.

        Args:
            teacher: on the device, in evaluation mode, its parameters frozen.
        """

    def see(self, part: Batch, step: Step) -> None:
        """Look at a part of the batch, on the device, before it is encoded."""

    def adapt_features(self, features: dict[str, Features], step: Step) -> dict[str, Features]:
        """Change the features before fusion, such as by leaving a modality out. The heads always see all features."""
        return features

    def unimodal(self, features: Mapping[str, Features]) -> dict[str, UnimodalOutput]:
        """Each present modality's own prediction."""
        return {} if self.heads is None else self.heads(features, encoder_weight=self.unimodal_weight)

    @torch.no_grad()
    def watch(self, model: MultimodalModel, outputs: Outputs, target: Tensor, step: Step) -> None:
        """Score each present modality on the whole batch, then ``observe`` the scores, without waiting for the device.

        The only place where modalities are scored. A modality's logits are its share of the fused head, if
        ``from_shares`` and the head is linear in the concatenated features, otherwise those of its classifier head.
        """
        shares = model.linear_shares(outputs.features) if self.from_shares else None
        own = {m: UnimodalOutput(x, x) for m, x in (shares or {}).items()}
        own = {m: output.of(outputs.features[m].rows) for m, output in own.items()} or outputs.unimodal
        for modality, output in own.items():
            sums = self.score_sums(output.logits, output.target(target))
            self._sums[modality] = self._sums[modality] + sums if modality in self._sums else sums
        self.incomplete = step.counts is not None
        if step.last and self._sums:
            present = step.modalities(m for m in self.modalities if m in self._sums)
            nothing = torch.zeros_like(next(iter(self._sums.values())))
            sums = sum_over_processes(torch.stack([self._sums.get(m, nothing) for m in present]))
            self._sums = {}
            score, usable = mean_score(sums)
            rows = self.rows(present)
            self.keep(rows, usable, score=score)
            recent = RECENT * self.recent[rows] + (1 - RECENT) * score
            self.keep(rows, usable, recent=recent, seen=self.seen[rows] + 1)
            self.observe(rows, score, usable, step)

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """Learn from the scores of one step.

        Args:
            rows: index of the present modalities in ``(modality,)`` buffers.
            score: ``(present,)`` in [0, 1], higher is better, the same on all processes.
            usable: boolean scalar on the device; if False (a score is not finite, or nothing of the target occurred),
                no state may change; ``keep`` ensures that.
            step: where training stands.
        """

    def losses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> dict[str, Tensor]:
        """Named scalar losses, whose sum ``backward`` differentiates. A head's loss is named after its modality."""
        own = {
            modality: step.weigh(modality, fused_loss(output, output.target(target), criterion), len(output.logits))
            for modality, output in outputs.unimodal.items()
        }
        return {"task": fused_loss(outputs, target, criterion), **own}

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """Add this part of the batch to ``.grad``.

        With the last part, gradients may be on their way to other processes (``train.exchange``) as soon as a backward
        pass has completed them. Change them in ``combine``.
        """
        torch.stack(list(losses.values())).sum().backward()

    def combine(self, model: MultimodalModel) -> None:
        """Finish ``.grad`` when the batch is complete: by default the mean over all processes."""
        exchange = self.exchange or GradientExchange([*model.parameters(), *self.parameters()], overlap=False)
        exchange.finish(some_lack=self.incomplete)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale each modality's update, after clipping and before the optimizer's step."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Tensors to log: one value per modality, in the model's order, or a scalar. They stay on the device."""
        return {"score": self.score.clone()}

    @property
    def recent_score(self) -> Tensor:
        """Running mean of each modality's score, ``(modality,)``; 0 before the first."""
        return self.recent / (1 - RECENT**self.seen).clamp_min(1e-8)

    def guide(self, modalities: Iterable[str]) -> Tensor | None:
        """Recent scores of these modalities, ``(modality,)``, or None without heads."""
        return None if self.heads is None else self.recent_score[self.rows(modalities)]

    def rows(self, present: Iterable[str]) -> Any:
        """Index into ``(modality,)`` buffers."""
        present = tuple(present)
        return slice(None) if present == self.modalities else [self.modalities.index(m) for m in present]

    def keep(self, rows: Any, usable: Tensor, **values: Tensor) -> None:
        """Write new values to buffers, unless the step is not usable."""
        write_where(self, rows, usable, **values)


class FactorStrategy(BalancingStrategy):
    """Base of strategies that multiply each encoder's update by a factor.

    Further buffers: ``factor`` ``(modality,)``, and ``sign_flips``, how often one was negative. The factor of a
    modality that is missing in a batch does not change.
    """

    modulates = True
    factor: Tensor
    sign_flips: Tensor

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        self.register_buffer("factor", torch.ones(len(model.modalities)))
        self.register_buffer("sign_flips", torch.zeros(()))

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """Factors of the present modalities, ``(present,)``, from their scores; see ``observe``."""
        return torch.ones_like(score)

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """Set the factors."""
        self.set_factors(rows, self.factors(rows, score, usable, step), usable)

    def set_factors(self, rows: Any, factor: Tensor, usable: Tensor) -> None:
        """Write factors, unless the step is not usable or one of them is not finite."""
        usable = usable & torch.isfinite(factor).all()
        self.keep(rows, usable, factor=factor)
        self.sign_flips += torch.where(usable, (factor < 0).sum(), 0)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale each encoder's update by its factor."""
        scale_updates(optimizer, dict(zip(self.modalities, self.factor.unbind(), strict=True)))

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score and factor, and how many factors were negative so far."""
        return {**super().diagnostics(), "factor": self.factor.clone(), "sign_flips": self.sign_flips.clone()}


def fused_loss(outputs: Outputs | UnimodalOutput, target: Tensor, criterion: Criterion) -> Tensor:
    """Loss of a network's prediction; with deep supervision each coarser scale counts half the one before."""
    scales = (outputs.logits, *outputs.deep_logits)
    weights = [0.5**i for i in range(len(scales))]
    total = torch.stack([w * criterion(x, target) for w, x in zip(weights, scales, strict=True)]).sum()
    return total / sum(weights)


def write_where(module: nn.Module, rows: Any, usable: Tensor, **values: Tensor) -> None:
    """Write to rows of buffers where ``usable``, a boolean scalar, is True."""
    for name, value in values.items():
        buffer = getattr(module, name)
        buffer[rows] = torch.where(usable, value, buffer[rows])
