"""All checks of a data set, as training would run them, whatever they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from cggm_med.data.checks.finding import Finding, Severity, condensed, require_known, standing
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.splits import Splits
from cggm_med.data.volumes.prepared import PreparedCase, common_spacing
from cggm_med.data.volumes.spacing import Spacing
from cggm_med.errors import DataError, counted, first_of
from cggm_med.results.tables import Table
from cggm_med.task.base import Task
from cggm_med.task.segmentation import SegmentationTask

_ORDER = {severity: place for place, severity in enumerate(get_args(Severity))}


@dataclass(frozen=True)
class CheckedData:
    """What checks saw in a data set.

    Attributes:
        findings: the gravest first.
        cases: those that could be prepared, by id.
        count: of all cases.
        accepted: kinds that the user knows better about.
        spacing: to which cases were resampled, in mm; None if they have their own.
    """

    findings: tuple[Finding, ...]
    cases: dict[str, PreparedCase]
    count: int
    accepted: tuple[str, ...]
    spacing: Spacing | None = None

    @property
    def objecting(self) -> list[Finding]:
        """Those that forbid the use of what they concern."""
        return standing(self.findings, self.accepted)

    def table(self) -> Table:
        """A row for each finding; those that differ in nothing but the case share one."""
        rows = [
            (
                f"accepted ({finding.kind.severity})" if finding.kind.name in self.accepted else finding.kind.severity,
                finding.kind.name,
                finding.where,
                finding.said,
                finding.kind.fix,
            )
            for finding in condensed(self.findings)
        ]
        return Table("findings", ("severity", "kind", "where", "seen", "what to do"), tuple(rows))

    def summary(self) -> str:
        """One line."""
        counts = [f"{sum(f.kind.severity == of for f in self.findings)} {of}" for of in _ORDER]
        said = f"{counted(self.count, 'case')}, {counted(len(self.findings), 'finding')}"
        return said + (f": {', '.join(counts)}" if self.findings else "")

    def record(self) -> dict[str, Any]:
        """As plain values."""
        found = [{**of.record(self.accepted), "fix": of.kind.fix} for of in self.findings]
        return {"cases": self.count, "accepted": list(self.accepted), "findings": found}


def check_data(task: Task, accepted: Sequence[str], say: Callable[[str], None]) -> CheckedData:
    """Run all checks that a training on the task's data would run; what cannot be divided is checked as a whole.

    Of tasks whose cases are no volumes, lists and files are checked, where reading the data looks at them.

    Args:
        task: whose data to check.
        accepted: kinds of findings that the user knows better about.
        say: receives lines of progress.

    Raises:
        DataError: if no cases are found, or those of a task without volumes cannot be read.
        UnknownName: for a kind that does not exist.
    """
    require_known(accepted, KINDS.values())
    volumes = task.volumes()
    ids = task.find(say)
    if not isinstance(volumes, SegmentationTask):
        left_out = [Finding.of_record(record, KINDS) for record in task.findings()["findings"]]
        return CheckedData(tuple(left_out), {}, len(ids), tuple(accepted))
    try:
        splits, as_a_whole = task.default_splits(), []
    except DataError as error:
        splits, as_a_whole = Splits(ids, (), ()), [Finding(KINDS["undivided"], "", (), str(error))]
    findings, cases = volumes.check(splits, say)
    if volumes.spacing is None and cases:
        try:
            common_spacing(cases)
        except DataError as error:
            as_a_whole.append(Finding(KINDS["differing_sizes"], "", (), first_of(error.problems)))
    known = (*accepted, *getattr(task.config.data, "accept", ()))
    gravest = sorted([*as_a_whole, *findings], key=lambda finding: (_ORDER[finding.kind.severity], finding.kind.name))
    prepared = {case.id: case for case in cases}
    return CheckedData(tuple(gravest), prepared, len(ids), tuple(dict.fromkeys(known)), volumes.spacing)
