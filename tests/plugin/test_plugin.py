"""The plug-in door: a strategy in a package of its own is installed with pip, found, trained with and proven."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.small_runs import small_settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Environment variables under which the package is installed: in a folder of its own, nothing else is touched."""
    target = tmp_path_factory.mktemp("installed")
    # Built by the hatchling that the project itself needs; no index is asked.
    command = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    done = subprocess.run([sys.executable, *command, str(HERE)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(environment, *command):
    return subprocess.run(
        [sys.executable, "-W", "ignore", *command], env=environment, capture_output=True, text=True, timeout=300
    )


def cggm_med(environment, *words):
    return run(environment, "-m", "cggm_med.cli", *map(str, words))


@pytest.mark.slow
def test_it_is_listed_beside_the_built_in_ones(environment):
    listed = cggm_med(environment, "strategies").stdout
    assert "level" in listed
    assert "larger updates for the modalities that score below the mean" in listed
    assert "cggm" in listed


@pytest.mark.slow
def test_it_trains_from_the_command_line_and_its_factors_are_logged(environment, phantom, cache, tmp_path):
    flags = [word for setting in small_settings(phantom, cache) for word in ("--set", setting)]
    words = ["train", "--task", "brats2021", "--preset", "tiny", "--strategy", "level", "--out", tmp_path / "run"]
    done = cggm_med(environment, *words, *flags, "--set", "strategy.strength=0.8")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    factors = [record["factor"] for record in map(json.loads, lines) if "factor" in record]
    assert len({tuple(factor.values()) for factor in factors}) > 1
    assert all(sum(factor.values()) == pytest.approx(4, abs=1e-4) for factor in factors)
    assert "strength: 0.8" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.slow
def test_the_shared_laws_run_over_it(environment):
    battery = ROOT / "tests" / "strategies" / "test_all.py"
    done = run(environment, "-m", "pytest", str(battery), "-o", "addopts=", "-k", "level", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 50
