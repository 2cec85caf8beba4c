"""Segmenting scans with a trained run: from image files to a mask on their own grid."""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import importlib.metadata
import itertools
import json
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med import checkpoint as checkpoints
from cggm_med import distributed, engine, registry
from cggm_med.config import parse_overrides
from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.geometry import TOLERANCE_VOXELS, Inspection, inspect, largest_displacement
from cggm_med.data.labels import LabelConvention
from cggm_med.data.layouts import find_cases
from cggm_med.data.resample import resample_onto
from cggm_med.data.signatures import Signatures, check
from cggm_med.data.transforms import NativeGrid, background_value, to_network
from cggm_med.data.windows import window_count, windows_at_once
from cggm_med.errors import CggmMedError, CheckpointError, ConfigError, DataError, UnknownName
from cggm_med.files import atomic_file, write_json
from cggm_med.models.memory import peak_bytes
from cggm_med.precision import precision
from cggm_med.run_folder import RunFolder
from cggm_med.segmentation import SegmentationTask
from cggm_med.settings import make_config

FLIPS = tuple(axes for n in range(4) for axes in itertools.combinations((1, 2, 3), n))  # of (channel, x, y, z)
EXTRAS = ("probabilities", "uncertainty")
LEAST_COVERED = 0.5  # of a grid that an image is resampled to; with less, something is wrong


@dataclass(frozen=True)
class Prediction:
    """What a network says of one case, on the case's own grid.

    Attributes:
        case: id.
        modalities: that were given.
        absent: that the network knows and were not.
        regions: names.
        cropped: probability of each region ``(region, x, y, z)`` in the part of the grid that was looked at.
        grid: the case's own, which knows where that part lies.
        convention: which number stands for what in ``labels``.
        reference: the image file of the case whose grid this is.
        resampled: modalities that were brought onto this grid.
    """

    case: str
    modalities: tuple[str, ...]
    absent: tuple[str, ...]
    regions: tuple[str, ...]
    cropped: NDArray[np.float32]
    grid: NativeGrid
    convention: LabelConvention
    reference: Path
    resampled: tuple[str, ...]

    @property
    def probability(self) -> NDArray[np.float32]:
        """``(region, x, y, z)`` in [0, 1]."""
        return np.stack([self.grid.uncropped(channel) for channel in self.cropped])

    @property
    def labels(self) -> NDArray[np.uint8]:
        """``(x, y, z)``: the number of the innermost region whose probability is at least 0.5."""
        return self.grid.uncropped(self.convention.to_labels(self.cropped >= 0.5))

    @property
    def uncertainty(self) -> NDArray[np.float32]:
        """``(region, x, y, z)``: entropy of each region's probability in bits, 0 where certain, 1 at one half."""
        p = self.probability.clip(1e-7, 1 - 1e-7)
        entropy: NDArray[np.float32] = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return entropy


@dataclass(frozen=True)
class Scan:
    """A case as the network sees it.

    Attributes:
        case: id.
        modalities: names of the image's channels.
        image: ``(modality, x, y, z)``, on the CPU.
        grid: the case's own.
        reference: the image file whose grid that is.
        resampled: modalities that were brought onto it.
    """

    case: str
    modalities: tuple[str, ...]
    image: Tensor
    grid: NativeGrid
    reference: Path
    resampled: tuple[str, ...]


