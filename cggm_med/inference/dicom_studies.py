"""Segment every study in a folder that holds many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cggm_med import distributed
from cggm_med.data.checks.finding import Finding, decide
from cggm_med.data.dicom.series import Series, assign_modalities
from cggm_med.data.dicom.studies import Study
from cggm_med.errors import CheckpointError, ConfigError, MissingExtra, UnknownName, in_one_line
from cggm_med.inference.batch import Share, require_outputs
from cggm_med.inference.dicom_study import beside_study, require_request, segment_series
from cggm_med.inference.predictor import ACCEPT, Predictor


def predict_studies(
    predictor: Predictor,
    studies: Sequence[Study],
    files: Mapping[str, Path],
    *,
    chosen: Mapping[str, str] | None = None,
    modalities: Sequence[str] | None = None,
    required: Sequence[str] = (),
    skip_existing: bool = False,
    extras: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Segment studies one after the other; one that fails is named, leaves no file and does not stop the others.

    Several processes (torchrun) share the studies.

    Args:
        predictor: the run.
        studies: as `find_studies` gives them.
        files: mask to write for each study, by name; all with one ending.
        chosen: series of some modalities, the same in every study, such as by a part of their description.
        modalities: to use; default: all of the run's.
        required: if given, a study may lack series of the other modalities; else it needs one for each.
        skip_existing: skip studies whose mask exists, without reading their pixels.
        extras: as in `predict_cases`.
        say: receives lines of progress.

    Returns:
        The modalities of each study, none of those that failed before they were told; and the reason for each study of
        this process that failed, in one line.

    Raises:
        ConfigError: for an ending that no mask has.
        MissingExtra: if highdicom is needed and not installed.
        UnknownName: for a modality that the run was not trained on, or an extra that does not exist.
        CheckpointError: for calibrated probabilities, if temperatures were not measured.
        OutputError: before any work, if an output would replace a file that is not such an output.
    """
    wanted = tuple(modalities or predictor.task.modalities)
    for modality in required:
        if modality not in wanted:
            raise UnknownName("modality to require", modality, wanted)
    for study in studies[:1]:
        require_request(predictor, files[study.name], modalities, chosen)
    there = {study.name for study in studies if skip_existing and files[study.name].exists()}
    masks = [files[study.name] for study in studies if study.name not in there]
    require_outputs(masks, extras, beside=beside_study(masks[0]) if masks else ())
    if there:
        say(f"{len(there)} of {len(studies)} are there already")
    given: dict[str, tuple[str, ...]] = {study.name: () for study in studies}
    failed: dict[str, str] = {}
    findings: list[Finding] = []
    todo = [study for study in studies if study.name not in there][distributed.rank() :: distributed.world_size()]
    for number, study in enumerate(todo, 1):
        say(f"{number} of {len(todo)}: {study.name}, {len(study.series)} series")
        try:
            study.require_whole()
            series = _series(study, wanted, chosen or {}, required)
            given[study.name] = tuple(series)
            share = Share(number, len(todo), findings)
            failed |= segment_series(predictor, series, files[study.name], extras=extras, share=share, say=say)
        except (CheckpointError, ConfigError, MissingExtra, UnknownName):
            raise  # which is about what was asked for, not about a study
        except Exception as error:  # one odd study never stops the others
            failed[study.name] = in_one_line(error)
            say(f"{number} of {len(todo)}: {study.name} FAILED: {failed[study.name]}")
    decide(findings, predictor.accepted, say, accept=ACCEPT)  # each once, not once a study
    return given, failed


def _series(
    study: Study, wanted: Sequence[str], chosen: Mapping[str, str], required: Sequence[str]
) -> dict[str, Series]:
    """The series of each modality, of those that are not required only where there is one."""
    kinds = {one.kind for one in study.series}
    looked_for = [m for m in wanted if not required or m in required or m in chosen or m in kinds]
    return assign_modalities(study.series, looked_for, chosen)
