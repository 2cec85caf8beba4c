"""Read a pickle from the internet without running what it holds.

Unpickling calls whatever the file names, so a pickle is a program. The published features of MOSI, MOSEI, IEMOCAP and
MELD are pickles all the same. Here a file is converted once, by a separate process that knows arrays and plain
containers only (`cggm_med_tasks.readers.unpickle_worker`), to npz and JSON; this process reads nothing else.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from cggm_med.errors import DataError
from cggm_med.files import atomic_folder, write_json

_WORKER = Path(__file__).with_name("unpickle_worker.py")
_FIX = "Get the file from its source again, or pickle its content anew as numpy arrays in dicts, lists and tuples"
# Raised whenever the converted form changes; older ones are made again.
_FORMAT = 1
_SECONDS = 60
_BYTES_PER_SECOND = 2e6  # hundreds of times slower than a local disk
# What a Python that is not where its libraries are needs to start; nothing else of the environment is passed on.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


class _Damaged(Exception):
    """A converted file that differs from what was written."""


def read_pickle(path: Path, cache: Path) -> Any:
    """What the pickle at ``path`` holds, as plain containers and arrays.

    The first call converts the file to ``cache / "unpickled" / <SHA-256 of the file>``; later calls read that.

    Args:
        path: a pickle of any protocol, by Python 2 or 3, with numpy 1 or 2.
        cache: a folder for converted files.

    Returns:
        Nested dict, list, tuple, set, str, int, float, bool, None and numpy arrays with the shapes and dtypes of the
        file, in this machine's byte order. Arrays of objects become nested lists, numpy scalars Python numbers, ordered
        and default dicts plain dicts, bytes text in latin1 (as Python 2 strings do). Arrays of one dtype are views of
        one buffer, which lives as long as any of them.

    Raises:
        DataError: if the file cannot be read, is damaged, or holds anything else, which is named and not run.
        OutputError: if the cache cannot be written.

    Example:
        >>> import pickle, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.pkl").write_bytes(pickle.dumps({"audio": np.ones((2, 3)), "labels": [0.5, -3]}))
        >>> content = read_pickle(folder / "a.pkl", cache=folder / "cache")
        >>> content["audio"].shape, content["labels"]
        ((2, 3), [0.5, -3])
    """
    try:
        # Unbuffered, so that the worker, which inherits the open file, begins where this process left it.
        with path.open("rb", buffering=0) as source:
            digest = _sha256(source)
            folder = cache / "unpickled" / digest
            if folder.is_dir():
                try:
                    return _load(folder, digest)
                except _Damaged:
                    shutil.rmtree(folder, ignore_errors=True)  # and make it again from the same bytes
            with atomic_folder(folder) as temporary:
                source.seek(0)
                _convert(source, path, temporary)
                structure = hashlib.sha256((temporary / "structure.json").read_bytes()).hexdigest()
                size = os.fstat(source.fileno()).st_size
                about = {"format": _FORMAT, "sha256": digest, "bytes": size, "structure_sha256": structure}
                write_json(temporary / "source.json", about)
                return _load(temporary, digest)
    except _Damaged as error:
        raise DataError(f"what {path} was converted to cannot be read back ({error}). {_FIX}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; check the path and its permissions") from error


def _sha256(source: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(2**20):
        digest.update(piece)
    return digest.hexdigest()


def _convert(source: IO[bytes], path: Path, folder: Path) -> None:
    """Let the worker convert ``source`` into ``folder``."""
    seconds = math.ceil(_SECONDS + os.fstat(source.fileno()).st_size / _BYTES_PER_SECOND)
    try:
        # By its path, because -I hides a package that is only on PYTHONPATH; -S keeps .pth files from running.
        ended = subprocess.run(  # noqa: S603  every argument is our own; the file's name is not among them
            [sys.executable, "-I", "-S", "-B", str(_WORKER), str(seconds)],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{path} takes more than {seconds} s to unpickle. {_FIX}") from None
    try:
        reply = json.loads(ended.stdout)
    except ValueError:
        how = f"exit status {ended.returncode}"
        raise DataError(f"{path} made the converter stop without an answer ({how}). {_FIX}") from None
    if "refused" in reply:
        raise DataError(f"{path} {reply['refused']}. {_FIX}")
    if "errno" in reply:
        raise OSError(reply["errno"], os.strerror(reply["errno"]))


def _load(folder: Path, digest: str) -> Any:
    """The content of a converted file.

    Raises:
        _Damaged: if it is not as it was written.
    """
    try:
        about = json.loads((folder / "source.json").read_bytes())
        structure = (folder / "structure.json").read_bytes()
        expected = (_FORMAT, digest, hashlib.sha256(structure).hexdigest())
        if (about["format"], about["sha256"], about["structure_sha256"]) != expected:
            raise _Damaged("another format or content")
        # Opened here, because numpy leaves a damaged file open.
        with (folder / "arrays.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            # numpy compares each block's checksum; torch takes the byte order of this machine only.
            blocks = {name: _native(archive[name]) for name in archive.files}
        return json.loads(structure, object_hook=_rebuild(blocks))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _Damaged(str(error)) from error


def _native(block: np.ndarray) -> np.ndarray:
    return block.astype(block.dtype.newbyteorder("="), copy=False)


def _rebuild(blocks: dict[str, np.ndarray]) -> Callable[[dict[str, Any]], Any]:
    """The function that turns each one-key object of the JSON back into what it stands for."""

    def rebuild(node: dict[str, Any]) -> Any:
        ((kind, content),) = node.items()
        if kind == "array":
            block, start, shape, axes = content
            return blocks[block][start : start + math.prod(shape)].reshape(shape).transpose(axes)
        if kind == "floats":
            block, start, count = content
            return blocks[block][start : start + count].tolist()
        makers: dict[str, Callable[[Any], Any]] = {
            "dict": dict,
            "tuple": tuple,
            "set": set,
            "frozenset": frozenset,
            "float": float,
        }
        return makers[kind](content)

    return rebuild
