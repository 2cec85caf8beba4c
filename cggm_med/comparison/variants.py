"""What a comparison compares: strategies with settings, from words such as ``uniform[train.subset_view=0.5]``."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cggm_med import registry
from cggm_med.config import Tree, parse_overrides
from cggm_med.errors import ConfigError

SECTIONS = ("strategy", "train", "optim", "model")  # data and task would make it another task


@dataclass(frozen=True)
class Variant:
    """A strategy with settings of its own.

    Attributes:
        strategy: registered name.
        settings: ``SECTION.KEY`` and value, as text.
    """

    strategy: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """What tables call it.

        Example:
            >>> Variant("uniform", (("train.subset_view", "0.5"),)).label
            'uniform, subset_view=0.5'
        """
        return label(self.strategy, dict(self.settings))

    @property
    def folder(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.=,+-]", "_", self.label.replace(", ", ","))

    @property
    def words(self) -> list[str]:
        """The settings as words for ``--set``."""
        return [f"{key}={value}" for key, value in self.settings]

    def also(self, settings: Mapping[str, str]) -> Variant:
        """The same strategy with further settings, or other values of its own."""
        return Variant(self.strategy, tuple((dict(self.settings) | dict(settings)).items()))

    def overrides(self) -> Tree:
        """The settings as nested values."""
        return parse_overrides(self.words)


def label(strategy: str, settings: Mapping[str, str]) -> str:
    """A strategy and settings for people: the last part of each key, or all of it where two keys end alike."""
    ends = [key.rpartition(".")[2] for key in settings]
    names = [end if ends.count(end) == 1 else key for key, end in zip(settings, ends, strict=True)]
    return ", ".join([strategy, *(f"{name}={value}" for name, value in zip(names, settings.values(), strict=True))])


def parse_variants(strategies: str, grid: Sequence[str] = ()) -> tuple[Variant, ...]:
    """All variants that these words ask for, each once, in their order.

    Args:
        strategies: names separated by commas, each with settings of its own in brackets if need be.
        grid: words ``KEY=VALUE,VALUE``; a strategy is run with every combination of the values of those keys that it
            has. Keys of the section ``strategy`` leave strategies alone that do not have them.

    Raises:
        UnknownName: for a strategy that is not installed.
        ConfigError: for words that say nothing, and for a key that no strategy here has.

    Example:
        >>> [v.label for v in parse_variants("joint,cggm[strategy.strength=0.2]", ["strategy.rho=1.0,1.3"])]
        ['joint', 'cggm, strength=0.2, rho=1.0', 'cggm, strength=0.2, rho=1.3']
    """
    axes = [parse_axis(word, "--grid") for word in grid]
    unused = {key for key, _ in axes}
    found: dict[str, Variant] = {}
    for word in _outside_brackets(strategies, "--strategies"):
        match = re.fullmatch(r"(\w+)(?:\[(.*)\])?", word, re.DOTALL)
        if match is None:
            raise ConfigError(f"--strategies {word}: expected NAME or NAME[SECTION.KEY=VALUE,...]")
        name, inside = match[1], match[2]
        own = [_assignment(x, "--strategies") for x in _outside_brackets(inside, word)] if inside else []
        config = registry.load(registry.STRATEGIES, name).Config
        known = {f"strategy.{field.name}" for field in dataclasses.fields(config)}
        mine = [(key, values) for key, values in axes if key in known or not key.startswith("strategy.")]
        unused -= {key for key, _ in mine}
        for values in itertools.product(*(values for _, values in mine)):
            variant = Variant(name, tuple(own)).also(dict(zip((key for key, _ in mine), values, strict=True)))
            if found.setdefault(variant.folder, variant) != variant:
                raise ConfigError(f"'{variant.label}' and '{found[variant.folder].label}' look alike; rename one")
    if unused:
        raise ConfigError(f"--grid {', '.join(sorted(unused))}: no strategy of --strategies has such a setting")
    if not found:
        raise ConfigError("--strategies names nothing, expected such as joint,uniform,cggm")
    return tuple(found.values())


def parse_axis(word: str, option: str) -> tuple[str, tuple[str, ...]]:
    """``KEY=VALUE,VALUE`` as the key and its values.

    Example:
        >>> parse_axis("model.channels=[8,16],[8,16,32]", "--grid")
        ('model.channels', ('[8,16]', '[8,16,32]'))
    """
    key, values = _assignment(word, option)
    return key, tuple(dict.fromkeys(_outside_brackets(values, word)))


def _assignment(word: str, option: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in word.partition("="))
    if not equals or not value or key.split(".")[0] not in SECTIONS or "." not in key:
        raise ConfigError(
            f"{option} {word}: expected SECTION.KEY=VALUE, such as strategy.rho=1.3, with a section of "
            f"{', '.join(SECTIONS)}"
        )
    return key, value


def _outside_brackets(text: str, where: str) -> Iterator[str]:
    """Parts of ``text`` between commas that stand in no brackets."""
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
