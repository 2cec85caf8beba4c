"""Compare the masks of two time points: which lesions are new, gone, grown or shrunk, in each region of each case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med import registry
from cggm_med.data.cases import Case, stem
from cggm_med.data.checks.finding import Finding, lines, objections, require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.folders.propose import read_any
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.grids import grid_difference, same_grid
from cggm_med.data.volumes.io import WRITTEN, open_image
from cggm_med.data.volumes.labels import LabelConvention, painting_order, unknown_convention
from cggm_med.data.volumes.resample import MIN_COVERED
from cggm_med.errors import DataError, first_of
from cggm_med.files import did_you_mean
from cggm_med.inference.mask_record import SCHEMA
from cggm_med.inference.predictor import ACCEPT
from cggm_med.inference.side_car import case_of, read_side_car, side_car_of
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesion_change import STATUSES, lesion_changes, volumes
from cggm_med.metrics.lesion_list import number_lesions
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, rounded

SAMPLES = 16  # points along each axis of a grid, to see how much of it another one covers


@dataclass(frozen=True)
class TimePoint:
    """A mask, and what its numbers mean.

    Attributes:
        mask: its file.
        regions: the labels that make up each region.
        meanings: of each label.
        rules: what a lesion is.
        said: what the file beside it says; empty without one.
    """

    mask: Path
    regions: Mapping[str, tuple[int, ...]]
    meanings: Mapping[int, str]
    rules: LesionRules
    said: Record = field(default_factory=dict)

    @property
    def convention(self) -> LabelConvention:
        """The labels as a convention.

        Raises:
            DataError: if they are none.
        """
        try:
            return LabelConvention(case_of(self.mask), self.meanings, self.regions, painting_order(self.regions))
        except ValueError as error:
            raise DataError(f"{side_car_of(self.mask)} is damaged: {error}") from error


def find_masks(path: Path, labels: str | None) -> dict[str, TimePoint]:
    """The masks that a path means, by case.

    Args:
        path: a mask, the JSON file beside one, a ``cohort.csv``, or a folder of masks.
        labels: what the numbers in masks without a JSON file mean: a convention of ``brats2021``, or data that declare
            one.

    Raises:
        DataError: if there is none, or nothing says what its numbers mean.
        UnknownName: if there is no such convention.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist{did_you_mean(path)}; expected a mask, or what 'cggm-med predict' wrote")
    folder = path.parent if path.name.lower().endswith(".csv") else path
    if folder.is_dir():
        files = [file for file in sorted(folder.iterdir()) if stem(file.name)]
        predicted = [file for file in files if read_side_car(file) is not None]
        masks = {case_of(file): file for file in predicted or files}
        if not masks:
            raise DataError(f"{folder} holds no mask; expected such as CASE.nii.gz, each with the CASE.json of predict")
    elif path.suffix.lower() == ".json":
        named = (path.with_name(path.stem + ending) for ending in WRITTEN)
        mask = next((file for file in named if file.exists()), None)
        if mask is None:
            raise DataError(f"{path} has no mask beside it; expected {path.stem}.nii.gz")
        masks = {case_of(mask): mask}
    elif path.suffix.lower() == ".dcm":
        raise DataError(f"{path} is DICOM; expected a mask as 'cggm-med predict ... -o mask.nii.gz' writes it")
    else:
        masks = {case_of(path): path}
    return {case: _time_point(mask, labels) for case, mask in masks.items()}


def _time_point(mask: Path, labels: str | None) -> TimePoint:
    said = read_side_car(mask)
    if said is not None:
        if said.get("schema") != SCHEMA:
            raise DataError(f"{side_car_of(mask)} has schema {said.get('schema')}, expected {SCHEMA}; predict it again")
        try:
            regions = {name: tuple(map(int, of)) for name, of in said["regions"].items()}
            meanings = {int(number): str(meaning) for number, meaning in said["labels"].items()}
            return TimePoint(mask, regions, meanings, LesionRules(**said["lesion_rules"]), said)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{side_car_of(mask)} is damaged ({error}); predict it again") from error
    if labels is None:
        raise DataError(
            f"{mask} has no {side_car_of(mask).name} of 'cggm-med predict' beside it, so nothing says what its numbers "
            "mean; say it with --labels, such as brats2021, or the data set that declares them"
        )
    brats = registry.load(registry.TASKS, "brats2021")
    if labels in brats.conventions:
        convention, rules = brats.conventions[labels], brats.lesion_rules
    elif Path(labels).exists():
        declared, _ = read_any(Path(labels), need_labels=False)
        if len(declared.conventions) > 1:
            raise DataError(f"{labels} declares the conventions {', '.join(declared.conventions)}; expected one")
        convention, rules = next(iter(declared.conventions.values())), declared.lesion_rules
    else:
        fix = "Choose one with --labels NAME, or give data that declare one with --labels PATH"
        raise unknown_convention(labels, brats.conventions, fix)
    return TimePoint(mask, convention.regions, convention.meanings, dataclasses.replace(rules, min_overlap=0.0))