class Predictor:
    """A trained run, ready to segment.

    Args:
        run: folder of a finished run of a segmentation task.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        flips: average over all mirrored versions of a scan, which takes eight times as long.
        trust_names: segment even if other names fit the images clearly better than those that they were given under.
        resample_to: modality onto whose grid the others are brought where they lie on another.

    Attributes:
        digest: of the weights' file, by which a mask tells what made it.

    Raises:
        CheckpointError: if the folder is no such run.
        ConfigError: if the run does not segment.
        UnknownName: if the run was not trained on the modality ``resample_to``.
    """

    def __init__(
        self,
        run: Path,
        device: str = "auto",
        *,
        flips: bool = False,
        trust_names: bool = False,
        resample_to: str | None = None,
    ) -> None:
        folder = RunFolder(run)
        stored = folder.stored_settings()
        config = make_config(str(stored["task"]["name"]), [stored, parse_overrides([f"train.device={device}"])])
        task = registry.load(registry.TASKS, config.task.name)(config)
        if not isinstance(task, SegmentationTask):
            raise ConfigError(f"{run} is a run of task '{config.task.name}', which does not segment; name another run")
        if resample_to is not None and resample_to not in task.modalities:
            raise UnknownName("modality in this run", resample_to, task.modalities)
        self.task, self.flips, self.trust_names, self.resample_to = task, flips, trust_names, resample_to
        self.device = engine.select_device(config.train.device)
        labels, self.signatures = _read_facts(folder)
        if labels not in task.conventions:
            raise UnknownName("label convention", labels, task.conventions)
        self.convention = task.conventions[labels]
        self.model = task.model().to(self.device).eval()
        checkpoints.restore(checkpoints.load(folder.weights, self.device), self.model, None, folder.weights)
        self.autocast = precision(config.train.precision, self.device)
        self._peaks: dict[tuple[int, tuple[str, ...]], int] = {}  # bytes, by windows at once and modalities
        self.digest = hashlib.blake2b(folder.weights.read_bytes(), digest_size=12).hexdigest()

    def predict(self, case: str, images: Mapping[str, Path]) -> Prediction:
        """Segment one case.

        Args:
            case: id.
            images: a NIfTI file for each of some of the run's modalities.

        Raises:
            UnknownName: for a modality that the run was not trained on.
            DataError: if a file is missing or damaged, the grids differ, modalities seem to be exchanged, or memory is
                too short.
        """
        return self.segment(self.read(case, images))

    def read(self, case: str, images: Mapping[str, Path]) -> Scan:
        """The first half of ``predict``: read, check and preprocess."""
        known = self.task.modalities
        for modality in images:
            if modality not in known:
                raise UnknownName("modality in this run", modality, known)
        given = tuple(m for m in known if m in images)
        if not given:
            raise DataError(f"{case}: no image; give at least one of {', '.join(known)}")
        source = Case(case, case, {m: ImageFile(Path(images[m])) for m in given}, None)
        found = inspect(source, None)
        volumes, affine, resampled = self._on_one_grid(case, found)
        moved, grid, _ = to_network([volumes[m] for m in given], affine, self.task.config.data.spacing)
        image = moved["image"].as_tensor()
        finding = check(self.signatures, image.numpy(), given)
        if finding.verdict == "swapped" and not self.trust_names:
            raise DataError(
                f"{case}: {finding.describe()}; exchange the files, or if the names are right say --trust-names"
            )
        reference = Path(images[self.resample_to if resampled and self.resample_to else given[0]])
        return Scan(case, given, image, grid, reference, resampled)

    def segment(self, scan: Scan) -> Prediction:
        """The second half of ``predict``: ask the network."""
        volume = self._probabilities(scan.image.to(self.device), scan.modalities)
        return Prediction(
            case=scan.case,
            modalities=scan.modalities,
            absent=tuple(m for m in self.task.modalities if m not in scan.modalities),
            regions=self.task.targets,
            cropped=scan.grid.resampled_back(volume),
            grid=scan.grid,
            convention=self.convention,
            reference=scan.reference,
            resampled=scan.resampled,
        )

    def cost(self, scan: Scan) -> tuple[int, int]:
        """How many windows ``segment`` will look at, and how many bytes it will about need on the device.

        Counted are the weights, the image, the probabilities and what the network computes of the windows, in float32;
        scratch memory of single operations comes on top.
        """
        data, shape = self.task.config.data, scan.image.shape[1:]
        count = window_count(shape, data.patch_size, data.overlap)
        windows = torch.zeros(min(count, windows_at_once(self.device)), 1, *data.patch_size, device="meta")
        key = (len(windows), scan.modalities)
        if key not in self._peaks:
            network = copy.deepcopy(self.model).to("meta")
            self._peaks[key] = peak_bytes(lambda: network(dict.fromkeys(scan.modalities, windows)))
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        # Besides the regions: the sum of the windows' weights; and with flips the sum of all that was predicted before.
        volumes = len(scan.modalities) + (1 + self.flips) * len(self.task.targets) + 1
        padded = math.prod(max(n, p) for n, p in zip(shape, data.patch_size, strict=True))
        return count * (len(FLIPS) if self.flips else 1), weights + self._peaks[key] + 4 * volumes * padded

    def _on_one_grid(
        self, case: str, found: Inspection
    ) -> tuple[Mapping[str, NDArray[np.float32]], NDArray[np.float64], tuple[str, ...]]:
        """The volumes and their affine, and which modalities had to be resampled for that."""
        onto = self.resample_to
        if (
            found.differing
            and onto is not None
            and onto not in found.volumes
            and len(found.problems) == len(found.differing)
        ):
            raise DataError(f"{case}: files lie on different grids, and the case has no {onto} to resample them to")
        if len(found.problems) > len(found.differing) or (found.differing and onto is None):
            resample = ", or --resample-to MODALITY" if found.differing else ""
            raise DataError(
                f"{case} cannot be segmented; expected finite voxels on one grid{resample}:", found.problems
            )
        if not found.differing:
            return found.volumes, next(iter(found.affines.values())), ()
        assert onto is not None  # noqa: S101 - seen to above
        shape, affine = found.volumes[onto].shape, found.affines[onto]
        volumes, resampled = dict(found.volumes), []
        for modality, volume in found.volumes.items():
            same = volume.shape == shape
            if same and largest_displacement(affine, found.affines[modality], shape) <= TOLERANCE_VOXELS:
                continue
            outside = background_value(volume)
            volumes[modality], covered = resample_onto(
                volume,
                found.affines[modality],
                shape,
                affine,
                outside=float(volume.min() if outside is None else outside),
            )
            resampled.append(modality)
            if covered < LEAST_COVERED:
                raise DataError(
                    f"{case}: {modality} covers {covered:.0%} of the grid of {onto}, expected at least "
                    f"{LEAST_COVERED:.0%}; do both show the same part of the same patient?"
                )
            if covered < 0.99:
                warnings.warn(
                    f"{case}: {modality} covers {covered:.0%} of the grid of {onto}; the rest counts as its background",
                    stacklevel=2,
                )
        return volumes, affine, tuple(resampled)

    def _probabilities(self, image: Tensor, modalities: Sequence[str]) -> Tensor:
        """``(region, x, y, z)`` on the preprocessed grid."""
        flips = FLIPS if self.flips else FLIPS[:1]
        total = torch.zeros((), device=image.device)
        for axes in flips:
            found = self.task.probabilities(self.model, image.flip(axes), modalities, self.autocast)
            total = total + found.flip(axes)
        return total / len(flips)


