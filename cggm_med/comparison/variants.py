"""Strategies with settings, and seeds, to compare, parsed from such text as ``uniform[train.subset_view=0.5]``."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cggm_med import registry
from cggm_med.config import Tree, parse_overrides
from cggm_med.errors import ConfigError

SECTIONS = ("strategy", "train", "optim", "model")  # with other data or task settings it would be another task,
MODALITIES = "task.modalities"  # but a network of fewer modalities answers the same question
UNIMODAL = "unimodal"  # stands for joint training on each modality alone


@dataclass(frozen=True)
class Variant:
    """A strategy with its own settings.

    Attributes:
        strategy: registered name.
        settings: ``SECTION.KEY`` and value, as text.
    """

    strategy: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Its name in tables.

        Example:
            >>> Variant("uniform", (("train.subset_view", "0.5"),)).name
            'uniform, subset_view=0.5'
        """
        return variant_name(self.strategy, dict(self.settings))

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return folder_name(self.name)

    @property
    def assignments(self) -> list[str]:
        """The settings as ``SECTION.KEY=VALUE``, for ``--set``."""
        return [f"{key}={value}" for key, value in self.settings]

    def with_settings(self, settings: Mapping[str, str]) -> Variant:
        """The same strategy with these settings added or replaced."""
        return Variant(self.strategy, tuple((dict(self.settings) | dict(settings)).items()))

    def overrides(self) -> Tree:
        """The settings as nested values."""
        return parse_overrides(self.assignments)


def folder_name(name: str) -> str:
    """The name of a strategy with its settings as that of a folder.

    Example:
        >>> folder_name("uniform, lr=1e-2, channels=[8,16]")
        'uniform,lr=1e-2,channels=_8,16_'
    """
    return re.sub(r"[^\w.=,+-]", "_", name.replace(", ", ","))


def variant_name(strategy: str, settings: Mapping[str, str]) -> str:
    """A strategy and its settings for people: the last part of each key, or the whole key where two end alike."""
    ends = [key.rpartition(".")[2] for key in settings]
    names = [end if ends.count(end) == 1 else key for key, end in zip(settings, ends, strict=True)]
    return ", ".join([strategy, *(f"{name}={value}" for name, value in zip(names, settings.values(), strict=True))])


def table_name(text: str) -> str:
    """The name in tables of a strategy that is written as for ``--strategies``; a name of the tables stays as it is.

    Example:
        >>> table_name("uniform[train.subset_view=0.5]"), table_name("uniform, subset_view=0.5")
        ('uniform, subset_view=0.5', 'uniform, subset_view=0.5')
    """
    return parse_variants(text)[0].name if re.fullmatch(r"\w+\[.*\]", text, re.DOTALL) else text


