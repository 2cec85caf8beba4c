"""Work on many files, shared by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch

from cggm_med.errors import CggmMedError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """The results of a function in the order of the items, computed a little ahead.

    Args:
        function: can be pickled, as a function of a module can; its errors are raised here as they are.
        items: what to work on.
        workers: processes; with 0 the work is done here.

    Raises:
        CggmMedError: if a process is killed.

    Example:
        >>> list(map_in_processes(abs, [-1, 2, -3], workers=0))
        [1, 2, 3]
    """
    if workers == 0:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, initializer=_begin) as pool:
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise CggmMedError(
                f"one of {workers} processes was killed, perhaps because memory ran out; "
                "use fewer with --set data.workers=N"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """What a process does before its work: it leaves Ctrl-C to its parent, and ends if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)  # each has a processor; sums in another order would have other bits

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None  # noqa: S101 - for the type checker
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
