"""Work shared by processes: the same results in the same order, errors as they are, and an end whatever happens."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cggm_med.data.parallel import map_in_processes
from cggm_med.errors import CggmMedError, DataError


def square(number):
    time.sleep(0.01 * (number % 3))
    return number * number, os.getpid(), torch.get_num_threads()


def refuse(number):
    if number == 3:
        raise DataError(f"{number} cannot be read")
    return number


def be_killed(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_whoever_computes_them(workers):
    found = list(map_in_processes(square, range(20), workers))
    assert [result for result, _, _ in found] == [n * n for n in range(20)]
    assert (os.getpid() in {process for _, process, _ in found}) == (workers == 0)
    if workers:
        assert {threads for _, _, threads in found} == {1}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_as_it_is(workers):
    results = map_in_processes(refuse, range(10), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^3 cannot be read$"):
        next(results)


def test_items_are_taken_only_a_little_ahead():
    taken = []
    results = map_in_processes(abs, (taken.append(n) or n for n in range(100)), 2)
    next(results)
    assert len(taken) <= 5
    results.close()


def test_a_killed_process_is_one_clear_line():
    with pytest.raises(CggmMedError, match="one of 2 processes was killed, perhaps because memory ran out; use fewer"):
        list(map_in_processes(be_killed, range(4), 2))


SLOW = """
import sys, time, os
from cggm_med.data.parallel import map_in_processes
sys.path.insert(0, os.path.dirname(__file__))
def work(folder, number):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(0.2)
import functools, signal
# Whoever runs the tests in the background has this signal ignored in all children.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in map_in_processes(functools.partial(work, sys.argv[1]), range(1000), 2): print("one", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_end_with_their_parent(tmp_path, number):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    (tmp_path / "pids").mkdir()
    command = [sys.executable, script, tmp_path / "pids"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "one\n"
    parent.send_signal(number)
    _, errors = parent.communicate(timeout=60)
    assert errors.count("Traceback") <= 1  # that of the parent
    workers = [int(path.name) for path in (tmp_path / "pids").iterdir()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a process outlived its parent"
        time.sleep(0.1)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"
