"""A folder belongs to one process at a time, which the dead do not keep."""

import os
import subprocess
import sys
import threading
import time

import pytest

from cggm_med import lock
from cggm_med.errors import OutputError
from cggm_med.lock import LOCK, alone

# Takes the folder that is named, in a process that imports nothing heavy.
TAKE = "import os, sys, pathlib, time\nfrom cggm_med import lock\n"


def in_process(code, folder):
    return subprocess.run([sys.executable, "-c", TAKE + code, str(folder)], capture_output=True, text=True)


def of_other_machine(folder):
    """Make the lock in a folder that of a process elsewhere."""
    file = folder / LOCK
    text = file.read_text()
    own = next(line for line in text.splitlines() if line.startswith("host="))
    file.unlink()
    file.write_text(text.replace(own, "host=elsewhere"))
    return file


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    with alone(tmp_path):
        refused = pytest.raises(OutputError, match=rf"in use by process {os.getpid()} on .* \(last sign of life 20")
        with refused, alone(tmp_path):
            pytest.fail("two work on one folder")
        assert [file.name for file in tmp_path.iterdir()] == [LOCK]
    assert not list(tmp_path.iterdir())
    with alone(tmp_path):
        pass


def test_another_process_is_refused_and_a_dead_one_keeps_nothing(tmp_path):
    with alone(tmp_path):
        found = in_process("with lock.alone(pathlib.Path(sys.argv[1])): pass", tmp_path)
    assert found.returncode == 1
    assert "OutputError" in found.stderr
    killed = in_process("with lock.alone(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)", tmp_path)
    assert killed.returncode == -9
    assert (tmp_path / LOCK).exists()
    with alone(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_process_elsewhere_is_waited_for_and_loses_a_lock_that_it_does_not_renew(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 0.5)
    monkeypatch.setattr(lock, "LOOK", 0.1)
    in_process("lock.LEASE = .5\nwith lock.alone(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)", tmp_path)
    file, said, stop = of_other_machine(tmp_path), [], threading.Event()

    def live():
        while not stop.wait(0.05):
            os.utime(file)

    living = threading.Thread(target=live)
    living.start()
    with pytest.raises(OutputError, match=r"on elsewhere"), alone(tmp_path, said.append):
        pytest.fail("it lives")
    stop.set()
    living.join()
    assert len(said) == 1
    assert "on elsewhere" in said[0]
    assert "waiting up to 1 s" in said[0]
    with alone(tmp_path, said.append):
        assert "host=elsewhere" not in file.read_text()


def test_who_lost_the_lock_ends_at_once(tmp_path):
    lose = """
lock.LEASE = .3
folder = pathlib.Path(sys.argv[1])
with lock.alone(folder):
    (folder / lock.LOCK).rename(folder / "old")
    (folder / lock.LOCK).write_text("of another process")
    time.sleep(20)
"""
    started = time.monotonic()
    found = in_process(lose, tmp_path)
    assert found.returncode == 1
    assert time.monotonic() - started < 15
    assert found.stderr == f"OutputError: {tmp_path}: this process stood still, and another one works on it now; " + (
        "ended, nothing more was written\n"
    )


def test_a_folder_that_cannot_be_locked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot lock"), alone(tmp_path / "file"):
        pytest.fail("that is a file")
