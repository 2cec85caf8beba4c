"""A command of the package in a forked process with limits: what it said, how it ended, and what it took."""

import os
import pkgutil
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

import cggm_med
from cggm_med.cli import app, unforeseen

T = TypeVar("T")
SECONDS = 5  # of the processor, which a busy machine does not stretch
WALL_SECONDS = 120  # for what waits without computing
ADDRESS_BYTES = 8 * 2**30  # beyond what this process has
SLACK_BYTES = 96 * 2**20  # buffers, and modules that are imported late
ERROR = re.compile(r"^(?:\w+(?:Error|Name|Extra|Loss): |Usage: )", re.MULTILINE)
SAID = re.compile(r"failed: |[1-9]\d* refused|[1-9]\d* asked")  # of one case among others
UNFORESEEN = ("unforeseen", "not foreseen", "Traceback", "fault of cggm-med")


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        code: of exit; negative: the signal that ended it.
        said: on standard output and standard error.
        seconds: of the processor.
        peak: greatest resident memory, in bytes.
    """

    code: int
    said: str
    seconds: float
    peak: int

    def faults(self, allowed_bytes: float) -> list[str]:
        """What is wrong with how it ended, whether it did what was asked or refused it.

        Args:
            allowed_bytes: greatest resident memory.
        """
        faults = []
        if self.code < 0:
            faults.append(f"ended by {signal.Signals(-self.code).name}")
        if any(word in self.said for word in UNFORESEEN):
            faults.append("not foreseen")
        elif self.code > 0 and not ERROR.search(self.said) and not SAID.search(self.said):
            faults.append(f"exit code {self.code} without an error")
        if self.seconds > SECONDS:
            faults.append(f"took {self.seconds:.1f} s")
        if self.peak > allowed_bytes:
            faults.append(f"took {(self.peak - allowed_bytes) / 2**20:.0f} MiB more than allowed")
        end = "; ".join(self.said.strip().splitlines()[-3:])[-400:]
        return [f"{fault} ({end})" for fault in faults]


def import_everything() -> None:
    """Import the package here, once, instead of in every child."""
    for module in pkgutil.walk_packages(cggm_med.__path__, "cggm_med."):
        if not module.name.endswith("__main__") and ".templates" not in module.name:
            __import__(module.name)
    torch.set_num_threads(1)


def shared(folder: Path, made: Callable[[Path], T]) -> T:
    """What the tries of a campaign share, made in a process that has imported the package."""
    import_everything()
    tempfile.tempdir = str(folder)
    return made(folder)


def say_into(said: Path, *, append: bool = False) -> None:
    """Let this process write its standard output and standard error into a file."""
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC), 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  not pytest's; as Python itself opens them
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115


def run_in_child(work: Callable[[], object], said: Path) -> Ended:
    """Call ``work`` in a forked process whose output goes to the file ``said``, with limits of time and memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = _limited(work, said)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status, used = os.wait4(pid, 0)
    return Ended(
        os.waitstatus_to_exitcode(status),
        said.read_text(errors="replace"),
        used.ru_utime + used.ru_stime,
        used.ru_maxrss * 1024,
    )


def _limited(work: Callable[[], object], said: Path) -> int:
    say_into(said)
    resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS + 1))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    address = pages * resource.getpagesize() + ADDRESS_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (address, address))
    signal.alarm(WALL_SECONDS)
    # As at the start of an interpreter: what warns at the first call only has warned in no child yet.
    warnings.resetwarnings()
    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _with_place(error: Exception) -> str:
    frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    return f"unforeseen {type(error).__name__}: {str(error)[:200]} at {' < '.join(frames[:-8:-1])}"


def command(*words: object) -> Callable[[], None]:
    """``cggm-med WORDS``, through its outermost handler of errors."""

    def call() -> None:
        sys.argv = ["cggm-med", *map(str, words)]
        unforeseen.in_one_line = _with_place
        app.main()

    return call
