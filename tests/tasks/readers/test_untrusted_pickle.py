"""Untrusted pickles: what arrays and plain containers need comes back exactly, and nothing else is ever run."""

import collections
import errno
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.hostile_pickles import array, build, call, dtype, live, name, string_name, value, write

from cggm_med.errors import DataError, OutputError
from cggm_med_tasks.readers import unpickle_worker, untrusted_pickle
from cggm_med_tasks.readers.untrusted_pickle import read_pickle


def python2(content):
    """The protocol 2 pickle that Python 2 and numpy 1 write, which no later Python can: byte strings as text."""
    if isinstance(content, str):
        octets = content.encode("latin1")
        return b"T" + struct.pack("<i", len(octets)) + octets
    if isinstance(content, np.ndarray):
        code = content.dtype.str
        size = content.dtype.itemsize if content.dtype.kind == "S" else -1
        subtype = name("numpy", "ndarray")
        made = name("numpy.core.multiarray", "_reconstruct") + subtype + b"K\x00\x85U\x01b\x87R"
        kind = name("numpy", "dtype") + python2(code[1:]) + b"K\x00K\x01\x87R"
        kind += b"(K\x03" + python2(code[0]) + b"NNN" + value(size) * 2 + b"K\x00tb"
        data = python2(content.tobytes().decode("latin1"))
        return made + b"(K\x01" + value(content.shape) + kind + b"\x89" + data + b"tb"
    if isinstance(content, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in content.items()) + b"u"
    if isinstance(content, list):
        return b"](" + b"".join(map(python2, content)) + b"e"
    if isinstance(content, tuple):
        return b"(" + b"".join(map(python2, content)) + b"t"
    return value(content)


def plain(content):
    """What a reader of the sentiment and emotion features can rely on, by numpy's own conversion."""
    if isinstance(content, np.ndarray) and content.dtype == object:
        return plain(content.tolist())
    if isinstance(content, np.ndarray):
        return content.astype(content.dtype.newbyteorder("="))
    if isinstance(content, np.generic):
        return plain(content.item())
    if isinstance(content, bytes | bytearray):
        return content.decode("latin1")
    if isinstance(content, dict):
        return {plain(k): plain(v) for k, v in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return type(content)(map(plain, content))
    return content


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, float):
        assert struct.pack("d", found) == struct.pack("d", wanted)  # NaN and -0.0 too
    else:
        assert found == wanted


# --- what the field's files hold ---

RANDOM = np.random.default_rng(0)


