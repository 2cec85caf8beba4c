"""An error that nobody foresaw: one line for the user, and a file with everything that a report of it needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
import tempfile
import traceback

PACKAGES = ("cggm-med", "torch", "monai", "numpy", "nibabel", "SimpleITK", "torchio", "nnunetv2")


def in_one_line(error: Exception) -> str:
    """What to say of an error; its traceback goes to a new file for temporary files that only the user can read.

    Example:
        >>> try:
        ...     {}["absent"]
        ... except KeyError as error:
        ...     print(in_one_line(error))
        unforeseen KeyError: 'absent'; this is a fault of cggm-med or of a plug-in; ...
    """
    what = f"unforeseen {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    told = f"{what}; this is a fault of cggm-med or of a plug-in"
    try:
        handle, path = tempfile.mkstemp(prefix="cggm-med-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(_report(error))
    except OSError:
        return f"{told}; --debug shows where"
    return f"{told}; report it with {path} (which names your files and paths), or look with --debug"


def _report(error: Exception) -> str:
    lines = [f"Python {platform.python_version()} on {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    lines.append(f"command: {shlex.join(sys.argv)}")
    return "\n".join([*lines, "", *traceback.format_exception(error)])
