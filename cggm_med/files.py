"""Atomic writes (temporary name, flush to disk, rename), result folders, digests, and what a path may have meant."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cggm_med.errors import OutputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    Args:
        path: the final file; its folder is created.

    Raises:
        OutputError: if the folder cannot be written.

    Example:
        >>> with atomic_file(Path(tempfile.mkdtemp()) / "a.txt") as file:
        ...     _ = file.write(b"whole or not at all")
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private to its owner; a result should be as readable as any other new file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_why(error)}; choose another folder") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends without an error.

    If another process has made ``path`` meanwhile, that one stays.

    Raises:
        OutputError: if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_why(error)}; choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON to ``path``, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """Add ``text`` to the end of ``path``.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; make room, or allow it") from error


@contextlib.contextmanager
def results_folder(path: Path) -> Iterator[Path]:
    """A writable folder; if it is new and the block fails before writing anything, it is removed.

    Raises:
        OutputError: if it is a file, or cannot be created or written.
    """
    made = not path.exists()
    writable_folder(path)
    try:
        yield path
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # rmdir refuses a folder that holds anything
                path.rmdir()
        raise


def writable_folder(path: Path) -> Path:
    """Create ``path`` if necessary and prove that a file can be written in it.

    Raises:
        OutputError: if it is a file, or cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OutputError(f"cannot write to folder {path}: {_why(error)}; choose another folder") from error


def require_writable(
    outputs: Iterable[Path],
    *,
    inputs: Iterable[Path] = (),
    ours: Callable[[Path], bool] = lambda path: False,
    option: str = "--out",
) -> None:
    """Make sure, before any work, that files can be written, and that nothing of the user is lost by it.

    Args:
        outputs: files that will be written, or replaced.
        inputs: files that are read, under whatever names.
        ours: whether a file that is there was written by the same command, and may be replaced.
        option: by which others are chosen.

    Raises:
        OutputError: names every output that is an input, a folder, or somebody else's file, or whose folder cannot be
            written.

    Example:
        >>> scan = Path(tempfile.mkdtemp()) / "scan.nii"
        >>> require_writable([scan])
        >>> _ = scan.write_bytes(b"a scan")
        >>> require_writable([scan], inputs=[scan])
        Traceback (most recent call last):
        cggm_med.errors.OutputError: .../scan.nii is read as well as written; choose another name...
    """
    read = {os.path.realpath(path) for path in inputs}
    problems, places = [], set()
    for path in dict.fromkeys(outputs):
        if os.path.realpath(path) in read:
            problems.append(f"{path} is read as well as written; choose another name with {option}")
        elif path.is_dir():
            problems.append(f"{path} is a folder; expected the name of a file")
        elif path.exists() and not ours(path):
            problems.append(f"{path} is there, and this command did not write it; move it, or choose another {option}")
        places.add(path.parent)
    for place in sorted(places):
        existing = next(folder for folder in (place, *place.absolute().parents) if os.path.lexists(folder))
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            problems.append(f"cannot write to folder {place}: {_why(error)}; choose another folder with {option}")
    if len(problems) == 1:
        raise OutputError(problems[0])
    if problems:
        raise OutputError("\n  ".join([f"{len(problems)} outputs cannot be written:", *problems]))


def require_unused(path: Path, *, option: str = "--out", instead: str = "", beside: Sequence[str] = ()) -> None:
    """Make sure, before any work, that ``path`` can become a new folder of results.

    Args:
        path: a folder.
        option: by which another one is chosen.
        instead: what else would help, for the message.
        beside: names of files that may stand in it.

    Raises:
        OutputError: if it exists and is not an empty folder, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and {file.name for file in path.iterdir()} <= {*beside}):
        raise OutputError(f"{path} already exists; choose another folder with {option}{instead}")
    require_writable([path / "results.json"], option=option)


def require_own(folder: Path, names: Sequence[str]) -> None:
    """Make sure, before any work, that results can be written to a folder in which only earlier ones are replaced.

    Args:
        folder: of results; other files in it stay.
        names: of the files that will be written, replaced or removed. The first is a JSON file that says where the
            others come from (``provenance``), by which those of an earlier call are known.

    Raises:
        OutputError: names every file that is somebody else's; or if the folder cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "cost.png").write_bytes(b"a picture")
        >>> require_own(folder, ["comparison.json", "cost.png"])
        Traceback (most recent call last):
        cggm_med.errors.OutputError: .../cost.png is there, and this command did not write it; move it, or choose...
        >>> write_json(folder / "comparison.json", {"provenance": {}})
        >>> require_own(folder, ["comparison.json", "cost.png"])
    """
    try:
        earlier = "provenance" in dict(json.loads((folder / names[0]).read_bytes()))
    except (OSError, ValueError, TypeError):
        earlier = False
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected the name of a folder")
    require_writable([folder / name for name in names], ours=lambda path: earlier)


