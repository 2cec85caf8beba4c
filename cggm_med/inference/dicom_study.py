"""Segment an examination given as a folder of DICOM files."""

from __future__ import annotations

import contextlib
import importlib.metadata
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.dicom.header import import_extra
from cggm_med.data.dicom.report import ENDING as REPORT_ENDING
from cggm_med.data.dicom.report import report_beside
from cggm_med.data.dicom.seg import write_segmentation
from cggm_med.data.dicom.series import Series, assign_modalities, find_series
from cggm_med.data.dicom.volume import check_series, write_nifti
from cggm_med.data.volumes.io import DIGEST_BYTES, WRITTEN, open_image
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.files import digest_of_files
from cggm_med.inference.batch import Share, predict_cases
from cggm_med.inference.predictor import Predictor
from cggm_med.inference.side_car import case_of
from cggm_med.plots.style import region_colours

SEGMENTATION = ".dcm"
ENDINGS = (*WRITTEN, SEGMENTATION)  # of what a study gives


def predict_study(
    predictor: Predictor,
    folder: Path,
    out: Path,
    *,
    chosen: Mapping[str, str] | None = None,
    modalities: Sequence[str] | None = None,
    skip_existing: bool = False,
    extras: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment one study as `predict_cases` does a case, which is named after ``out``: nothing says whose study it is.

    Args:
        predictor: the run.
        folder: with the series of this study only.
        out: mask to write; such as ``.nii.gz`` on the grid of the series, or ``.dcm`` for a DICOM segmentation with
            a segment for each region, and a structured report with their volumes beside it (``_report.dcm``); both are
            filed with the patient and hence bear the name.
        chosen: series of some modalities; see `assign_modalities`.
        modalities: to use; default: all of the run's, for each of which there must be a series.
        skip_existing: do nothing if ``out`` exists.
        extras: as in `predict_cases`; always NIfTI files.
        say: receives the series of each modality, and lines of progress.

    Returns:
        The reason, by the name of the case, if it failed; else empty.

    Raises:
        ConfigError: for another ending of ``out``.
        MissingExtra: if pydicom or highdicom is needed and not installed.
        UnknownName: for a modality that the run was not trained on, or an extra that does not exist.
        DataError: if the series cannot be told apart, or one is not a regular volume.
    """
    require_request(predictor, out, modalities, chosen)
    if skip_existing and out.exists():
        say("1 of 1 are there already")
        return {}
    found = find_series(folder)
    if (studies := len({one.headers[0].study for one in found})) > 1:
        say(f"the folder holds {studies} studies; to segment each, give a folder for the masks, such as -o masks")
    series = assign_modalities(found, tuple(modalities or predictor.task.modalities), chosen)
    return segment_series(predictor, series, out, extras=extras, say=say)


def require_request(
    predictor: Predictor, out: Path, modalities: Sequence[str] | None, chosen: Mapping[str, str] | None
) -> None:
    """Refuse what is asked of studies wrongly, before any of them is read.

    Raises:
        ConfigError: for another ending of ``out``.
        MissingExtra: if highdicom is needed and not installed.
        UnknownName: for a modality that the run was not trained on, or one that is chosen and not wanted.
    """
    if not out.name.lower().endswith(ENDINGS):
        raise ConfigError(f"DICOM files give one mask; expected an output that ends with {', '.join(WRITTEN)} or .dcm")
    if _is_segmentation(out):
        import_extra("DICOM-SEG", "highdicom")
    known = predictor.task.modalities
    for modality in modalities or ():
        if modality not in known:
            raise UnknownName("modality in this run", modality, known)
    for modality in chosen or ():
        if modality not in (modalities or known):
            raise UnknownName("modality", modality, modalities or known)


def beside_study(out: Path) -> tuple[str, ...]:
    """Endings of what a study gives beside the mask ``out``."""
    return (REPORT_ENDING,) if _is_segmentation(out) else ()


def segment_series(
    predictor: Predictor,
    series: Mapping[str, Series],
    out: Path,
    *,
    extras: Sequence[str] = (),
    share: Share | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment the series of each modality; the arguments are those of `predict_study` and `predict_cases`.

    Raises:
        DataError: if a series is not a regular volume, or a segmentation cannot refer to one.
    """
    segments = _is_segmentation(out)
    for modality, one in series.items():
        say(f"{modality} is {one.describe()}")
    with _private_folder() as temporary:
        images = {modality: temporary / f"{modality}_series_{one.name}.nii" for modality, one in series.items()}
        seen = []
        for modality, path in images.items():
            seen += [replace(finding, roles=(modality,)) for finding in check_series(series[modality]).findings]
            write_nifti(series[modality], path)

        def write_segments(path: Path, labels: NDArray[np.uint8], reference: Path) -> None:
            write_segmentation(
                path,
                dict(zip(predictor.convention.regions, predictor.convention.to_regions(labels), strict=True)),
                next(series[modality] for modality, image in images.items() if image == reference),
                algorithm="cggm-med",
                version=importlib.metadata.version("cggm-med"),
                model=predictor.digest,
                codes=predictor.volumes.codes,
                colours=region_colours(list(predictor.convention.regions), predictor.volumes.colours),
                report=report_beside(path),
            )

        case = case_of(out)
        options: dict[str, Any] = {}
        if segments:
            options["write"] = lambda path, prediction: write_segments(path, prediction.labels, prediction.reference)
            # Fail now rather than after an hour, if a segmentation cannot refer to these headers.
            for path in images.values():
                write_segments(temporary / "trial.dcm", np.zeros(open_image(path).shape, np.uint8), path)
        return predict_cases(
            predictor,
            {case: images},
            {case: out},
            extras=extras,
            beside=beside_study(out),
            seen=[replace(finding, case=case) for finding in seen],
            inputs={modality: digest_of_files(one.paths, DIGEST_BYTES) for modality, one in series.items()},
            share=share,
            say=say,
            **options,
        )


def _is_segmentation(out: Path) -> bool:
    return out.name.lower().endswith(SEGMENTATION)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only its owner can read, removed at the end, even if the process is asked to stop (SIGTERM)."""

    def stop(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    # Signals can be handled in the main thread only.
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        with tempfile.TemporaryDirectory(prefix="cggm-med-") as folder:
            yield Path(folder)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
