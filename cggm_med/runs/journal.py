"""The log of a run: the lines that it says, each with its time, in ``log.txt``."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

from cggm_med import distributed
from cggm_med.files import append_text
from cggm_med.stop import Stopped

FINISHED, STOPPED, FAILED = "finished", "stopped by signal", "failed: "  # how the last line of a run begins


def ending(file: Path) -> str:
    """How a run ended, as its log says; empty while it trains, where it was killed, and if there is no log.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "log.txt"
        >>> append_text(file, "2026-01-02T03:04:05+00:00 stopped by signal 15 after step 3" + chr(10))
        >>> ending(file)
        'stopped by signal 15 after step 3'
        >>> append_text(file, "2026-01-02T04:04:05+00:00 resuming at step 3 of 12" + chr(10))
        >>> ending(file)
        ''
    """
    last = last_line(file)
    return last if last.startswith((FINISHED, STOPPED, FAILED)) else ""


def last_line(file: Path) -> str:
    """What a run said last, without the time; empty if there is no log."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return lines[-1].partition(" ")[2] if lines else ""


class Journal:
    """Says lines and keeps those of the first process; in memory until a file is opened: a refused run leaves none.

    Args:
        say: shows a line.

    Example:
        >>> import tempfile
        >>> journal, file = Journal(print), Path(tempfile.mkdtemp()) / "log.txt"
        >>> journal("24 cases")
        24 cases
        >>> with journal.kept_in(file):
        ...     journal.note("step 10/500")
        >>> [line.split(maxsplit=1)[1] for line in file.read_text().splitlines()]
        ['24 cases', 'step 10/500']
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._early: list[str] = []
        self._file: Path | None = None

    def __call__(self, line: str) -> None:
        """Show a line and keep it."""
        self._say(line)
        self.note(line)

    def note(self, line: str) -> None:
        """Keep a line that is shown otherwise."""
        if distributed.rank() != 0:
            return
        text = f"{datetime.datetime.now().astimezone().isoformat(timespec='seconds')} {line}\n"
        if self._file is None:
            self._early.append(text)
        else:
            append_text(self._file, text)

    @contextlib.contextmanager
    def kept_in(self, file: Path) -> Iterator[None]:
        """Add what was said so far to a file, every line of the block, and why the block ended, if not by itself.

        Raises:
            OutputError: if it cannot be written.
        """
        if distributed.rank() == 0:
            self._file = file
            append_text(file, "".join(self._early))
            self._early.clear()
        try:
            yield
        except Stopped as stopped:
            self.note(f"{STOPPED} {stopped.number}" + (f" after step {stopped.saved}" if stopped.saved else ""))
            raise
        except BaseException as error:
            with contextlib.suppress(Exception):  # such as a full disk, which may be why it ended
                self.note(FAILED + " ".join(f"{type(error).__name__}: {error}".split()))
            raise
