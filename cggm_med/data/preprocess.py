"""Deterministic preprocessing with MONAI, done once a case and cached on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, NormalizeIntensityd, Orientationd, Spacingd
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cggm_med.data.cases import LABEL, Case
from cggm_med.data.geometry import UNREADABLE, case_problems
from cggm_med.data.labels import LabelConvention
from cggm_med.data.prepared import NativeGrid, PreparedCase, spacing_along_axes
from cggm_med.errors import DataError, OutputError
from cggm_med.files import atomic_folder

VERSION = 1  # part of every cache key: raise it whenever the same files would give other numbers
CANDIDATES = 5000  # voxels kept a region as possible patch centres
RAS = (("L", "R"), ("P", "A"), ("I", "S"))

# Makes another volume ``(x, y, z)`` of one modality's, given the modality, the volume and its spacing in mm.
Change = Callable[[str, NDArray[np.float32], Sequence[float]], NDArray[np.float32]]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every case, in this order.

    Reorient to RAS+; subtract the constant background, so that it is exactly 0; crop to the voxels where any modality
    differs from it; z-score each modality inside those voxels; resample to a common spacing if one is given.

    Attributes:
        modalities: channels of the image, in order.
        convention: meaning of the label values; None where there are no labels.
        spacing: target voxel size in mm, or None to keep each case's own.
    """

    modalities: tuple[str, ...]
    convention: LabelConvention | None
    spacing: tuple[float, float, float] | None = None

    def resampling(self, case: Case) -> tuple[float, float, float] | None:
        """The spacing to resample a case to; None if its voxels have that size already."""
        if self.spacing is None or np.allclose(spacing_along_axes(_affine_of(case)), self.spacing, rtol=0.01):
            return None
        return self.spacing

    def key(self, case: Case, files: Mapping[str, str]) -> str:
        """Digest of everything that the result depends on: file contents, settings and versions.

        Args:
            case: the case.
            files: what ``digests`` said of it.
        """
        assert self.convention is not None  # noqa: S101 - only cases with labels are kept
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

    def transform(self, spacing: tuple[float, float, float] | None, keys: Sequence[str]) -> Compose:
        """The MONAI transforms behind it, over a dictionary with ``image`` and perhaps ``target``."""
        modes = ["nearest" if key == "target" else "bilinear" for key in keys]
        steps: list[Callable[..., Any]] = [
            Orientationd(keys, axcodes="RAS", labels=RAS),
            CropForegroundd(keys, source_key="image", select_fn=_foreground, allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
        if spacing is not None:
            steps.append(Spacingd(keys, pixdim=spacing, mode=modes, padding_mode="border"))
        return Compose(steps)


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
        assert preprocessing.convention is not None  # noqa: S101 - cases have labels
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
        with contextlib.suppress(*UNREADABLE):  # the check below says in words what is wrong
            files = digests(case)
            folder = self.cache / self.preprocessing.key(case, files)
            if (folder / "case.json").exists():
                return str(folder), [], ""
        problems = case_problems(case, self.preprocessing.convention)
        if not problems:
            try:
                _write(folder, _preprocess(case, self.preprocessing, files))
            except OutputError as error:
                return str(folder), [], str(error)
        return str(folder), problems, ""


def _unchanged(item: Any) -> Any:
    """Samples are not batches here, so nothing is to be collated."""
    return item


def _foreground(image: Tensor) -> Tensor:
    return image != 0


def preprocess_images(
    case: Case, preprocessing: Preprocessing, change: Change | None = None
) -> tuple[NDArray[np.float32], NativeGrid]:
    """The images of a checked case as the network sees them, ``(modality, x, y, z)``, and the way back.

    Args:
        case: the case.
        preprocessing: what to do; its modalities alone are read.
        change: applied to each volume as it is in the file, before anything else.
    """
    sample, facts = _transformed(case, preprocessing, None, change)
    grid = NativeGrid(**{field.name: facts[field.name] for field in fields(NativeGrid)})
    return sample["image"].astype(np.float32, copy=False), grid


def _preprocess(case: Case, preprocessing: Preprocessing, files: Mapping[str, str]) -> dict[str, Any]:
    """Arrays and facts of one checked case with a label."""
    assert preprocessing.convention is not None and case.label is not None  # noqa: S101, PT018 - asked for labels
    labels = np.asanyarray(nib.load(case.label).dataobj)
    sample, facts = _transformed(case, preprocessing, preprocessing.convention.to_regions(labels))
    target = sample["target"].astype(np.uint8)
    facts["files"] = {m: files[m] for m in preprocessing.modalities}
    image = sample["image"].astype(np.float32, copy=False)
    return {"image": image, "target": target, "centres": _centres(target), "facts": facts}


def _transformed(
    case: Case, preprocessing: Preprocessing, regions: NDArray[np.bool_] | None, change: Change | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The images, and the regions if there are any, after all transforms; and what is needed for the way back."""
    read: dict[Path, NDArray[Any]] = {}
    channels, backgrounds = [], {}
    own = _affine_of(case)
    for modality in preprocessing.modalities:
        file = case.images[modality]
        if file.path not in read:
            read[file.path] = np.asanyarray(nib.load(file.path).dataobj)
        data = read[file.path] if file.channel is None else read[file.path][..., file.channel]
        data = np.asarray(data, dtype=np.float32)
        if change is not None:
            data = change(modality, data, voxel_sizes(own).tolist())
        background = background_value(data)
        backgrounds[modality] = background
        channels.append(data if background is None else data - np.float32(background))
    affine = torch.tensor(own, dtype=torch.float64)
    sample = {"image": MetaTensor(torch.from_numpy(np.stack(channels)), affine=affine)}
    if regions is not None:
        sample["target"] = MetaTensor(torch.from_numpy(regions.astype(np.uint8)), affine=affine)
    oriented, crop, *rest = preprocessing.transform(preprocessing.resampling(case), tuple(sample)).transforms
    sample = oriented(sample)
    oriented_shape = list(sample["image"].shape[1:])
    sample = crop(sample)
    facts = {
        "affine": own.tolist(),
        "background": backgrounds,
        "oriented_shape": oriented_shape,
        "crop_start": [int(i) for i in sample["foreground_start_coord"]],
        "crop_stop": [int(i) for i in sample["foreground_end_coord"]],
        "cropped_affine": sample["image"].affine.tolist(),
    }
    for step in rest:
        sample = step(sample)
    facts["prepared_affine"] = sample["image"].affine.tolist()
    return {key: value.as_tensor().numpy() for key, value in sample.items() if key in ("image", "target")}, facts


def background_value(image: NDArray[Any]) -> float | None:
    """The constant that surrounds the brain: the value of most voxels on the six faces of the volume.

    It is 0 in raw BraTS files and another number in copies that were normalised. None if no single value covers half
    of the faces; such an image is normalised over all its voxels.

    Example:
        >>> volume = np.full((8, 8, 8), -3.5)
        >>> volume[2:6, 2:6, 2:6] = 1
        >>> background_value(volume)
        -3.5
    """
    faces = np.concatenate([image[index].ravel() for axis in range(3) for index in _ends(axis)])
    values, counts = np.unique(faces, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] * 2 >= len(faces) else None


def _ends(axis: int) -> tuple[Any, Any]:
    before: tuple[Any, ...] = (slice(None),) * axis
    return (*before, 0), (*before, -1)


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
    """Digest of the file behind each modality and the label."""
    assert case.label is not None  # noqa: S101 - find_cases was asked for labels
    paths = {**{m: file.path for m, file in case.images.items()}, LABEL: case.label}
    of = {path: _digest_of(path) for path in dict.fromkeys(paths.values())}
    return {role: of[path] for role, path in paths.items()}


def _affine_of(case: Case) -> NDArray[np.float64]:
    affine: NDArray[np.float64] = nib.load(next(iter(case.images.values())).path).affine
    return affine


def _digest_of(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
