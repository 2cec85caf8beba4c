"""Settings as strict, frozen dataclasses: defaults < task preset < file < ``--set a.b=c``.

The task defines the sections ``task``, ``data`` and ``model``, the strategy its section ``strategy``; ``optim`` and
``train`` are the same for all.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cggm_med.device_name import require_device
from cggm_med.errors import ConfigError, UnknownName, kind_of
from cggm_med.files import did_you_mean
from cggm_med.trees import parse_yaml

Tree = dict[str, Any]


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer and its schedule, after a linear warm-up to ``lr``.

    Attributes:
        name: ``adamw``, ``adam`` or ``sgd``.
        lr: largest learning rate.
        weight_decay: decoupled for AdamW, as an L2 term for Adam and SGD.
        momentum: of SGD; Adam and AdamW keep torch's own betas.
        nesterov: whether the momentum of SGD is Nesterov's.
        warmup_fraction: share of all steps in which the learning rate rises from zero.
        schedule: how it falls: ``cosine`` to ``lr * final_lr_fraction``, ``step`` by ``decay_factor`` every
            ``decay_epochs``, or ``plateau`` by ``decay_factor`` when validation stops improving.
        final_lr_fraction: share of ``lr`` that a cosine leaves at the last step; with 1 the rate is constant.
        decay_factor: what ``step`` and ``plateau`` multiply the rate by.
        decay_epochs: of ``step``.
        patience: of ``plateau``: validations in a row without improvement after which the next one lowers the rate.
        plateau_by: what has to improve: the ``loss`` of the validation cases, or their ``score``, the headline metric
            that the checkpoint is chosen by.
        heads_lr: constant learning rate of the classifier heads; default: the model's, and its schedule.
        heads_weight_decay: of the classifier heads; default: the model's.
        clip_norm: largest norm of the model's gradient.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = True
    warmup_fraction: float = 0.05
    schedule: Literal["cosine", "step", "plateau"] = "cosine"
    final_lr_fraction: float = 0.01
    decay_factor: float = 0.1
    decay_epochs: int = 30
    patience: int = 10
    plateau_by: Literal["score", "loss"] = "score"
    heads_lr: float | None = None
    heads_weight_decay: float | None = None
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "heads_lr"):
            rate = getattr(self, name)
            require(rate is None or 0 < rate < math.inf, f"optim.{name}", rate, "more than 0 and finite")
        for name in ("weight_decay", "heads_weight_decay"):
            decay = getattr(self, name)
            require(decay is None or 0 <= decay < math.inf, f"optim.{name}", decay, "at least 0 and finite")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "at least 0, below 1")
        require(0 <= self.warmup_fraction < 1, "optim.warmup_fraction", self.warmup_fraction, "at least 0, below 1")
        require(0 <= self.final_lr_fraction <= 1, "optim.final_lr_fraction", self.final_lr_fraction, "from 0 to 1")
        require(0 < self.decay_factor < 1, "optim.decay_factor", self.decay_factor, "more than 0, below 1")
        require(self.decay_epochs >= 1, "optim.decay_epochs", self.decay_epochs, "at least 1")
        require(self.patience >= 0, "optim.patience", self.patience, "at least 0")
        require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "more than 0")


@dataclass(frozen=True)
class TrainConfig:
    """How long and on what to train.

    Attributes:
        epochs: number of epochs.
        steps_per_epoch: optimizer steps in an epoch; 0: as many as the training cases fill whole batches.
        batch_size: samples in a step, over all processes together.
        seed: decides initial weights, splits, sampling and augmentation.
        init_seed: decides, together with ``seed``, the initial weights alone, to see how much they matter; default:
            they follow from ``seed``.
        init: folder of another run from whose final weights this one starts, as far as names and shapes agree.
        device: ``auto`` (CUDA when present), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto`` (float32; on CUDA bfloat16 autocast, or float16 where the GPU only emulates that),
            ``float32``, ``float16`` or ``bfloat16``.
        memory_format: how the weights of convolutions lie in memory: ``contiguous``, or ``channels_last``, with which
            narrow networks train faster on a CPU; results differ in their last bits.
        validate_every: epochs between two validations.
        validate_modalities: whether validations also score each modality's classifier head; default: where that hardly
            takes longer, that is not for volumes.
        stop_after: validations in a row without a better score after which the training ends; default: only with the
            last epoch.
        hours: of training, validations included, after which it ends; default: only with the last epoch.
        ema_decay: of a moving average of the weights, which is validated, kept and predicted with; default: the weights
            themselves.
        checkpoint_every: steps between two checkpoints; one is always written at the end of training.
        checkpoint_minutes: minutes after a checkpoint within which another one is written; default: by steps alone.
        log_every: steps between two lines of ``metrics.jsonl``.
        accumulate: number of equal parts in which each process computes its share of a batch, to save memory.
        exchange: how several processes average gradients: in ``buckets`` that are sent while the backward pass still
            runs, or ``flat``, in one piece after it.
        exchange_precision: type in which gradients are sent: ``float32``, or ``bfloat16``, half the bytes, which rounds
            them to two or three digits.
        modality_dropout: probability of leaving each modality of each sample out of the fusion: one for all, or by
            modality, where those that are not named are never left out.
        modality_dropout_draw: what is drawn with that probability: ``modality``, each by itself; or ``subset``: the
            sample then keeps a random proper subset of its modalities, each as likely.
        modality_dropout_schedule: ``constant``, or ``annealed``: falling linearly to zero at the last step.
        subset_view: weight of a second loss, on a prediction from a random proper subset of the modalities.
        subset_view_schedule: ``constant``, or ``annealed``: the weight falls linearly to zero at the last step.
        subset_view_guided: draw subsets so that two thirds of them lack the modality that scores best.
        subset_view_every: steps between two such losses.
        log_shapley: also log each modality's Shapley share of the fused score; costs a prediction from every subset at
            each logged step.
        loggers: names of run loggers that receive the records, besides ``metrics.jsonl``.
    """

    epochs: int = 100
    steps_per_epoch: int = 100
    batch_size: int = 2
    seed: int = 0
    init_seed: int | None = None
    init: str | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    validate_every: int = 5
    validate_modalities: bool | None = None
    stop_after: int | None = None
    hours: float | None = None
    ema_decay: float | None = None
    checkpoint_every: int = 100
    checkpoint_minutes: float | None = None
    log_every: int = 10
    accumulate: int = 1
    exchange: Literal["buckets", "flat"] = "buckets"
    exchange_precision: Literal["float32", "bfloat16"] = "float32"
    modality_dropout: float | Mapping[str, float] = 0.0
    modality_dropout_draw: Literal["modality", "subset"] = "modality"
    modality_dropout_schedule: Literal["constant", "annealed"] = "constant"
    subset_view: float = 0.0
    subset_view_schedule: Literal["constant", "annealed"] = "constant"
    subset_view_guided: bool = False
    subset_view_every: int = 1
    log_shapley: bool = False
    loggers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.steps_per_epoch >= 0, "train.steps_per_epoch", self.steps_per_epoch, "at least 0")
        counts = ("epochs", "batch_size", "validate_every", "checkpoint_every", "log_every")
        for name in (*counts, "accumulate", "subset_view_every"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        require(self.stop_after is None or self.stop_after >= 1, "train.stop_after", self.stop_after, "at least 1")
        for name in ("hours", "checkpoint_minutes"):
            time = getattr(self, name)
            require(time is None or 0 < time < math.inf, f"train.{name}", time, "more than 0 and finite")
        require_device(self.device, "train.device")
        decay = self.ema_decay
        require(decay is None or 0 < decay < 1, "train.ema_decay", decay, "more than 0, below 1, such as 0.999")
        rates = self.modality_dropout
        for key, rate in flat({"train": {"modality_dropout": rates}}).items():
            require(0 <= rate < 1, key, rate, "at least 0, below 1")
        one = self.modality_dropout_draw == "modality" or not isinstance(rates, Mapping)
        require(one, "train.modality_dropout", rates, "one rate with train.modality_dropout_draw subset")
        require(0 <= self.subset_view < math.inf, "train.subset_view", self.subset_view, "at least 0 and finite")
        for name in ("seed", "init_seed"):
            seed = getattr(self, name)
            require(seed is None or 0 <= seed < 2**63, f"train.{name}", seed, "at least 0, below 2**63")

    @property
    def steps(self) -> int:
        """All optimizer steps of the run, unless validation or a budget ends it earlier."""
        return self.epochs * self.steps_per_epoch

    @property
    def validation_interval(self) -> int:
        """Steps between two validations."""
        return self.validate_every * self.steps_per_epoch

    def steps_in_epoch(self, cases: int) -> int:
        """Optimizer steps in an epoch of this many training cases: as set, else the number of whole batches.

        Example:
            >>> TrainConfig(steps_per_epoch=0, batch_size=4).steps_in_epoch(18)
            4
        """
        return self.steps_per_epoch or max(1, cases // self.batch_size)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's numbers; written to the run folder as ``config.yaml``."""

    task: Any
    data: Any
    model: Any
    strategy: Any
    preset: str = ""
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


