"""Training the runs of a comparison as array jobs of SLURM, which the same command submits, watches and collects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cggm_med.comparison.experiment import (
    Plan,
    PlannedRun,
    Say,
    every_run,
    last_error,
    require_same,
    train_command,
    unfinished,
    write_requested,
)
from cggm_med.errors import ConfigError, counted
from cggm_med.runs import slurm
from cggm_med.runs.finished_run import Excluded
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.journal import last_line


class NotFinished(Exception):
    """Runs are submitted or under way; says how many, and what to do then."""


class Shown(Exception):
    """The script of a dry run."""


@dataclass(frozen=True)
class OnSlurm:
    """Trains the runs of a comparison on a cluster.

    Attributes:
        array: what its tasks share; the plan says whether subsets are scored.
        dry_run: whether to show the script instead.
    """

    array: slurm.Array
    dry_run: bool = False

    def __call__(self, plan: Plan, runs: Sequence[PlannedRun], say: Say) -> list[Excluded]:
        """Submit the runs that are neither trained nor submitted, among them those that ended too early.

        Returns:
            No run: one that fails is never left out, but submitted again.

        Raises:
            NotFinished: unless all are trained.
            Shown: in a dry run, unless all are trained.
            OutputError: if a folder holds a run with other settings, or one with others was submitted for it.
            ConfigError: if SLURM does not answer, or refuses the job.
        """
        runs = every_run(runs)
        require_same(plan, runs)
        todo = unfinished(plan, runs)
        if not todo:
            return []
        array = replace(self.array, subsets=plan.subsets)
        if self.dry_run:
            raise Shown(slurm.rehearsal(array, [_begun(plan, run) for run in todo if not run.waits]))
        known = slurm.unended(array)
        slurm.require_same_words(known, [_begun(plan, run) for run in todo])
        lost = [run for run in todo if run.folder.absolute() not in known]
        for run in lost:
            if run.log.exists():
                say(f"{run.variant.name}, {run.folder.name} ended before it was done, again: {last_error(run.log)}")
        jobs = {folder: submitted.job for folder, submitted in known.items()}
        for wave in ([run for run in lost if not run.waits], [run for run in lost if run.waits]):
            if wave:
                teachers = [run.teacher.folder.absolute() for run in wave if run.teacher is not None]
                needed = sorted({jobs[folder] for folder in teachers if folder in jobs})
                job = _submit(array, plan, wave, needed)
                jobs |= {run.folder.absolute(): job for run in wave}
                say(f"submitted {counted(len(wave), 'run')} as job {job}, see {array.folder}")
        raise NotFinished(_state(runs, len(todo), slurm.unended(array)))


def _state(runs: Sequence[PlannedRun], missing: int, known: Mapping[Path, slurm.Submitted]) -> str:
    if len(runs) > 1:
        return (
            f"{len(runs) - missing} of {len(runs)} runs are done, {slurm.in_words(known.values())}; the same command "
            "again says how far they are, and goes on when all are done"
        )
    submitted = known.get(runs[0].folder.absolute())
    state = "its job has ended" if submitted is None else f"job {submitted.job} is {submitted.state.lower()}"
    said = last_line(RunFolder(runs[0].folder).log)
    return f"{runs[0].folder}: {state}{said and f' ({said})'}; the same command again says how far it is"


def _submit(array: slurm.Array, plan: Plan, runs: Sequence[PlannedRun], after: Sequence[str]) -> str:
    """The number of the job; of runs that are refused nothing stays."""
    new = [run.requested for run in runs if not run.requested.exists()]
    for run in runs:
        write_requested(plan, run)
    try:
        return slurm.submit(array, [_begun(plan, run) for run in runs], after=after)
    except ConfigError:
        for file in new:
            file.unlink(missing_ok=True)
        raise


def _begun(plan: Plan, run: PlannedRun) -> slurm.Begun:
    """The run in words that mean the same in every folder."""
    plan = replace(plan, config=plan.config and plan.config.absolute())
    run = replace(run, folder=run.folder.absolute())
    return slurm.Begun(run.folder, tuple(train_command(plan, run)))