def _read_facts(folder: RunFolder) -> tuple[str, Signatures]:
    """Name of the convention in which the run's labels were written, and how its modalities look."""
    try:
        facts = json.loads(folder.facts.read_text())
        return str(facts["labels"]), Signatures.from_json(facts["signatures"])
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise CheckpointError(
            f"{folder.path} is not a complete run folder: {folder.facts.name} is missing or damaged"
        ) from error


def write_mask(path: Path, volume: NDArray[Any], reference: Path) -> None:
    """Write a NIfTI file on the grid of ``reference``: the same affine, sform and qform; whole or not at all.

    Args:
        path: ending in ``.nii`` or ``.nii.gz``.
        volume: ``(x, y, z)``, or ``(x, y, z, channel)``.
        reference: image file.

    Raises:
        ConfigError: for another ending.
        OutputError: if it cannot be written.
    """
    _require_nifti(path)
    source = nib.load(reference).header
    # Only what is about the grid: other fields of a scan's header may tell whose it is.
    header = nib.Nifti1Image(volume, None).header
    header["pixdim"][:4] = source["pixdim"][:4]
    for name in ("sform", "qform"):
        affine, code = getattr(source, f"get_{name}")(coded=True)
        getattr(header, f"set_{name}")(affine, int(code))
    header.set_xyzt_units(*source.get_xyzt_units())
    content = nib.Nifti1Image(volume, header.get_best_affine(), header).to_bytes()
    with atomic_file(path) as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in it, so that the same mask has the same bytes.
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                packed.write(content)
        else:
            file.write(content)


def _require_nifti(path: Path) -> None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ConfigError(f"output is {path.name}, expected a name that ends with .nii.gz or .nii")


def write_labels(path: Path, prediction: Prediction) -> None:
    """Write the labels of a prediction as `write_mask` does, on the grid of its reference."""
    write_mask(path, prediction.labels, prediction.reference)


def case_of(path: Path) -> str:
    """What the case of an output file is called: the file's name without its ending.

    Example:
        >>> [case_of(Path(name)) for name in ("a.nii.gz", "b.v2.nii", "c.dcm")]
        ['a', 'b.v2', 'c']
    """
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".dcm")


