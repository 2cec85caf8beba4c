"""Every benchmark runs as a script, in its smallest size, and prints its figures."""

import re
import sys
from pathlib import Path

import pytest
from helpers import processes

FOLDER = Path(__file__).parents[1] / "benchmarks"
PRINTED = {
    "patch_loading": r"one worker makes [\d.]+ batches/s, the step uses [\d.]+: ratio [\d.]+",
    "predict": r"whole case, s +[\d.]+ +[\d.]+ +[\d.]+x faster",
    "strategy_overhead": r"cggm / uniform: time [\d.]+ \([\d.]+-[\d.]+\), memory [\d.]+",
}
NEEDS = {"predict": "linux"}  # it reads /proc


def test_every_benchmark_is_run_here_and_by_make():
    assert sorted(PRINTED) == sorted(path.stem for path in FOLDER.glob("*.py"))
    recipe = (FOLDER.parent / "Makefile").read_text()
    assert all(f"benchmarks/{name}.py" in recipe for name in PRINTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRINTED)
def test_a_benchmark_runs(name, phantom, cache):
    if not sys.platform.startswith(NEEDS.get(name, "")):
        pytest.skip(f"needs {NEEDS[name]}")
    words = [FOLDER / f"{name}.py", "--tiny"]
    if name == "patch_loading":
        words += ["--set", f"data.path={phantom}", "--set", f"data.cache={cache}"]
    ended = processes.run(*words)
    assert ended.returncode == 0, ended.stderr
    assert re.search(PRINTED[name], ended.stdout), ended.stdout
