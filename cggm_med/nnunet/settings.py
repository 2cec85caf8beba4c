"""What can be set in a training inside nnU-Net: the strategy, how long to train, and on which subsets."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cggm_med import registry
from cggm_med.config import TrainConfig, Tree, build_section, merge, require
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.trees import parse_json

# nnU-Net makes the trainer itself, maybe in another process, so settings reach it through the environment.
VARIABLE = "CGGM_MED_NNUNET_SETTINGS"


@dataclass(frozen=True)
class Training:
    """How long to train, where the defaults are nnU-Net's, and on which subsets of the modalities, as ``TrainConfig``.

    Attributes:
        epochs: number of epochs.
        steps_per_epoch: optimizer steps in an epoch.
        validation_steps: batches by which an epoch is judged.
        checkpoint_every: epochs between two checkpoints from which training can continue.
        modality_dropout: probability of leaving each modality of each sample out of the fusion.
        modality_dropout_draw: see ``TrainConfig``, as all that follow.
        modality_dropout_schedule: of that probability.
        subset_view: weight of a second loss, on a prediction from a random proper subset of the modalities.
        subset_view_schedule: of that weight.
        subset_view_guided: whether most subsets lack the modality that scores best.
        subset_view_every: steps between two such losses.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps: int = 50
    checkpoint_every: int = 50
    modality_dropout: float = 0.0
    modality_dropout_draw: Literal["modality", "subset"] = "modality"
    modality_dropout_schedule: Literal["constant", "annealed"] = "constant"
    subset_view: float = 0.0
    subset_view_schedule: Literal["constant", "annealed"] = "constant"
    subset_view_guided: bool = False
    subset_view_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "validation_steps", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        _ = self.subsets  # which refuses what cannot be

    @property
    def steps(self) -> int:
        """All optimizer steps of the training."""
        return self.epochs * self.steps_per_epoch

    @property
    def subsets(self) -> TrainConfig:
        """What a training step has to know of the subsets."""
        own = {k: v for k, v in asdict(self).items() if k.startswith(("modality_dropout", "subset_view"))}
        return TrainConfig(**own)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a training beside nnU-Net's plan.

    Attributes:
        strategy: settings of the strategy.
        train: how long, and on which subsets.
    """

    strategy: Any
    train: Training


def resolve(strategy: str, tree: Tree) -> Settings:
    """Checked settings of a strategy's training from nested values, above those of ``train`` that it brings.

    Args:
        strategy: registered name.
        tree: sections ``strategy`` and ``train``.

    Raises:
        UnknownName: for an unknown section or key, and for the name of another strategy.
        ConfigError: for a value that cannot be.

    Example:
        >>> resolve("cggm", {"strategy": {"rho": 1.3}}).strategy.rho
        1.3
    """
    for section in tree:
        if section not in ("strategy", "train"):
            raise UnknownName("section of settings inside nnU-Net", str(section), ["strategy", "train"])
    asked = {"name": strategy, **tree.get("strategy", {})}
    if asked["name"] != strategy:
        raise UnknownName("strategy of this trainer", str(asked["name"]), [strategy], "Choose another trainer with -tr")
    balancing = registry.load(registry.STRATEGIES, strategy)
    train = merge([balancing.settings_for("segmentation").get("train", {}), tree.get("train", {})])
    return Settings(build_section(balancing.Config, asked, "strategy"), build_section(Training, train, "train"))


def given() -> Tree:
    """The settings that the environment carries.

    Raises:
        ConfigError: if they are no JSON object.
    """
    text = os.environ.get(VARIABLE, "{}")
    try:
        tree = parse_json(text)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(f'{VARIABLE} is {text!r}, expected JSON such as {{"strategy": {{"rho": 1.3}}}}')
    return tree
