"""How long commands take until they answer, or until they begin to work, beside the goals.

    python benchmarks/start.py [--rounds 5] [--tiny]

Each command is started ``--rounds`` times as a process of its own, in turn with the others; the smallest of the wall
times and of the processor times is printed, since all else on the machine only adds to them. ``train`` has begun to
work when it opens the first file of its data, and ``predict`` when it opens the weights of its run: there they are
ended.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cggm_med.results.tables import Table, print_table

# Ends the process where it opens a file of a folder.
UNTIL = """
import os, runpy, sys
folder = sys.argv.pop(1)
sys.addaudithook(lambda event, about: event == "open" and str(about[0]).startswith(folder) and os._exit(0))
runpy.run_module("cggm_med.cli", run_name="__main__", alter_sys=True)
"""


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="once, and only what reads no data")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = f"data.cache={folder / 'cache'}"
        train = ["train", "--preset", "tiny", "--out", folder / "new", "--set", cache]
        commands = {
            "--version": (1.0, ["-m", "cggm_med.cli", "--version"]),
            "tasks": (1.0, ["-m", "cggm_med.cli", "tasks"]),
            "strategies": (1.0, ["-m", "cggm_med.cli", "strategies"]),
        }
        if not asked.tiny:
            commands["train"] = (2.0, ["-c", UNTIL, folder / "cache", *train])
            run = folder / "run"
            short = ["--set", "train.epochs=1", "--set", "train.steps_per_epoch=1", "--set", cache, "--out", run]
            seconds_of(["-m", "cggm_med.cli", "train", "--preset", "tiny", *short])
            scans = next((folder / "cache" / "phantom").glob("*/*"))
            words = ["predict", run, scans, "--out", folder / "masks"]
            commands["predict"] = (2.0, ["-c", UNTIL, run / "checkpoints", *words])
        rounds = 1 if asked.tiny else asked.rounds
        found = [{what: seconds_of(words) for what, (_, words) in commands.items()} for _ in range(rounds)]
    lines = [
        (what, f"at most {goal:g}", *(f"{min(times[what][i] for times in found):.2f}" for i in range(2)))
        for what, (goal, _) in commands.items()
    ]
    print_table(Table("seconds of a start", ("command", "goal", "wall", "processor"), lines), Console())


def seconds_of(words: Sequence[str | Path]) -> tuple[float, float]:
    """Seconds on the clock and of the processor that Python takes with these words, without its children."""
    begun, used = time.perf_counter(), os.times()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, now = time.perf_counter() - begun, os.times()
    return seconds, now.children_user + now.children_system - used.children_user - used.children_system


if __name__ == "__main__":
    main()
