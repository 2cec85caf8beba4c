"""Convert the untrusted pickle on standard input to npz and JSON, in a process that can do nothing else.

The walls, from the inside out:

- a pickle names what it wants called; each of the few names that arrays and plain containers need stands for a small
  stand-in of this file, never for the real object, and every other name is refused (`ALLOWED`);
- arrays stay raw bytes with a dtype and a shape that are checked here; numpy is not even imported;
- before the first byte is read, memory, processor time, file size and open files are limited, and an audit hook refuses
  whatever Python reports from then on: opening, importing, compiling, connecting, starting a process.

Only the standard library is used, because the file is started by its path with ``python -I -S``: neither the
environment, nor the current folder, nor site-packages can put a module in its way. It writes ``arrays.npz`` (one flat
array for each dtype) and ``structure.json`` to the current folder, and one line of JSON to standard output.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

if sys.platform != "win32":
    import resource

MAX_DEPTH = 64
MAX_DIMENSIONS = 32
# Each byte of an honest pickle is about one value or character; only sharing without end exceeds this.
MAX_VALUES_PER_BYTE = 32
# Shorter lists of numbers stay readable in the JSON.
MIN_PACKED_LIST = 32

# The elements that an array or scalar may have: truth values, integers, floats, bytes, text, objects.
_CODE = re.compile(r"b1|[iu][1248]|f[248]|[SU]\d{1,9}|O[48]?")
_STRUCT = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_STRUCT |= {"f2": "e", "f4": "f", "f8": "d"}


class Refused(Exception):
    """What the file holds or does that arrays and plain containers do not; the text continues the file's name."""


def shown(text: str) -> str:
    """``text`` on one short line without control characters, since a hostile file chose it.

    Example:
        >>> shown("os.system" + chr(10))
        'os.system?'
    """
    text = text if len(text) <= 80 else text[:77] + "..."
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Name:
    """What an allowed name of a pickle stands for: at most a function of this file.

    It is no class, so the opcodes that make instances fail on it, and it has a ``__setstate__``, so the opcode that
    sets attributes does not reach any.
    """

    __slots__ = ("_call", "_name")

    def __init__(self, name: str, call: Callable[..., Any] | None = None) -> None:
        self._name = name
        self._call = call

    def __str__(self) -> str:
        return self._name

    def __call__(self, *arguments: Any) -> Any:
        """What the stand-in makes of the arguments, if it can be called at all."""
        if self._call is None:
            raise Refused(f"calls {self}; it was not run")
        try:
            return self._call(*arguments)
        except TypeError:
            raise Refused(f"calls {self} with arguments that no array or plain container needs") from None

    def __setstate__(self, state: Any) -> None:
        raise Refused(f"changes {self}; it was not run")


