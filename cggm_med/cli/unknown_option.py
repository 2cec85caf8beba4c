"""What an option that a command does not have may have meant: another of its options, or a setting."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from cggm_med.config import setting_meant

OPTIONS = {"data.path": "--data", "train.loggers": "--log"}  # of other settings, it bears the name of their key
ASSIGNMENT = re.compile(r"\w+\.\w+=.*", re.DOTALL)


def hint(unknown: str, options: Sequence[str]) -> str:
    """What to say of an unknown option; empty if nothing is like it.

    Args:
        unknown: as it was given.
        options: that the command has.

    Example:
        >>> hint("--learning-rate", ["--set", "--epochs"]), hint("--max-epochs", ["--set", "--epochs"])
        ('Did you mean --set optim.lr=VALUE?', 'Did you mean --epochs?')
        >>> hint("--epoch", ["--set", "--epochs"]), hint("--learning-rate", ["--out"])
        ('Did you mean --epochs?', '')
    """
    name, names = unknown.lstrip("-").lower(), [option.lstrip("-") for option in options]
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.8):
        return f"Did you mean --{near[0]}?"
    if "--set" in options and (key := setting_meant(name)):
        option = OPTIONS.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")
        return f"Did you mean {option if option in options else f'--set {key}=VALUE'}?"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"Did you mean --{near[0]}?" if near else ""


class Command(TyperCommand):
    """A command whose error about an unknown option or word says what may have been meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command."""
        given = list(args)
        options = [name for parameter in self.params for name in parameter.opts if name.startswith("--")]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # of click, which typer brings under different names
            said: Any = error
            if hasattr(said, "possibilities"):
                meant = hint(said.option_name, options)
                said.possibilities, said.message = None, f"{said.message}. {meant}".removesuffix(". ")
            elif "--set" in options and "unexpected extra argument" in getattr(said, "message", ""):
                alone = [word for before, word in itertools.pairwise(["", *given]) if before != "--set"]
                if settings := [word for word in alone if ASSIGNMENT.fullmatch(word)]:
                    said.message = f"{said.message}; a setting is given as --set {settings[0]}"
            raise


class App(typer.Typer):
    """Commands of the class above."""

    def command(self, name: str | None = None, *, cls: type[TyperCommand] | None = Command, **options: Any) -> Any:
        """Register a function as a command."""
        return super().command(name, cls=cls, **options)
