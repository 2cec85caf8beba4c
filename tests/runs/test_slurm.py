"""Array jobs: what their script does, task by task, with programs in SLURM's place."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.slurm import stand_ins

from cggm_med.errors import ConfigError, OutputError
from cggm_med.runs import slurm

# Stands for this program: writes down its words, and ends as a training that was asked to, or at once.
PROGRAM = """
import pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
with (here / "called.txt").open("a") as file:
    print("|".join(sys.argv[2:]), file=file)
def saved(*_):
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
(here / "ready").touch()
while (here / "wait").exists():
    time.sleep(0.01)
"""


@pytest.fixture
def array(tmp_path, monkeypatch):
    """Of runs ``tmp_path/runs/N``, whose program writes what it was called with into ``called.txt``."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(slurm, "PROGRAM", (sys.executable, str(tmp_path / "program.py"), str(tmp_path)))
    return slurm.Array(tmp_path / "jobs", "compare", subsets=True)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """See ``helpers.slurm.stand_ins``."""
    return stand_ins(tmp_path, monkeypatch)


def begun(tmp_path, *words):
    """Two runs, each with words of its own."""
    return [slurm.Begun(tmp_path / "runs" / str(n), ("train", "--out", str(n), *words)) for n in range(2)]


def start(array, runs, task, tmp_path):
    folder = tmp_path / "jobs" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.tsv").write_text("".join("\t".join((str(r.folder), *r.words)) + "\n" for r in runs))
    for run in runs:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
    (folder / "array.sh").write_text(slurm.script(array, runs, folder))
    numbers = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "9"}
    return subprocess.Popen(["/bin/bash", folder / "array.sh"], env={**os.environ, **numbers})


def called(tmp_path):
    return (tmp_path / "called.txt").read_text().splitlines()


def test_a_task_begins_its_run_with_exactly_its_words_and_scores_it_then(array, tmp_path):
    odd = "--set", "data.path=/a b/'c'\"$d;*"
    process = start(array, begun(tmp_path, *odd), 1, tmp_path)
    assert process.wait(60) == 0
    run = tmp_path / "runs" / "1"
    assert called(tmp_path) == [f"train|--out|1|{'|'.join(odd)}", f"evaluate|{run}|--subsets|all"]
    assert run.with_name("1.log").exists()


@pytest.mark.parametrize(
    ("there", "commands"),
    [
        (["config.yaml"], ["train|--resume|{run}", "evaluate|{run}|--subsets|all"]),
        (["config.yaml", "results.json"], ["evaluate|{run}|--subsets|all"]),
        (["config.yaml", "results.json", "subsets"], []),
    ],
)
def test_what_is_done_is_not_done_again(there, commands, array, tmp_path):
    run = tmp_path / "runs" / "0"
    run.mkdir(parents=True)
    for name in there:
        (run / name).touch()
    (tmp_path / "called.txt").touch()
    assert start(array, begun(tmp_path), 0, tmp_path).wait(60) == 0
    assert called(tmp_path) == [command.format(run=run) for command in commands]


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_task_whose_time_is_up_saves_and_is_queued_again_and_one_that_is_cancelled_is_not(
    number, requeued, array, tmp_path, stand_in
):
    stand_in("scontrol")
    (tmp_path / "wait").touch()
    process = start(array, begun(tmp_path), 1, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    if number == signal.SIGTERM:  # which every process of the job gets
        children = subprocess.check_output(["/bin/ps", "-o", "pid=", "--ppid", str(process.pid)], text=True).split()
        os.kill(int(children[0]), number)
    process.send_signal(number)
    # Mostly 143: Bash may lose the code of a program that ends at the very moment in which Bash gets a signal.
    assert process.wait(60) not in (0, None)
    assert called(tmp_path) == ["train|--out|1"]  # nothing is scored that is not trained
    if requeued:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 7_1\n"
    else:
        assert not (tmp_path / "scontrol.txt").exists()


def test_what_was_submitted_is_found_again_until_it_ends(array, tmp_path, stand_in):
    stand_in("sbatch", "12;cluster")
    runs = begun(tmp_path)
    assert slurm.submit(array, runs, after=["3", "4"]) == "12"
    assert (tmp_path / "sbatch.txt").read_text().split()[:2] == ["--parsable", "--dependency=afterany:3:4"]
    stand_in("sbatch", "13")
    assert slurm.submit(array, runs[:1]) == "13"
    assert [path.name for path in sorted(array.folder.iterdir())] == ["1", "2"]
    stand_in("squeue", "12 1 RUNNING\n13 0 PENDING\n14 0 RUNNING\n15 N/A RUNNING")
    known = slurm.unended(array)
    assert known == {
        runs[1].folder: slurm.Submitted("12", "RUNNING", runs[1].words),
        runs[0].folder: slurm.Submitted("13", "PENDING", runs[0].words),
    }
    assert slurm.in_words(known.values()) == "1 pending, 1 running"
    slurm.require_same_words(known, [slurm.Begun(runs[1].folder, runs[1].words[::-1])])
    other = "submitted with other settings, as job 12 .* nothing != more; .* end the job with scancel 12"
    with pytest.raises(OutputError, match=other):
        slurm.require_same_words(known, [slurm.Begun(runs[1].folder, (*runs[1].words, "more"))])
    stand_in("squeue")
    assert slurm.unended(array) == {}


def test_a_job_that_is_refused_leaves_nothing(array, tmp_path, stand_in):
    file = tmp_path / "bin" / "sbatch"
    file.write_text("#!/bin/bash\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    file.chmod(0o755)
    with pytest.raises(ConfigError, match="sbatch failed: sbatch: error: invalid partition"):
        slurm.submit(array, begun(tmp_path))
    assert not array.folder.exists()


def test_without_slurm_one_line_says_where_it_is(array, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no 'sbatch' here"):
        slurm.submit(array, begun(tmp_path))


@pytest.mark.parametrize("option", ["array=0-9", "output=x", "Partition=a", "time=1\n#SBATCH --wrap=x", "--time=1", ""])
def test_options_that_would_change_the_script_are_refused(option):
    with pytest.raises(ConfigError, match="--sbatch"):
        slurm.require_options([option])


@pytest.mark.parametrize("name", ["a b", "a%b", "a\\b"])
def test_a_folder_that_slurm_cannot_write_to_is_refused(name, array, tmp_path):
    with pytest.raises(ConfigError, match="choose another with --out"):
        slurm.script(array, begun(tmp_path), tmp_path / name)


def test_a_word_that_is_no_part_of_a_line_is_refused(array, tmp_path):
    with pytest.raises(ConfigError, match="tab or line break"):
        slurm.script(array, begun(tmp_path, "a\tb"), tmp_path)
