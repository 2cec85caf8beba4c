"""Segment many cases: find their images, read ahead, and write masks with their metadata."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cggm_med import distributed
from cggm_med.data.cases import ImageFile, stem
from cggm_med.data.checks.finding import Finding, decide
from cggm_med.data.volumes.io import require_image_name, write_volume
from cggm_med.data.volumes.labels import THRESHOLD
from cggm_med.errors import CggmMedError, UnknownName
from cggm_med.files import write_json, write_text
from cggm_med.inference.predictor import ACCEPT, Prediction, Predictor, PreprocessedCase
from cggm_med.results.aggregate import grouped
from cggm_med.results.tables import Table, csv_text

EXTRAS = ("probabilities", "uncertainty")


def write_labels(path: Path, prediction: Prediction) -> None:
    """Write the labels of a prediction as `write_volume` does, on the grid of its reference."""
    write_volume(path, prediction.labels, prediction.reference)


def case_of(path: Path) -> str:
    """The case of an output file: the file's name without its ending.

    Example:
        >>> [case_of(Path(name)) for name in ("a.nii.gz", "b.v2.nii", "c.dcm")]
        ['a', 'b.v2', 'c']
    """
    return stem(path.name) or path.name.removesuffix(".dcm")


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


def predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Mapping[str, Path | ImageFile]],
    files: Mapping[str, Path],
    *,
    skip_existing: bool = False,
    extras: Sequence[str] = (),
    write: Callable[[Path, Prediction], None] = write_labels,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment cases one after the other; one that fails leaves no file and does not stop the others.

    While one is segmented, the next is read. Several processes (torchrun) share the cases.

    Args:
        predictor: the run.
        cases: image files by case and modality.
        files: mask to write for each case.
        skip_existing: skip cases whose mask exists.
        extras: further outputs: ``probabilities``, ``uncertainty`` or both.
        write: writes a mask.
        say: receives a line of progress per case.

    Returns:
        The reason for each case of this process that failed.

    Raises:
        UnknownName: for an extra that does not exist.
        ConfigError: for a mask whose name does not end with ``.nii`` or ``.nii.gz``.
    """
    for extra in extras:
        if extra not in EXTRAS:
            raise UnknownName("extra output", extra, EXTRAS)
    if write is write_labels:
        for path in files.values():
            require_image_name(path)
    failed: dict[str, str] = {}
    findings: list[Finding] = []
    mine = list(cases)[distributed.rank() :: distributed.world_size()]
    todo = [case for case in mine if not (skip_existing and files[case].exists())]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} are there already")
    window = " x ".join(map(str, predictor.volumes.window_size))
    for number, (case, read) in enumerate(_read_ahead(predictor, {case: cases[case] for case in todo}), start=1):
        try:
            scan = read()
            windows, memory = predictor.cost(scan)
            say(
                f"{number} of {len(todo)}: {case}, {windows} windows of {window} voxels, "
                f"the process takes about {_readable(memory)} on {predictor.device}"
            )
            prediction = predictor.segment(scan)
            _write(files[case], prediction, predictor, extras, write)
            missing = f", without {', '.join(prediction.absent)}" if prediction.absent else ""
            say(f"  written: {files[case]}{missing}")
            findings += prediction.findings
        except CggmMedError as error:
            failed[case] = str(error)
            say(f"{number} of {len(todo)}: {case} FAILED: {error}")
    decide(findings, predictor.accepted, say, accept=ACCEPT)  # each once, not once a case
    return failed


def write_cohort(
    path: Path,
    predictor: Predictor,
    cases: Mapping[str, Iterable[str]],
    files: Mapping[str, Path],
    failed: Mapping[str, str],
) -> Table:
    """Write what each case of a cohort was segmented from, one row a case, and sum it up.

    Args:
        path: CSV file; only the first process writes it.
        predictor: the run.
        cases: the modalities that each case was given; of a mask that an earlier call made, its own file says it.
        files: mask of each case.
        failed: the reason for each case of this process that failed.

    Returns:
        How many cases were segmented from which modalities.
    """
    reasons: dict[str, str] = {}
    for part in distributed.gather_json(dict(failed), predictor.device):
        reasons |= part
    rows = []
    for case, given in cases.items():
        beside = _side_car(files[case])
        used = set(json.loads(beside.read_text())["modalities"] if beside.exists() else given)
        has = {m: m in used for m in predictor.task.modalities}
        present, absent = ("+".join(m for m in has if has[m] is there) for there in (True, False))
        rows.append({"case": case, "present": present, "absent": absent, "failed": reasons.get(case, "")})
    if distributed.rank() == 0:
        write_text(path, csv_text(rows))
    return cohort_table(rows)


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


def _side_car(mask: Path) -> Path:
    """The file that says how a mask was made."""
    return mask.with_name(f"{case_of(mask)}.json")


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _read_ahead(
    predictor: Predictor, cases: Mapping[str, Mapping[str, Path | ImageFile]]
) -> Iterator[tuple[str, Callable[[], PreprocessedCase]]]:
    """Each case and a function that returns its scan; while the caller works on one, only the next is read."""
    ahead: deque[tuple[str, Callable[[], PreprocessedCase]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for case, images in cases.items():
            # The caller waits for the first anyway; reading it here spares a single case the memory of a thread.
            first = functools.partial(predictor.read, case, images)
            ahead.append((case, reader.submit(predictor.read, case, images).result if ahead else first))
            if len(ahead) > 1:
                yield ahead.popleft()
        yield from ahead


def _write(
    path: Path,
    prediction: Prediction,
    predictor: Predictor,
    extras: Sequence[str],
    write: Callable[[Path, Prediction], None],
) -> None:
    """Write the mask last, so that its presence means that all other files are complete."""
    name = case_of(path)
    write_json(
        _side_car(path),
        {
            "software": f"cggm-med {importlib.metadata.version('cggm-med')}",
            "task": predictor.task.config.task.name,
            "run": predictor.digest,
            **({"ensemble": list(predictor.run.described_members)} if predictor.run.members else {}),
            "modalities": list(prediction.modalities),
            "absent": list(prediction.absent),
            "labels": {str(n): meaning for n, meaning in prediction.convention.meanings.items()},
            "convention": prediction.convention.name,
            "regions": list(prediction.regions),
            "threshold": THRESHOLD,
            "components": dict(prediction.segmented.components.kept),
            "flips": predictor.flips,
            "trust_names": predictor.trust_names,
            "resampled": list(prediction.resampled),
            "resampled_to": prediction.resampled_to,
            "findings": [finding.record(predictor.accepted) for finding in prediction.findings],
        },
    )
    for extra in extras:
        volume = prediction.probability if extra == "probabilities" else prediction.uncertainty
        write_volume(path.with_name(f"{name}_{extra}.nii.gz"), np.moveaxis(volume, 0, -1), prediction.reference)
    write(path, prediction)
