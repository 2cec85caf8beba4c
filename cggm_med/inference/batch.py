"""Segment many cases: find their images, read ahead, and write masks with their metadata."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cggm_med import distributed
from cggm_med.data.cases import ImageFile
from cggm_med.data.checks.finding import Finding, decide
from cggm_med.data.volumes.io import require_image_name, write_volume
from cggm_med.errors import CheckpointError, UnknownName, in_one_line
from cggm_med.files import require_writable, write_json
from cggm_med.inference.predictor import ACCEPT, Prediction, Predictor, PreprocessedCase
from cggm_med.inference.review import review_mark
from cggm_med.inference.side_car import (
    case_of,
    cohort_cells,
    lesion_rows,
    read_side_car,
    side_car,
    side_car_of,
    volumes_in_words,
)
from cggm_med.results.aggregate import MEAN, grouped
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, rounded

Result = TypeVar("Result")

EXTRAS = {
    "probabilities": "probability",
    "uncertainty": "uncertainty",
    "calibrated": "calibrated",
}  # of a ``Prediction``


def write_labels(path: Path, prediction: Prediction) -> None:
    """Write the labels of a prediction as `write_volume` does, on the grid of its reference."""
    write_volume(path, prediction.labels, prediction.reference)


def find_images(
    predictor: Predictor, path: Path, modalities: Sequence[str] | None = None, required: Sequence[str] = ()
) -> dict[str, dict[str, ImageFile]]:
    """The image files of each case in a folder or datalist as for training, of each modality that it has.

    Labels may be absent, and so may modalities.

    Args:
        predictor: knows layouts and modalities.
        path: folder or JSON file.
        modalities: to use; default: all of the run's.
        required: that every case must have.

    Raises:
        UnknownName: if a required modality is not among those to use.
        DataError: if nothing is found, or a case has no image or lacks what is required; names every such case.
    """
    scans = predictor.volumes.find_scans(path, modalities, required=required, need_labels=False)
    return {case.id: dict(case.images) for case in scans.cases}


@dataclass
class Share:
    """One case among many that a caller goes through and, with several processes, has shared out itself.

    Attributes:
        number: of the case, counted from 1.
        total: how many cases the caller has.
        findings: of all cases so far, which the caller tells at the end.
    """

    number: int
    total: int
    findings: list[Finding]


def require_outputs(
    masks: Iterable[Path], extras: Sequence[str], inputs: Iterable[Path] = (), beside: Sequence[str] = ()
) -> None:
    """Make sure, before any work, that masks and what stands beside them can be written, and replace nothing else.

    Args:
        masks: to write.
        extras: further outputs, among ``EXTRAS``.
        inputs: files that are read.
        beside: endings of further files beside each mask, such as ``_report.dcm``.

    Raises:
        OutputError: see `require_writable`.
    """
    outputs = [path for mask in masks for path in (mask, *_beside(mask, extras, beside))]
    require_writable(outputs, inputs=inputs, ours=_is_ours)


def require_extras(predictor: Predictor, extras: Sequence[str]) -> None:
    """Make sure, before any work, that the run can say what is asked for beside its masks.

    Raises:
        UnknownName: for an extra that is not among ``EXTRAS``.
        CheckpointError: for calibrated probabilities, if temperatures were not measured.
    """
    for extra in extras:
        if extra not in EXTRAS:
            raise UnknownName("extra output", extra, EXTRAS)
    if "calibrated" in extras and predictor.expectations is None:
        raise CheckpointError(f"there is no temperature for --extra calibrated: {predictor.not_measured}")


def predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Mapping[str, Path | ImageFile]],
    files: Mapping[str, Path],
    *,
    skip_existing: bool = False,
    extras: Sequence[str] = (),
    seen: Sequence[Finding] = (),
    inputs: Mapping[str, str] | None = None,
    write: Callable[[Path, Prediction], None] = write_labels,
    beside: Sequence[str] = (),
    share: Share | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment cases one after the other; one that fails leaves no file and does not stop the others.

    While one is segmented, the next is read. Several processes (torchrun) share the cases.

    Args:
        predictor: the run.
        cases: image files by case and modality.
        files: mask to write for each case.
        skip_existing: skip cases whose mask exists.
        extras: further outputs, among ``EXTRAS``.
        seen: findings of what the files were made from, for the masks' files; none that forbids their use.
        inputs: digests of what the files were made from, by modality; default: of the files.
        write: writes a mask.
        beside: endings of what it writes beside the mask, such as ``_report.dcm``.
        share: if given, there is one case, which it counts; findings are added to it instead of being told.
        say: receives a line of progress per case.

    Returns:
        The reason for each case of this process that failed.

    Raises:
        UnknownName, CheckpointError: see `require_extras`.
        ConfigError: for a mask whose name does not end with ``.nii`` or ``.nii.gz``.
        OutputError: before any work, if an output would replace an image or another file that is not such an output,
            or cannot be written.
    """
    require_extras(predictor, extras)
    if write is write_labels:
        for path in files.values():
            require_image_name(path)
    require_outputs(
        [files[case] for case in cases if not (skip_existing and files[case].exists())],
        extras,
        [i.path if isinstance(i, ImageFile) else i for images in cases.values() for i in images.values()],
        beside,
    )
    mine = list(cases) if share else list(cases)[distributed.rank() :: distributed.world_size()]
    todo = [case for case in mine if not (skip_existing and files[case].exists())]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} are there already")
    first, total = (share.number, share.total) if share else (1, len(todo))
    readings = ((case, functools.partial(predictor.read, case, cases[case])) for case in todo)
    failed: dict[str, str] = {}
    findings: list[Finding] = []
    for case, reason, found in segment_each(
        predictor,
        readings,
        files.__getitem__,
        extras=extras,
        seen=seen,
        inputs=inputs,
        write=write,
        beside=beside,
        first=first,
        total=total,
        say=say,
    ):
        findings += found
        if reason is not None:
            failed[case] = reason
    if share:
        share.findings += findings
    else:
        decide(findings, predictor.accepted, say, accept=ACCEPT)  # each once, not once a case
    return failed


