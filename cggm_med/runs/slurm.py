"""Runs as tasks of SLURM's array jobs: a readable script, what was submitted, and what of it has not ended."""

from __future__ import annotations

import contextlib
import getpass
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from cggm_med.errors import ConfigError, OutputError
from cggm_med.files import atomic_folder, write_text

PROGRAM = (sys.executable, "-m", "cggm_med.cli")
SCRIPT, RUNS, JOB = "array.sh", "runs.tsv", "job.txt"  # in the folder of a submission
# What the script sets itself; with another value of these it would not know which run it is, or lose what it did.
OWN = ("array", "requeue", "no-requeue", "open-mode", "output", "wait", "wrap", "parsable")
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701 - a shell script; values are quoted for the shell
)


@dataclass(frozen=True)
class Begun:
    """One run of an array.

    Attributes:
        folder: of the run, absolute.
        words: arguments of ``cggm-med`` that train it into its folder.
    """

    folder: Path
    words: tuple[str, ...]


@dataclass(frozen=True)
class Submitted:
    """A run of an array that has not ended.

    Attributes:
        job: its number.
        state: in SLURM's words.
        words: it was submitted with.
    """

    job: str
    state: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Array:
    """What the tasks of an array share.

    Attributes:
        folder: in which each submission has a folder of its own.
        command: of ``cggm-med`` that submits it.
        options: of ``sbatch``, as ``KEY=VALUE`` or ``KEY``.
        at_once: how many run at the same time; None: as many as fit.
        subsets: whether every subset of the modalities is scored when a run is trained.
    """

    folder: Path
    command: str
    options: tuple[str, ...] = ()
    at_once: int | None = None
    subsets: bool = False


def require_options(options: Sequence[str]) -> None:
    """Refuse options that ``sbatch`` cannot take from the script, or that the script needs for itself.

    Raises:
        ConfigError: with the word.

    Example:
        >>> require_options(["partition=gpu", "time=4:00:00", "exclusive"])
    """
    for option in options:
        key, _, value = option.partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not re.fullmatch(r"[^\s\x00-\x1f]*", value):
            raise ConfigError(
                f"--sbatch {option!r} is no option of sbatch, expected such as partition=gpu, time=4:00:00 or exclusive"
            )
        if key in OWN:
            raise ConfigError(f"--sbatch {key} is set by the script itself; leave it out")


def script(array: Array, runs: Sequence[Begun], folder: Path) -> str:
    """The text that ``sbatch`` takes.

    Args:
        array: what the tasks share.
        runs: one task each.
        folder: of the submission.

    Raises:
        ConfigError: if a word or path holds what a line of a text file cannot.
    """
    for word in (str(folder), *(w for run in runs for w in (str(run.folder), *run.words))):
        if not word or re.search(r"[\t\r\n\x00]", word):
            raise ConfigError(f"{word!r} cannot stand in a list of runs: it is empty, or has a tab or line break")
    # SLURM replaces words with a percent sign in the name of the file, and ends it at a space.
    if re.search(r"[%\\\s]", str(folder)):
        raise ConfigError(
            f"SLURM cannot write to {folder}: it has a space, backslash or percent sign; choose another with --out"
        )
    return _TEMPLATES.get_template(SCRIPT).render(
        command=array.command,
        name=f"cggm-med-{array.command}",
        last=len(runs) - 1,
        at_once=array.at_once,
        output=folder / "%a.txt",
        options=array.options,
        runs=shlex.quote(str(folder / RUNS)),
        program=shlex.join(PROGRAM),
        subsets=array.subsets,
    )


def rehearsal(array: Array, runs: Sequence[Begun]) -> str:
    """What would be submitted: the script, and below it the list of the runs, as comments."""
    listed = "".join(f"# {line}\n" for line in ("", f"{RUNS}:", *_listing(runs).splitlines()))
    return f"{script(array, runs, next_folder(array))}{listed}"


def _listing(runs: Sequence[Begun]) -> str:
    return "".join("\t".join((str(run.folder), *run.words)) + "\n" for run in runs)


def next_folder(array: Array) -> Path:
    """The folder of the next submission, which is not there yet."""
    known = [int(path.name) for path in array.folder.glob("*") if path.name.isdigit()]
    return array.folder.absolute() / str(max(known, default=0) + 1)


def submit(array: Array, runs: Sequence[Begun], *, after: Iterable[str] = ()) -> str:
    """Hand runs to SLURM as one array job.

    Args:
        array: what they share.
        runs: at least one, whose folders' parents are there; none of them may be waiting or running already.
        after: numbers of jobs which have to end first.

    Returns:
        The number of the job.

    Raises:
        ConfigError: if there is no ``sbatch``, or it refuses the job; says why.
    """
    folder = next_folder(array)
    with atomic_folder(folder) as temporary:
        write_text(temporary / SCRIPT, script(array, runs, folder))
        write_text(temporary / RUNS, _listing(runs))
    wait = [f"--dependency=afterany:{':'.join(after)}"] if (after := list(after)) else []
    try:
        job = _ask("sbatch", "--parsable", *wait, str(folder / SCRIPT)).strip().partition(";")[0]
    except ConfigError:
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # other submissions may be there
            array.folder.rmdir()
        raise
    write_text(folder / JOB, f"{job}\n")
    return job


def unended(array: Array) -> dict[Path, Submitted]:
    """Runs that were submitted and have not ended, by their folders.

    Raises:
        ConfigError: if SLURM does not answer.
    """
    submitted = {
        file.read_text().strip(): [line.split("\t") for line in (file.parent / RUNS).read_text().splitlines()]
        for file in sorted(array.folder.glob(f"*/{JOB}"))
    }
    if not submitted:
        return {}
    listed = _ask("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "-o", "%F %K %T")
    found: dict[Path, Submitted] = {}
    for line in listed.splitlines():
        job, task, state = line.split(maxsplit=2)
        if job in submitted and task.isdigit():
            folder, *words = submitted[job][int(task)]
            found[Path(folder)] = Submitted(job, state, tuple(words))
    return found


def require_same_words(known: Mapping[Path, Submitted], runs: Iterable[Begun]) -> None:
    """Refuse to wait for a run that was submitted with other settings.

    Args:
        known: see ``unended``.
        runs: as they would be submitted now.

    Raises:
        OutputError: with the first of them.
    """
    for run in runs:
        submitted = known.get(run.folder)
        if submitted is not None and sorted(submitted.words) != sorted(run.words):
            other, now = (
                [word for word in one if word not in others] or ["nothing"]
                for one, others in ((submitted.words, run.words), (run.words, submitted.words))
            )
            raise OutputError(
                f"{run.folder} was submitted with other settings, as job {submitted.job} (submitted != now): "
                f"{shlex.join(other)} != {shlex.join(now)}; choose another folder with --out, or end the job with "
                f"scancel {submitted.job}"
            )


def in_words(runs: Iterable[Submitted]) -> str:
    """How many runs are in which state.

    Example:
        >>> in_words([Submitted("7", "RUNNING", ()), Submitted("7", "PENDING", ()), Submitted("7", "PENDING", ())])
        '2 pending, 1 running'
    """
    every = [run.state.lower() for run in runs]
    return ", ".join(f"{every.count(state)} {state}" for state in sorted(set(every)))


def _ask(program: str, *arguments: str) -> str:
    """What a program of SLURM prints."""
    if shutil.which(program) is None:
        raise ConfigError(f"there is no '{program}' here: SLURM's programs are on a cluster's login nodes; go there")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ConfigError(f"{program} failed: {why}")
    return done.stdout