def find_images(
    predictor: Predictor, path: Path, modalities: Sequence[str] | None = None
) -> dict[str, dict[str, Path]]:
    """The image files of each case in a folder or datalist, in any layout that training reads; labels are not needed.

    Args:
        predictor: knows layouts and modalities.
        path: folder or JSON file.
        modalities: what to use; default: all that the run knows, which every case must then have.

    Raises:
        DataError: if nothing is found or a case is incomplete; names every such case.
    """
    task = predictor.task
    found = find_cases(
        path,
        tuple(modalities or task.modalities),
        task.layouts,
        decathlon_modalities=task.decathlon_modalities,
        decathlon_convention=task.decathlon_convention,
        known_modalities=task.known_modalities,
        need_labels=False,
    )
    stacked = [case.id for case in found.cases if any(file.channel is not None for file in case.images.values())]
    if stacked:
        raise DataError(f"{path} holds 4-D files, in which modalities are channels; split them into one file each")
    return {case.id: {m: file.path for m, file in case.images.items()} for case in found.cases}


def predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Mapping[str, Path]],
    files: Mapping[str, Path],
    *,
    skip_existing: bool = False,
    extras: Sequence[str] = (),
    write: Callable[[Path, Prediction], None] = write_labels,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Segment cases one after the other; one that fails leaves no file and stops no other.

    While one is segmented, the next is read. Several processes (torchrun) share the cases.

    Args:
        predictor: the run.
        cases: image files by case and modality.
        files: mask to write for each case.
        skip_existing: leave out cases whose mask is there.
        extras: what to write besides masks, of ``probabilities`` and ``uncertainty``.
        write: writes a mask.
        say: told what is done, in one line a case.

    Returns:
        Why, for each case of this process that failed.

    Raises:
        UnknownName: for an extra that does not exist.
        ConfigError: for a mask that is not to end with ``.nii`` or ``.nii.gz``.
    """
    for extra in extras:
        if extra not in EXTRAS:
            raise UnknownName("extra output", extra, EXTRAS)
    if write is write_labels:
        for path in files.values():
            _require_nifti(path)
    failed: dict[str, str] = {}
    mine = list(cases)[distributed.rank() :: distributed.world_size()]
    todo = [case for case in mine if not (skip_existing and files[case].exists())]
    if len(todo) < len(mine):
        say(f"{len(mine) - len(todo)} of {len(mine)} are there already")
    window = " x ".join(map(str, predictor.task.config.data.patch_size))
    for number, (case, read) in enumerate(_read_ahead(predictor, {case: cases[case] for case in todo}), start=1):
        try:
            scan = read()
            windows, memory = predictor.cost(scan)
            say(
                f"{number} of {len(todo)}: {case}, {windows} windows of {window} voxels, "
                f"about {_readable(memory)} on {predictor.device}"
            )
            prediction = predictor.segment(scan)
            _write(files[case], prediction, predictor, extras, write)
            missing = f", without {', '.join(prediction.absent)}" if prediction.absent else ""
            say(f"  written: {files[case]}{missing}")
        except CggmMedError as error:
            failed[case] = str(error)
            say(f"{number} of {len(todo)}: {case} FAILED: {error}")
    return failed


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _read_ahead(
    predictor: Predictor, cases: Mapping[str, Mapping[str, Path]]
) -> Iterator[tuple[str, Callable[[], Scan]]]:
    """Each case and how to get its scan; while the caller looks at one, the next is read, and no more than that."""
    ahead: deque[tuple[str, Callable[[], Scan]]] = deque()
    with ThreadPoolExecutor(1) as reader:
        for case, images in cases.items():
            # The first is waited for in any case; and a thread keeps memory of its own, which one case need not pay.
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
    """The mask last, so that whoever sees it finds all the rest."""
    stem = case_of(path)
    write_json(
        path.with_name(f"{stem}.json"),
        {
            "software": f"cggm-med {importlib.metadata.version('cggm-med')}",
            "task": predictor.task.config.task.name,
            "run": predictor.digest,
            "modalities": list(prediction.modalities),
            "absent": list(prediction.absent),
            "labels": {str(n): meaning for n, meaning in prediction.convention.meanings.items()},
            "convention": prediction.convention.name,
            "regions": list(prediction.regions),
            "threshold": 0.5,
            "flips": predictor.flips,
            "trust_names": predictor.trust_names,
            "resampled": list(prediction.resampled),
            "resampled_to": predictor.resample_to if prediction.resampled else None,
        },
    )
    for extra in extras:
        volume = prediction.probability if extra == "probabilities" else prediction.uncertainty
        write_mask(path.with_name(f"{stem}_{extra}.nii.gz"), np.moveaxis(volume, 0, -1), prediction.reference)
    write(path, prediction)