def features(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def mosi():
    audio = features(4, 5, 3)
    audio[0, 0, 0] = -np.inf
    part = {"text": features(4, 5, 6), "audio": audio, "vision": features(4, 5, 2), "labels": RANDOM.random((4, 1, 1))}
    return {name: {**part, "id": np.array([[f"v{i}", "0.5", "1.2"] for i in range(4)])} for name in ("train", "test")}


def newer_mosi():
    return {
        "valid": {
            "raw_text": np.array(["A GREAT MOVIE", "très bien"], dtype=object),
            "text_bert": features(2, 3, 5),
            "audio": features(2, 5, 3).transpose(0, 2, 1),
            "vision": np.asfortranarray(features(2, 5, 4)),
            "audio_lengths": [5, 3],
            "vision_lengths": np.array([4, 5]),
            "id": ["03bSnISJMiM$_$11", "03bSnISJMiM$_$12"],
            "regression_labels": np.array([2.4, -0.8], np.float32),
            "annotations": ["Positive", "Negative"],
        }
    }


def dialogues():
    """IEMOCAP and MELD by turns of one structure: streams of vectors, labels and ids by dialogue."""
    ids = ["Ses01F_impro01", "Ses02M_script\xe9"]
    stream = {one: [features(7) for _ in range(3)] for one in ids}
    speakers = {ids[0]: ["M", "F", "M"], ids[1]: ["F", "F", "M"]}
    labels = {one: [0, 5, 3] for one in ids}
    streams = ({one: features(3, 4) for one in ids}, {one: [RANDOM.random(40).tolist()] for one in ids})
    sentences = {one: ["What's he \x96 doing?"] * 3 for one in ids}
    return (speakers, labels, stream, *streams, sentences, ids[:1], ids[1:])


def meld():
    speakers = {i: [np.eye(9)[i % 9].tolist()] for i in range(3)}
    ids, extra = {i: [f"{i}_0"] for i in range(3)}, collections.defaultdict(list, {2: [np.int64(1)]})
    counts = collections.OrderedDict([(np.str_("joy"), np.float32(0.1)), (("a", 1), np.bool_(True))])
    return (ids, speakers, {0: np.array([0, 6])}, {0, 1}, frozenset("ab"), extra, counts, b"\xff\x00", None, True)


def awkward():
    return [
        *(np.arange(6).reshape(2, 3).astype(code) for code in ("<i2", ">i4", ">f8", "<f2", "|b1", "|u1", "<u8")),
        *(np.array(["é", "ab"], code) for code in ("<U2", ">U3")),
        np.array([b"a", b"bcd"]),
        *(np.zeros((0, 3), np.float32), np.array(2.5), np.array("x"), np.array([], "U")),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(24.0).reshape(2, 3, 4)[:, ::2, 1:3],
        np.array([["a", None], [features(2), 3]], dtype=object, order="F"),
        np.array({"one": 1}, dtype=object),
        np.empty((2, 0), dtype=object),
        *(float("nan"), float("inf"), -0.0, 2**63, -5, "", "\ud800", [], (), {}, set()),
        [float(i) for i in range(100)] + [float("nan"), float("-inf")],
        [*range(100), 1.0],
        {None: 1, True: 2, 0.5: 3, (1, ("a",)): 4, frozenset([1]): 5},
        *(np.float16(0.5), np.int8(-3), np.uint64(2**64 - 1), np.bytes_(b"ab"), np.str_("é"), np.str_("")),
    ]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("content", [mosi, newer_mosi, dialogues, meld, awkward])
def test_what_pickle_itself_would_return_comes_back(tmp_path, content, protocol):
    written = pickle.dumps(content(), protocol)
    (tmp_path / "a.pkl").write_bytes(written)
    wanted = plain(pickle.loads(written))  # noqa: S301  our own
    for _ in ("converted", "from the cache"):
        found = read_pickle(tmp_path / "a.pkl", tmp_path / "cache")
        assert_same(found, {**wanted} if isinstance(wanted, dict) else wanted)


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_1_names_its_modules_otherwise(tmp_path, protocol):
    old, new = b"numpy.core.", b"numpy._core."
    written = pickle.dumps((np.arange(3.0), np.float32(0.5)), protocol)
    # Strings of protocol 4 and later, and their frame, carry their length.
    changed = b"".join([written[:2], written[11:]]) if protocol > 3 else written
    for name_ in ("multiarray", "numeric"):
        long, short = new + name_.encode(), old + name_.encode()
        changed = changed.replace(b"\x8c" + bytes([len(long)]) + long, b"\x8c" + bytes([len(short)]) + short)
        changed = changed.replace(long, short)
    assert new not in changed
    (tmp_path / "a.pkl").write_bytes(changed)
    assert_same(read_pickle(tmp_path / "a.pkl", tmp_path), (np.arange(3.0), 0.5))


@pytest.mark.parametrize("content", [mosi, dialogues])
def test_python_2_files(tmp_path, content):
    wanted = content()
    if content is mosi:  # Python 2 would have written these as bytes
        wanted = {part: {**data, "id": data["id"].astype("S")} for part, data in wanted.items()}
    written = b"\x80\x02" + python2(wanted) + b"."
    assert_same(pickle.loads(written, encoding="latin1"), wanted)  # noqa: S301  that the bytes are right
    (tmp_path / "a.pkl").write_bytes(written)
    assert_same(read_pickle(tmp_path / "a.pkl", tmp_path), wanted)


def test_an_array_of_two_numbers_written_by_hand(tmp_path):
    path = write(tmp_path / "a.pkl", array((2,), dtype(), value(bytes.fromhex("0000803f000020c0"))))
    assert read_pickle(path, tmp_path).tolist() == [1.0, -2.5]


def test_arrays_can_be_changed_without_changing_others(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([np.zeros(3), np.zeros(3)]))
    first, second = read_pickle(tmp_path / "a.pkl", tmp_path)
    first += 1
    assert second.tolist() == [0, 0, 0]
    assert read_pickle(tmp_path / "a.pkl", tmp_path)[0].tolist() == [0, 0, 0]


# --- what must never run ---


CASES = list(live("marker"))


@pytest.mark.parametrize("case", CASES)
def test_nothing_that_is_hostile_runs(tmp_path, case):
    offender, body = live(str(tmp_path / "marker"))[case]
    path = write(tmp_path / "hostile.pkl", body)
    with pytest.raises(DataError) as refusal:
        read_pickle(path, tmp_path / "cache")
    line = str(refusal.value)
    assert line.startswith(f"{path} holds {offender}, which is not an array or a plain container; it was not run. Get ")
    assert "\n" not in line
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cache", "hostile.pkl"]
    assert list((tmp_path / "cache" / "unpickled").iterdir()) == []


def test_the_same_pickles_do_run_when_plainly_loaded(tmp_path):
    """The control: a hostile pickle that is a dud would prove nothing."""
    for number, case in enumerate(CASES):
        write(tmp_path / f"{number}.pkl", live(str(tmp_path / f"marker{number}"))[case][1])
    load = "import pickle, sys\nfor path in sys.argv[1:]:\n try: pickle.load(open(path, 'rb'))\n except Exception: pass"
    paths = [str(tmp_path / f"{number}.pkl") for number in range(len(CASES))]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", load, *paths], timeout=60, check=False, **quiet)
    time.sleep(0.2)  # for the processes that were started and not waited for
    assert [case for number, case in enumerate(CASES) if not list(tmp_path.glob(f"marker{number}*"))] == []


NAMES = """
nt.system os.execvp os._exit os.remove sys.exit sys.settrace shutil.rmtree socket.socket socket.create_connection
webbrowser.open urllib.request.urlopen http.client.HTTPSConnection smtplib.SMTP pdb.run pdb.Pdb bdb.Bdb doctest.testfile
code.interact types.CodeType types.FunctionType marshal.loads ctypes.CDLL multiprocessing.Process
concurrent.futures.ThreadPoolExecutor copyreg._reconstructor copyreg.add_extension copyreg.__newobj__
copy_reg._reconstructor builtins.object builtins.type builtins.super builtins.globals builtins.vars builtins.input
builtins.breakpoint builtins.__build_class__ builtins.bytearray builtins.range builtins.memoryview __builtin__.file
__builtin__.reduce __main__.__builtins__ pickle.Unpickler pickle._loads pickle.load dill.loads cloudpickle.loads
joblib.load pandas.read_pickle pandas.core.frame.DataFrame torch.load torch.hub.load torch.storage._load_from_bytes
torch._utils._rebuild_tensor_v2 torch.jit.unsupported_tensor_ops.execWrapper torch._dynamo.guards.GuardBuilder.get
numpy.load numpy.fromfile numpy.loadtxt numpy.genfromtxt numpy.frompyfunc numpy.vectorize numpy.apply_along_axis
numpy.ma.core._mareconstruct numpy.ma.core.MaskedArray numpy.matrixlib.defmatrix.matrix numpy.core.records.recarray
numpy.core.multiarray.fromfile numpy.core.multiarray.ndarray numpy.core.multiarray._reconstruct.__globals__
numpy._core.multiarray.scalar.__class__ numpy.lib.npyio.load numpy.lib._npyio_impl.NpzFile numpy.lib.format.read_array
numpy.f2py.crackfortran.getlincoef numpy.f2py.diagnose.run numpy.distutils.exec_command.exec_command
numpy.__builtins__ numpy.__builtins__.__import__ numpy.__loader__ numpy.dtype.__init__ numpy.ndarray.__class__
numpy.random._pickle.__generator_ctor numpy.testing._private.utils.runstring numpy.ctypeslib.load_library
_codecs.encode.__self__ _codecs.lookup _codecs.register codecs.decode codecs.lookup encodings.search_function
collections.namedtuple collections.OrderedDict.__init_subclass__ collections.UserList collections.Counter
collections.abc.sys collections.defaultdict.__class__ numpyx.ndarray numpy..ndarray .numpy.ndarray numpy.ndarray\x00
""".replace(r"\x00", "\x00").split()


@pytest.mark.parametrize("dotted", NAMES)
def test_a_name_is_allowed_exactly_or_not_at_all(dotted):
    """Every way to cut the name into module and attribute, since a pickle may choose any."""
    parts = dotted.split(".")
    for cut in range(len(parts) + 1):
        pair = ".".join(parts[:cut]), ".".join(parts[cut:])
        with pytest.raises(unpickle_worker.Refused, match="which is not an array or a plain container"):
            unpickle_worker.Unpickler(io.BytesIO(string_name(*pair) + b".")).load()


def test_the_allow_list_is_this_and_holds_no_real_object():
    assert {f"{module}:{attribute}" for module, attribute in unpickle_worker.ALLOWED} == {
        *("numpy:ndarray", "numpy:dtype", "_codecs:encode", "collections:OrderedDict", "collections:defaultdict"),
        *("numpy.core.multiarray:_reconstruct", "numpy._core.multiarray:_reconstruct"),
        *("numpy.core.multiarray:scalar", "numpy._core.multiarray:scalar"),
        *("numpy.core.numeric:_frombuffer", "numpy._core.numeric:_frombuffer"),
        *(f"builtins:{kind}" for kind in ("set", "frozenset", "bytes", "list", "dict", "int", "float", "str")),
        *(f"__builtin__:{kind}" for kind in ("set", "frozenset", "bytes", "list", "dict", "int", "float", "str")),
    }
    assert {type(entry) for entry in unpickle_worker.ALLOWED.values()} == {unpickle_worker.Name}


def doubled(levels, pair):
    """Remember what is on the stack, drop it, and push a pair of it; again and again."""
    return b"".join(b"q\x000" + pair for _ in range(levels))


REFUSED = {
    # Names that are allowed, used for something else.
    "BUILD on OrderedDict": (build(name("collections", "OrderedDict"), value({"x": 1})), "changes collections.Ord"),
    "BUILD with slots on ndarray": (build(name("numpy", "ndarray"), value((None, {"x": 1}))), "changes numpy.ndarray"),
    "BUILD on _reconstruct": (build(name("numpy.core.multiarray", "_reconstruct"), value({})), "changes _reconstruct"),
    "ndarray called": (call(name("numpy", "ndarray"), value((10**12,))), "calls numpy.ndarray"),
    "ndarray itself": (name("numpy", "ndarray"), "holds numpy.ndarray, which is not an array"),
    "a name as a key": (b"}" + name("numpy", "dtype") + value(1) + b"s", "holds numpy.dtype, which"),
    "a dtype alone": (dtype(), "holds DType, which"),
    "list called": (call(name("builtins", "list"), value((1,))), "calls list"),
    "giant bytes": (call(name("builtins", "bytes"), value(10**12)), "calls bytes with"),
    "a codec that is no text": (call(name("_codecs", "encode"), value("a"), value("zip")), "calls _codecs.encode for"),
    "a codec in another module": (call(name("_codecs", "encode"), value("a"), value("os")), "calls _codecs.encode for"),
    "NEWOBJ of dtype": (name("numpy", "dtype") + value(("f4",)) + b"\x81", "is not a whole pickle"),
    "NEWOBJ_EX of set": (name("builtins", "set") + b")}\x92", "is not a whole pickle"),
    "defaultdict of a text": (call(name("collections", "defaultdict"), value("x")), "odd factory"),
    "OrderedDict of a text": (call(name("collections", "OrderedDict"), value("ab")), "other than a list"),
    "persistent id": (value("x") + b"Q", "persistent id"),
    "persistent id of protocol 0": (b"Px\n", "persistent id"),
    "EXT1": (b"\x82\x01", "unregistered extension code 1"),
    "EXT2": (b"\x83\x01\x00", "unregistered extension code 1"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "unregistered extension code 1"),
    "out-of-band buffer": (b"\x97", "is not a whole pickle"),
    "a name with control characters": (string_name("os\n\x1b[2J", "x" * 300), r"holds os\?\?\[2J.x{69}\.\.\., which"),
    # Arrays that are not what they say.
    "a subclass of ndarray": (array((1,), dtype(), value(b"abcd"), subtype=name("builtins", "set")), "a class other"),
    "too few bytes": (array((10**9,), dtype(), value(b"abcd")), "declares 4000000000 bytes and has 4"),
    "too many bytes": (array((1,), dtype(), value(b"abcde")), "declares 4 bytes and has 5"),
    "a giant shape": (array((10**12, 10**12), dtype(), value(b"")), "impossible shape"),
    "a giant shape behind a zero": (array((0, 2**62), dtype(), value(b"")), "impossible shape"),
    "a negative shape": (array((-1, -1), dtype(), value(b"abcd")), "impossible shape"),
    "a shape of floats": (array((1.0,), dtype(), value(b"abcd")), "impossible shape"),
    "a shape of 1000 dimensions": (array((1,) * 1000, dtype(), value(b"abcd")), "sound shape"),
    "objects from bytes": (array((1,), dtype("O8"), value(bytes(8))), "declares 1 objects and has others"),
    "bytes from objects": (array((1,), dtype(), value([1])), "without bytes"),
    "a giant array of no objects": (array((10**12, 0), dtype("O8"), value([])), "grows to more than"),
    "an array of itself": (array((1,), dtype("O8"), b"]q\x07h\x07a"), "nested deeper"),
    "a state of another size": (dtype("S4", (3, "|", None, None, None, 9, 1, 0)), "with fields or other"),
    "fields": (array((1,), dtype("V4"), value(b"abcd")), "of dtype V4"),
    "a dtype of another library": (array((1,), dtype("numba.x"), value(b"abcd")), "of dtype numba.x"),
    "a state with fields": (dtype("f4", (3, "<", None, ("a",), {"a": 1}, 4, 4, 0)), "with fields"),
    "a state with a subarray": (dtype("f4", (3, "<", ("f4", (9,)), None, None, 4, 4, 0)), "with fields"),
    "a dtype without a state": (
        array((1,), call(name("numpy", "dtype"), value("f4")), value(b"abcd")),
        "without a byte order",
    ),
    "an array without a state": (
        call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), value((0,)), value("b")),
        "without a sound",
    ),
    "an order that is none": (array((1,), dtype(), value(b"abcd"), order="K"), "sound order"),
    "a buffer of an unknown order": (
        call(name("numpy.core.numeric", "_frombuffer"), value(bytes(4)), dtype(), value((1,)), value("A")),
        "sound order",
    ),
    "axes that are none": (
        call(
            name("numpy.core.numeric", "_frombuffer"),
            value(bytes(4)),
            dtype(),
            value((1, 1)),
            value("K"),
            value((0, 0)),
        ),
        "sound order",
    ),
    "text beyond Unicode": (array((1,), dtype("U1"), value(b"\xff\xff\xff\x7f")), "is not a whole pickle"),
    "truth values beyond true": (array((1,), dtype("b1"), value(b"\x02")), "neither true nor false"),
    "a scalar of too few bytes": (
        call(name("numpy.core.multiarray", "scalar"), dtype(), value(b"a")),
        "declares 4 bytes and has 1",
    ),
    "a scalar of an object": (call(name("numpy.core.multiarray", "scalar"), dtype("O8"), value(b"a")), "sound dtype"),
    "an array as a key": (b"}" + array((1,), dtype(), value(b"abcd")) + value(1) + b"s", "is not a whole pickle"),
    # Bombs.
    "bytes of 2^60": (b"\x8e" + struct.pack("<Q", 2**60), "more memory|is not a whole pickle"),
    "bytearray of 2^40": (b"\x96" + struct.pack("<Q", 2**40), "more memory|is not a whole pickle"),
    "text of 2^60": (b"\x8d" + struct.pack("<Q", 2**60), "more memory|is not a whole pickle"),
    "a frame of 2^60": (b"\x95" + struct.pack("<Q", 2**60), "more memory|is not a whole pickle"),
    "memo number 2^31": (b"Nr" + struct.pack("<I", 2**31 - 1), "more memory"),
    "a list in itself": (b"]q\x00h\x00a", "nested deeper than 64"),
    "a dict in itself": (b"}q\x00" + value(1) + b"h\x00s", "nested deeper than 64"),
    "100,000 nested lists": (b"]" * 100_000 + b"a" * 99_999, "nested deeper than 64"),
    "a million nested tuples": (b")" + b"\x85" * 1_000_000, "nested deeper than 64"),
    "billion laughs in lists": (b"]" + doubled(40, b"](h\x00h\x00e"), "grows to more than"),
    "billion laughs in tuples": (b")" + doubled(40, b"h\x00h\x00\x86"), "grows to more than"),
    "a text shared a million times": (value("x" * 10**6) + b"q\x000](" + b"h\x00" * 10**6 + b"e", "grows to more than"),
    "an integer of 2^23 bits": (b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20, "an integer of 8388607 bits"),
    # Files that are no pickle of one value.
    "trailing data": (value(1) + b".x", "goes on after its end"),
    "two pickles": (value(1) + b".\x80\x04" + value(2), "goes on after its end"),
    "an empty stack": (b"0", "is not a whole pickle"),
    "an absent memo": (b"h\x05", "is not a whole pickle"),
    "an unknown opcode": (b"\xfe", "invalid load key"),
    "a future protocol": (b"\x80\x63N", "unsupported pickle protocol: 99"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_array_or_plain_container_is_refused_in_one_line(tmp_path, case):
    body, message = REFUSED[case]
    path = write(tmp_path / "a.pkl", body)
    started = time.monotonic()
    with pytest.raises(DataError, match=message) as refusal:
        read_pickle(path, tmp_path / "cache")
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert time.monotonic() - started < 10
    assert list((tmp_path / "cache" / "unpickled").iterdir()) == []


@pytest.mark.parametrize("kept", [0, 1, 2, 5, 40, 80, 120, 200, -100, -2, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"text": np.arange(50.0), "id": ["a", "b"]}, 4)[:kept])
    with pytest.raises(DataError, match="a.pkl is not a whole pickle of arrays and plain containers .*from its source"):
        read_pickle(path, tmp_path / "cache")


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"{}", b"\x1f\x8b\x08", b"a,b\n1,2\n", b"\0" * 99]
)
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match="is not a whole pickle"):
        read_pickle(tmp_path / "a.pkl", tmp_path / "cache")


