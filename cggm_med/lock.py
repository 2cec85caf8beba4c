"""One process at a time works on a folder: a lock that names its owner and is not kept by a dead process."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from cggm_med.errors import OutputError

LOCK = ".lock"
LEASE = 60.0  # seconds after which a process on another machine that gives no sign of life counts as dead
LOOK = 1.0  # seconds in which it is certain whether a process on this machine lives


@contextlib.contextmanager
def alone(folder: Path, say: Callable[[str], Any] = print) -> Iterator[None]:
    """Be the only process that works on a folder, on any machine that sees it.

    The owner renews its lock. One that was killed loses it at once to a process on the same machine, and within about a
    minute to one on another, which waits for that. A process that has lost its lock, because it stood still for so
    long, ends without writing anything more.

    Args:
        folder: which exists; the lock is a file in it while the block lasts.
        say: receives a line if a process on another machine is waited for.

    Raises:
        OutputError: if another process works on it; names that process. Or if the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with alone(folder):
        ...     print([file.name for file in folder.iterdir()])
        ['.lock']
        >>> list(folder.iterdir())
        []
    """
    lock = SoftFileLease(folder / LOCK, lease_duration=LEASE, on_compromise=_end)
    try:
        _acquire(lock, folder, say)
    except OSError as error:
        raise OutputError(f"cannot lock {folder}: {error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: SoftFileLease, folder: Path, say: Callable[[str], Any]) -> None:
    try:
        lock.acquire(timeout=LOOK)
    except Timeout:
        owner = _owner(folder)
        if owner.get("host") in {None, socket.gethostname()}:
            raise _in_use(folder, owner) from None
        say(f"{folder} is in use by {_in_words(owner)}; waiting up to {2 * LEASE:.0f} s whether it has ended")
        try:
            lock.acquire(timeout=2 * LEASE)
        except Timeout:
            raise _in_use(folder, _owner(folder)) from None


def _in_use(folder: Path, owner: dict[str, str]) -> OutputError:
    return OutputError(f"{folder} is in use by {_in_words(owner)}; let it end, or choose another folder")


def _owner(folder: Path) -> dict[str, str]:
    """What the lock's file says of its owner, and since when; nothing if it has just been released."""
    try:
        text = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
        seen = datetime.datetime.fromtimestamp((folder / LOCK).stat().st_mtime).astimezone()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs} | {"seen": seen.isoformat(sep=" ", timespec="seconds")}


def _in_words(owner: dict[str, str]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host', 'another machine')} (last sign of life {owner['seen']})"


def _end(loss: Any) -> None:
    """End the process at once: what it would write now could go into the files of a new owner."""
    folder, why = Path(loss.lock_file).parent, f"the lock was lost ({loss.reason})"
    if loss.reason == "owner-changed":
        why = "this process stood still, and another one works on it now"
    sys.stderr.write(f"OutputError: {folder}: {why}; ended, nothing more was written\n")
    sys.stderr.flush()
    os._exit(1)
