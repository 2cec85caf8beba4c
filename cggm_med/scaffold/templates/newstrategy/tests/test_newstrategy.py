"""The strategy newstrategy: it keeps the laws of all strategies, its numbers are right, and it trains."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cggm_med import ConfigError
from cggm_med.cli.app import main
from cggm_med.testing import check_strategy

from newstrategy_strategy.strategy import NewstrategyConfig, newstrategy_factors


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command of cggm-med, which must succeed, and returns what it says."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cggm-med", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert not end.value.code, said.err
        return said.out

    return run


def test_it_keeps_the_laws_of_all_strategies() -> None:
    check_strategy("newstrategy", neutral={"strength": 0.0})


def test_factors_by_hand() -> None:
    """The mean is 0.4; 0.2 below it and 0.2 above it."""
    factors = newstrategy_factors(torch.tensor([0.2, 0.4, 0.6]), strength=0.5)
    assert factors.tolist() == pytest.approx([1.1, 1.0, 0.9])


def test_an_impossible_strength_is_named() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.strength is 1\.5"):
        NewstrategyConfig("newstrategy", strength=1.5)


def test_it_trains_and_its_factors_are_logged(command: Callable[..., str], tmp_path: Path) -> None:
    assert "newstrategy" in command("strategies")
    settings = ("train.epochs=2", "train.steps_per_epoch=2", "train.log_every=1", f"data.cache={tmp_path / 'cache'}")
    words = [word for setting in (*settings, "strategy.strength=0.8") for word in ("--set", setting)]
    command("train", "--task", "avdigits", "--strategy", "newstrategy", "--out", tmp_path / "run", *words)
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    factors = [list(record["factor"].values()) for record in records if "factor" in record]
    assert len(factors) == 4
    # CHANGE: what your factors obey; these sum to the number of modalities.
    assert all(sum(each) == pytest.approx(len(each), abs=1e-4) for each in factors)
    assert "strength: 0.8" in (tmp_path / "run" / "config.yaml").read_text()
