"""The command line as a user calls it, inside the process of a test."""

import pytest

from cggm_med.cli import app as cli


def command(monkeypatch, *words, code=0):
    """``cggm-med WORDS``, which must end with this exit code."""
    monkeypatch.setattr("sys.argv", ["cggm-med", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code or 0) == code
