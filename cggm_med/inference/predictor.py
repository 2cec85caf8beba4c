"""Segment one case with a finished run: from image files to probabilities and labels on the case's own grid."""

from __future__ import annotations

import copy
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.checks.finding import Finding, objections, require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.known import Known, findings_of_scan, require_usable
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid, to_network
from cggm_med.data.volumes.preprocess import digests
from cggm_med.data.volumes.resample import OneGrid, no_reference, read_on_one_grid
from cggm_med.device import held_bytes, precision, select_device
from cggm_med.errors import CheckpointError, ConfigError, DataError, UnknownName
from cggm_med.inference.temperature import at_temperatures
from cggm_med.models.peak_memory import peak_bytes
from cggm_med.models.sliding_window import window_count, windows_at_once
from cggm_med.results.aggregate import MEAN
from cggm_med.runs.expectations import Expectations, SubsetExpectation, expectations_of
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.task.scan_to_mask import FLIPS, SegmentedScan
from cggm_med.task.subset_agreement import agreement, proper_subsets

ACCEPT = "--accept KIND"
NOT_FROM_THESE = "none of the run's {split} cases was measured from exactly these modalities"


@dataclass(frozen=True)
class Prediction:
    """A network's prediction of one case, on the case's own grid.

    Attributes:
        case: id.
        modalities: those that were given.
        absent: the run's other modalities.
        regions: names.
        segmented: probabilities of the regions.
        convention: the meaning of the numbers in ``labels``.
        reference: the image file of the case that has this grid.
        resampled: modalities that were resampled to this grid.
        resampled_to: modality that has this grid, if any was resampled.
        findings: of its files; none that forbids their use.
        inputs: digest of each modality's file.
        expectation: what was measured for exactly these modalities; None if nothing was.
        measured_on: which cases it was measured on, or why it was not, in words.
        quality: predicted quality by region, and their mean, see ``task.subset_agreement``; None if it was not asked
            for, or of a single modality.
    """

    case: str
    modalities: tuple[str, ...]
    absent: tuple[str, ...]
    regions: tuple[str, ...]
    segmented: SegmentedScan
    convention: LabelConvention
    reference: Path
    resampled: tuple[str, ...]
    resampled_to: str | None
    findings: tuple[Finding, ...]
    inputs: Mapping[str, str]
    expectation: SubsetExpectation | None
    measured_on: str
    quality: Mapping[str, float] | None

    @property
    def probability(self) -> NDArray[np.float32]:
        """``(region, x, y, z)`` in [0, 1]."""
        return self.segmented.probability

    @property
    def calibrated(self) -> NDArray[np.float32]:
        """``(region, x, y, z)``: the probabilities, each region's at the temperature of exactly these modalities.

        Raises:
            DataError: if it was not measured.
        """
        known = _temperatures(self.case, self.modalities, self.regions, self.expectation, self.measured_on)
        return at_temperatures(self.probability, known)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """``(x, y, z)``: the number of the innermost region whose probability is at least 0.5."""
        return self.segmented.labels(self.convention)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Of that grid, voxels to mm in RAS+."""
        return np.array(self.segmented.grid.affine)

    @property
    def uncertainty(self) -> NDArray[np.float32]:
        """``(region, x, y, z)``: entropy of each region's probability in bits, 0 where certain, 1 at one half."""
        p = self.probability.clip(1e-7, 1 - 1e-7)
        entropy: NDArray[np.float32] = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
        return entropy


@dataclass(frozen=True)
class PreprocessedCase:
    """A case as the network sees it.

    Attributes:
        case: id.
        modalities: names of the image's channels.
        image: ``(modality, x, y, z)``, on the CPU.
        grid: the case's own.
        reference: the image file that has this grid.
        resampled: modalities that were resampled to it.
        resampled_to: modality that has it, if any was resampled.
        findings: of the files; none that forbids their use.
        inputs: digest of each modality's file.
        scan: the images before they were preprocessed, if predicted quality is asked for.
    """

    case: str
    modalities: tuple[str, ...]
    image: Tensor
    grid: NativeGrid
    reference: Path
    resampled: tuple[str, ...]
    resampled_to: str | None
    findings: tuple[Finding, ...]
    inputs: Mapping[str, str]
    scan: OneGrid | None


