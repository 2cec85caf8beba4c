"""``subprocess`` for Python: what is started is forked from a process that has imported torch and MONAI already.

A new interpreter spends seven seconds of a core on these imports before a test begins. A fork server imports them once;
what it forks has its own memory, environment, folder, output and exit status all the same, and can be killed. Where the
start of the interpreter is itself what is tested, ``subprocess`` is called instead.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import warnings
from pathlib import Path
from subprocess import STDOUT, CompletedProcess

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["cggm_med.cli.app", "cggm_med.runs.train", "monai.bundle", "pytest"])
SECONDS = 300


def _python(words, environment, folder, stdout, stderr, new_session):
    """What ``python WORDS`` does: ``-m MODULE ...``, ``-c CODE ...`` or ``FILE ...``."""
    if new_session:
        os.setsid()
    os.dup2(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    os.dup2(1 if stderr is None else os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a fork server ignores
    warnings.resetwarnings()
    warnings.simplefilter("ignore")
    first, *sys.argv = words
    sys.path[:0] = ["" if first in ("-m", "-c") else str(Path(first).parent)]
    sys.path[1:1] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    if first == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the code is the test's own
    else:
        sys.argv[:0] = [first]
        runpy.run_path(first, run_name="__main__")


class Popen:
    """``subprocess.Popen([sys.executable, *words], ...)`` with output to named files."""

    def __init__(self, words, *, env=None, cwd=None, stdout=None, stderr=None, stdin=None, start_new_session=False):
        self.args = [str(word) for word in words]
        if self.args[0] == sys.executable:
            del self.args[0]
        environment = dict(os.environ if env is None else env)
        output = os.devnull if stdout is None else os.path.abspath(stdout.name)
        errors = None if stderr in (None, STDOUT, stdout) else os.path.abspath(stderr.name)
        arguments = (self.args, environment, str(cwd or os.getcwd()), output, errors, start_new_session)
        self._process = FORKS.Process(target=_python, args=arguments)
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def wait(self, timeout=SECONDS):
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            self._process.join()
        return self.returncode


def run(*words, env=None, cwd=None) -> CompletedProcess:
    """``subprocess.run([sys.executable, *words], capture_output=True, text=True)``."""
    return run_together(1, *words, env=env, cwd=cwd)[0]


def run_together(count, *words, env=None, cwd=None) -> list[CompletedProcess]:
    """The same ``count`` times at once, as torchrun starts what is to find one another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), **address} if count > 1 else {}
            environment = {**(os.environ if env is None else env), **place}
            with open(f"{folder}/out{rank}", "w") as out, open(f"{folder}/err{rank}", "w") as err:
                started.append(Popen(words, env=environment, cwd=cwd, stdout=out, stderr=err))
        codes = [process.wait() for process in started]
        said = [[Path(folder, f"{name}{rank}").read_text() for name in ("out", "err")] for rank in range(count)]
    return [CompletedProcess(words, code, *texts) for code, texts in zip(codes, said, strict=True)]
