"""The primary comparison of a folder: declared before anything is trained, tested alone, and kept with its date."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cggm_med.errors import ConfigError, DataError, UnknownName
from cggm_med.files import write_json
from cggm_med.trees import parse_json

FILE = "primary.json"


@dataclass(frozen=True)
class Question:
    """What a user declares: see ``Declaration``."""

    name: str
    margin: float | None = None

    def check(self, baselines: Mapping[str, str | None]) -> None:
        """Refuse what cannot be compared.

        Args:
            baselines: what each strategy is compared with, by name.

        Raises:
            UnknownName: for a strategy that is not compared.
            ConfigError: for the baseline itself, a strategy without one, and a margin that is none.
        """
        if self.name not in baselines:
            raise UnknownName(
                "strategy in this comparison", self.name, list(baselines), "Name one of these with --primary 'NAME'"
            )
        if (baseline := baselines[self.name]) in (None, self.name):
            why = "has no baseline that is trained as long" if baseline is None else "is the baseline"
            raise ConfigError(f"--primary {self.name} {why}; name a strategy that is compared with one")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ConfigError(f"--margin is {self.margin:g}, expected more than 0, in the unit of the first metric")


@dataclass(frozen=True)
class Declaration:
    """What was declared, and when.

    Attributes:
        name: of the strategy with its settings, as in the tables.
        baseline: that it is compared with.
        margin: by how much it may be worse and still count as not inferior; None: it has to be better.
        declared: date and time.
        finished: how many runs of the comparison were finished then; 0 for a comparison that is registered.
        seeds: of the runs that were planned then.
        settings: of the comparison then.
    """

    name: str
    baseline: str
    margin: float | None
    declared: str
    finished: int
    seeds: tuple[int, ...]
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def same_question(self) -> tuple[str, str, float | None]:
        """What another declaration has to share to be the same one."""
        return self.name, self.baseline, self.margin


def declare(
    folder: Path,
    question: Question,
    baseline: str,
    *,
    finished: int,
    seeds: Sequence[int],
    settings: Mapping[str, object],
) -> None:
    """Write the declaration to the folder unless it stands there already; earlier ones are kept before it.

    Args:
        folder: of the comparison.
        question: what is declared.
        baseline: see ``Declaration``.
        finished: see ``Declaration``.
        seeds: see ``Declaration``.
        settings: see ``Declaration``.
    """
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    new = Declaration(question.name, baseline, question.margin, now, finished, tuple(seeds), dict(settings))
    earlier = declarations(folder)
    if not earlier or earlier[-1].same_question != new.same_question:
        write_json(folder / FILE, {"declarations": [asdict(one) for one in (*earlier, new)]})


def declarations(folder: Path) -> list[Declaration]:
    """What was declared in a folder, the last one counts; empty if nothing was.

    Raises:
        DataError: if the file is damaged.
    """
    file = folder / FILE
    if not file.exists():
        return []
    try:
        known = parse_json(file.read_text())["declarations"]
        return [Declaration(**{**one, "seeds": tuple(one["seeds"])}) for one in known]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); put back a whole copy") from error