def pair_masks(
    earlier: Mapping[str, TimePoint], later: Mapping[str, TimePoint]
) -> tuple[dict[str, tuple[TimePoint, TimePoint]], list[str]]:
    """The masks of each patient at both time points, and the cases that have only one.

    A single mask each is one pair, whatever they are called; of several, those of one name are.

    Raises:
        DataError: if no name is in both.
    """
    if len(earlier) == len(later) == 1:
        ((case, after),) = later.items()
        return {case: (next(iter(earlier.values())), after)}, []
    common = [case for case in earlier if case in later]
    if not common:
        raise DataError(
            f"no mask of one folder has the name of one in the other: {first_of(list(earlier), 3)} and "
            f"{first_of(list(later), 3)}; call both masks of a patient alike, or name one mask each"
        )
    alone = [*(case for case in earlier if case not in later), *(case for case in later if case not in earlier)]
    return {case: (earlier[case], later[case]) for case in common}, alone


def compare_masks(
    case: str,
    earlier: TimePoint,
    later: TimePoint,
    *,
    registered: bool = False,
    same_percent: float = 0.0,
    accepted: Sequence[str] = (),
) -> dict[str, Any]:
    """What became of the lesions of a patient, as plain values.

    Args:
        case: id.
        earlier: mask of the first time point.
        later: mask of the second.
        registered: whether masks on different grids lie in one space all the same.
        same_percent: change of volume up to which a lesion is the same.
        accepted: kinds of findings that do not speak against the use of a file.

    Raises:
        DataError: if a mask cannot be read, regions or rules differ, or grids differ and nobody says that they lie in
            one space, or they do not.
    """
    if set(earlier.regions) != set(later.regions):
        raise DataError(
            f"{case}: the masks have the regions {', '.join(earlier.regions)} and {', '.join(later.regions)}; expected "
            "the same in both"
        )
    if earlier.rules != later.rules:
        raise DataError(
            f"{case}: lesions are counted by different rules, {earlier.rules.describe()}, and "
            f"{later.rules.describe()}; predict both with runs of one task"
        )
    (before, first, seen), (after, second, seen_later) = (_read(case, of, accepted) for of in (earlier, later))
    if not same_grid(first, before.shape, second, after.shape):
        _require_one_space(case, earlier.mask, later.mask, (before.shape, first), (after.shape, second), registered)
    masks = [
        dict(zip(of.regions, of.convention.to_regions(volume), strict=True))
        for of, volume in ((earlier, before), (later, after))
    ]
    regions: list[Record] = []
    lesions: list[Record] = []
    both = touching = 0
    for region in later.regions:
        numbered = (
            number_lesions(masks[0][region], first, earlier.rules),
            number_lesions(masks[1][region], second, later.rules),
        )
        found = lesion_changes(*numbered, same_percent=same_percent)
        both += numbered[0].count > 0 and numbered[1].count > 0
        touching += found.touching
        regions.append({"region": region, **volumes(found.earlier_ml, found.later_ml), **found.counts})
        lesions += [{"region": region, **change.record()} for change in found.changes]
    warnings = [*_doubts(earlier.said, later.said), *lines([*seen, *seen_later])]
    if both and not touching:
        warnings.insert(
            0, "no lesion of one mask touches any of the other: are both in one space? look at them one over the other"
        )
    return {
        "case": case,
        "earlier": str(earlier.mask),
        "later": str(later.mask),
        "warnings": warnings,
        "regions": regions,
        "lesions": lesions,
    }


def _read(
    case: str, of: TimePoint, accepted: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.float64], Sequence[Finding]]:
    """The numbers of a mask, its affine, and what is odd about the file."""
    found = inspect(Case(case, case, {}, of.mask), of.convention)
    if problems := [*found.problems, *objections(found.findings, accepted, accept=ACCEPT)]:
        raise DataError(f"{of.mask} cannot be used:", problems)
    ((volume,), (affine,)) = found.volumes.values(), found.affines.values()
    return volume, affine, found.findings


def _require_one_space(
    case: str,
    earlier: Path,
    later: Path,
    first: tuple[tuple[int, ...], NDArray[np.float64]],
    second: tuple[tuple[int, ...], NDArray[np.float64]],
    registered: bool,
) -> None:
    """Refuse masks on different grids, unless they are said to lie in one space and cover one another."""
    if not registered:
        differ = grid_difference("earlier", open_image(earlier), "later", open_image(later))
        raise DataError(
            f"{case}: {differ}. Lesions can be followed in one space only: register the scans of one time point to "
            "those of the other and predict again; or if they are, and only the grids differ, say --registered"
        )
    covered = max(_covered(*first, *second), _covered(*second, *first))
    if covered < MIN_COVERED:
        raise DataError(
            f"{case}: at most {covered:.0%} of one mask's grid lies on the other's, expected at least "
            f"{MIN_COVERED:.0%}; register the scans of one time point to those of the other and predict again"
        )


