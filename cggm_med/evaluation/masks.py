"""Score masks that another tool or a reader made: label files named by case, under the rules of a run's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cggm_med.data.cases import Case, stem
from cggm_med.data.checks.finding import Finding, decide, objections
from cggm_med.data.folders.propose import read_any
from cggm_med.data.volumes.checks import Inspection, inspect
from cggm_med.data.volumes.grids import grid_difference
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention, painting_order, unknown_convention
from cggm_med.data.volumes.preprocess import ACCEPT
from cggm_med.errors import DataError
from cggm_med.results.results import Scores
from cggm_med.task.base import CaseResult, Task
from cggm_med.task.capabilities import Volumes

Say = Callable[[str], object]
MASKS_RULE = "masks as they are given: nothing is removed, added or painted again"


def masks_of(folder: Path, cases: Sequence[str]) -> dict[str, Path]:
    """The mask of each case, called after it, such as ``CASE.nii.gz``; other files are not looked at.

    Raises:
        DataError: names every case that has none, or several.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with a mask for each case, such as {cases[0]}.nii.gz")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        files.setdefault(stem(path.name), []).append(path)
    if missing := [case for case in cases if case not in files]:
        raise DataError(
            f"{folder} holds no mask of {len(missing)} of {len(cases)} cases; add them, or score fewer cases: those of "
            "a run's split with --against RUN --split test, or of a list that is given as --data:",
            [f"{case}: expected {folder / case}.nii.gz" for case in missing],
        )
    if several := [f"{case}: {', '.join(p.name for p in files[case])}" for case in cases if len(files[case]) > 1]:
        raise DataError(f"{folder} holds several masks of a case; keep one of each:", several)
    return {case: files[case][0] for case in cases}


def convention_of_masks(asked: str | None, volumes: Volumes) -> LabelConvention | None:
    """The convention of masks by its name, or as a data set declares it whose regions have the names of the task's.

    Args:
        asked: a name, or the path of a data set, such as the raw folder of nnU-Net on which the masks' network was
            trained; None: the masks follow the labels.
        volumes: of the task.

    Raises:
        UnknownName: if there is neither a convention nor a data set of this name.
        DataError: if the data set declares several conventions, or not all of the task's regions.
    """
    if asked is None:
        return None
    if asked in volumes.conventions:
        return volumes.conventions[asked]
    if not Path(asked).exists():
        fix = "Choose one with --mask-labels NAME, or give the data set that declares one with --mask-labels PATH"
        raise unknown_convention(asked, volumes.conventions, fix)
    declared, _ = read_any(Path(asked), need_labels=False)
    if len(declared.conventions) > 1:
        raise DataError(f"{asked} declares the conventions {', '.join(declared.conventions)}; expected one")
    (convention,) = declared.conventions.values()
    if lacking := [region for region in volumes.targets if region not in convention.regions]:
        raise DataError(
            f"{asked} declares no region {', '.join(lacking)}; it has {', '.join(convention.regions)}. Give its "
            "regions the names of those in --data"
        )
    regions = {region: convention.regions[region] for region in volumes.targets}
    try:
        return replace(convention, regions=regions, paint=painting_order(regions))
    except ValueError as error:
        raise DataError(f"{asked} cannot be read with the regions {', '.join(regions)}: {error}") from error


def score_masks(
    task: Task, volumes: Volumes, folder: Path, cases: Sequence[Case], of_masks: LabelConvention | None, say: Say
) -> tuple[Scores, list[Finding]]:
    """All metrics of the masks of these cases, each on the grid of the case's label; and what is odd about the files.

    Args:
        task: that found the cases; they need not be prepared, since no image is read.
        volumes: of the task.
        folder: of the masks, see ``masks_of``.
        cases: with labels.
        of_masks: their convention, see ``convention_of_masks``; None: each mask follows that of its case's label.
        say: receives lines of progress.

    Raises:
        DataError: names every mask that is missing, lies on another grid than its label, cannot be read, or holds a
            label that its convention does not declare.
    """
    masks = masks_of(folder, [case.id for case in cases])
    pairs = [_Pair(case, masks[case.id], volumes.convention_of(case), of_masks) for case in cases]
    # All of them first: a bad mask of the last case is not found out after an hour.
    findings: list[Finding] = []
    problems = [problem for pair in pairs for problem in pair.problems(findings)]
    accepted = getattr(task.config.data, "accept", ())
    problems += objections(findings, accepted, accept=ACCEPT)
    if problems:
        raise DataError(
            f"{folder}: these masks cannot be scored; expected known labels on the label's grid, to which a mask on "
            "another is to be resampled by nearest neighbour:",
            problems,
        )
    decide(findings, accepted, say, accept=ACCEPT)
    return task.summarise(list(_results(volumes, pairs, say))), findings


@dataclass(frozen=True)
class _Pair:
    """A case with its mask; ``of_mask`` is None where the mask follows the convention of the label."""

    case: Case
    mask: Path
    of_label: LabelConvention
    of_mask: LabelConvention | None

    def inspected(self) -> tuple[Inspection, Inspection]:
        """The mask and the label, each by itself, since an empty mask is no fault."""
        name, patient = self.case.id, self.case.patient
        mask = inspect(Case(name, patient, {}, self.mask), self.of_mask or self.of_label)
        return mask, inspect(Case(name, patient, {}, self.case.label), self.of_label)

    def problems(self, findings: list[Finding]) -> list[str]:
        """What speaks against comparing the two; ``findings`` gets what was seen besides."""
        mask, label = self.inspected()
        findings += [replace(finding, roles=("mask",)) for finding in mask.findings]
        findings += label.findings
        if found := [*mask.problems, *label.problems]:
            return found
        assert self.case.label is not None  # noqa: S101 - only cases with labels are scored
        drawn = open_label(self.case.label, self.of_label)
        difference = grid_difference("mask", open_image(self.mask), "label", drawn)
        return [f"{self.case.id}: {difference}"] if difference else []


def _results(volumes: Volumes, pairs: Sequence[_Pair], say: Say) -> Iterator[CaseResult]:
    for number, pair in enumerate(pairs, start=1):
        mask, label = pair.inspected()
        ((predicted,), (true,), (affine,)) = (x.values() for x in (mask.volumes, label.volumes, label.affines))
        x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        regions = (pair.of_mask or pair.of_label).to_regions(predicted)
        if pair.of_label.ignore is not None:
            regions &= true != pair.of_label.ignore
        rows = volumes.score(pair.case, regions, pair.of_label.to_regions(true), (x, y, z), full=True)
        say(f"{number} of {len(pairs)}: {pair.case.id}")
        yield CaseResult(pair.case.id, {"regions": rows, "heads": []})