class Predictor:
    """A trained run, ready to segment.

    Args:
        run: folder of a finished run of a segmentation task, or of an ensemble of them.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        flips: average over all mirrored versions of a scan, which takes eight times as long.
        trust_names: segment even if the images clearly fit other modality names better.
        resample_to: modality to whose grid the others are resampled where they have another; default: the run's.
        accept: kinds of findings that do not speak against the use of a case, such as ``implausible_size``.
        quality: also predict the quality of each mask, by segmenting every subset of its modalities.

    Attributes:
        run: its files.
        task: of the run.
        volumes: the task's volumes.
        digest: of the weights' file, by which a mask names the run that made it.
        expectations: what was measured for each subset of the modalities, if it was.
        not_measured: why not.

    Raises:
        CheckpointError: if the folder is not such a run, or what quality says was not measured, as with flips.
        ConfigError: if the run does not segment.
        UnknownName: if the run was not trained on the modality ``resample_to``, or there is no such kind of finding.
    """

    def __init__(
        self,
        run: Path,
        device: str = "auto",
        *,
        flips: bool = False,
        trust_names: bool = False,
        resample_to: str | None = None,
        accept: Sequence[str] = (),
        quality: bool = False,
    ) -> None:
        require_known(accept, KINDS.values())
        self.run = FinishedRun(run)
        task = self.run.make_task({"train": {"device": device}})
        volumes = task.volumes()
        if volumes is None:
            raise ConfigError(f"{run} is a run of task '{self.run.task}', which does not segment; name another run")
        if resample_to is not None and resample_to not in task.modalities:
            raise UnknownName("modality in this run", resample_to, task.modalities)
        self.task, self.volumes = task, volumes
        self.flips, self.trust_names, self.resample_to = flips, trust_names, resample_to
        self.accepted = (*accept, *(["exchanged_modalities"] if trust_names else []))
        self.device = select_device(task.config.train.device)
        labels, self.known = _read_facts(self.run)
        if labels not in volumes.conventions:
            raise UnknownName("label convention", labels, volumes.conventions, f"It stands in {self.run.folder.facts}")
        self.convention = volumes.conventions[labels]
        self.model = self.run.network(task, self.device).eval()
        self.autocast = precision(task.config.train.precision, self.device)
        self._peaks: dict[tuple[int, tuple[str, ...]], int] = {}  # bytes, by windows at once and modalities
        self.digest = self.run.digest
        self.expectations, self.not_measured = _expectations(self.run, flips=flips)
        if quality and self.expectations is None:
            raise CheckpointError(f"nothing is known of predicted quality: {self.not_measured}")
        self.quality = quality

    def predict(self, case: str, images: Mapping[str, Path | ImageFile]) -> Prediction:
        """Segment one case.

        Args:
            case: id.
            images: files by modality, or channels of one; any of the run's modalities may be absent.

        Raises:
            UnknownName: for a modality that the run was not trained on.
            DataError: if a file is missing or damaged, the grids differ, modalities seem to be exchanged, or memory is
                short.
        """
        return self.segment(self.read(case, images))

    def read(self, case: str, images: Mapping[str, Path | ImageFile]) -> PreprocessedCase:
        """The first half of ``predict``: read, check and preprocess."""
        files = {m: image if isinstance(image, ImageFile) else ImageFile(Path(image)) for m, image in images.items()}
        return self.read_case(Case(case, case, files, None))

    def read_case(self, source: Case) -> PreprocessedCase:
        """The same for a case found on disk, whose modalities may be channels of one file."""
        known, case = self.task.modalities, source.id
        for modality in source.images:
            if modality not in known:
                raise UnknownName("modality in this run", modality, known)
        given = tuple(m for m in known if m in source.images)
        if not given:
            raise DataError(f"{case}: no image; give at least one of {', '.join(known)}")
        used = Case(case, source.patient, {m: source.images[m] for m in given}, None)
        scan, findings = self._on_one_grid(used)
        rescalings = [self.volumes.rescalings.get(m) for m in given]
        channels, affine = [scan.volumes[m] for m in given], scan.affines[given[0]]
        moved, grid, backgrounds = to_network(channels, affine, self.volumes.spacing, rescalings=rescalings)
        image = moved["image"].as_tensor()
        empty = dict(zip(given, backgrounds, strict=True))
        images = {m: scan.volumes[m] for m in given}
        odd = findings_of_scan(case, images, affine, empty, self.known)
        require_usable(case, odd, findings, self.accepted, accept=ACCEPT, trust_names="--trust-names")
        findings += odd
        onto = scan.role if scan.resampled else None
        reference = source.images[onto or given[0]].path
        kept = scan if self.quality else None
        return PreprocessedCase(
            case, given, image, grid, reference, scan.resampled, onto, tuple(findings), digests(used), kept
        )

    def segment(self, scan: PreprocessedCase) -> Prediction:
        """The second half of ``predict``: run the network."""
        parts, quality = proper_subsets(scan.modalities), None
        if scan.scan is not None and parts:
            subsets = [scan.modalities, *parts]
            found = self.volumes.segment_subsets(self.model, scan.scan, subsets, self.device, self.autocast)
            _, segmented = next(found)
            others = (part.regions(self.convention) for _, part in found)
            agreed = agreement(segmented.regions(self.convention), others)
            if agreed is not None:
                quality = {**dict(zip(self.task.targets, agreed, strict=True)), MEAN: statistics.fmean(agreed)}
        else:
            image = scan.image.to(self.device)
            (segmented,) = self.volumes.segment(
                self.model, image, scan.grid, scan.modalities, self.autocast, flips=self.flips
            )
        expectation, measured_on = self.expectation(scan.modalities)
        return Prediction(
            case=scan.case,
            modalities=scan.modalities,
            absent=tuple(m for m in self.task.modalities if m not in scan.modalities),
            regions=self.task.targets,
            segmented=segmented,
            convention=self.convention,
            reference=scan.reference,
            resampled=scan.resampled,
            resampled_to=scan.resampled_to,
            findings=scan.findings,
            inputs=scan.inputs,
            expectation=expectation,
            measured_on=measured_on,
            quality=quality,
        )

    def expectation(self, modalities: Sequence[str]) -> tuple[SubsetExpectation | None, str]:
        """What was measured for exactly these modalities, and on which cases or why not."""
        if self.expectations is None:
            return None, self.not_measured
        split, given = self.expectations.split, "+".join(modalities)
        found = self.expectations.subsets.get(given)
        if found is None:
            return None, NOT_FROM_THESE.format(split=split)
        return found, f"{found.cases} {split} cases of the run, predicted from exactly {given}"

    def temperatures(self, scan: PreprocessedCase) -> tuple[float, ...]:
        """The temperature of each region for exactly the modalities of a scan.

        Raises:
            DataError: if one was not measured.
        """
        return _temperatures(scan.case, scan.modalities, self.task.targets, *self.expectation(scan.modalities))

    def cost(self, scan: PreprocessedCase) -> tuple[int, int]:
        """The number of windows of ``segment``, and roughly the bytes that the process will then hold on the device.

        What it holds by now (on a CPU the interpreter, the weights and the scan; on a GPU what CUDA takes, and the
        weights), the network's activations in float32, and the volumes made of the scan. Scratch memory of single
        operations is not counted, nor the next scan of a folder, which is read meanwhile.
        """
        window_size, shape = self.volumes.window_size, scan.image.shape[1:]
        count = window_count(shape, window_size, self.volumes.overlap)
        windows = torch.zeros(min(count, windows_at_once(self.device)), 1, *window_size, device="meta")
        key = (len(windows), scan.modalities)
        if key not in self._peaks:
            network = copy.deepcopy(self.model).to("meta")
            self._peaks[key] = peak_bytes(lambda: network(dict.fromkeys(scan.modalities, windows)))
        held = held_bytes(self.device)
        padded = math.prod(max(n, p) for n, p in zip(shape, window_size, strict=True))
        # Besides the regions: the sum of the windows' weights and, with flips, the sum of earlier predictions.
        answers = 2 ** len(scan.modalities) - 1 if self.quality else 1
        volumes = 4 * ((answers + self.flips) * len(self.task.targets) + 1) * padded
        if self.device.type != "cpu":
            weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
            volumes += weights + 4 * len(scan.modalities) * padded  # which a CPU holds by now
        return count * (1 + len(FLIPS) if self.flips else 1), held + self._peaks[key] + volumes

    def _on_one_grid(self, case: Case) -> tuple[OneGrid, list[Finding]]:
        """The images of a case, brought onto one grid if they have several and it is known which; and findings."""
        wanted = self.resample_to or self.volumes.reference
        if self.resample_to is not None and self.resample_to not in case.images:
            # What somebody asks for is not replaced by something else, unless it does not matter.
            wanted = None
        found, scan = read_on_one_grid(case, None, wanted)
        if scan is None and found.differing and self.resample_to is not None and wanted is None:
            raise DataError(
                f"{case.id}: files lie on different grids, and the case has no {self.resample_to} to resample them to; "
                f"choose one of {', '.join(case.images)} with --resample-to"
            )
        objecting = objections(found.findings, self.accepted, accept=ACCEPT)
        if scan is None:
            resample = " (of several, predict makes one with --resample-to MODALITY)" if found.differing else ""
            raise DataError(
                f"{case.id} cannot be segmented; expected finite voxels on one grid{resample}:",
                [*found.problems, *objecting],
            )
        if objecting:
            raise DataError(f"{case.id} cannot be segmented as it is:", objecting)
        return scan, [*found.findings, *scan.findings, *no_reference(case.id, scan, wanted)]


