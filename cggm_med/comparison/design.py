"""How the runs of a comparison share patients, and so what its differences are an estimate of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cggm_med.comparison.statistics import MIN_PATIENTS, Array, Estimate, bootstrap_estimate, t_estimate
from cggm_med.runs.finished_run import FinishedRun

FRESH = "patients of its own for every seed"
DIVIDED = "splits of the same patients"
ONE_TEST_SET = "one test set"
Pair = tuple[FinishedRun, FinishedRun]  # of a strategy and of its baseline, with the same seed and cases
Values = Mapping[str, tuple[float, float]]  # by case: a sum, and of how many values


@dataclass(frozen=True)
class Differences:
    """Differences of one comparison in one metric, a number for each unit.

    Attributes:
        units: names of runs or patients.
        sums: ``(unit,)``.
        counts: ``(unit,)``, of how many values each is the sum.
        estimate: of the mean difference; None where there are too few units.
        over_seeds: the same for other seeds on the same patients; None where ``estimate`` itself is over runs.
    """

    units: tuple[str, ...]
    sums: Array
    counts: Array
    estimate: Estimate | None
    over_seeds: Estimate | None = None


@dataclass(frozen=True)
class Design:
    """What the runs of a comparison have in common.

    Attributes:
        kind: ``FRESH``, ``DIVIDED`` or ``ONE_TEST_SET``.
        seeds: how many.
        patients: how many different ones were scored.
        test_share: number of tested over number of training patients, for ``DIVIDED``; else 0.
        groups: the patient of each case.
    """

    kind: str
    seeds: int
    patients: int
    test_share: float
    groups: Mapping[str, str]

    @property
    def by_patient(self) -> bool:
        """Whether differences are tested over patients, averaged over seeds, instead of over runs."""
        return self.kind == ONE_TEST_SET and self.patients >= MIN_PATIENTS

    def differences(self, values: Sequence[tuple[Pair, float]], by_case: Mapping[int, Values] | None) -> Differences:
        """The differences of a comparison, and the estimate that this design allows.

        Args:
            values: of each pair of runs, their difference in the metric.
            by_case: by the ``id`` of a run, what each case adds to the metric; None: it is no mean over cases.
        """
        differences = [value for _, value in values]
        of_runs = t_estimate(differences, test_share=self.test_share)
        if not self.by_patient or by_case is None:
            units = tuple(f"{run.seed}: {', '.join(sorted(run.tested))}" for (run, _), _ in values)
            return Differences(units, np.array(differences), np.ones(len(units)), of_runs)
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        for (run, other), _ in values:
            for case, (value, count) in by_case[id(run)].items():
                patient = self.groups.get(case, case)
                sums[patient] = sums.get(patient, 0.0) + (value - by_case[id(other)][case][0]) / len(values)
                counts[patient] = counts.get(patient, 0.0) + count / len(values)
        names = tuple(sorted(sums))
        x, n = np.array([sums[name] for name in names]), np.array([counts[name] for name in names])
        return Differences(names, x, n, bootstrap_estimate(x, n), of_runs)


def design_of(runs: Sequence[FinishedRun]) -> Design:
    """The design of these runs, from their splits.

    Args:
        runs: of all strategies; those of one seed and test set have the same splits.
    """
    groups = {case: group for run in runs for case, group in run.groups.items()}

    def patients(cases: Sequence[str]) -> set[str]:
        return {groups.get(case, case) for case in cases}

    one_each = list({run.pair: run for run in runs}.values())
    tested = set().union(*(patients(sorted(run.tested)) for run in one_each))
    seeds = len({run.seed for run in one_each})
    every = [patients([case for _, cases in run.splits.items() for case in cases]) for run in one_each]
    if len({run.tested for run in one_each}) == 1:
        return Design(ONE_TEST_SET, seeds, len(tested), 0.0, groups)
    if sum(map(len, every)) == len(set().union(*every)):
        return Design(FRESH, seeds, len(tested), 0.0, groups)
    share = statistics.fmean(len(patients(sorted(run.tested))) / len(patients(run.splits.train)) for run in one_each)
    return Design(DIVIDED, seeds, len(tested), share, groups)
