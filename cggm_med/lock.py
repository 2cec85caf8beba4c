"""One process at a time works on a folder or a part of it: locks that name their owner, which no dead process keeps."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout

from cggm_med.errors import OutputError

LOCK = ".lock"
LEASE = 60.0  # seconds after which a process on another machine that gives no sign of life counts as dead
LOOK = 1.0  # seconds in which it is certain whether a process on this machine lives


@contextlib.contextmanager
def alone(
    folder: Path, say: Callable[[str], Any] = print, *, name: str = LOCK, what: str | None = None
) -> Iterator[None]:
    """Be the only process that works on a folder, or on a part of it, on any machine that sees it.

    The owner renews its lock. One that was killed loses it at once to a process on the same machine, and within about a
    minute to one on another, which waits for that. A process that has lost its lock, because it stood still for so
    long, ends without writing anything more.

    Args:
        folder: which exists; the lock is a file in it while the block lasts.
        say: receives a line if a process on another machine is waited for.
        name: of that file; each part of a folder has its own.
        what: is worked on, for messages; default: the folder.

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
    file, what = folder / name, what or str(folder)
    lock = _lease(file)
    try:
        _acquire(lock, file, what, say)
    except OSError as error:
        raise OutputError(f"cannot lock {what}: {error}; choose another folder") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def abandoned(files: Sequence[Path]) -> Iterator[Path | None]:
    """Hold the first of several locks that nobody holds while the block lasts; None if their owners all live.

    A process on another machine counts as dead when it has given no sign of life for ``LEASE`` seconds, which are
    waited for; one that lives gives a sign within a third of them.

    Args:
        files: the locks' files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with abandoned([folder / "a.lock"]) as taken:
        ...     print(taken.name)
        a.lock
    """
    watched = {file: (_lease(file), _seen(file)) for file in files}
    while watched:
        for file, (lock, seen) in list(watched.items()):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                if _seen(file) not in (seen, None):
                    del watched[file]
                continue
            try:
                yield file
            finally:
                lock.release()
            return
        time.sleep(LOOK if watched else 0)
    yield None


def holder(file: Path) -> str | None:
    """Who holds a lock and has given a sign of life, in words; None if nobody has for ``LEASE`` seconds."""
    seen = _seen(file)
    return None if seen is None or time.time() - seen > LEASE else _in_words(_owner(file))


def _lease(file: Path) -> SoftFileLease:
    return SoftFileLease(file, lease_duration=LEASE, on_compromise=_end)


def _acquire(lock: SoftFileLease, file: Path, what: str, say: Callable[[str], Any]) -> None:
    try:
        lock.acquire(timeout=LOOK)
    except Timeout:
        owner = _owner(file)
        if owner.get("host") in {None, socket.gethostname()}:
            raise _in_use(what, owner) from None
        say(f"{what} is in use by {_in_words(owner)}; waiting up to {2 * LEASE:.0f} s whether it has ended")
        try:
            lock.acquire(timeout=2 * LEASE)
        except Timeout:
            raise _in_use(what, _owner(file)) from None


def _in_use(what: str, owner: dict[str, str]) -> OutputError:
    return OutputError(f"{what} is in use by {_in_words(owner)}; let it end, or choose another folder")


def _seen(file: Path) -> float | None:
    """When the owner of a lock gave its last sign of life; None if there is no owner."""
    try:
        return file.stat().st_mtime
    except OSError:
        return None


def _owner(file: Path) -> dict[str, str]:
    """What the lock's file says of its owner, and since when; nothing if it has just been released."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        seen = datetime.datetime.fromtimestamp(file.stat().st_mtime).astimezone()
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
