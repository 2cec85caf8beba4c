"""What the files of a proposal hold: grids, label values, and whatever of it contradicts what was proposed."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import LABEL, Case, ImageFile, LabelFile, RegionFiles, label_paths
from cggm_med.data.checks.finding import Finding, lines, merged, standing
from cggm_med.data.declaration import UNKNOWN
from cggm_med.data.folders.conventions import LabelledCase, conventions_of
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.data.folders.scans import lowest_value
from cggm_med.data.volumes.checks import concerns
from cggm_med.data.volumes.grids import same_grid
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import DataError, first_of

MANY_CASES = 200  # from here on it is told how far the inspection is
MAX_COMPARED = 3  # cases in which the intensities of CT are looked at
_AIR_HU = -200  # every CT of a patient holds air or lung, which lie far below


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a file lie.

    Attributes:
        shape: ``(x, y, z)``.
        spacing: voxel size in mm.
        axes: where x, y, z point to, such as ``LPS``.
        affine: voxels to mm in RAS+.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    axes: str
    affine: NDArray[np.float64]

    def same(self, other: Grid) -> bool:
        """Whether voxels of both lie at the same places, but for rounding."""
        return same_grid(self.affine, self.shape, other.affine, other.shape)


@dataclass(frozen=True)
class Inspection:
    """A proposal, and what its files hold.

    Attributes:
        proposal: with what the files add: a reference where grids differ, label values, questions.
        grids: by case, and by modality or ``"label"``; of files that can be read.
        voxels: by case: how often each label value but 0 occurs.
    """

    proposal: Proposal
    grids: Mapping[str, Mapping[str, Grid]]
    voxels: Mapping[str, Mapping[int | float, int]]

    def counts(self, convention: str | None = None) -> dict[int | float, tuple[int, int]]:
        """Voxels, and cases in which they occur, of each label value.

        Args:
            convention: only of the cases that follow it; None: of all.
        """
        of = {case.id: case.convention for case in self.proposal.cases}
        voxels: Counter[int | float] = Counter()
        cases: Counter[int | float] = Counter()
        for id, found in self.voxels.items():
            if convention is None or of[id] == convention:
                voxels.update(found)
                cases.update(found.keys())
        return {value: (voxels[value], cases[value]) for value in sorted(voxels)}


def inspect_proposal(
    proposal: Proposal, *, labels: bool = True, say: Callable[[str], None] = lambda text: None
) -> Inspection:
    """Open the files of a proposal, and settle or ask what only they tell.

    Args:
        proposal: of any reader.
        labels: whether to read the voxels of labels and of some CT images, not the headers alone.
        say: told in one line how far it is, for many cases.
    """
    grids: dict[str, dict[str, Grid]] = {}
    voxels: dict[str, dict[int | float, int]] = {}
    problems: list[str] = []
    findings: list[Finding] = []
    in_parts = any(isinstance(case.label, RegionFiles) for case in proposal.cases)
    conventions = {name: of.convention() for name, of in proposal.labels.items()} if in_parts else {}
    for done, case in enumerate(proposal.cases, start=1):
        grids[case.id], wrong, seen = _grids(case)
        problems += wrong
        findings += seen
        if labels and case.label is not None and LABEL in grids[case.id]:
            try:
                voxels[case.id] = count_labels(case.label, conventions.get(case.convention or ""))
            except DataError as error:
                problems.append(f"case {case.id}: {error}")
        if len(proposal.cases) >= MANY_CASES and done % (len(proposal.cases) // 10) == 0:
            say(f"{done} of {len(proposal.cases)} cases looked at")
    found = Inspection(proposal, grids, voxels)
    asked = [_unreadable(problems)] if problems else []
    reference, about_grids = _reference(proposal, grids)
    notes: list[str] = []
    about_grids += _about_slices(proposal, grids)
    meanings = dict(proposal.labels)
    if labels:
        meanings, about_labels = _label_values(found)
        asked += about_labels
        about_ct, of_ct = _about_ct(proposal)
        asked += about_ct
        notes += of_ct
    questions = proposal.questions
    if not any(case.labels for case in proposal.cases):
        notes.append("no case has a label: it can be predicted, not trained on")
        questions = tuple(question for question in questions if not asks_for_meanings(question))
    complete = replace(
        proposal,
        reference=proposal.reference or reference,
        labels=meanings,
        questions=(*questions, *about_grids, *asked),
        # What is asked of findings is nothing for the list: training accepts them by name.
        notes=(
            *proposal.notes,
            *notes,
            *lines(finding for finding in findings if finding.kind.severity == "told"),
            *_about_findings(findings),
        ),
    )
    return replace(found, proposal=complete)


def asks_for_meanings(question: str) -> bool:
    """Whether a question is about what label numbers mean.

    Example:
        >>> asks_for_meanings("what 1 and 2 mean: no file says it"), asks_for_meanings("the grid to resample to")
        (True, False)
    """
    return re.search(r"\bwhat\b.*\bmeans?\b|\bwhich release\b", question) is not None


def count_labels(label: LabelFile, convention: LabelConvention | None = None) -> dict[int | float, int]:
    """How often each value but 0 occurs in a label map.

    Args:
        label: its file, or those of its regions.
        convention: the numbers of regions that have files of their own.

    Raises:
        DataError: if it is damaged.
    """
    volume = open_label(label, convention).voxels()
    values, counts = np.unique(volume[volume != 0], return_counts=True)
    return {
        int(value) if float(value).is_integer() else float(value): int(count)
        for value, count in zip(values, counts, strict=True)
    }


def _about_findings(findings: Iterable[Finding]) -> list[str]:
    """A line for each finding that somebody must accept before training."""
    return [
        f'{line} (if it is meant, train with --set "data.accept=[{kind}]")'
        for kind, of in itertools.groupby(
            sorted(standing(findings, ()), key=lambda finding: finding.kind.name), lambda finding: finding.kind.name
        )
        for line in lines(of)
    ]


def _grids(case: Case) -> tuple[dict[str, Grid], list[str], list[Finding]]:
    """Grids of a case's files, what is wrong with those that cannot be used, and what headers say besides."""
    files: dict[str, ImageFile] = dict(case.images)
    if case.label is not None:
        files[LABEL] = ImageFile(label_paths(case.label)[0])
    opened: dict[Path, StoredImage] = {}
    grids, problems, findings = {}, [], []
    for role, file in files.items():
        try:
            if role == LABEL and isinstance(case.label, RegionFiles):
                image = open_label(case.label)
            else:
                image = opened.get(file.path) or open_image(file.path)
                opened[file.path] = image
        except DataError as error:
            problems.append(f"case {case.id}: {error}")
            continue
        volumes = image.shape[3:]
        if len(image.shape) < 3:
            problems.append(f"case {case.id}: {file.path} is a picture of {_times(image.shape)}; expected a volume")
        elif image.damage:
            problems.append(f"case {case.id}: {file.path}: {image.damage}")
        elif file.channel is not None and (len(volumes) > 1 or file.channel >= math.prod(volumes)):
            held = f"{volumes[0]} channels" if len(volumes) == 1 else "no channels"
            problems.append(f"case {case.id}: {file.path} has {held}; expected {role} as number {file.channel}")
        elif file.channel is None and max(volumes, default=1) > 1:
            problems.append(
                f"case {case.id}: {role} {file.path} holds {volumes[0]} volumes; say which, or leave it out"
            )
        else:
            grids[role] = Grid(image.shape[:3], image.spacing, image.axes, image.affine)
            findings += [replace(f, case=case.id, roles=(role,)) for f in image.findings if concerns(f, case, (role,))]
    return grids, problems, merged(findings)


