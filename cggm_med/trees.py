"""JSON and YAML that anyone may have written: what cannot be read is a ValueError, and a small text stays small."""

from __future__ import annotations

import json
from typing import Any

import yaml

from cggm_med.errors import kind_of

TOO_DEEP = "it is nested too deeply"
MAX_REPEATS = 100  # of what a YAML text holds, by aliases of aliases


def parse_json(content: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: if it is no JSON, or nested deeper than Python can follow.

    Example:
        >>> parse_json('{"a": 1}')
        {'a': 1}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ValueError: it is nested too deeply
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error


def parse_yaml(text: str) -> Any:
    r"""What a YAML text holds; no tag makes it build an object of a class.

    Raises:
        ValueError: if it is no YAML, nested deeper than Python can follow, or repeats itself by aliases more than
            ``MAX_REPEATS`` times; a line that says where, and what is expected there.

    Example:
        >>> parse_yaml("a: &files [x, y]\nb: *files")
        {'a': ['x', 'y'], 'b': ['x', 'y']}
        >>> parse_yaml("optim: [1")
        Traceback (most recent call last):
        ValueError: line 1, column 10: expected ',' or ']', but got '<stream end>'
        >>> parse_yaml("a: &a [*a, *a]")
        Traceback (most recent call last):
        ValueError: its aliases repeat what it holds without end
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is None:
            raise ValueError(" ".join(str(error).split())) from error
        mark = error.problem_mark
        raise ValueError(f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}") from error
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    except Exception as error:  # of a tag such as !!bool before something else, PyYAML raises what it meets
        raise ValueError(" ".join(str(error).split())) from error
    _require_small(tree, MAX_REPEATS * (len(text) + 10))
    return tree


def _require_small(tree: Any, most: int) -> None:
    """Raise `ValueError` where there are more values than ``most``, those behind each alias counted each time."""
    waiting, seen = [tree], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > most:
            raise ValueError("its aliases repeat what it holds without end")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value


def in_form(value: Any, form: Any) -> Any:
    """A value that was read, if it has the form in which it was written.

    Args:
        value: of ``parse_json`` or ``parse_yaml``.
        form: a type, or a tuple of types; ``[form]`` of lists; ``{name: form}`` of objects with at least these names;
            ``{str: form}`` of objects with any names. Whole numbers are floats as well.

    Raises:
        ValueError: names the first value of another form.

    Example:
        >>> in_form({"a": [1, 2.5]}, {str: [float]})
        {'a': [1, 2.5]}
        >>> in_form({"train": ["a", ["b"]]}, {"train": [str]})
        Traceback (most recent call last):
        ValueError: train 1 is a list, expected text
    """
    if isinstance(form, list):
        _require(value, list)
        parts = [(number, part, form[0]) for number, part in enumerate(value)]
    elif isinstance(form, dict):
        _require(value, dict)
        any_name = form.get(str)
        wanted = dict.fromkeys(value, any_name) if any_name is not None else form
        parts = [(name, value.get(name), of) for name, of in wanted.items()]
    else:
        _require(value, form)
        return value
    for name, part, of in parts:
        try:
            in_form(part, of)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    return value


def _require(value: Any, kinds: type | tuple[type, ...]) -> None:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        expected = " or ".join("a whole number" if kind is int else kind_of(kind()) for kind in kinds)
        raise ValueError(f"is {kind_of(value)}, expected {expected}")
