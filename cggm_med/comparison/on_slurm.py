"""Training the runs of a comparison as array jobs of SLURM, which the same command submits, watches and collects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from cggm_med.runs import slurm
from cggm_med.runs.finished_run import Excluded


class NotFinished(Exception):
    """Runs are submitted or under way; says how many, and what to do then."""


class Shown(Exception):
    """The script of a dry run."""


@dataclass(frozen=True)
class OnSlurm:
    """Trains the runs of a comparison on a cluster.

    Attributes:
        options: of ``sbatch``, see ``slurm.require_options``.
        at_once: how many run at the same time; None: as many as fit.
        dry_run: whether to show the script instead.
    """

    options: tuple[str, ...]
    at_once: int | None
    dry_run: bool = False

    def __call__(self, plan: Plan, runs: Sequence[PlannedRun], say: Say) -> list[Excluded]:
        """Submit the runs that are neither trained nor submitted, among them those that ended too early.

        Returns:
            No run: one that fails is never left out, but submitted again.

        Raises:
            NotFinished: unless all are trained.
            Shown: in a dry run, unless all are trained.
            OutputError: if a folder holds a run with other settings.
            ConfigError: if SLURM does not answer, or refuses the job.
        """
        runs = every_run(runs)
        require_same(plan, runs)
        todo = unfinished(plan, runs)
        if not todo:
            return []
        array = slurm.Array(plan.folder / "slurm", "compare", self.options, self.at_once, plan.subsets)
        if self.dry_run:
            first = [_begun(plan, run) for run in todo if not run.waits]
            raise Shown(slurm.script(array, first, slurm.next_folder(array)))
        known = slurm.unended(array)
        lost = [run for run in todo if run.folder.absolute() not in known]
        for run in lost:
            if run.log.exists():
                say(f"{run.variant.name}, {run.folder.name} ended before it was done, again: {last_error(run.log)}")
            write_requested(plan, run)
        jobs = {folder: job for folder, (job, _) in known.items()}
        for wave in ([run for run in lost if not run.waits], [run for run in lost if run.waits]):
            if wave:
                teachers = [run.teacher.folder.absolute() for run in wave if run.teacher is not None]
                needed = sorted({jobs[folder] for folder in teachers if folder in jobs})
                job = slurm.submit(array, [_begun(plan, run) for run in wave], after=needed)
                jobs |= {run.folder.absolute(): job for run in wave}
                say(f"submitted {len(wave)} runs as job {job}, see {array.folder}")
        raise NotFinished(
            f"{len(runs) - len(todo)} of {len(runs)} runs are done, {slurm.in_words(slurm.unended(array))}; the same "
            "command again says how far they are, and goes on when all are done"
        )


def _begun(plan: Plan, run: PlannedRun) -> slurm.Begun:
    return slurm.Begun(run.folder.absolute(), tuple(train_command(plan, run)))
