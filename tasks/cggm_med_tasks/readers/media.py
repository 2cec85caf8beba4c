"""Look at media files before they are needed, each once, so that none is found damaged in the middle of a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from cggm_med.data.layouts import read_json
from cggm_med.data.parallel import map_in_processes
from cggm_med.errors import DataError
from cggm_med.files import digest_of, write_json

MANY = 1000  # samples from which on looking takes long enough to report progress


class Look(NamedTuple):
    """How to find out whether the files of a sample can be read.

    Attributes:
        how: says what ``at`` does and with what; files that passed are not looked at again for the same.
        at: takes the sample's files, as many as there are, and raises DataError if they cannot be used; can be pickled.
    """

    how: str
    at: Callable[..., object]


def unreadable(
    look: Look,
    sources: Mapping[str, tuple[Path, ...]],
    cache: Path,
    *,
    what: str,
    workers: int,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Why files cannot be read, by sample; nothing of those that can.

    What was found sound is remembered by path, size and time of change; of a folder, of the folder itself, so that a
    file in it that is written anew in its place is not looked at again.

    Args:
        look: at the files of a sample.
        sources: files or folders by sample.
        cache: folder for what is remembered.
        what: kind of file, for messages.
        workers: processes that look.
        say: receives, if there are many files, a line after every tenth of them.

    Raises:
        OutputError: if the cache cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a", "b"):
        ...     _ = (folder / name).write_text(name)
        >>> def at(file):
        ...     if file.read_text() == "b":
        ...         raise DataError("it holds b")
        >>> files = {name: (folder / name,) for name in ("a", "b")}
        >>> unreadable(Look("no b", at), files, folder / "cache", what="files", workers=0, say=print)
        {'b': 'it holds b'}
    """
    memory = cache / "media" / f"{digest_of(look.how.encode())}.json"
    try:
        sound = set(read_json(memory))
    except (DataError, TypeError):  # none yet, or damaged: look again
        sound = set()
    keys = {sample: _key(paths) for sample, paths in sources.items()}
    new = [(sample, paths) for sample, paths in sources.items() if keys[sample] not in sound]
    reasons: dict[str, str] = {}
    results = map_in_processes(functools.partial(_reason, look.at), [paths for _, paths in new], min(workers, len(new)))
    for done, ((sample, _), reason) in enumerate(zip(new, results, strict=True), start=1):
        if reason:
            reasons[sample] = reason
        else:
            sound.add(keys[sample])
        if len(new) >= MANY and done * 10 // len(new) > (done - 1) * 10 // len(new):
            say(f"looked at {what} of {done} of {len(new)} samples")
    if len(reasons) < len(new):
        write_json(memory, sorted(sound))
    return reasons


def _key(paths: tuple[Path, ...]) -> str:
    facts = []
    for path in paths:
        try:
            of = path.stat()
        except OSError:  # which looking will explain
            return ""
        facts.append(f"{path.absolute()}\n{of.st_size}\n{of.st_mtime_ns}")
    return digest_of("\n".join(facts).encode(errors="surrogatepass"))


def _reason(at: Callable[..., object], paths: tuple[Path, ...]) -> str:
    try:
        at(*paths)
    except DataError as error:
        return str(error)
    return ""