class DType:
    """The dtype of an array or scalar: a code such as ``f4`` and, from its state, a byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *flags: Any) -> None:
        if type(code) is not str or not _CODE.fullmatch(code):
            raise Refused(f"holds an array of dtype {shown(str(code) if type(code) is str else type(code).__name__)}")
        self.code = code
        self.order: Any = None

    def __setstate__(self, state: Any) -> None:
        plain = type(state) is tuple and len(state) == 8 and state[0] == 3 and all(part is None for part in state[2:5])
        if not plain or state[1] not in ("<", ">", "|") or state[5] not in (-1, self.size):
            raise Refused(f"holds an array of dtype {self.code} with fields or other additions")
        self.order = state[1]

    @property
    def descr(self) -> str:
        """Byte order and code, as numpy writes them."""
        if self.code[0] in "bSO" or self.code in ("i1", "u1"):
            return f"|{self.code}"
        if self.order not in ("<", ">"):
            raise Refused(f"holds an array of dtype {self.code} without a byte order")
        return f"{self.order}{self.code}"

    @property
    def size(self) -> int:
        """Bytes for each element."""
        return int(self.code[1:] or 8) * (4 if self.code[0] == "U" else 1)


class Array:
    """What a pickle says about an array; nothing is believed or allocated until `checked`."""

    __slots__ = ("axes", "data", "dtype", "order", "shape")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, data: Any = None, dtype: Any = None, shape: Any = None, order: Any = None, axes: Any = None
    ) -> None:
        self.data, self.dtype, self.shape, self.order, self.axes = data, dtype, shape, order, axes

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refused("holds an array without a sound state")
        _version, self.shape, self.dtype, fortran, self.data = state
        if fortran not in (True, False):
            raise Refused("holds an array without a sound order")
        self.order = "F" if fortran else "C"

    def checked(self) -> tuple[DType, tuple[int, ...], Any]:
        """Dtype, shape and contents (bytes, or a list for an array of objects) that belong together.

        Raises:
            Refused: if they do not.
        """
        dtype, shape, data = self.dtype, self.shape, self.data
        if type(dtype) is not DType or type(shape) is not tuple or len(shape) > MAX_DIMENSIONS:
            raise Refused("holds an array without a sound shape and dtype")
        # A dimension of zero must not hide a giant one, which would overflow in numpy.
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(max(n, 1) for n in shape) > 2**48:
            raise Refused("holds an array of an impossible shape")
        count = math.prod(shape)
        if dtype.code[0] == "O":
            if type(data) is not list or len(data) != count:
                raise Refused(f"holds an array that declares {count} objects and has others")
            return dtype, shape, data
        data = _octets(data)
        given = memoryview(data).nbytes
        if not dtype.size or given != count * dtype.size:
            raise Refused(f"holds an array that declares {count * dtype.size} bytes and has {given}")
        # Bytes that are no truth value or character would make numpy misbehave later.
        if dtype.code == "b1" and bytes(data).translate(None, b"\0\1"):
            raise Refused("holds an array of truth values that are neither true nor false")
        if dtype.code[0] == "U":
            _text(data, dtype)
        return dtype, shape, data

    def layout(self) -> tuple[list[int], list[int]]:
        """The shape in which the bytes lie one after another, and the order into which its axes are then put.

        Raises:
            Refused: if that is not clear; an order that is guessed would be other numbers.
        """
        axes = list(range(len(self.shape)))
        if self.order == "C" and self.axes is None:
            return list(self.shape), axes
        if self.order == "F" and self.axes is None:
            return list(self.shape[::-1]), axes[::-1]
        if self.order == "K" and type(self.axes) is tuple and sorted(self.axes) == axes:
            return list(self.shape), list(self.axes)
        raise Refused("holds an array without a sound order")


def _octets(data: Any) -> Any:
    """The bytes of an array or scalar, which Python 2 wrote as text."""
    if type(data) is str:
        return data.encode("latin1")
    if type(data) not in (bytes, bytearray, memoryview):
        raise Refused("holds an array without bytes")
    return data


def _text(data: Any, dtype: DType) -> str:
    codec = "utf-32-be" if dtype.descr[0] == ">" else "utf-32-le"
    return bytes(data).decode(codec, "surrogatepass")


def _scalar(dtype: Any, data: Any) -> Any:
    """A numpy scalar as the Python number or text of the same value."""
    if type(dtype) is not DType or dtype.code[0] == "O":
        raise Refused("holds a scalar without a sound dtype")
    data = _octets(data)
    if len(data) != dtype.size:
        raise Refused(f"holds a scalar that declares {dtype.size} bytes and has {len(data)}")
    if dtype.code[0] == "S":
        return bytes(data).decode("latin1").rstrip("\0")
    if dtype.code[0] == "U":
        return _text(data, dtype).rstrip("\0")
    return struct.unpack(dtype.descr.replace("|", "<")[0] + _STRUCT[dtype.code], data)[0]


def _reconstruct(subtype: Any, shape: Any, code: Any) -> Array:
    if subtype is not _NDARRAY:
        raise Refused("holds an array of a class other than numpy.ndarray")
    return Array()


def _encode(text: Any, codec: Any) -> bytes:
    """The one way in which protocols 0 to 2 write bytes; any other codec could import a module."""
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise Refused("calls _codecs.encode for something other than latin1 bytes; it was not run")
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    return b""


def _set(items: Any) -> set[Any]:
    return set(_plain_list(items))


def _frozenset(items: Any) -> frozenset[Any]:
    return frozenset(_plain_list(items))


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return dict(_plain_list(items))


def _default_dict(factory: Any = None) -> dict[Any, Any]:
    """A plain dict: nothing may be made up for an absent key."""
    if factory is not None and type(factory) is not Name:
        raise Refused("holds a defaultdict with an odd factory")
    return {}


def _plain_list(items: Any) -> Any:
    if type(items) not in (list, tuple):
        raise Refused("fills a container from something other than a list")
    return items


_NDARRAY = Name("numpy.ndarray")

# Exact (module, name) pairs. numpy 2 says numpy._core, numpy 1 numpy.core; Python 2 says __builtin__.
ALLOWED: dict[tuple[str, str], Name] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Name("numpy.dtype", DType),
    ("_codecs", "encode"): Name("_codecs.encode", _encode),
    ("collections", "OrderedDict"): Name("collections.OrderedDict", _ordered_dict),
    ("collections", "defaultdict"): Name("collections.defaultdict", _default_dict),
}
for _core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{_core}.multiarray", "_reconstruct"] = Name("_reconstruct", _reconstruct)
    ALLOWED[f"{_core}.multiarray", "scalar"] = Name("scalar", _scalar)
    ALLOWED[f"{_core}.numeric", "_frombuffer"] = Name("_frombuffer", Array)
for _builtins in ("builtins", "__builtin__"):
    ALLOWED[_builtins, "set"] = Name("set", _set)
    ALLOWED[_builtins, "frozenset"] = Name("frozenset", _frozenset)
    ALLOWED[_builtins, "bytes"] = Name("bytes", _empty_bytes)
    for _factory in ("list", "dict", "int", "float", "str"):  # of a defaultdict; they cannot be called
        ALLOWED[_builtins, _factory] = Name(_factory)


class Unpickler(pickle.Unpickler):
    """An unpickler that knows the names of `ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Name:
        """The stand-in of an allowed name.

        Raises:
            Refused: for any other name.
        """
        if (module, name) not in ALLOWED:
            what = shown(f"{module}.{name}")
            raise Refused(f"holds {what}, which is not an array or a plain container; it was not run")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Nothing: a persistent id points to something outside of the file.

        Raises:
            Refused: always.
        """
        raise Refused("holds a persistent id, which is not an array or a plain container; it was not followed")


class Packer:
    """Turns what was unpickled into JSON; the contents of arrays and long lists of floats go into blocks.

    Args:
        values: how many values and characters it may write, so that shared containers cannot grow without end.
    """

    def __init__(self, values: int) -> None:
        self.blocks: dict[str, list[Any]] = {}
        self._left = self._values = values
        self._lengths: dict[str, int] = {}
        self._places: dict[int, list[Any]] = {}

    def pack(self, value: Any, depth: int = 0) -> Any:
        """``value`` as JSON: a list as itself, everything else that JSON lacks as an object of one key."""
        if depth > MAX_DEPTH:
            raise Refused(f"is nested deeper than {MAX_DEPTH} levels")
        self._spend(1)
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            if value.bit_length() > 64:
                raise Refused(f"holds an integer of {value.bit_length()} bits, more than 64")
            return value
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind in (str, bytes, bytearray):
            self._spend(len(value))
            return value if kind is str else value.decode("latin1")
        if kind is list:
            self._spend(len(value))
            if len(value) >= MIN_PACKED_LIST and set(map(type, value)) == {float}:
                return {"floats": self._floats(value)}
            return [self.pack(item, depth + 1) for item in value]
        if kind is tuple:
            return {"tuple": [self.pack(item, depth + 1) for item in value]}
        if kind in (set, frozenset):
            # In an order of their own, so that the same file always gives the same JSON.
            return {kind.__name__: sorted((self.pack(item, depth + 1) for item in value), key=json.dumps)}
        if kind is dict:
            return {"dict": [[self.pack(key, depth + 1), self.pack(item, depth + 1)] for key, item in value.items()]}
        if kind is Array:
            return self._array(value, depth)
        what = str(value) if kind is Name else kind.__name__
        raise Refused(f"holds {what}, which is not an array or a plain container; it was not run")

    def _array(self, value: Array, depth: int) -> Any:
        if id(value) in self._places:
            return {"array": self._places[id(value)]}
        dtype, shape, data = value.checked()
        if dtype.code[0] == "O":
            self._spend(math.prod(max(n, 1) for n in shape))
            return self.pack(_nested(data, shape), depth)
        place = self._place(dtype.descr, data, math.prod(shape))
        self._places[id(value)] = [*place, *value.layout()]
        return {"array": self._places[id(value)]}

    def _floats(self, value: list[float]) -> list[Any]:
        if id(value) not in self._places:
            octets = struct.pack(f"<{len(value)}d", *value)
            self._places[id(value)] = [*self._place("<f8", octets, len(value)), len(value)]
        return self._places[id(value)]

    def _place(self, descr: str, data: Any, count: int) -> tuple[str, int]:
        """Put ``data`` after the others of its dtype and say where."""
        start = self._lengths.get(descr, 0)
        self._lengths[descr] = start + count
        self.blocks.setdefault(descr, []).append(data)
        return descr, start

    def _spend(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise Refused(f"grows to more than {self._values} values, far more than its size can hold")

    def write(self, file: BinaryIO) -> None:
        """Write the blocks as an npz file, straight from where they lie."""
        with zipfile.ZipFile(file, "w") as archive:
            for descr, parts in self.blocks.items():
                text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({self._lengths[descr]},), }}"
                header = text.ljust(117).encode() + b"\n"  # with the ten bytes before it, 128: data lie aligned
                with archive.open(zipfile.ZipInfo(f"{descr}.npy"), "w", force_zip64=True) as member:
                    member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
                    for part in parts:
                        member.write(part)


def _nested(items: list[Any], shape: tuple[int, ...]) -> Any:
    """The objects of an array, which a pickle lists in C order, as nested lists; no dimension means the object."""
    if not shape:
        return items[0]
    if len(shape) == 1:
        return items
    step = math.prod(shape[1:])
    return [_nested(items[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _refuse_event(event: str, arguments: Any) -> None:
    if event != "builtins.id":  # which only looks, and which `Packer` needs
        raise Refused(f"tries what the audit event {shown(event)} reports; it was not run")


def _limit(name: str, value: int) -> None:
    if sys.platform != "win32":
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not take every limit
            resource.setrlimit(kind, (value, value))


def _shut_in(size: int, seconds: int) -> None:
    """Limit what this process may use; where the system has no such limits, the other walls and the time-out remain."""
    for codec in ("latin1", "utf-32-le", "utf-32-be"):  # found now, since finding a codec imports a module
        codecs.lookup(codec)
    # Twice the file as bytes, and about four times as much for the Python objects of a file without arrays.
    _limit("AS", 8 * size + 2 * 2**30)
    _limit("CPU", seconds + 1)  # so that the parent, which can say so, is the first to stop waiting
    _limit("CORE", 0)
    _limit("FSIZE", 8 * size + 2**30)
    _limit("NOFILE", 0)  # what is open stays open
    _limit("NPROC", 0)
    sys.addaudithook(_refuse_event)


def _convert(seconds: int) -> dict[str, Any]:
    """Unpickle standard input, write both files and say how it went."""
    size = os.fstat(0).st_size
    source = sys.stdin.buffer
    with open("arrays.npz", "wb") as arrays, open("structure.json", "w", encoding="ascii") as structure:
        _shut_in(size, seconds)
        try:
            root = Unpickler(source, encoding="latin1").load()
            if source.read(1):
                raise Refused("goes on after its end")
            packer = Packer(MAX_VALUES_PER_BYTE * size + 100_000)
            packed = packer.pack(root)
        except Refused as refusal:
            return {"refused": str(refusal)}
        except (MemoryError, OverflowError):
            return {"refused": "asks for more memory than a file of its size needs"}
        except Exception as error:
            return {"refused": f"is not a whole pickle of arrays and plain containers ({shown(str(error))})"}
        try:
            packer.write(arrays)
            structure.write(json.dumps(packed))
            arrays.flush()
            structure.flush()
        except OSError as error:
            return {"errno": error.errno}
    return {}


def main() -> None:
    """Convert, answer, and leave without the interpreter's tidying, which the audit hook would refuse."""
    reply = _convert(int(sys.argv[1]))
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