def segment_each(
    predictor: Predictor,
    cases: Iterable[tuple[str, Callable[[], PreprocessedCase]]],
    file_of: Callable[[str], Path],
    *,
    extras: Sequence[str] = (),
    seen: Sequence[Finding] = (),
    inputs: Mapping[str, str] | None = None,
    write: Callable[[Path, Prediction], None] = write_labels,
    beside: Sequence[str] = (),
    first: int = 1,
    total: int | None = None,
    say: Callable[[str], None] = print,
) -> Iterator[tuple[str, str | None, Sequence[Finding]]]:
    """Segment cases one after the other, of which only this one and the next are in memory.

    Args:
        predictor: the run.
        cases: each case, and how to read it.
        file_of: mask to write for a case.
        extras: further outputs, see `predict_cases`.
        seen: what was found of the files before, of each case alike.
        inputs: digests of the files that the user gave, where these are not what is read.
        write: writes a mask.
        beside: endings of what else ``write`` writes, removed if the case fails.
        first: number of the first case.
        total: how many there are, if it is known.
        say: receives progress.

    Yields:
        Each case when its files are written, why it failed if it did, and what was found of its files.
    """
    window = " x ".join(map(str, predictor.volumes.window_size))
    for number, (case, read) in enumerate(_read_ahead(cases), first):
        count = f"{number}" if total is None else f"{number} of {total}"
        reason: str | None = None
        findings: Sequence[Finding] = ()
        try:
            scan, reading = read()
            if "calibrated" in extras:
                predictor.temperatures(scan)  # fail now rather than after the network
            windows, memory = predictor.cost(scan)
            say(
                f"{count}: {case}, {windows} windows of {window} voxels, "
                f"the process takes about {_readable(memory)} on {predictor.device}"
            )
            prediction, segmenting = _timed(predictor.segment, scan)
            found = (*seen, *prediction.findings)
            prediction = replace(prediction, findings=found, inputs=inputs or prediction.inputs)
            facts = side_car(prediction, predictor, {"reading": reading, "segmenting": segmenting})
            _write(file_of(case), prediction, facts, extras, write)
            missing = f", without {', '.join(prediction.absent)}" if prediction.absent else ""
            sure = "" if prediction.quality is None else f", quality {rounded(prediction.quality[MEAN])}"
            say(f"  written: {file_of(case)}{missing}{sure}; {volumes_in_words(facts)}")
            findings = prediction.findings
        except Exception as error:  # one odd case never stops the others
            reason = in_one_line(error)
            _remove_half(file_of(case), extras, beside)
            say(f"{count}: {case} FAILED: {reason}")
        yield case, reason, findings