def parse_variants(strategies: str, grid: Sequence[str] = (), modalities: Sequence[str] = ()) -> tuple[Variant, ...]:
    """All variants that these options ask for, each once, in their order.

    Args:
        strategies: names separated by commas, each with its own settings in brackets if there are any; ``unimodal``
            for ``joint`` on each modality alone.
        grid: ``KEY=VALUE,VALUE`` each; a strategy is run with every combination of the values of those keys that it
            has. Keys of the section ``strategy`` do not apply to strategies without that setting.
        modalities: of the run.

    Raises:
        UnknownName: for a strategy that is not installed.
        ConfigError: for text that cannot be parsed, and for a key that none of the strategies has.

    Example:
        >>> [v.name for v in parse_variants("joint,cggm[strategy.strength=0.2]", ["strategy.rho=1.0,1.3"])]
        ['joint', 'cggm, strength=0.2, rho=1.0', 'cggm, strength=0.2, rho=1.3']
        >>> [v.name for v in parse_variants("unimodal", modalities=("flair", "t1"))]
        ['joint, modalities=[flair]', 'joint, modalities=[t1]']
    """
    axes = [parse_axis(axis, "--grid") for axis in grid]
    unused = {key for key, _ in axes}
    variants: dict[str, Variant] = {}
    for text in _with_unimodal(_outside_brackets(strategies, "--strategies"), modalities):
        match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", text, re.DOTALL)
        if match is None:
            raise ConfigError(f"--strategies {text}: expected NAME or NAME[SECTION.KEY=VALUE,...]")
        name, inside = match[1], match[2]
        own = [_assignment(part, "--strategies") for part in _outside_brackets(inside, text)] if inside else []
        config = registry.load(registry.STRATEGIES, name).Config
        known = {f"strategy.{field.name}" for field in dataclasses.fields(config)}
        applicable = [(key, values) for key, values in axes if key in known or not key.startswith("strategy.")]
        keys = [key for key, _ in applicable]
        unused -= {*keys}
        for point in itertools.product(*(values for _, values in applicable)):
            variant = Variant(name, tuple(own)).with_settings(dict(zip(keys, point, strict=True)))
            if variants.setdefault(variant.folder, variant) != variant:
                other = variants[variant.folder].name
                raise ConfigError(f"'{variant.name}' and '{other}' have one folder; compare them one after the other")
    if unused:
        raise ConfigError(f"--grid {', '.join(sorted(unused))}: no strategy of --strategies has such a setting")
    if not variants:
        raise ConfigError("--strategies names nothing, expected such as joint,uniform,cggm")
    return tuple(variants.values())


def refuse_strategies(text: str) -> None:
    """Refuse strategies that are not installed, without importing those that are.

    Args:
        text: as for ``parse_variants``.

    Raises:
        UnknownName: with the first of them.
        ConfigError: for text that cannot be parsed.
    """
    for part in _outside_brackets(text, "--strategies"):
        if (name := part.partition("[")[0]) != UNIMODAL:
            registry.package(registry.STRATEGIES, name)


def parse_seeds(text: str) -> list[int]:
    """Seeds from their number, or from a list.

    Example:
        >>> parse_seeds("3"), parse_seeds("3,7")
        ([0, 1, 2], [3, 7])
    """
    if re.fullmatch(r"\d+(,\d+)*,?", text) is None or text == "0":
        raise ConfigError(f"--seeds is {text}, expected how many, such as 5, or which, such as 0,3,7")
    numbers = [int(part) for part in text.split(",") if part]
    return list(dict.fromkeys(numbers)) if "," in text else list(range(numbers[0]))


def _with_unimodal(texts: Iterator[str], modalities: Sequence[str]) -> Iterator[str]:
    for text in texts:
        name, _, inside = text.partition("[")
        if name != UNIMODAL:
            yield text
        else:
            own = f",{inside.removesuffix(']')}" if inside else ""
            yield from (f"joint[{MODALITIES}=[{modality}]{own}]" for modality in modalities)


def parse_axis(text: str, option: str) -> tuple[str, tuple[str, ...]]:
    """``KEY=VALUE,VALUE`` as the key and its values.

    Example:
        >>> parse_axis("model.channels=[8,16],[8,16,32]", "--grid")
        ('model.channels', ('[8,16]', '[8,16,32]'))
    """
    key, values = _assignment(text, option)
    parts = tuple(dict.fromkeys(_outside_brackets(values, text)))
    if not parts:
        raise ConfigError(f"{option} {text}: expected KEY=VALUE,VALUE with at least one value")
    return key, parts


def _assignment(text: str, option: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value or "." not in key or (key.split(".")[0] not in SECTIONS and key != MODALITIES):
        raise ConfigError(
            f"{option} {text}: expected SECTION.KEY=VALUE, such as strategy.rho=1.3, with a section of "
            f"{', '.join(SECTIONS)}, or {MODALITIES}"
        )
    return key, value


def _outside_brackets(text: str, where: str) -> Iterator[str]:
    """Parts of ``text`` between the commas outside brackets."""
    depth, part = 0, ""
    for letter in [*text, ","]:
        depth += (letter == "[") - (letter == "]")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += letter
    if depth:
        raise ConfigError(f"{where}: brackets in '{text}' do not match")
