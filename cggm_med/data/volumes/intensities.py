"""Statistics of the training cases' intensities, from which some modalities are normalised; kept in the cache."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import Case
from cggm_med.data.parallel import map_in_processes
from cggm_med.data.volumes.io import DIGEST_BYTES
from cggm_med.data.volumes.normalise import Normalisation, Rescaling, rescaling_of, sampled
from cggm_med.data.volumes.preprocess import Preprocessing, digests, target_of
from cggm_med.data.volumes.resample import read_on_one_grid
from cggm_med.errors import DataError
from cggm_med.files import atomic_folder, digest_of

MAX_VOXELS = 100_000  # of a case: a million of them from ten cases fix a percentile to a few thousandths
Samples = Mapping[str, NDArray[np.float32]]


def training_rescalings(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    normalisations: Mapping[str, Normalisation],
    cache: Path,
    *,
    workers: int = 0,
) -> dict[str, Rescaling]:
    """How to normalise the modalities whose normalisation comes from the training cases; those alone.

    Args:
        cases: of training, in their order; a case may lack modalities.
        preprocessing: of the cases, except for its rescalings.
        normalisations: by modality; ``z_score`` needs no statistics.
        cache: folder for what was sampled of each case.
        workers: processes that share the work.

    Returns:
        By modality; none where files have problems, which ``prepare`` reports for all cases together.

    Raises:
        DataError: if no training case shows anything of a modality.
    """
    wanted = {m: kind for m, kind in normalisations.items() if kind != "z_score" and m in preprocessing.modalities}
    if not wanted:
        return {}
    work = functools.partial(_samples, preprocessing=preprocessing, wanted=wanted, cache=cache)
    found = list(map_in_processes(work, cases, min(workers, len(cases))))
    if any(samples is None for samples in found):
        return {}
    rescalings = {}
    for modality, kind in wanted.items():
        samples = [sample for case in found if case is not None and len(sample := case.get(modality, np.empty(0)))]
        if not samples:
            shown = "labelled voxel" if kind == "training_statistics" else "voxel that is not 0"
            raise DataError(
                f"no training case has a {shown} in {modality}, from which its normalisation ({kind}) is taken; train "
                "on others, or leave this modality out"
            )
        rescalings[modality] = rescaling_of(kind, samples)
    return rescalings


def _samples(
    case: Case, preprocessing: Preprocessing, wanted: Mapping[str, Normalisation], cache: Path
) -> Samples | None:
    """Intensities of one case by modality, from the cache if it has them; None if there is anything wrong with it."""
    try:
        settings = json.dumps([preprocessing.key(case, digests(case)), dict(wanted), MAX_VOXELS])
    except (OSError, DataError):
        return None
    folder = cache / digest_of(settings.encode(), DIGEST_BYTES)
    if not folder.exists():
        convention = preprocessing.convention_of(case)
        try:
            _, scan = read_on_one_grid(case, convention, preprocessing.reference)
        except DataError:
            return None
        if scan is None:
            return None
        raters = "majority" if preprocessing.raters == "soft" else preprocessing.raters
        labelled = (target_of(case, convention, scan.volumes, raters) == 1).any(axis=0)
        with atomic_folder(folder) as temporary:
            for modality in wanted.keys() & case.images.keys():
                values = sampled(wanted[modality], scan.volumes[modality], labelled, MAX_VOXELS)
                np.save(temporary / _file(modality), values, allow_pickle=False)
    return {m: np.load(folder / _file(m), allow_pickle=False) for m in wanted if m in case.images}


def _file(modality: str) -> str:
    return f"{digest_of(modality.encode())}.npy"  # names of modalities need not be names of files