SHARED_SECTIONS: Mapping[str, type] = types.MappingProxyType({"optim": OptimConfig, "train": TrainConfig})


def require(condition: bool, key: str, given: object, expected: str) -> None:
    """Raise a ConfigError that names the key, what was given and what was expected, unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key} is {given}, expected {expected}")


def resolve(sections: Mapping[str, type], layers: Sequence[Tree]) -> RunConfig:
    """Merge nested settings, later layers over earlier ones, into one checked RunConfig.

    Args:
        sections: the dataclass of each of ``task``, ``data``, ``model`` and ``strategy``.
        layers: nested dictionaries; keys that no dataclass declares are errors.

    Raises:
        UnknownName: for an unknown key; lists the valid ones.
        ConfigError: for a value of the wrong type.

    Example:
        >>> empty = dataclasses.make_dataclass("Empty", [])
        >>> config = resolve(dict.fromkeys(["task", "data", "model", "strategy"], empty), [{"optim": {"lr": "1e-3"}}])
        >>> config.optim.lr
        0.001
    """
    merged = merge(layers)
    types_of = {**SHARED_SECTIONS, **sections}
    known = [*types_of, "preset"]
    for key in merged:
        if key not in known:
            raise UnknownName("configuration section", str(key), known)
    parts = {name: build_section(cls, merged.get(name, {}), name, types_of) for name, cls in types_of.items()}
    return RunConfig(preset=str(merged.get("preset", "")), **parts)


def read_file(path: Path) -> Tree:
    """Read nested settings from a YAML or JSON file.

    Raises:
        ConfigError: if the file is missing or does not hold sections of settings.
    """
    try:
        content = parse_yaml(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"cannot read {path}: it does not exist{did_you_mean(path)}; expected a YAML or JSON file of settings"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; expected a YAML or JSON file of settings") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {kind_of(content)}, expected settings such as 'optim: {{lr: 1e-3}}'")
    for key, value in content.items():
        if not isinstance(value, dict) and key != "preset":
            raise ConfigError(f"{path}: {key} is {value!r}, expected settings such as 'optim: {{lr: 1e-3}}'")
    return content


def parse_overrides(assignments: Sequence[str]) -> Tree:
    """Turn ``a.b=c`` words into a nested dictionary; values are read as YAML.

    Example:
        >>> parse_overrides(["task.modalities=[flair,t1ce]", "optim.lr=1e-3"])
        {'task': {'modalities': ['flair', 't1ce']}, 'optim': {'lr': '1e-3'}}
    """
    tree: Tree = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment}: expected KEY=VALUE, such as --set optim.lr=1e-3")
        try:
            leaf: Any = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {assignment}: {value!r} is not valid YAML; put text in quotes") from error
        section, *below = key.strip().split(".")
        for part in reversed(below):
            leaf = {part: leaf}
        if not isinstance(leaf, dict) and section != "preset":
            raise ConfigError(
                f"--set {assignment}: {section} is {leaf!r}, expected settings written SECTION.KEY=VALUE, "
                f"such as {_written_out(section, leaf, value)}"
            )
        leaf = {section: leaf}
        tree = merge([tree, leaf])
    return tree


def _written_out(name: str, leaf: Any, value: str) -> str:
    """The setting that somebody meant who gave a section or a key alone.

    Example:
        >>> [_written_out(*given) for given in (("lr", 0.1, "0.1"), ("strategy", "joint", "joint"), ("task", 3, "3"))]
        ['optim.lr=0.1', 'strategy.name=joint', 'task.KEY=3']
    """
    if name in ("optim", "strategy") and isinstance(leaf, str):
        return f"{name}.name={value}"
    if name in {field.name for field in dataclasses.fields(RunConfig)}:
        return f"{name}.KEY={value}"
    meant = setting_meant(name)
    return f"{meant}={value}" if meant else "optim.lr=1e-3"


def setting_meant(name: str) -> str:
    """The setting that a name without a section may have meant, also as other tools call it; empty if none is like it.

    Example:
        >>> [setting_meant(name) for name in ("learning-rate", "roi_size", "epoch", "x")]
        ['optim.lr', 'data.patch_size', 'train.epochs', '']
    """
    return _ELSEWHERE.get(name.lower().replace("-", "_")) or _meant(name, "", SHARED_SECTIONS)


def to_tree(config: RunConfig) -> Tree:
    """The configuration as nested plain values, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return typing.cast(Tree, plain(dataclasses.asdict(config)))


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key.

    Example:
        >>> flat({"optim": {"lr": 0.1}, "preset": "tiny"})
        {'optim.lr': 0.1, 'preset': 'tiny'}
    """
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def differences(a: Tree, b: Tree, prefix: str = "") -> list[str]:
    """Dotted keys in which two configurations differ, with both values.

    Example:
        >>> differences({"optim": {"lr": 1}}, {"optim": {"lr": 2}})
        ['optim.lr: 1 != 2']
    """
    lines: list[str] = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left} != {right}")
    return lines


def merge(layers: Sequence[Tree]) -> Tree:
    """Nested settings of which later ones take precedence.

    Example:
        >>> merge([{"optim": {"lr": 1, "name": "adam"}}, {"optim": {"lr": 2}}])
        {'optim': {'lr': 2, 'name': 'adam'}}
    """
    merged: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge([merged[key], value]) if both else value
    return merged


def build_section(cls: type, values: Any, prefix: str, others: Mapping[str, type] = types.MappingProxyType({})) -> Any:
    """Make a settings dataclass from plain values, naming the dotted key of whatever does not fit.

    Args:
        cls: the dataclass.
        values: by key.
        prefix: name of the section.
        others: dataclasses of the sections beside it, whose keys an unknown key may have meant.

    Raises:
        UnknownName: for a key that the dataclass does not declare.
        ConfigError: for a value of the wrong type.

    Example:
        >>> build_section(OptimConfig, {"lr": "1e-2"}, "optim").lr
        0.01
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix} is {values!r}, expected settings such as {prefix}.KEY=VALUE")
    fields = _field_types(cls)
    for key in values:
        if key not in fields:
            meant = _meant(str(key), prefix, {**others, prefix: cls})
            # Which keys these sections have depends on the task and the strategy.
            own = prefix in ("task", "strategy") and "name" in values
            owner = f"{prefix.capitalize()} '{values['name']}' has no others" if own else ""
            every = [f"{prefix}.{name}" for name in fields]
            raise UnknownName("configuration key", f"{prefix}.{key}", every, owner, guess=meant)
    return cls(**{key: _coerce(value, fields[key], f"{prefix}.{key}") for key, value in values.items()})