def _unreadable(problems: Sequence[str]) -> str:
    more = f"; {len(problems) - 1} more such files" if len(problems) > 1 else ""
    return f"{problems[0]}{more}: mend them, or delete their cases from the list"


def _reference(proposal: Proposal, grids: Mapping[str, Mapping[str, Grid]]) -> tuple[str | None, list[str]]:
    """The modality on whose grid the labels lie, if grids differ within cases, and what to ask about it."""
    differing: Counter[str] = Counter()  # how many cases have it on another grid than their label
    together: Counter[str] = Counter()
    apart = []
    mixed: set[str] = set()
    for id, of in grids.items():
        images = [role for role in of if role != LABEL]
        if any(not of[images[0]].same(of[role]) for role in images[1:]):
            mixed.add(id)
        if LABEL in of and images:
            fitting = {role for role in images if of[role].same(of[LABEL])}
            together.update(fitting)
            differing.update(set(images) - fitting)
            if not fitting:
                apart.append(id)
    questions = []
    reference = None
    if mixed and proposal.reference is None:
        # Where every label lies on a modality, and of these the one that most cases have.
        always = [m for m in proposal.modalities if together[m] and not differing[m]]
        reference = max(always, key=lambda m: together[m], default=None)
        questions.append(_about_grids(proposal, grids, mixed, reference))
    labelled = sum(LABEL in of for of in grids.values())
    if apart and not (mixed and len(apart) == labelled):
        first = grids[apart[0]]
        image = next(role for role in first if role != LABEL)
        questions.append(
            f"labels on no image's grid: case {first_of(apart)} ({_times(first[LABEL].shape)} against "
            f"{_times(first[image].shape)} of {image}); leave them out, or let training resample them"
        )
    return reference, questions


def _about_slices(proposal: Proposal, grids: Mapping[str, Mapping[str, Grid]]) -> list[str]:
    """A question where the cases of a patient are single slices."""
    patient = {case.id: case.patient for case in proposal.cases}
    slices = [id for id, of in grids.items() if of and all(min(grid.shape) == 1 for grid in of.values())]
    several = [id for id in slices if sum(patient[other] == patient[id] for other in slices) > 1]
    if len(several) < 2:
        return []
    return [
        f"whether {first_of(several, 3)}, which are one voxel thick, are slices of one scan: stack the slices of a "
        "scan into one volume, unless each was meant as a case"
    ]


