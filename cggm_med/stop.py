"""Stop a training where nothing that was done is lost, when Ctrl-C or SIGTERM asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WAITING = b"\nstopping after the step that is under way; again to stop at once\n"


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; not an ``Exception``, so that nothing takes it for a failure of its own.

    Attributes:
        number: of the signal.
        saved: steps in the checkpoint that was written for it, if one was.
    """

    def __init__(self, number: int, saved: int | None = None) -> None:
        super().__init__()
        self.number, self.saved = number, saved

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Answer the signals with a handler for the duration of the block; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise ``Stopped`` at once when a signal comes during the block, for work that can be done again.

    Example:
        >>> try:
        ...     with stopped_by_signals():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Stopped as stopped:
        ...     print(stopped.exit_code)
        143
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handlers(stop):
        yield


class StopRequest:
    """Whether a signal has asked for an end, as a context manager around work that is asked at points of its own.

    The second signal raises ``Stopped`` at once. Processes that inherit the handler leave the answer to this one.

    Attributes:
        number: of the signal that came, if one did.

    Example:
        >>> with StopRequest() as request:
        ...     signal.raise_signal(signal.SIGINT)
        ...     print(request.number == signal.SIGINT)
        True
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._process = os.getpid()
        self._installed = contextlib.ExitStack()

    def __enter__(self) -> StopRequest:
        self._installed.enter_context(_handlers(self._receive))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._installed.close()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A part of the work that may be abandoned: a signal raises ``Stopped`` in it, also one that came before."""
        if self.number is not None:
            raise Stopped(self.number)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        again, self.number = self.number is not None, number
        if again or self._at_once:
            raise Stopped(number)
        # Not by print: the signal may have come while that was writing.
        os.write(2, WAITING)


def leave_signals_to_parent(worker: int) -> None:
    """Let a worker process ignore the signals: the training still needs its batches, and ends it.

    Args:
        worker: its number, which ``DataLoader`` gives; not used.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
