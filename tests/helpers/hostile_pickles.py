"""Pickles byte by byte: plain values, names and calls; and hostile ones, which run something when plainly loaded."""

import marshal
import os
import pickle


def value(content):
    """A plain value; protocol 3 has neither frames nor names for those."""
    return pickle.dumps(content, 3)[2:-1]


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def build(thing, state):
    return thing + state + b"b"


def dtype(code="f4", state=(3, "<", None, None, None, -1, -1, 0)):
    return build(call(name("numpy", "dtype"), value(code), value(False), value(True)), value(state))


def array(shape, kind, data, order=False, subtype=None):
    subtype = subtype or name("numpy", "ndarray")
    made = call(name("numpy.core.multiarray", "_reconstruct"), subtype, value((0,)), value("b"))
    return build(made, b"(" + value(1) + value(shape) + kind + value(order) + data + b"t")


def write(path, body):
    path.write_bytes(b"\x80\x04" + body + b".")
    return path


def method(thing, attribute, *arguments):
    return call(call(name("operator", "methodcaller"), value(attribute), *arguments), thing)


def module(of):
    return call(name("importlib", "import_module"), value(of))


def string_name(of, attribute):
    return value(of) + value(attribute) + b"\x93"


def live(marker):
    """Case -> the offender that the error must name first, and a pickle that makes ``marker`` when plainly loaded."""
    shell, source, path = value(f"touch {marker}"), value(f"open({marker!r}, 'w').close()"), value(marker)
    system, words, one = name("os", "system"), value(["touch", marker]), array((1,), dtype(), value(b"abcd"))
    run = call(system, shell)
    mapped = call(name("builtins", "map"), system, b"](" + shell + b"e")
    compiled = value(marshal.dumps(compile(f"open({marker!r}, 'w').close()", "", "exec")))
    nested = value(b"\x80\x04" + run + b".")
    return {
        "os.system": ("os.system", run),
        "posix.system": ("posix.system", call(name("posix", "system"), shell)),
        "os.popen": ("os.popen", call(name("os", "popen"), shell)),
        "os.mkdir": ("os.mkdir", call(name("os", "mkdir"), path)),
        "os.open": ("os.open", call(name("os", "open"), path, value(os.O_CREAT | os.O_WRONLY))),
        "os.spawnlp": ("os.spawnlp", call(name("os", "spawnlp"), value(0), value("touch"), value("touch"), path)),
        "subprocess.Popen": ("subprocess.Popen", call(name("subprocess", "Popen"), words)),
        "subprocess.check_output": ("subprocess.check_output", call(name("subprocess", "check_output"), words)),
        "subprocess.getoutput": ("subprocess.getoutput", call(name("subprocess", "getoutput"), shell)),
        "pty.spawn": ("pty.spawn", call(name("pty", "spawn"), words)),
        "asyncio": (
            "asyncio.run",
            call(name("asyncio", "run"), call(name("asyncio", "create_subprocess_shell"), shell)),
        ),
        "eval": ("builtins.eval", call(name("builtins", "eval"), source)),
        "exec": ("builtins.exec", call(name("builtins", "exec"), source)),
        "eval of Python 2": ("__builtin__.eval", b"\x80\x02" + call(name("__builtin__", "eval"), source)),
        "compile": (
            "builtins.eval",
            call(name("builtins", "eval"), call(name("builtins", "compile"), source, value(""), value("exec"))),
        ),
        "open": ("builtins.open", call(name("builtins", "open"), path, value("w"))),
        "io.FileIO": ("_io.FileIO", call(name("_io", "FileIO"), path, value("w"))),
        "codecs.open": ("codecs.open", call(name("codecs", "open"), path, value("w"))),
        "getattr": (
            "builtins.getattr",
            call(call(name("builtins", "getattr"), module("os"), value("system")), shell),
        ),
        "__import__": (
            "builtins.__import__",
            call(name("builtins", "__import__"), value("os")) + b"0" + run,
        ),
        "set of a map": ("builtins.map", call(name("builtins", "set"), mapped)),
        "list of a map": ("builtins.map", call(name("builtins", "list"), mapped)),
        "OrderedDict of a map": ("builtins.map", call(name("collections", "OrderedDict"), mapped)),
        "bytes of a map": ("builtins.map", call(name("builtins", "bytes"), mapped)),
        "numpy.fromiter of a map": ("numpy.fromiter", call(name("numpy", "fromiter"), mapped, value("i8"))),
        "operator.attrgetter": (
            "operator.attrgetter",
            call(call(call(name("operator", "attrgetter"), value("system")), module("os")), shell),
        ),
        "operator.methodcaller": ("operator.methodcaller", method(module("os"), "system", shell)),
        "functools.partial": ("functools.partial", call(call(name("functools", "partial"), system, shell))),
        "functools.reduce": (
            "functools.reduce",
            call(name("functools", "reduce"), name("builtins", "open"), value([marker, "w"])),
        ),
        "importlib.import_module": ("importlib.import_module", module("os") + b"0" + run),
        "runpy": ("runpy._run_code", call(name("runpy", "_run_code"), source, value({}))),
        "code.InteractiveInterpreter": (
            "operator.methodcaller",
            method(call(name("code", "InteractiveInterpreter")), "runcode", source),
        ),
        "timeit.timeit": (
            "timeit.timeit",
            call(name("timeit", "timeit"), source, value("pass"), name("time", "time"), value(1)),
        ),
        "cProfile.run": ("cProfile.run", call(name("cProfile", "run"), source)),
        "profile.run": ("profile.run", call(name("profile", "run"), source)),
        "trace.Trace": ("operator.methodcaller", method(call(name("trace", "Trace"), value(0)), "run", source)),
        "bdb.Bdb": ("operator.methodcaller", method(call(name("bdb", "Bdb")), "runcall", system, shell)),
        "marshal and FunctionType": (
            "types.FunctionType",
            call(
                call(
                    name("types", "FunctionType"),
                    call(name("marshal", "loads"), compiled),
                    call(name("builtins", "globals")),
                )
            ),
        ),
        "pickle.loads of another": ("pickle.loads", call(name("pickle", "loads"), nested)),
        "_pickle.loads of another": ("_pickle.loads", call(name("_pickle", "loads"), nested)),
        "ctypes": (
            "operator.methodcaller",
            method(call(name("ctypes", "CDLL"), value(None)), "system", value(f"touch {marker}".encode())),
        ),
        "threading.Timer": (
            "operator.methodcaller",
            method(call(name("threading", "Timer"), value(0), system, value([f"touch {marker}"])), "run"),
        ),
        "logging.FileHandler": ("logging.FileHandler", call(name("logging", "FileHandler"), path)),
        "sqlite3": (
            "operator.methodcaller",
            method(call(name("sqlite3", "connect"), path), "execute", value("create table a (b)")),
        ),
        "shutil.copyfile": ("shutil.copyfile", call(name("shutil", "copyfile"), value(__file__), path)),
        "numpy runstring": (
            "numpy.testing._private.utils.runstring",
            call(name("numpy.testing._private.utils", "runstring"), source, value({})),
        ),
        "numpy.memmap": (
            "numpy.memmap",
            call(name("numpy", "memmap"), path, value("u1"), value("w+"), value(0), value((4,))),
        ),
        "numpy.save": ("numpy.save", call(name("numpy", "save"), value(marker + ".npy"), value([1]))),
        "a method below ndarray": (
            "numpy.ndarray.tofile",
            call(string_name("numpy", "ndarray.tofile"), one, path),
        ),
        "a module below numpy": (
            "numpy.f2py.os.system",
            call(string_name("numpy", "f2py.os.system"), shell),
        ),
        "numpy.__builtins__ below a prefix": (
            "numpy.__builtins__.get",
            call(call(string_name("numpy", "__builtins__.get"), value("eval")), source),
        ),
        "a module below an allowed module": (
            "numpy._core.multiarray.functools.reduce",
            call(
                string_name("numpy._core.multiarray", "functools.reduce"),
                name("builtins", "open"),
                value([marker, "w"]),
            ),
        ),
        "memoised names": ("os.system", b"\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93(" + shell + b"tR"),
        "behind a good array": ("os.system", b"](" + one + run + b"e"),
        "popped at once": ("os.system", run + b"0N"),
        "before the file breaks": ("os.system", run + b"\xff"),
        "as the data of an array": ("os.system", array((1,), dtype(), run)),
        "in the state of an array": ("os.system", array((1,), dtype(), value(b"abcd") + run + b"0")),
        "as a dtype": ("os.system", call(name("numpy", "dtype"), run)),
        "as a codec": ("os.system", call(name("_codecs", "encode"), value("a"), run)),
        "as a key": ("os.system", b"}" + run + value(1) + b"s"),
        "BUILD on a class": (
            "collections.UserDict",
            build(name("collections", "UserDict"), b"N}" + value("keys") + system + b"s\x86") + b"0" + run,
        ),
        "INST": ("os.system", b"(" + shell + b"ios\nsystem\n"),
        "OBJ": ("os.system", b"(" + system + shell + b"o"),
        "NEWOBJ": ("numpy.memmap", name("numpy", "memmap") + value((marker, "u1", "w+", 0, (4,))) + b"\x81"),
        "NEWOBJ_EX": (
            "numpy.memmap",
            name("numpy", "memmap") + b")" + value({"filename": marker, "mode": "w+", "shape": (4,)}) + b"\x92",
        ),
    }
