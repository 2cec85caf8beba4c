"""Every benchmark runs as a script, in its smallest size, and prints its figures."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import processes

FOLDER = Path(__file__).parents[1] / "benchmarks"
LAYOUTS = Path(__file__).parents[2] / "shared" / "layouts"
MET, OF = 673, 688  # points of its expected.json in which what is proposed agrees, and all
PRINTED = {
    "beside_others": r"skull +│ stripped │ skull +│ 6 of 6",
    "check_cost": r"checking costs [\d.]+% of preparation",
    "cohort": r"6 scans predicted: the process takes \d+ MB",
    "exchange": r"as long as a step: [\d.]+, goal 1.3",
    "exchanged_names": r"the other half │ 4 names +│ 72 of 72",
    "faults": r"3 faults of 3 kinds",
    "gpu": r"cggm / joint, full +│ at most 1.02",
    "patch_loading": r"one worker makes [\d.]+ batches/s, the step uses [\d.]+: ratio [\d.]+",
    "phantom_voxels": r"balanced      flair t1 t1ce t2 +(\d\.\d+ *){4}",
    "predict": r"whole case, s +[\d.]+ +[\d.]+ +[\d.]+x faster",
    "read_layouts": r"15 of 15 points agree: 100.0%; 1 of 1 layouts in every point",
    "start": r"--version +│ at most 1 +│ [\d.]+",
    "strategy_overhead": r"cggm / uniform: time [\d.]+ \([\d.]+-[\d.]+\), memory [\d.]+",
}
NEEDS = {"cohort": "linux", "predict": "linux"}  # they read /proc


def test_every_benchmark_is_run_here_and_by_make():
    assert sorted(PRINTED) == sorted(path.stem for path in FOLDER.glob("*.py"))
    recipe = (FOLDER.parent / "Makefile").read_text()
    assert all(f"benchmarks/{name}.py" in recipe for name in PRINTED)


@pytest.mark.slow
@pytest.mark.skipif(not LAYOUTS.is_dir(), reason="needs the folders of ../shared/layouts")
def test_the_share_of_layouts_that_are_read_does_not_fall(tmp_path):
    page = (FOLDER.parent / "docs/reference/layouts.md").read_text()
    assert f"{MET} of {OF} points agree" in page
    subprocess.run([sys.executable, LAYOUTS / "make_layouts.py", tmp_path], check=True, stdout=subprocess.DEVNULL)
    ended = processes.run(FOLDER / "read_layouts.py", tmp_path)
    assert ended.returncode == 0, ended.stderr
    met, _ = map(int, re.search(r"(\d+) of (\d+) points agree", ended.stdout).groups())
    assert met >= MET, ended.stdout


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
