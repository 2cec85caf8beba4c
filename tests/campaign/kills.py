"""A training that is killed at any instant, and resumed, ends with the bits of one that was not: 1,000 kills.

Half of the kills come at a drawn moment, the other half at a drawn change of a file (opening it to write, renaming,
removing), so that the short instants of saving are met as often as the long ones of computing. Every try prepares its
cases anew.
"""

import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from helpers.command_line import set_options
from helpers.declared_cohort import SMALL, cohort
from helpers.pictures import without_pictures

from campaign.child import command, say_into, shared
from campaign.tries import campaign
from cggm_med.testing.runs import expect_same_run
from cggm_med.training import checkpoint as checkpoints

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
SETTINGS = {**SMALL, "train.checkpoint_every": "2", "strategy.warmup_steps": "2", "data.augmentation": "standard"}


@dataclass(frozen=True)
class Whole:
    """A run that was not killed: its folder, how long it took, and how many changes of files it made."""

    folder: Path
    seconds: float
    changes: int


class Trainings:
    """Runs of one training, some killed."""

    def __init__(self, folder: Path):
        self.folder, self.list = folder, cohort(folder, cases=5)
        self.whole: dict[int, Whole] = {}

    def reference(self, processes: int) -> Whole:
        """The run that is not killed, of so many processes."""
        if processes not in self.whole:
            place = self.folder / f"whole{processes}"
            place.mkdir()
            began = time.monotonic()
            code = train(self.words(place, 0), processes, place / "said", counted=place / "changes")
            assert code == 0, (place / "said").read_text()
            seconds = time.monotonic() - began
            self.whole[processes] = Whole(place / "run", seconds, int((place / "changes").read_text()))
        return self.whole[processes]

    def words(self, place: Path, workers: int) -> list[object]:
        """How to start the run in ``place``, or how to go on where it has become a run."""
        if (place / "run" / "config.yaml").exists():
            return ["train", "--resume", place / "run", "--set", f"data.workers={workers}"]
        shutil.rmtree(place / "run", ignore_errors=True)
        settings = set_options({**SETTINGS, "data.cache": str(place / "cache"), "data.workers": str(workers)})
        return ["train", "--task", "segmentation", "--data", self.list, "--out", place / "run", *settings]

    def attempt(self, rng, kills: int = 1, workers: int = 0, processes: int = 1) -> tuple[str, list[str]]:
        """Kill a run so many times, let it end, and hold it against the one that was not killed."""
        whole = self.reference(processes)
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place, reached = Path(name), "not killed"
            for _ in range(kills):
                by_time = rng.random() < 0.5
                moment = {
                    "seconds": float(rng.uniform(0, whole.seconds)) if by_time else None,
                    "change": None if by_time else int(rng.integers(whole.changes)),
                }
                code = train(self.words(place, workers), processes, place / "said", **moment)
                if code not in (0, -signal.SIGKILL):
                    return "lost", [f"before it was killed: {code}: {(place / 'said').read_text()[-500:]}"]
                reached = stage(place / "run") if code else reached
            code = train(self.words(place, workers), processes, place / "said")
            if code:
                return reached, [f"lost: {code}: {(place / 'said').read_text()[-500:]}"]
            try:
                expect_same_run(place / "run", whole.folder)
            except AssertionError as difference:
                return reached, [str(difference)]
        return reached, []


def stage(run: Path) -> str:
    """How far a killed run had come."""
    last = run / "checkpoints" / "last.pt"
    if not (run / "config.yaml").exists():
        return "preparing"
    if not last.exists():
        return "first steps"
    if (run / "results.json").exists():
        return "after scoring"
    step = checkpoints.load(last, torch.device("cpu")).step
    return "scoring" if step == int(SMALL["train.epochs"]) * int(SMALL["train.steps_per_epoch"]) else "training"


def train(
    words: list[object],
    processes: int,
    said: Path,
    *,
    seconds: float | None = None,
    change: int | None = None,
    counted: Path | None = None,
) -> int:
    """Run a command in a process group, which is killed after so many seconds or before that change of a file.

    Args:
        words: of the command.
        processes: how many train together.
        said: file for what they say.
        seconds: until the kill.
        change: number of the change of a file, of the first process, before which the kill comes.
        counted: file for how many changes of files there were.

    Returns:
        The exit code; negative for the signal that ended it.
    """
    leader = os.fork()
    if not leader:
        os.setpgid(0, 0)
        os._exit(_led(words, processes, said, change, counted))
    os.setpgid(leader, leader)  # whichever of the two comes first
    if seconds is not None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if os.waitid(os.P_PID, leader, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(min(0.01, max(0.0, until - time.monotonic())))
        os.killpg(leader, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(leader, 0)[1])
    while True:  # data loader workers of a killed process end a moment later
        try:
            os.killpg(leader, 0)
            time.sleep(0.01)
        except ProcessLookupError:
            return status


def _led(words: list[object], processes: int, said: Path, change: int | None, counted: Path | None) -> int:
    """Let as many processes as wanted run the command, in this process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(processes)}
    ranks = []
    for rank in range(processes):
        ranks.append(os.fork())
        if not ranks[-1]:
            if processes > 1:
                os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank))
            os._exit(_ranked(words, said, change if rank == 0 else None, counted if rank == 0 else None))
    return max(abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])) for pid in ranks)


def _ranked(words: list[object], said: Path, change: int | None, counted: Path | None) -> int:
    say_into(said, append=True)
    random.seed()
    own, seen = os.getpid(), 0

    def before_change(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        written = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if os.getpid() == own and (written or event in CHANGES):
            if seen == change:
                os.killpg(0, signal.SIGKILL)
            seen += 1

    sys.addaudithook(before_change)
    try:
        with without_pictures():
            command(*words)()
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if counted is not None:
            counted.write_text(str(seen))


if __name__ == "__main__":
    campaign("kills", 1000, lambda folder: shared(folder, Trainings).attempt)
