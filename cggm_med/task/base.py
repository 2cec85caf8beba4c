"""The contract of a task: its modalities and targets, its data, its network, and how it is scored."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree, require
from cggm_med.data.splits import Member, Splits, read_splits, split_by_group
from cggm_med.data.step_sampler import StepSampler
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.activation import average_classes
from cggm_med.objectives.balance_scores import ScoreSums
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.results.tables import Table
from cggm_med.task.capabilities import LabelledSamples, UnlabelledSamples, Volumes
from cggm_med.types import Batch


@dataclass(frozen=True)
class TaskConfig:
    """Settings that every task has.

    Attributes:
        name: registered name.
        modalities: to train on, a subset of the task's known modalities; default: all of them.
    """

    name: str
    modalities: tuple[str, ...]


@dataclass(frozen=True)
class CaseResult:
    """One evaluated case.

    Attributes:
        case: its id.
        findings: what the task's ``summarise`` needs of it, as plain values, since they may come from another process.
        draw: writes a picture of the case to a file, if the task can draw one.
        score: higher is better; selects the worst cases to draw, None where none are.
        loss: of the fused prediction, see ``Task.says_loss``; None where it was not computed.
    """

    case: str
    findings: Mapping[str, Any]
    draw: Callable[[Path], None] | None = None
    score: float | None = None
    loss: float | None = None


class Task(ABC):
    """A task defines what is learned: its data, its network and its metrics. It never trains.

    It is created from a run's settings; ``find`` and ``prepare`` then find and check its data.

    Attributes:
        TaskConfig: dataclass of the section ``task``; a task that adds no setting keeps that of its base class.
        DataConfig: dataclass of the section ``data``; has ``path``, ``cache`` and ``workers``, and for
            ``default_splits`` ``splits``, ``validation`` and ``test``.
        ModelConfig: dataclass of the section ``model``.
        presets: named settings, chosen by ``--preset``; see ``default_preset``.
        description: one line for ``cggm-med tasks``.
        url: where the data come from.
        known_modalities: every modality that the task can be trained on.
        targets: names of the predicted regions, classes or values.
        chosen_by: name of the headline metric that decides which checkpoint is the best.
        lower_is_better: whether lower is better in that metric.
        group_kind: what no split may divide, such as ``patient``; for messages.
        conventions: of label files, by name; empty if the task does not segment.
        says_loss: whether ``evaluate`` computes the loss of validation cases in training.
        cheap_heads: whether scoring the classifier heads too makes a validation hardly slower.
        chance_rule: how a prediction without any modality is scored, in a few words.
    """

    TaskConfig: ClassVar[type[TaskConfig]] = TaskConfig
    DataConfig: ClassVar[type]
    ModelConfig: ClassVar[type]
    presets: ClassVar[Mapping[str, Tree]] = {}
    description: ClassVar[str] = ""
    url: ClassVar[str] = ""
    known_modalities: tuple[str, ...]
    targets: tuple[str, ...]
    chosen_by: ClassVar[str]
    lower_is_better: ClassVar[bool] = False
    group_kind: ClassVar[str] = "sample"
    conventions: Mapping[str, LabelConvention] = {}
    says_loss: ClassVar[bool] = False
    cheap_heads: ClassVar[bool] = False
    chance_rule: ClassVar[str] = ""

    splits: Splits

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.modalities: tuple[str, ...] = config.task.modalities
        for modality in self.modalities:
            if modality not in self.known_modalities:
                raise UnknownName("modality", modality, self.known_modalities)
        require(len(self.modalities) > 0, "task.modalities", [], "at least one of " + ", ".join(self.known_modalities))
        unique = len(set(self.modalities)) == len(self.modalities)
        require(unique, "task.modalities", list(self.modalities), "each modality once")

    @property
    def config(self) -> RunConfig:
        """The run's config; complete and final once ``prepare`` is done."""
        return self._config

    def settle(self, **sections: Any) -> None:
        """Set what only the data can decide, such as a common voxel size (ADR 0028).

        Called by ``find`` and ``prepare``, and for the length of an epoch before training starts. A finished run has
        these values in its settings, and its tasks keep them.

        Args:
            sections: by name, such as ``data``.
        """
        self._config = replace(self._config, **sections)

    @classmethod
    def settings_of_data(cls, path: Path | None, stated: Tree) -> Tree:
        """Settings that follow from the data; the preset and the user's settings take precedence.

        Asked once, when a run is configured; a finished run has them in its own settings.

        Args:
            path: ``data.path``; None for the embedded data.
            stated: what the preset and the user say, around which the rest may be planned.

        Raises:
            DataError: if the data do not say what the task needs to know.
        """
        return {}

    @classmethod
    def compared_on(cls, seed: int) -> Tree:
        """Settings that ``compare`` gives to the runs of a seed on embedded data, below those of the user.

        By default none: all seeds divide the same data.

        Args:
            seed: of the runs.
        """
        return {}

    @classmethod
    def default_preset(cls, embedded: bool) -> str:
        """The preset when none is given: ``tiny`` if the task makes its own data, else ``base`` or ``paper``.

        Args:
            embedded: whether the task makes its own data.
        """
        given = "base" if "base" in cls.presets else "paper"
        return "tiny" if embedded else given

    # --- data: the cases, and the batches made of them ---

    @abstractmethod
    def find(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Find the data on disk, without reading them in full, and return the ids of all cases.

        Args:
            say: receives lines of progress.

        Raises:
            DataError: if files are missing or their names are ambiguous; lists every bad case.
        """

    @property
    def members(self) -> Sequence[Member]:
        """Every case that ``find`` found, with its group."""
        raise ConfigError(f"task '{self.config.task.name}' does not say which cases belong together")

    @property
    def groups(self) -> dict[str, str]:
        """The group of each case of the splits, where the task knows it: statistics draw groups as a whole."""
        used = {case for _, cases in self.splits.items() for case in cases}
        try:
            return {member.id: member.group for member in self.members if member.id in used}
        except ConfigError:
            return {}

    @property
    def own_folds(self) -> tuple[str, ...]:
        """Settings, each of which chooses one fold of the data set's own, where it has files for each fold.

        ``SECTION.KEY=VALUE``, such as ``data.fold=1``; together they make up a cross-validation.
        """
        return ()

    @property
    def own_splits(self) -> Splits | None:
        """The splits that the data themselves declare, None if they declare none."""
        return None

    def default_splits(self) -> Splits:
        """Which cases to train, choose and test on: from ``data.splits``, else the data's own, else drawn by group."""
        data, kind = self.config.data, self.group_kind
        if data.splits is not None:
            return read_splits(Path(data.splits), self.members, kind)
        if (own := self.own_splits) is not None:
            return own
        seed = self.config.train.seed
        return split_by_group(self.members, validation=data.validation, test=data.test, seed=seed, kind=kind)

    @abstractmethod
    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Check and preprocess the cases of ``splits``, which are the task's splits from now on.

        Settings that the data decide are set by ``settle``.

        Raises:
            DataError: lists every problem of every case.
        """

    def overview(self) -> tuple[Table, ...]:
        """What one should know of the prepared data before training; printed before the first step."""
        return ()

    @abstractmethod
    def contents(self) -> dict[str, dict[str, str]]:
        """Digests of the content of each prepared case.

        ``prepared`` covers all numbers that the network sees, the others one source file each, by which a case is
        recognised even if it was renamed or prepared in another way.
        """

    def findings(self) -> Tree:
        """What checks of the prepared cases saw, and what of it was accepted, as plain values.

        ``accepted``: names of kinds; ``findings``: of each its kind, severity, case, roles and what was seen.
        """
        return {"accepted": [], "findings": []}

    def recall(self, facts: Tree) -> None:  # noqa: B027 - a task may know nothing
        """Take what a finished run knows of the cases that it learned from, to judge others by; see ``facts``."""

    def familiar(self) -> Sequence[str]:
        """Prepared cases whose content is known from ``recall``, though their files may be others."""
        return ()

    def facts(self) -> Tree:
        """What using the trained network takes besides settings and weights, as plain values."""
        return {}

    def step_sampler(self, first_step: int) -> StepSampler:
        """The samples of this process in each remaining step."""
        train, rank, size = self.config.train, distributed.rank(), distributed.world_size()
        return StepSampler(first_step, train.steps, train.steps_per_epoch, train.batch_size, rank, size)

    @abstractmethod
    def batches(self, first_step: int, pin_memory: bool) -> Iterable[Batch]:
        """The batch of each remaining step, or this process's share of it."""

    def evaluation_batches(self, cases: Sequence[str]) -> Iterable[Batch]:
        """Batches of these cases, the same at each call, without augmentation, on the CPU.

        Only strategies that measure losses of cases need them.

        Args:
            cases: ids.

        Raises:
            ConfigError: if the task does not support this.
        """
        raise ConfigError(
            f"task '{self.config.task.name}' does not measure losses of cases, as strategy "
            f"'{self.config.strategy.name}' does; it needs evaluation_batches"
        )

    # --- network and loss ---

    @abstractmethod
    def model(self) -> MultimodalModel:
        """A new network with random weights."""

    def average(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Logits of the mean of several predictions, see ``models.ensemble.Ensemble``; of classes by default."""
        return average_classes(logits, weights)

    def network(self, strategy: str | None = None) -> MultimodalModel:
        """A new network of the run: ``model``, or what the strategy makes of it.

        Args:
            strategy: registered name; default: that of the run.
        """
        cls = registry.load(registry.STRATEGIES, strategy or self.config.strategy.name)
        network: MultimodalModel = cls.network(self.modalities, self._model_of, self.average)
        return network

    def _model_of(self, modalities: Sequence[str]) -> MultimodalModel:
        """``model`` of a run of these modalities."""
        run = copy.copy(self)
        run.modalities = tuple(modalities)
        task = replace(self.config.task, modalities=run.modalities)
        run._config = replace(self.config, task=task, model=self.model_settings(run.modalities))
        return run.model()

    def model_settings(self, modalities: Sequence[str]) -> Any:
        """The settings of a network of these of the run's modalities; a task that settles some for each selects them.

        See ``cggm_med.task.samples.with_channels_of``.
        """
        return self.config.model

    @abstractmethod
    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """New classifier heads, one for each of the model's modalities."""

    def start_from_data(self, model: MultimodalModel, heads: UnimodalHeads | None) -> None:
        """Change new weights by what the training cases say, once, before the first step; nothing by default.

        Args:
            model: as ``network`` made it.
            heads: the strategy's, if it has any.
        """
        return

    @abstractmethod
    def criterion(self) -> nn.Module:
        """The loss, a function of logits and target; also takes the logits of the classifier heads."""

    @abstractmethod
    def score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Additive sums ``(target, 3)`` for a balance score in [0, 1]; see ``BalancingStrategy.setup``."""

    def hard_score_sums(self) -> ScoreSums | None:
        """Additive sums like ``score_sums``, of predicted classes or masks instead of probabilities, if it has any."""
        return None

    # --- what follows training ---

    def fit_postprocessing(
        self,
        model: MultimodalModel,
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], object],
    ) -> Tree:
        """Choose on the validation cases what turns the network's output into answers; nothing by default.

        The processes share the cases.

        Args:
            model: with the run's final weights.
            device: where the model is.
            autocast: context for the network's computations.
            say: receives lines of progress.

        Returns:
            Plain values for ``use_postprocessing``, the same on all processes; stored with the run if there are any.
        """
        return {}

    def use_postprocessing(self, fitted: Tree) -> None:
        """Predict from now on with what was chosen.

        Args:
            fitted: as ``fit_postprocessing`` returned it; empty if the run has not come to that or chose nothing.

        Raises:
            CheckpointError: if what the settings ask for is not there.
        """
        return

    # --- scoring ---

    @abstractmethod
    def evaluate(
        self,
        model: MultimodalModel,
        heads: UnimodalHeads | None,
        cases: Sequence[str],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        full: bool,
    ) -> Iterator[CaseResult]:
        """Predict and score cases, one after the other.

        Args:
            model: in evaluation mode.
            heads: to score each modality on its own, or None.
            cases: ids.
            device: where the model is.
            autocast: context for the network's computations.
            full: also compute what is too slow for every validation, such as surface distances.
        """

    def evaluate_subsets(
        self,
        model: MultimodalModel,
        subsets: Sequence[tuple[str, ...]],
        cases: Sequence[str],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[CaseResult]:
        """Predict cases from each of several modality subsets, as if the other modalities did not exist.

        Every modality should be encoded only once for all subsets.

        Args:
            model: in evaluation mode.
            subsets: modalities, each subset in the order of the model's.
            cases: ids.
            device: where the model is.
            autocast: context for the network's computations.

        Returns:
            For each case, by subset (names joined by ``+``), the findings that ``summarise`` needs, without those of
            heads.

        Raises:
            ConfigError: if the task does not support this.
        """
        raise ConfigError(f"task '{self.config.task.name}' does not score subsets; it needs evaluate_subsets")

    def chance(self, results: Sequence[CaseResult]) -> Mapping[str, float | None]:
        """The headline metrics of a prediction without any modality, for Shapley values; see ``chance_rule``.

        Args:
            results: of the cases, from any subset.
        """
        raise ConfigError(f"task '{self.config.task.name}' does not say what is scored without any modality")

    @abstractmethod
    def summarise(self, results: Sequence[CaseResult]) -> Scores:
        """The scores of all these cases together."""

    def modality_scores(self, scores: Scores) -> dict[str, float | None]:
        """The metric ``chosen_by`` of each modality's own head, from the scores of findings with heads."""
        return {}

    @classmethod
    def case_values(cls, cases: Sequence[Record]) -> CaseValues:
        """What each case adds to the metrics that are means over cases, for statistics of comparisons.

        Args:
            cases: rows of ``Scores.cases``.
        """
        return {}

    def draw(self, results: Sequence[CaseResult], folder: Path) -> None:
        """Write pictures of all these cases together, if the task has any."""
        return

    @abstractmethod
    def rules(self) -> dict[str, str]:
        """How the scores are defined, for the report."""

    def subset_rules(self) -> dict[str, str]:
        """How the scores of ``evaluate_subsets`` are defined; default: as ``rules`` says."""
        return self.rules()

    # --- optional: what evaluations of finished runs need ---

    def labelled_samples(self) -> LabelledSamples | None:
        """What probes and calibration need of a task whose cases carry labels; None if they do not."""
        return None

    def unlabelled_samples(self) -> UnlabelledSamples | None:
        """What prediction needs of a task whose cases carry labels; None if it reads no cases without them."""
        return None

    def volumes(self) -> Volumes | None:
        """What prediction, robustness, probes and calibration need of a task that segments; None if it does not."""
        return None