def unused(path: Path) -> Path:
    """``path`` if it does not exist, else the first of ``path-2``, ``path-3`` and so on that does not.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> unused(folder).name == folder.name + "-2", unused(folder / "new").name
        (True, 'new')
    """
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def cache_folder(setting: str | None) -> Path:
    """Folder for reproducible files: the setting, or the user's cache."""
    if setting is not None:
        return Path(setting)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cggm-med"


@contextlib.contextmanager
def caching() -> Iterator[None]:
    """What the block writes belongs into the cache: if that is impossible, say which setting chooses another one.

    Raises:
        OutputError: if the cache cannot be written.
    """
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error} for the cache with --set data.cache=FOLDER") from error


def digest_of(content: bytes, size: int = 12) -> str:
    """BLAKE2b digest of ``size`` bytes, in hexadecimal digits.

    Example:
        >>> digest_of(b"a scan", size=4)
        'a4cbed84'
    """
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def digest_of_files(paths: Iterable[Path], size: int) -> str:
    """BLAKE2b digest of ``size`` bytes of the contents of files, one after the other, in hexadecimal digits.

    Of one file and 20 bytes it is what ``b2sum -l 160`` says.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "scan.nii"
        >>> _ = file.write_bytes(b"a scan")
        >>> digest_of_files([file], size=4) == digest_of(b"a scan", size=4)
        True
    """
    digest = hashlib.blake2b(digest_size=size)
    for path in paths:
        for piece in pieces(path):
            digest.update(piece)
    return digest.hexdigest()


def did_you_mean(path: Path) -> str:
    """What to add to "PATH does not exist": the existing one whose name is most alike, in brackets; or nothing.

    Of a link, where it leads.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "case7_t1.nii.gz").write_bytes(b"")
        >>> did_you_mean(folder / "case7_t1w.nii.gz") == f" (did you mean {folder / 'case7_t1.nii.gz'}?)"
        True
        >>> did_you_mean(folder / "anything.else")
        ''
        >>> (folder / "case7_t2.nii.gz").symlink_to("/nowhere/t2.nii.gz")
        >>> did_you_mean(folder / "case7_t2.nii.gz")
        ' (it is a link to /nowhere/t2.nii.gz, which is not there)'
    """
    if path.is_symlink():
        return f" (it is a link to {os.readlink(path)}, which is not there)"
    near = _nearest(path)
    return "" if near is None else f" (did you mean {near}?)"


def absence(path: Path) -> str:
    """What to say of a path that should lead to a file and does not.

    Example:
        >>> folder = Path(tempfile.mkdtemp()) / "case7_t1.nii.gz"  # as some archives unpack
        >>> absence(folder) == f"does not exist: {folder}"
        True
        >>> folder.mkdir()
        >>> absence(folder) == f"is a folder: {folder}; give a file"
        True
        >>> _ = (folder / "0001.nii").write_bytes(b"")
        >>> absence(folder) == f"is a folder: {folder}; give the file in it, 0001.nii"
        True
    """
    if not path.is_dir():
        return f"does not exist: {path}{did_you_mean(path)}"
    held = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    return f"is a folder: {path}; give {f'the file in it, {held[0]}' if len(held) == 1 else 'a file'}"


def what_it_is(beginning: bytes) -> str:
    """What a file is that cannot be read as what it should be, if its first bytes tell, and what to do; else empty.

    Example:
        >>> what_it_is(b""), what_it_is(b"version https://git-lfs.github.com/spec/v1")
        ('it is empty; copy it anew', 'it is a pointer of Git LFS; fetch its content with git lfs pull')
    """
    if not beginning:
        return "it is empty; copy it anew"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch its content with git lfs pull"
    page = beginning.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))
    return "it is a page of the web; download the file anew" if page else ""


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, one MiB at a time."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _nearest(path: Path) -> Path | None:
    """The existing file or folder that differs least from one that does not exist, in one or two names of the path."""
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None:
        return None
    first, *rest = path.relative_to(folder).parts
    try:
        names = {name.lower(): name for name in sorted(os.listdir(folder)) if not name.startswith(".")}
    except OSError:
        return None
    for close in difflib.get_close_matches(first.lower(), names, n=3, cutoff=0.75):
        candidate = folder.joinpath(names[close], *rest)
        if candidate.exists():
            return candidate
        # Another name may be wrong as well.
        if rest and (folder / names[close]).is_dir() and (deeper := _nearest(candidate)) is not None:
            return deeper
    return None


def _why(error: OSError) -> str:
    """Why a path cannot be written, where the system's words would not say that a part of it is a file."""
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
    return "a file of that name is in the way" if in_the_way else str(error.strerror or error)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; folders cannot be opened for this on every system."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    """The process's permission mask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