def _about_grids(
    proposal: Proposal, grids: Mapping[str, Mapping[str, Grid]], mixed: set[str], reference: str | None
) -> str:
    cases = f"images of {len(mixed)} of {len(grids)} cases lie on different grids"
    if reference is None:
        return (
            f'the grid to resample to: {cases}, and no modality has that of every label; name one as "reference": '
            f"{', '.join(proposal.modalities)}"
        )
    others = [
        m
        for m in proposal.modalities
        if any(m in of and reference in of and not of[m].same(of[reference]) for of in grids.values())
    ]
    return (
        f"the grid to resample to: {cases}; {', '.join(others)} would be resampled to {reference}, on whose grid the "
        'labels lie, which is proposed as "reference"'
    )


def _times(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _label_values(found: Inspection) -> tuple[dict[str, Labels], list[str]]:
    """Meanings with a ``?`` for every value where none is known at all, and questions about values without meaning."""
    proposal = found.proposal
    labels, questions = dict(proposal.labels), []
    for name, of in proposal.labels.items():
        counts = found.counts(name or None)
        fractions = [value for value in counts if not isinstance(value, int) or not 0 < value < 65536]
        if fractions:
            cases = [id for id, values in found.voxels.items() if set(values) & set(fractions)]
            questions.append(
                f"labels of case {first_of(cases, 3)} hold {first_of([f'{v:g}' for v in fractions], 3)}; expected "
                "whole numbers from 0 to 65535: give the label map itself, not probabilities or an image"
            )
        strange = [
            value for value in counts if value not in fractions and value not in of.meanings and value != of.ignore
        ]
        if not of.meanings and strange:
            labels[name], asked = _meanings(found, [int(value) for value in strange])
            labels[name] = replace(labels[name], ignore=of.ignore)
            questions += asked
        elif strange:
            questions += [_about_value(int(value), counts[value], found) for value in strange]
        unknown = [str(label) for label, meaning in labels[name].meanings.items() if meaning == UNKNOWN]
        if unknown and not any(map(asks_for_meanings, proposal.questions)):
            where = f" in {name}" if name else ""
            questions.append(f"what {they_mean(unknown)}{where}: no file says it")
    return labels, questions


def _meanings(found: Inspection, values: Sequence[int]) -> tuple[Labels, list[str]]:
    """What a publication says of numbers that no file explains, told by the names of the cases, to be confirmed."""
    folder = found.proposal.path if found.proposal.path.is_dir() else found.proposal.path.parent

    def values_of(id: str) -> frozenset[int]:
        return frozenset(int(value) for value in found.voxels.get(id, ()) if isinstance(value, int))

    labelled = [
        LabelledCase(
            case.id, Path(os.path.relpath(case.label, folder)).as_posix(), functools.partial(values_of, case.id)
        )
        for case in found.proposal.cases
        if isinstance(case.label, Path)
    ]
    told = conventions_of(labelled, found.proposal.modalities)
    if not (set(told.labels) == {""} and told.labels[""].meanings):
        return Labels(dict.fromkeys(values, UNKNOWN)), []
    labels = told.labels[""]
    publication = labels.source.partition(":")[0]
    return labels, [
        f"what {they_mean(list(map(str, values)))}: {found.proposal.path.name} does not say it; the cases' names "
        f"suggest {publication}, whose meanings are proposed",
        *told.questions,
    ]


def they_mean(numbers: Sequence[str]) -> str:
    """Numbers with the verb that fits them.

    Example:
        >>> they_mean(["1"]), they_mean(["1", "2"])
        ('1 means', '1, 2 mean')
    """
    return f"{', '.join(numbers)} {'means' if len(numbers) == 1 else 'mean'}"


def _about_value(value: int, count: tuple[int, int], found: Inspection) -> str:
    cases = [id for id, values in found.voxels.items() if value in values]
    return (
        f"label value {value} in case {first_of(cases, 3)} ({count[0]} voxels): nothing says what it means; write its "
        'meaning into "labels", or leave these cases out'
    )


def _about_ct(proposal: Proposal) -> tuple[list[str], list[str]]:
    """A question where another image looks like the CT, and a note where a CT holds no air."""
    cts = [name for name, modality in proposal.modalities.items() if modality.kind == "ct"]
    questions: list[str] = []
    airless: dict[str, list[str]] = {}
    for case in [case for case in proposal.cases if set(cts) & set(case.images)][:MAX_COMPARED]:
        lowest = {name: lowest_value(image.path, image.channel) for name, image in case.images.items()}
        for name in [name for name in cts if (lowest.get(name) or 0) >= 0 and lowest.get(name) is not None]:
            alike = [m for m, low in lowest.items() if m not in cts and low is not None and low <= _AIR_HU]
            questions += [f"whether {name} and {m} are exchanged: in case {case.id}, {m} looks like CT" for m in alike]
            airless.setdefault(name, []).append(case.id)
    notes = [
        f"{name} has no value below 0 in case {', '.join(cases)}: it is hardly CT in Hounsfield units"
        for name, cases in airless.items()
    ]
    return questions, notes
