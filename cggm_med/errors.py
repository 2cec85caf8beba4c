"""The error tree: every failure that a user can fix, as one clear message.

    CggmMedError
    |-- UnknownName          no task, strategy, encoder, fusion, preset or key of that name
    |-- MissingExtra         a package that only some tasks need is not installed
    |-- PluginError          a registered plug-in that cannot be imported or is incomplete
    |-- ConfigError          a setting has the wrong type or an impossible value
    |-- DataError            files that are missing, damaged or contradictory; lists every bad case
    |-- CheckpointError      a checkpoint that is damaged, foreign or made with another configuration
    |-- NonFiniteLoss        a loss, a prediction or all gradients are NaN or infinite
    `-- OutputError          a folder or file that cannot be written

A message says what was given, what was expected and what fixes it. The command line prints it without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MAX_KNOWN = 60  # names of a kind in a message: all settings of a section, not all cases of a data set


class CggmMedError(Exception):
    """Base of all errors that the package raises on purpose."""


class UnknownName(CggmMedError):
    """A name that is not among the known ones.

    Args:
        kind: what the name stands for, such as ``"task"``.
        name: the name that was given.
        known: the names that exist.
        fix: what to do if the name should exist.
        guess: what was probably meant; default: the known name that is spelled most alike, if one is.

    Example:
        >>> str(UnknownName("task", "brats21", ["brats2021"]))
        "no task 'brats21'. Did you mean 'brats2021'? Known: brats2021"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], fix: str = "", guess: str | None = None) -> None:
        known = sorted(known)
        if guess is None:
            spelled = {one.lower(): one for one in known}
            close = difflib.get_close_matches(name.strip().lower(), spelled, n=1, cutoff=0.5)
            guess = spelled[close[0]] if close else ""
        meant = f" Did you mean '{guess}'?" if guess else ""
        shown = first_of(known, MAX_KNOWN) or "none"
        super().__init__(f"no {kind} '{name}'.{meant} Known: {shown}{fix and '. ' + fix}")


class MissingExtra(CggmMedError):
    """A package that only some tasks need is not installed.

    Args:
        what: the thing that needs it, such as ``"task 'meld'"``.
        package: its name for pip.
        extra: the extra of cggm-med that installs it.

    Example:
        >>> str(MissingExtra("task 'meld'", "torch-geometric", "dialogue"))
        "task 'meld' needs torch-geometric: pip install 'cggm-med[dialogue]'"
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}: pip install 'cggm-med[{extra}]'")


class PluginError(CggmMedError):
    """A registered plug-in that cannot be imported, is incomplete, or has its name from two packages."""


class ConfigError(CggmMedError):
    """A setting of the wrong type or with an impossible value."""


class DataError(CggmMedError):
    """Files that are missing, damaged or contradictory.

    Args:
        summary: one line that says what is wrong and what fixes it.
        problems: one line per bad case, so that all can be fixed at once.
        listed: how many of them to list; the others are counted. Default: all.

    Example:
        >>> print(DataError("3 files are missing:", ["a", "b", "c"], listed=2))
        3 files are missing:
          a
          b
          and 1 more
    """

    def __init__(self, summary: str, problems: Sequence[str] = (), *, listed: int | None = None) -> None:
        shown = problems if listed is None else problems[:listed]
        left = [f"and {len(problems) - len(shown)} more"] if len(shown) < len(problems) else []
        self.problems = (*shown, *left)
        super().__init__("\n  ".join([summary, *self.problems]))


class CheckpointError(CggmMedError):
    """A checkpoint or run folder that is damaged, foreign or made with another configuration."""


class NonFiniteLoss(CggmMedError):
    """A loss, a prediction, or every gradient for a while is NaN or infinite, so training cannot go on."""


class OutputError(CggmMedError):
    """A folder or file that cannot be written."""


def in_one_line(error: Exception) -> str:
    """An error as a reason why one case of many was left out; of those that nobody foresaw, the kind and first line.

    Example:
        >>> in_one_line(DataError("a.nii is missing")), in_one_line(ZeroDivisionError("division by zero"))
        ('a.nii is missing', 'ZeroDivisionError: division by zero (not foreseen: please report it)')
        >>> in_one_line(DataError("2 files are missing:", ["a.nii", "b.nii"]))
        '2 files are missing: a.nii; b.nii'
    """
    if isinstance(error, DataError) and error.problems:
        return f"{str(error).splitlines()[0]} {'; '.join(' '.join(one.split()) for one in error.problems)}"
    if isinstance(error, CggmMedError):
        return " ".join(str(error).split())
    said = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}{': ' if said else ''}{said} (not foreseen: please report it)"


def counted(count: int, noun: str) -> str:
    """How many there are of something whose plural ends in s.

    Example:
        >>> counted(1, "case"), counted(2, "case")
        ('1 case', '2 cases')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def kind_of(value: object) -> str:
    """What a value read from JSON or YAML is, in words.

    Example:
        >>> [kind_of(value) for value in (None, True, 3, "a", [1], {"a": 1})]
        ['nothing', 'true or false', 'a number', 'text', 'a list', 'an object']
    """
    words = {type(None): "nothing", bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return words.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def first_of(names: Sequence[str], count: int = 5) -> str:
    """Some names in one line: the first ones, and how many more there are.

    Example:
        >>> first_of(["flair", "t1", "t2"], 2)
        'flair, t1, ... and 1 more'
    """
    more = f", ... and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
