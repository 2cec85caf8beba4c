"""Deterministic preprocessing with MONAI, done once a case and cached on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import monai
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from cggm_med.data.cases import LABEL, Case
from cggm_med.data.volumes.checks import Inspection, inspect
from cggm_med.data.volumes.io import open_image
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.data.volumes.transforms import resampling, to_network
from cggm_med.errors import DataError, OutputError
from cggm_med.files import atomic_folder

VERSION = 1  # part of every cache key: raise it whenever the same files would give other numbers
CANDIDATES = 5000  # voxels kept a region as possible patch centres


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every case; see ``transforms.to_network``.

    Attributes:
        modalities: channels of the image, in order.
        convention: meaning of the label values.
        spacing: target voxel size in mm, or None to keep each case's own.
    """

    modalities: tuple[str, ...]
    convention: LabelConvention
    spacing: tuple[float, float, float] | None = None

    def resampling(self, case: Case) -> tuple[float, float, float] | None:
        """The spacing to resample a case to; None if its voxels have that size already."""
        first = next(iter(case.images.values()))
        return None if self.spacing is None else resampling(open_image(first.path).affine, self.spacing)

    def key(self, case: Case, files: Mapping[str, str]) -> str:
        """Digest of everything that the result depends on: file contents, settings and versions.

        Args:
            case: the case.
            files: what ``digests`` said of it.
        """
        settings = {
            "version": VERSION,
            "monai": monai.__version__,
            "modalities": self.modalities,
            "channels": [case.images[m].channel for m in self.modalities],
            "regions": {name: list(values) for name, values in self.convention.regions.items()},
            "labels": sorted(self.convention.meanings),
            "spacing": self.resampling(case),
            "files": files,
        }
        return hashlib.blake2b(json.dumps(settings).encode(), digest_size=20).hexdigest()


def prepare(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    cache: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[PreparedCase]:
    """Check and preprocess all cases; what the cache already holds is not touched again.

    Args:
        cases: with labels.
        preprocessing: what to do.
        cache: folder for the results, one subfolder a key.
        workers: processes that share the work.
        progress: called with the number of finished cases and of all.

    Raises:
        DataError: lists every problem of every case.
        OutputError: if the cache cannot be written.
    """
    work = _Prepare(cases, preprocessing, cache)
    loader = DataLoader(work, batch_size=None, num_workers=min(workers, len(cases)), collate_fn=_unchanged)
    folders: list[Path] = []
    problems: list[str] = []
    for done, (folder, found, unwritten) in enumerate(loader, start=1):
        if unwritten:
            raise OutputError(f"{unwritten} for preprocessed cases with --set data.cache=FOLDER")
        folders.append(Path(folder))
        problems += found
        if progress is not None:
            progress(done, len(cases))
    if problems:
        names = sorted(preprocessing.convention.meanings)
        raise DataError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in {len(cases)} cases; expected are finite voxels, "
            f"one grid a case and labels {names} ({preprocessing.convention.name}; others: --set task.labels=NAME). "
            "Mend or leave out these files:",
            problems,
        )
    return [PreparedCase(c.id, c.patient, folder, c) for c, folder in zip(cases, folders, strict=True)]


class _Prepare(Dataset[tuple[str, list[str], str]]):
    """The work of ``prepare`` as a data set, so that its loader spreads it over processes.

    Each item is a folder, the problems of the case, and why the folder could not be written, if so: an error that is
    raised in another process would reach the user inside a traceback.
    """

    def __init__(self, cases: Sequence[Case], preprocessing: Preprocessing, cache: Path) -> None:
        self.cases, self.preprocessing, self.cache = cases, preprocessing, cache

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[str, list[str], str]:
        case = self.cases[index]
        folder = Path()
        with contextlib.suppress(OSError, DataError):  # the check below says in words what is wrong
            files = digests(case)
            folder = self.cache / self.preprocessing.key(case, files)
            if (folder / "case.json").exists():
                return str(folder), [], ""
        found = inspect(case, self.preprocessing.convention)
        if not found.problems:
            try:
                _write(folder, _preprocess(found, self.preprocessing, files))
            except OutputError as error:
                return str(folder), [], str(error)
        return str(folder), list(found.problems), ""


def _unchanged(item: Any) -> Any:
    """Samples are not batches here, so nothing is to be collated."""
    return item


def _preprocess(found: Inspection, preprocessing: Preprocessing, files: Mapping[str, str]) -> dict[str, Any]:
    """Arrays and facts of one case with a label and without problems."""
    channels = [found.volumes[m] for m in preprocessing.modalities]
    regions = preprocessing.convention.to_regions(found.volumes[LABEL])
    affine = found.affines[preprocessing.modalities[0]]
    moved, grid, backgrounds = to_network(channels, affine, preprocessing.spacing, regions)
    image, target = (moved[key].as_tensor().numpy() for key in ("image", "target"))
    target = target.astype(np.uint8)
    facts = {
        **asdict(grid),
        "background": dict(zip(preprocessing.modalities, backgrounds, strict=True)),
        "files": {m: files[m] for m in preprocessing.modalities},
    }
    return {
        "image": image.astype(np.float32, copy=False),
        "target": target,
        "centres": _centres(target),
        "facts": facts,
    }


def _centres(target: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Up to ``CANDIDATES`` voxels a region, evenly spread over its list of voxels."""
    found = []
    for region, mask in enumerate(target):
        voxels = np.argwhere(mask)
        if len(voxels) > CANDIDATES:
            voxels = voxels[np.linspace(0, len(voxels) - 1, CANDIDATES).astype(np.int64)]
        found.append(np.column_stack([np.full(len(voxels), region), voxels]))
    return np.concatenate(found).astype(np.int32)


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write one case, whole or not at all."""
    with atomic_folder(folder) as temporary:
        for name in ("image", "target", "centres"):
            np.save(temporary / f"{name}.npy", content[name], allow_pickle=False)
        (temporary / "case.json").write_text(json.dumps(content["facts"]))


def digests(case: Case) -> dict[str, str]:
    """Digest of the file behind each modality and, if there is one, the label."""
    paths = {m: file.path for m, file in case.images.items()} | ({LABEL: case.label} if case.label else {})
    of = {path: _digest_of(path) for path in dict.fromkeys(paths.values())}
    return {role: of[path] for role, path in paths.items()}


def _digest_of(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