def _covered(
    shape: tuple[int, ...], affine: NDArray[np.float64], other_shape: tuple[int, ...], other: NDArray[np.float64]
) -> float:
    """The share of a grid that lies on another one."""
    along = [np.linspace(0, n - 1, SAMPLES) for n in shape]
    points = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    to_other = np.linalg.inv(other) @ affine
    there = points @ to_other[:3, :3].T + to_other[:3, 3]
    return float(((there > -0.5) & (there < np.array(other_shape) - 0.5)).all(axis=1).mean())


def _doubts(earlier: Record, later: Record) -> list[str]:
    """What else than the lesions may have made a difference, as far as the files beside the masks tell."""
    if not (earlier and later):
        return []
    found = []
    if earlier["weights"] != later["weights"]:
        found.append("the masks were made with different weights: a change may be one of the network")
    given = ["+".join(of["modalities"]) for of in (earlier, later)]
    if given[0] != given[1]:
        found.append(f"the masks were made from {given[0]} and from {given[1]}: a change may be that of the modalities")
    if same := [m for m, digest in later["inputs"].items() if earlier["inputs"].get(m) == digest]:
        found.append(f"both masks were made from the same file of {', '.join(same)}: are these two time points?")
    return found


def follow(
    earlier: Path,
    later: Path,
    *,
    labels: str | None = None,
    registered: bool = False,
    same_percent: float = 0.0,
    accepted: Sequence[str] = (),
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Compare two time points of one patient or of many; a pair that cannot be compared does not stop the others.

    Args:
        earlier: see ``find_masks``.
        later: see ``find_masks``.
        labels: see ``find_masks``.
        registered: see ``compare_masks``.
        same_percent: see ``compare_masks``.
        accepted: see ``compare_masks``.
        say: receives a line for each case that is alone, fails or is doubtful.

    Returns:
        Plain values: ``cases`` are those of ``compare_masks``, ``alone`` has one mask only, ``failed`` the reasons.

    Raises:
        DataError: if nothing can be paired, or the only pair fails.
        UnknownName: if there is no such convention or kind of finding.
    """
    require_known(accepted, KINDS.values())
    pairs, alone = pair_masks(find_masks(earlier, labels), find_masks(later, labels))
    if alone:
        say(f"{len(alone)} have a mask at one time point only: {first_of(alone)}")
    options: dict[str, Any] = {"registered": registered, "same_percent": same_percent, "accepted": accepted}
    cases, failed = [], {}
    for case, (before, after) in pairs.items():
        try:
            cases.append(compare_masks(case, before, after, **options))
        except DataError as error:
            if len(pairs) == 1:
                raise
            failed[case] = str(error)
            say(f"{case} FAILED: {error}")
            continue
        for warning in cases[-1]["warnings"]:
            say(f"{case}: {warning}")
    rules = next(iter(pairs.values()))[1].rules
    return {
        "schema": SCHEMA,
        "registered": registered,
        "same_percent": same_percent,
        "lesion_rules": {name: getattr(rules, name) for name in ("dilations", "connectivity", "min_mm3")},
        "cases": cases,
        "alone": alone,
        "failed": failed,
    }


def change_tables(found: Record) -> list[Table]:
    """The volumes of each region, and of a single case its lesions.

    Args:
        found: what ``follow`` returns.
    """
    several = len(found["cases"]) > 1
    seen = [status for status in STATUSES if any(of[status] for case in found["cases"] for of in case["regions"])]
    rows = [
        (*((case["case"],) if several else ()), of["region"], *_in_words(of), *(str(of[status]) for status in seen))
        for case in found["cases"]
        for of in case["regions"]
    ]
    header = (*(("case",) if several else ()), "region", "earlier mL", "later mL", "change mL", "change %", *seen)
    tables = [Table("change", header, tuple(rows))]
    if len(found["cases"]) == 1 and found["cases"][0]["lesions"]:
        lesions = [
            (
                *(of["region"], of["status"], _numbers(of)),
                " ".join(f"{of[name]:.0f}" for name in ("right_mm", "anterior_mm", "superior_mm")),
                f"{rounded(of['earlier_ml'], 2)} > {rounded(of['later_ml'], 2)}",
                _percent(of),
                f"{rounded(of['earlier_longest_axial_mm'], 1)} > {rounded(of['later_longest_axial_mm'], 1)}",
            )
            for of in found["cases"][0]["lesions"]
        ]
        columns = ("region", "lesion", "number", "R A S mm", "mL", "%", "longest mm")
        tables.append(Table("lesions", columns, tuple(lesions)))
    return tables


def _in_words(of: Record) -> tuple[str, ...]:
    return rounded(of["earlier_ml"], 2), rounded(of["later_ml"], 2), f"{of['change_ml'] + 0.0:+.2f}", _percent(of)


def _percent(of: Record) -> str:
    return "-" if of["change_percent"] is None else f"{of['change_percent'] + 0.0:+.0f}"


def _numbers(of: Record) -> str:
    """Such as ``1 > 1``, ``2+3 > 1``, or ``- > 4`` of a new one."""
    earlier, later = ("+".join(map(str, of[time])) or "-" for time in ("earlier", "later"))
    return f"{earlier} > {later}"
