"""The conditions of a robustness test: artefacts by modality and severity, and missing modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cggm_med.data.volumes.artefacts import ARTEFACTS, SEVERITIES
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.results.results import Record

CLEAN, MISSING = "clean", "missing"


@dataclass(frozen=True)
class Condition:
    """One state of the scans.

    Attributes:
        artefact: ``clean``, ``missing`` or the name of an artefact.
        modalities: affected modalities; none if clean.
        severity: 0 if clean or missing.
    """

    artefact: str
    modalities: tuple[str, ...] = ()
    severity: int = 0

    @property
    def amount(self) -> float:
        """Strength of the artefact, in its own unit."""
        return ARTEFACTS[self.artefact].amount(self.severity) if self.severity else 0.0

    @property
    def record(self) -> Record:
        """As plain values."""
        names = "+".join(self.modalities)
        return {"artefact": self.artefact, "modalities": names, "severity": self.severity, "amount": self.amount}


def parse_conditions(artefacts: str, severities: str, modalities: Sequence[str]) -> tuple[Condition, ...]:
    """All conditions that two texts name, clean scans first.

    Args:
        artefacts: by name, and ``missing:MODALITY``, separated by commas. Each artefact affects every modality by
            itself, then all of them at once. Modalities that are missing together are joined by ``+``.
        severities: such as ``3``, ``1,3`` or ``1..5``.
        modalities: the run's modalities.

    Raises:
        UnknownName: for an artefact, severity or modality that does not exist.
        ConfigError: if no modality would be left.

    Example:
        >>> [c.record["modalities"] for c in parse_conditions("noise,missing:t1", "2", ["flair", "t1"])]
        ['', 'flair', 't1', 'flair+t1', 't1']
    """
    levels = _severities(severities)
    affected = dict.fromkeys([*((m,) for m in modalities), tuple(modalities)])
    conditions = [Condition(CLEAN)]
    for word in artefacts.split(","):
        name, colon, absent = word.strip().partition(":")
        if name == MISSING:
            conditions.append(Condition(MISSING, _absent(absent, modalities)))
        elif colon or name not in ARTEFACTS:
            raise UnknownName("artefact", word.strip(), [*ARTEFACTS, f"{MISSING}:MODALITY"])
        else:
            conditions += [Condition(name, members, level) for members in affected for level in levels]
    return tuple(dict.fromkeys(conditions))


def _severities(text: str) -> list[int]:
    known = [str(s) for s in SEVERITIES]
    severities: set[int] = set()
    for word in text.split(","):
        first, dots, last = (part.strip() for part in word.partition(".."))
        for end in (first, last) if dots else (first,):
            if end not in known:
                raise UnknownName("severity", end, known)
        severities.update(range(int(first), int(last or first) + 1))
    if not severities:
        raise ConfigError(f"severity is {text}, expected such as 3, 1,3 or 1..5")
    return sorted(severities)


def _absent(text: str, modalities: Sequence[str]) -> tuple[str, ...]:
    words = [word.strip() for word in text.split("+")]
    for word in words:
        if word not in modalities:
            raise UnknownName("modality in this run", word, modalities)
    if not set(modalities) - set(words):
        raise ConfigError(
            f"{MISSING}:{text} leaves no modality to see, expected at least one of {', '.join(modalities)}"
        )
    return tuple(m for m in modalities if m in words)
