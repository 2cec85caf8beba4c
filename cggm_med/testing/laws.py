"""What a law is: a function that raises an ``AssertionError`` with a message where a plug-in breaks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

# By what it says, in words.
Laws = Mapping[str, Callable[[], None]]


def check(laws: Laws, plugin: str) -> None:
    """Try one law after the other.

    Args:
        laws: see there.
        plugin: what is tried, for the message.

    Raises:
        AssertionError: says which law is broken, and how.
    """
    for name, law in laws.items():
        try:
            law()
        except Exception as error:  # a plug-in may fail in any way
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise AssertionError(f"{plugin} breaks the law '{name}': {kind}{error}") from error


def expect(kept: bool, message: str) -> None:
    """Raise an ``AssertionError``, also under ``python -O``.

    Args:
        kept: whether all is well.
        message: what was expected, and what was found.
    """
    if not kept:
        raise AssertionError(message)