def cohort_rows(
    predictor: Predictor,
    cases: Mapping[str, Iterable[str]],
    files: Mapping[str, Path],
    failed: Mapping[str, str],
    review_below: float | None = None,
) -> list[Record]:
    """What is said of each case of a cohort, one row a case: see ``side_car.FIELDS``.

    Args:
        predictor: the run.
        cases: the modalities that each case was given; of a mask that an earlier call made, its own file says it.
        files: mask of each case.
        failed: the reason for each case of this process that failed.
        review_below: if given, rows have ``quality`` and ``review`` as well, see ``review_mark``.
    """
    reasons: dict[str, str] = {}
    for part in distributed.gather_json(dict(failed), predictor.device):
        reasons |= part
    rows: list[Record] = []
    for case, given in cases.items():
        known, facts = predictor.task.modalities, None if case in reasons else read_side_car(files[case])
        # Of a case that failed before its modalities were known, nothing is said of them.
        has = {"modalities": [m for m in known if m in given], "absent": [m for m in known if given and m not in given]}
        cells = cohort_cells(facts if facts is not None else {"case": case, **has})
        first = {name: cells[name] for name in ("case", "present", "absent")}
        row = {**first, "failed": reasons.get(case, ""), **cells}
        if review_below is not None:
            quality = ((facts or {}).get("quality") or {}).get(MEAN)
            row |= {"quality": quality, "review": "" if row["failed"] else review_mark(quality, review_below)}
        rows.append(row)
    return rows


def cohort_lesions(rows: Sequence[Record], files: Mapping[str, Path]) -> list[Record]:
    """The lesions of a cohort, one row each, by case and region, the largest first.

    Args:
        rows: of the cohort; of cases that failed, what an earlier call found is left out.
        files: mask of each case.
    """
    said = (read_side_car(files[row["case"]]) for row in rows if not row["failed"])
    return [row for facts in said if facts is not None for row in lesion_rows(facts)]


def cohort_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How many cases were predicted from which modalities.

    Args:
        rows: of each case, with ``present``, ``absent`` and ``failed``.
    """
    groups = grouped(rows, ["present", "absent"])
    lines = [
        (present or "-", absent or "-", str(len(of)), str(sum(bool(row["failed"]) for row in of)))
        for (present, absent), of in groups.items()
    ]
    return Table("cohort", ("predicted from", "absent", "cases", "failed"), tuple(lines))


def _extra(mask: Path, extra: str) -> Path:
    return mask.with_name(f"{case_of(mask)}_{extra}.nii.gz")


def _beside(mask: Path, extras: Sequence[str], endings: Sequence[str]) -> list[Path]:
    """The files that are written beside a mask."""
    further = [mask.with_name(f"{case_of(mask)}{ending}") for ending in endings]
    return [side_car_of(mask), *(_extra(mask, extra) for extra in extras), *further]


def _remove_half(mask: Path, extras: Sequence[str], endings: Sequence[str]) -> None:
    """Remove what was written beside a mask that was not."""
    if not mask.exists():
        for path in _beside(mask, extras, endings):
            path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether a file was written as a mask, or beside one, as the file beside it says."""
    names = (path.stem, case_of(path), *(case_of(path).removesuffix(f"_{extra}") for extra in (*EXTRAS, "report")))
    return any(read_side_car(path.with_name(f"{name}.nii.gz")) is not None for name in names)


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _read_ahead(
    cases: Iterable[tuple[str, Callable[[], PreprocessedCase]]],
) -> Iterator[tuple[str, Callable[[], tuple[PreprocessedCase, float]]]]:
    """Each case and a function that returns its scan and the seconds that reading it took.

    While the caller works on one, only the next is read.
    """
    ahead: deque[tuple[str, Callable[[], tuple[PreprocessedCase, float]]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for case, read in cases:
            # The caller waits for the first anyway; reading it here spares a single case the memory of a thread.
            first = functools.partial(_timed, read)
            ahead.append((case, reader.submit(_timed, read).result if ahead else first))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead


def _write(
    path: Path,
    prediction: Prediction,
    said: Record,
    extras: Sequence[str],
    write: Callable[[Path, Prediction], None],
) -> None:
    """Write the mask last, so that its presence means that all other files are complete."""
    write_json(side_car_of(path), said)
    for extra in extras:
        volume = getattr(prediction, EXTRAS[extra])
        write_volume(_extra(path, extra), np.moveaxis(volume, 0, -1), prediction.reference)
    write(path, prediction)


def _timed(work: Callable[..., Result], *given: Any) -> tuple[Result, float]:
    """What a function returns, and the seconds that it took."""
    start = time.perf_counter()
    return work(*given), time.perf_counter() - start