# What settings are called in other tools of the field.
_ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "learningrate", "rate", "base_lr", "initial_lr", "init_lr"), "optim.lr"),
    **dict.fromkeys(("wd", "decay", "l2"), "optim.weight_decay"),
    **dict.fromkeys(("optimizer", "optimiser", "optim"), "optim.name"),
    **dict.fromkeys(("scheduler", "lr_schedule", "lr_scheduler"), "optim.schedule"),
    **dict.fromkeys(("grad_clip", "clip", "max_norm", "gradient_clip_val"), "optim.clip_norm"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs"), "train.epochs"),
    **dict.fromkeys(("steps", "iterations", "max_steps", "num_iterations_per_epoch"), "train.steps_per_epoch"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience", "early_stop"), "train.stop_after"),
    **dict.fromkeys(("max_time", "max_hours", "time_limit", "train_time_interval"), "train.hours"),
    **dict.fromkeys(("ema", "model_ema", "model_ema_decay", "swa"), "train.ema_decay"),
    **dict.fromkeys(("bs", "batch"), "train.batch_size"),
    **dict.fromkeys(("random_seed", "manual_seed"), "train.seed"),
    **dict.fromkeys(("gpu", "gpus", "cuda"), "train.device"),
    **dict.fromkeys(("amp", "fp16", "bf16", "mixed_precision", "dtype"), "train.precision"),
    **dict.fromkeys(("patch_size", "roi", "roi_size", "crop_size"), "data.patch_size"),
    **dict.fromkeys(("workers", "num_workers", "n_workers"), "data.workers"),
    **dict.fromkeys(("data_dir", "dataroot", "root", "folder"), "data.path"),
    **dict.fromkeys(("spacing", "voxel_size", "pixdim"), "data.spacing"),
    **dict.fromkeys(("augment", "aug"), "data.augmentation"),
    **dict.fromkeys(("features", "filters", "base_channels"), "model.channels"),
    **dict.fromkeys(("backbone", "network", "arch"), "model.encoder"),
}


def _meant(key: str, section: str, types_of: Mapping[str, type]) -> str:
    """The setting that an unknown key of a section, or of none, may have meant; empty if none is like it.

    Example:
        >>> types_of = {"optim": OptimConfig, "train": TrainConfig}
        >>> [_meant(key, "optim", types_of) for key in ("learning_rate", "momentom", "weight", "batch_size", "x")]
        ['optim.lr', 'optim.momentum', 'optim.weight_decay', 'train.batch_size', '']
    """
    name = key.lower().replace("-", "_")
    known = {(of, field): f"{of}.{field}" for of, cls in types_of.items() for field in _field_types(cls)}
    own = {field: full for (of, field), full in known.items() if of == section}
    every = {field: full for (_, field), full in known.items()}
    if (called := _ELSEWHERE.get(name)) in known.values():
        return str(called)
    if name in every:
        return every[name]
    if len(begun := [full for field, full in own.items() if name and field.startswith(name)]) == 1:
        return begun[0]
    for among, likeness in ((own, 0.7), (every, 0.8)):
        if close := difflib.get_close_matches(name, among, n=1, cutoff=likeness):
            return among[close[0]]
    return ""


def _field_types(cls: type) -> dict[str, Any]:
    """The type of each field of a dataclass, in the order of the fields.

    ``get_type_hints(cls)`` would read the class variables as well, and Python 3.10 refuses a plain ``ClassVar``.
    """
    types_of: dict[str, Any] = dict.fromkeys(f.name for f in dataclasses.fields(cls))
    for base in reversed(cls.__mro__):
        own = {name: kind for name, kind in inspect.get_annotations(base).items() if name in types_of}
        declared = types.SimpleNamespace(__annotations__=own)
        types_of |= typing.get_type_hints(declared, vars(sys.modules[base.__module__]))
    return types_of


_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _coerce(value: Any, kind: Any, key: str) -> Any:
    """Convert a YAML value to an annotated type; YAML reads 1e-3 as a string, so text is tried as a number too."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        mappings = [arg for arg in args if get_origin(arg) is Mapping]
        if mappings and isinstance(value, Mapping):
            return _coerce(value, mappings[0], key)
        plain = next(arg for arg in args if arg is not type(None))
        if mappings:
            try:
                return _coerce(value, plain, key)
            except ConfigError as error:
                raise ConfigError(f"{error}, or names and values such as {{a: 1}}") from None
        return _coerce(value, plain, key)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}, expected names and values such as {{a: 1}}")
        if args[1] is Any:
            return value
        return {str(name): _coerce(item, args[1], f"{key}.{name}") for name, item in value.items()}
    if origin is Literal:
        if value in args:
            return value
        raise UnknownName(f"value of {key}", str(value), [str(arg) for arg in args])
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            count = 1 if args[-1] is Ellipsis else len(args)
            fits = isinstance(value, str if args[0] is str else (int, float))
            like = ",".join([str(value) if fits else "a" if args[0] is str else "1"] * count)
            items = value if isinstance(value, str) and "," in value else like
            raise ConfigError(f"{key} is {value!r}, expected a list such as [{items}]")
        if len(args) == 2 and args[1] is Ellipsis:
            args = (args[0],) * len(value)
        if len(args) != len(value):
            raise ConfigError(f"{key} is {list(value)}, expected {len(args)} values")
        return tuple(_coerce(item, arg, f"{key}[{n}]") for n, (item, arg) in enumerate(zip(value, args, strict=True)))
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    if kind is int and type(value) is int:
        return value
    if kind in (int, float) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        except (ValueError, OverflowError):
            pass
    raise ConfigError(f"{key} is {value!r}, expected {_IN_WORDS.get(kind, kind)}")