def _expectations(run: FinishedRun, *, flips: bool) -> tuple[Expectations | None, str]:
    """What was measured, or why it says nothing of these masks, with a warning if it belongs to other weights."""
    if flips:
        return None, "what to expect was measured without --flips"
    try:
        return expectations_of(run), ""
    except CheckpointError as error:
        if run.folder.expectations.exists():
            warnings.warn(f"{error}; it is not used", stacklevel=3)
        return None, str(error)


def _temperatures(
    case: str,
    modalities: Sequence[str],
    regions: Sequence[str],
    expectation: SubsetExpectation | None,
    measured_on: str,
) -> tuple[float, ...]:
    measured = {} if expectation is None else expectation.regions
    known = [each.temperature for each in map(measured.get, regions) if each is not None]
    temperatures = tuple(temperature for temperature in known if temperature is not None)
    if len(temperatures) < len(regions):
        raise DataError(
            f"{case}: a temperature was not measured for each region from exactly {'+'.join(modalities)} "
            f"({measured_on}); leave out --extra calibrated"
        )
    return temperatures


def _read_facts(run: FinishedRun) -> tuple[str, Known]:
    """Name of the convention of the run's labels, and what it knows of its training cases."""
    try:
        return str(run.facts["labels"]), Known.from_facts(run.facts)
    except (ValueError, KeyError, TypeError, DataError, CheckpointError) as error:
        raise CheckpointError(
            f"{run.path} is not a complete run folder: {run.folder.facts.name} is missing or damaged; put back a "
            "whole copy"
        ) from error
