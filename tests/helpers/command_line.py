"""The command line as a user calls it, inside the process of a test."""

import json
from collections.abc import Mapping

import pytest

from cggm_med.cli import app as cli
from cggm_med.cli import unforeseen


def _raised(error):
    raise error


def command(monkeypatch, *words, code=0):
    """``cggm-med WORDS``, which must end with this exit code, and with no error that nobody foresaw."""
    monkeypatch.setattr("sys.argv", ["cggm-med", *map(str, words)])
    monkeypatch.setattr(unforeseen, "in_one_line", _raised)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code or 0) == code


def same_values(shown, stored, name):
    """Whether ``--json`` of a command wrote what it stored in its own file as well."""
    values = json.loads(shown.read_text())
    return (
        values.pop("software").startswith("cggm-med ")
        and values.pop("command") == name
        and values == json.loads(stored.read_text())
    )


def set_options(settings):
    """``--set KEY=VALUE`` for each setting, of texts ``KEY=VALUE`` or of values by key."""
    texts = [f"{key}={value}" for key, value in settings.items()] if isinstance(settings, Mapping) else settings
    return [word for text in texts for word in ("--set", text)]