def test_an_absent_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="cannot read .*absent.pkl: No such file"):
        read_pickle(tmp_path / "absent.pkl", tmp_path / "cache")
    with pytest.raises(DataError, match="cannot read .*: Is a directory"):
        read_pickle(tmp_path, tmp_path / "cache")


def test_a_file_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    """The hash of nested pairs takes 2^60 steps, although they are only 250 bytes."""
    monkeypatch.setattr(untrusted_pickle, "_SECONDS", 0.5)
    path = write(tmp_path / "a.pkl", b"}" + b")" + doubled(60, b"h\x00h\x00\x86") + value(1) + b"s")
    started = time.monotonic()
    with pytest.raises(DataError, match="a.pkl takes more than 1 s to unpickle"):
        read_pickle(path, tmp_path / "cache")
    assert time.monotonic() - started < 5
    assert list((tmp_path / "cache" / "unpickled").iterdir()) == []


def test_a_file_that_crashes_the_interpreter_is_an_ordinary_error(tmp_path):
    """The hash of a deep tuple overflows the stack of the C code, unless the machine's stack has no limit."""
    path = write(tmp_path / "a.pkl", b"}" + b")" + b"\x85" * 3_000_000 + value(1) + b"s")
    with pytest.raises(
        DataError, match=r"a.pkl (made the converter stop without an answer \(exit status -\d+\)|is nested)"
    ):
        read_pickle(path, tmp_path / "cache")


