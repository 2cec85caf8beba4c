"""What can be set in a training inside nnU-Net: the strategy, and how long to train."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from cggm_med import registry
from cggm_med.config import Tree, build_section, require
from cggm_med.errors import ConfigError, UnknownName

# nnU-Net makes the trainer itself, maybe in another process, so settings reach it through the environment.
VARIABLE = "CGGM_MED_NNUNET_SETTINGS"


@dataclass(frozen=True)
class Length:
    """How long to train; the defaults are nnU-Net's.

    Attributes:
        epochs: number of epochs.
        steps_per_epoch: optimizer steps in an epoch.
        validation_steps: batches by which an epoch is judged.
        checkpoint_every: epochs between two checkpoints from which training can continue.
    """

    epochs: int = 1000
    steps_per_epoch: int = 250
    validation_steps: int = 50
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            require(value >= 1, f"train.{name}", value, "at least 1")

    @property
    def steps(self) -> int:
        """All optimizer steps of the training."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Settings:
    """Everything that decides a training beside nnU-Net's plan.

    Attributes:
        strategy: settings of the strategy.
        train: how long.
    """

    strategy: Any
    train: Length


def resolve(strategy: str, tree: Tree) -> Settings:
    """Checked settings of a strategy's training from nested values.

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
    config = registry.load(registry.STRATEGIES, strategy).Config
    return Settings(
        build_section(config, asked, "strategy"),
        build_section(Length, tree.get("train", {}), "train"),
    )


def given() -> Tree:
    """The settings that the environment carries.

    Raises:
        ConfigError: if they are no JSON object.
    """
    text = os.environ.get(VARIABLE, "{}")
    try:
        tree = json.loads(text)
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError(f'{VARIABLE} is {text!r}, expected JSON such as {{"strategy": {{"rho": 1.3}}}}')
    return tree
