"""Checking arrays of features that come from files: shape, kind and finite values, each with one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.errors import DataError


def require_numbers(value: Any, axes: Sequence[str], where: str) -> NDArray[Any]:
    """The value, if it is an array of numbers with these axes.

    Args:
        value: what was read.
        axes: names, such as ``("sample", "time", "channel")``.
        where: file and key, for the message.

    Raises:
        DataError: if it is something else.

    Example:
        >>> require_numbers([1.0], ("sample",), "labels.npy")
        Traceback (most recent call last):
        cggm_med.errors.DataError: labels.npy holds list, expected numbers (sample)
    """
    expected = f"expected numbers ({', '.join(axes)})"
    if not isinstance(value, np.ndarray):
        raise DataError(f"{where} holds {type(value).__name__}, {expected}")
    if value.dtype.kind not in "fiub" or value.ndim != len(axes):
        raise DataError(f"{where} holds {value.dtype.name} of shape {value.shape}, {expected}")
    return value


def require_finite(array: NDArray[Any], where: str) -> None:
    """Raise unless every value is finite.

    Raises:
        DataError: names the first row that is not.
    """
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise DataError(f"{where}: {int((~finite).sum())} values are not finite, the first in row {row}; fix the file")


def read_npy(path: Path) -> NDArray[Any]:
    """An array from a ``.npy`` file; nothing in it is run.

    Raises:
        DataError: if the file is missing, damaged or holds objects.
    """
    try:
        with path.open("rb") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except Exception as error:  # of a damaged header, also errors of the tokenizer and of memory
        reason = " ".join(str(error).split())
        if "allow_pickle" in reason:  # numpy's advice is to run what is in the file
            reason = "it holds Python objects"
        raise DataError(f"{path} is damaged or no array of numbers or text: {reason}; copy or make it anew") from error
    return array


def trim(sequence: NDArray[Any]) -> NDArray[Any]:
    """A sequence ``(time, channel)`` without the rows of zeros before and after it; one row is left in any case.

    Example:
        >>> trim(np.array([[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]])).tolist()
        [[1, 2], [0, 0], [3, 4]]
    """
    filled = np.flatnonzero((sequence != 0).any(axis=1))
    return sequence[filled[0] : filled[-1] + 1] if filled.size else sequence[:1]
