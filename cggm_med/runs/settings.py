"""Resolve layers of settings into a run's config, with the presets of its task and what its strategy brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree, merge, require, resolve, to_tree
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.objectives.subsets import require_guidable
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task


def make_config(
    task: str,
    layers: Sequence[Tree],
    preset: str | None = None,
    strategy: str | None = None,
    *,
    stored: bool = False,
) -> RunConfig:
    """Resolve settings: defaults < what follows from the data < preset < what the strategy brings < ``layers``.

    Args:
        task: registered name.
        layers: nested settings, such as a file's and the command line's.
        preset: name of one of the task's presets; default: that of the layers, else the one that suits the data.
        strategy: registered name; default: that of the layers, else ``cggm``.
        stored: whether the layers hold all settings of a run. What its preset says by now, and where its data are, does
            not matter then; keys that are newer than the run get what they meant in it.

    Raises:
        UnknownName: for an unknown task, strategy, preset or key.
        ConfigError: for an impossible value, for settings of another strategy, and for a strategy that needs a setting
            which the task does not have.

    Example:
        >>> make_config("brats2021", [{"optim": {"lr": 0.01}}]).preset
        'tiny'
    """
    cls = registry.load(registry.TASKS, task)
    stated = merge(layers)
    task_section, strategy_section, data_section = (_section(stated, name) for name in ("task", "strategy", "data"))
    named = task_section.get("name", task)
    if named != task:
        raise ConfigError(f"the settings are of task '{named}', not '{task}'; say --task {named}")
    strategy = strategy or str(strategy_section.get("name", "cggm"))
    for layer in layers:
        foreign = layer.get("strategy", {})
        if len(foreign) > 1 and foreign.get("name", strategy) != strategy:
            keys = ", ".join(f"strategy.{key}" for key in foreign if key != "name")
            raise ConfigError(
                f"strategy is '{strategy}', and {keys} are settings of '{foreign['name']}'; leave them out, or use "
                f"strategy '{foreign['name']}'"
            )
    balancing = registry.load(registry.STRATEGIES, strategy)
    path = data_section.get("path")
    preset = str(preset or stated.get("preset") or cls.default_preset(embedded=path is None))
    if preset not in cls.presets:
        raise UnknownName(f"preset of task {task}", preset, cls.presets)
    sections = {
        "task": cls.TaskConfig,
        "data": cls.DataConfig,
        "model": cls.ModelConfig,
        "strategy": balancing.Config,
    }
    # A task's own TaskConfig may have another default.
    modalities = {} if hasattr(cls.TaskConfig, "modalities") else {"modalities": list(cls.known_modalities)}
    names: Tree = {"preset": preset, "task": {"name": task}, "strategy": {"name": strategy}}
    if stored:
        return resolve(sections, [{"task": modalities}, as_trained(stated), names])
    brought = balancing.settings_for(task)
    for section, its_config in sections.items():
        if lacking := _section(brought, section).keys() - {field.name for field in fields(its_config)}:
            keys = ", ".join(f"{section}.{key}" for key in sorted(lacking))
            raise ConfigError(
                f"strategy '{strategy}' needs {keys}, which task '{task}' does not have; use another strategy"
            )
    chosen = merge([cls.presets[preset], {"task": modalities}, brought, stated, names])
    # Settings that were copied from a run hold what its data declared, and its data may be elsewhere by now.
    of_data = (
        {} if "declaration" in task_section else cls.settings_of_data(None if path is None else Path(str(path)), chosen)
    )
    return resolve(sections, [of_data, chosen])


def _section(tree: Tree, name: str) -> Tree:
    """A section of settings; what is none is refused when all are resolved."""
    section = tree.get(name)
    return section if isinstance(section, dict) else {}


def instantiate(config: RunConfig) -> tuple[Task, BalancingStrategy]:
    """The task and the strategy of a config; the task has not looked for its data yet.

    Raises:
        ConfigError: if the processes and parts cannot share a batch evenly, the strategy needs it whole, or no heads
            guide a guided subset view.
        UnknownName: if a rate of modality dropout is for a modality that the run does not have.
    """
    processes, size = distributed.world_size(), config.train.batch_size
    parts = config.train.accumulate
    share = f"a multiple of {processes * parts}: {processes} process(es) times train.accumulate {parts}"
    require(size % (processes * parts) == 0, "train.batch_size", size, share)
    rates = config.train.modality_dropout
    for modality in rates if isinstance(rates, Mapping) else ():
        if modality not in config.task.modalities:
            raise UnknownName("modality of train.modality_dropout", modality, config.task.modalities)
    task = registry.load(registry.TASKS, config.task.name)(config)
    strategy = registry.load(registry.STRATEGIES, config.strategy.name)(config.strategy)
    strategy.check_parts(parts)
    require_guidable(config.train, strategy.has_heads)
    return task, strategy


def of_first_process(config: RunConfig, device: torch.device) -> RunConfig:
    """The config of the first process, for all: each has planned by the free memory of its own device."""
    tree = distributed.gather_json(to_tree(config), device)[0]
    return config if tree == to_tree(config) else make_config(config.task.name, [tree], stored=True)


def completed(stored: Tree) -> Tree:
    """The settings of a run, with defaults for keys that are newer than the run.

    A new key must keep the behaviour from before it existed (ADR 0026, ADR 0036): then these are the settings that the
    run was trained with, and it can be resumed and compared.
    """
    return to_tree(make_config(str(stored["task"]["name"]), [stored], stored=True))


def as_trained(stored: Tree) -> Tree:
    """The settings of a run as they are stored, and what keys of its strategy that are newer than the run meant in it.

    Where a strategy's rule has changed, a new key says which rule applies, and its absence the earlier one (ADR 0036).

    Example:
        >>> as_trained({"strategy": {"name": "joint"}})
        {'strategy': {'name': 'joint'}}
    """
    section = stored.get("strategy", {})
    if "name" not in section:
        return stored
    unstated = registry.load(registry.STRATEGIES, str(section["name"])).Config.UNSTATED
    return {**stored, "strategy": {**section, **{k: v for k, v in unstated.items() if k not in section}}}