# --- the walls behind the allow-list ---

BEHIND = """
import builtins, json, os, socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
import unpickle_worker as worker
for module, name in (("os", "system"), ("builtins", "open"), ("builtins", "__import__"), ("builtins", "eval"),
                     ("subprocess", "Popen"), ("socket", "socket"), ("os", "mkdir"), ("os", "fork")):
    worker.ALLOWED[module, name] = worker.Name(name, getattr(sys.modules[module], name))
reply = worker._convert(5)
sys.stdout.write(json.dumps([reply, [worker.resource.getrlimit(getattr(worker.resource, "RLIMIT_" + limit))[0]
                 for limit in ("AS", "CPU", "CORE", "NOFILE", "NPROC")]]))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("offender", "arguments", "event"),
    [
        ("os.system", ["touch marker"], "os.system"),
        ("builtins.open", ["marker", "w"], "open"),
        ("builtins.__import__", ["colorsys"], "import"),
        ("builtins.eval", ["open('marker', 'w')"], "compile"),
        ("subprocess.Popen", [["touch", "marker"]], "subprocess.Popen"),
        ("socket.socket", [], "socket.__new__"),
        ("os.mkdir", ["marker"], "os.mkdir"),
        ("os.fork", [], "os.fork"),
    ],
)
def test_a_name_that_slipped_through_could_do_nothing(tmp_path, offender, arguments, event):
    body = call(name(*offender.rsplit(".", 1)), *map(value, arguments))
    path = write(tmp_path / "a.pkl", body)
    folder = os.path.dirname(unpickle_worker.__file__)
    with path.open("rb") as source:
        command = [sys.executable, "-c", BEHIND, folder]
        ended = subprocess.run(command, stdin=source, capture_output=True, cwd=tmp_path, timeout=20, check=True)
    reply, limits = json.loads(ended.stdout)
    assert reply == {"refused": f"tries what the audit event {event} reports; it was not run"}
    assert limits == [8 * path.stat().st_size + 2**31, 6, 0, 0, 0]
    assert not (tmp_path / "marker").exists()


def test_no_module_of_the_environment_or_folder_gets_in_the_way(tmp_path, monkeypatch):
    for module in ("pickle", "json", "zipfile", "sitecustomize", "usercustomize"):
        (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "pickle.py"))
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "a.pkl", value([1]))
    assert read_pickle(path, tmp_path / "cache") == [1]
    assert not (tmp_path / "marker").exists()


# --- the cache ---


@pytest.fixture
def converted(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"audio": np.arange(1000.0), "id": ["a"]}))
    read_pickle(path, tmp_path / "cache")
    (folder,) = (tmp_path / "cache" / "unpickled").iterdir()
    return path, tmp_path / "cache", folder


def no_process(*arguments, **options):
    raise AssertionError("a process was started")


def test_a_file_is_converted_once_whatever_its_name(converted, monkeypatch):
    path, cache, folder = converted
    assert sorted(entry.name for entry in folder.iterdir()) == ["arrays.npz", "source.json", "structure.json"]
    about = json.loads((folder / "source.json").read_text())
    assert (about["sha256"], about["bytes"]) == (folder.name, path.stat().st_size)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == folder.name
    monkeypatch.setattr(subprocess, "run", no_process)
    assert read_pickle(path.rename(path.with_name("b.pkl")), cache)["id"] == ["a"]


def test_a_file_that_changed_is_converted_again(converted):
    path, cache, _ = converted
    path.write_bytes(pickle.dumps({"id": ["b"]}))
    assert read_pickle(path, cache) == {"id": ["b"]}


def test_the_converted_arrays_are_an_ordinary_npz(converted):
    with np.load(converted[2] / "arrays.npz", allow_pickle=False) as archive:
        assert {key: archive[key].tolist() for key in archive.files} == {"<f8": list(range(1000))}


def flip(file):
    octets = bytearray(file.read_bytes())
    octets[len(octets) // 2] ^= 4
    file.write_bytes(octets)


@pytest.mark.parametrize(
    "damage", [flip, lambda file: os.truncate(file, 20), os.remove, lambda file: file.write_text("[]")]
)
@pytest.mark.parametrize("entry", ["arrays.npz", "structure.json", "source.json"])
def test_a_damaged_conversion_is_made_again(converted, monkeypatch, entry, damage):
    path, cache, folder = converted
    damage(folder / entry)
    assert read_pickle(path, cache)["audio"].tolist() == list(range(1000))
    monkeypatch.setattr(subprocess, "run", no_process)
    assert read_pickle(path, cache)["audio"].tolist() == list(range(1000))


def test_the_same_file_gives_the_same_conversion(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"ids": {f"v{i}" for i in range(50)}, "x": np.ones(3)}))
    for number in ("1", "2"):
        read_pickle(tmp_path / "a.pkl", tmp_path / number)
    first, second = (sorted((tmp_path / number).rglob("*.*")) for number in ("1", "2"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert len(first) == 3


def test_a_cache_that_cannot_be_written(converted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        read_pickle(converted[0], tmp_path / "file")


def test_a_full_disk_while_converting(converted, tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout=json.dumps({"errno": errno.ENOSPC}).encode())
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    with pytest.raises(OutputError, match="cannot write .*: No space left on device; choose another folder"):
        read_pickle(converted[0], tmp_path / "another")
