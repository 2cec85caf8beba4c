"""Base class of segmentation tasks: overlapping regions in 3-D scans."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, Tree, require
from cggm_med.data.cases import Case, CaseList
from cggm_med.data.checks.cohort import findings_among, findings_beside, learn, usual_among
from cggm_med.data.checks.finding import Finding, decide
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.known import Known
from cggm_med.data.declaration import Kind
from cggm_med.data.dicom.codes import SegmentCodes
from cggm_med.data.folders.other_data import declares_labels, for_run, labelled
from cggm_med.data.folders.propose import read_any
from cggm_med.data.imposed import without_imposed
from cggm_med.data.layouts import NamedFiles, find_cases
from cggm_med.data.parallel import map_in_processes
from cggm_med.data.splits import Member, Splits, fold_splits, from_sections, members_of
from cggm_med.data.step_sampler import StepSampler
from cggm_med.data.volumes.augment import Augmentation
from cggm_med.data.volumes.components import EVERYTHING, ComponentFilter
from cggm_med.data.volumes.intensities import training_rescalings
from cggm_med.data.volumes.labels import (
    LabelConvention,
    conventions_in_words,
    detect_convention,
    in_lines,
    regions_in_words,
    usual_convention,
)
from cggm_med.data.volumes.network_grid import NativeGrid
from cggm_med.data.volumes.normalise import Normalisation, Rescaling
from cggm_med.data.volumes.patches import PatchDataset, PatchSampling, patch_loader
from cggm_med.data.volumes.prepared import PreparedCase, common_spacing
from cggm_med.data.volumes.preprocess import ACCEPT, Preprocessing, prepare, prepare_case
from cggm_med.data.volumes.resample import OneGrid
from cggm_med.data.volumes.spacing import Spacing
from cggm_med.errors import CheckpointError, ConfigError, DataError, NonFiniteLoss, UnknownName, counted, first_of
from cggm_med.files import cache_folder, caching
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.metric import Metric, load_metrics
from cggm_med.metrics.overlap import dice
from cggm_med.metrics.regions import (
    DICE,
    FACTS,
    by_presence,
    definitions,
    empty_rule,
    head_summary,
    region_case_values,
    region_metrics,
    region_scores,
    score_region,
)
from cggm_med.models.base import MultimodalModel
from cggm_med.models.encoders import Encoder, UNetEncoder
from cggm_med.models.fusion import Fusion
from cggm_med.models.heads import UnimodalHeads, VoxelwiseHead
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.objectives.activation import activation, average_exclusive, average_overlapping, prior_logits
from cggm_med.objectives.balance_scores import ScoreSums, hard_dice_sums, soft_dice_sums
from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.objectives.targets import UNKNOWN
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.results.tables import Table
from cggm_med.task.base import CaseResult, Task
from cggm_med.task.case_drawing import CaseDrawing, LeftOutDrawing
from cggm_med.task.component_choice import CANDIDATES, MIN_GAIN, choice_in_words, choose, filter_of, try_candidates
from cggm_med.task.overview import convention_tables, followed, lacking, lacking_tables, remarks
from cggm_med.task.scan_to_mask import SegmentedScan, segment_scan
from cggm_med.task.segmentation_settings import SegmentationDataConfig, SegmentationModelConfig, SegmentationTaskConfig
from cggm_med.task.subset_segmentation import all_and_without_each, segment_subsets
from cggm_med.types import Batch

PRIOR_CASES = 64  # whose patches tell the regions' shares
MEASURED_PATCHES = 4  # of each case whose loss is measured
MANY_CASES = 50  # from which on preparing them takes long enough to report progress


class SegmentationTask(Task):
    """Base of tasks that segment overlapping regions; a subclass declares their facts and can make embedded data.

    Attributes:
        layouts: naming schemes of files.
        decathlon_modalities: names in a Medical Segmentation Decathlon ``dataset.json``, lower case, to modalities.
        decathlon_convention: label convention of that layout.
        conventions: label conventions by name; all declare the same regions, which are the targets.
        lesion_rules: what a lesion is, and when it is found.
        colours: of regions, such as ``#56B4E9``; the others get one each, see ``plots.style.region_colours``.
        codes: of regions, for DICOM segmentations.
    """

    TaskConfig = SegmentationTaskConfig
    DataConfig = SegmentationDataConfig
    ModelConfig = SegmentationModelConfig
    chosen_by = "Dice mean"
    group_kind = "patient"
    chance_rule = "Dice 0"
    layouts: ClassVar[Sequence[NamedFiles]]
    decathlon_modalities: ClassVar[Mapping[str, str]] = {}
    decathlon_convention: ClassVar[str] = ""
    conventions: Mapping[str, LabelConvention]
    lesion_rules: LesionRules = LesionRules()
    colours: Mapping[str, str] = {}
    codes: Mapping[str, SegmentCodes] = {}

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        data = config.data
        if data.resample_to is not None and data.resample_to not in self.modalities:
            raise UnknownName("modality to resample to", data.resample_to, self.modalities)
        self.encoder = self._encoder()
        self.fusion: type[Fusion] = registry.load(registry.FUSIONS, config.model.fusion)
        with torch.random.fork_rng(devices=[]):
            encoder = self.encoder(config.model.channels)  # only for its declarations
        self.channels, coarsest = encoder.channels, encoder.reduction
        # Instance normalisation needs more than one voxel on the coarsest grid.
        least = [2 * n for n in coarsest]
        for key, size in (("patch_size", data.patch_size), ("window_size", self.window_size)):
            require(
                all(n % m == 0 and n >= 2 * m for n, m in zip(size, coarsest, strict=True)),
                f"data.{key}",
                list(size),
                f"multiples of {_sizes(coarsest)}, at least {_sizes(least)}, for a network of {len(self.channels)} "
                "scales",
            )
        always = region_metrics(data.empty_hd95_mm, data.surface_tolerance_mm, self.lesion_rules)
        taken = [*FACTS, *(metric.key for metric in always)]
        self.metrics = (*always, *load_metrics(config.task.metrics, taken))
        self.cases: dict[str, PreparedCase] = {}
        self.odd: Sequence[Finding] = ()
        self.known: Known | None = None
        self.data_conventions = self.conventions
        self.component_filter: ComponentFilter = EVERYTHING
        self.component_choice: Tree = {}

    def embedded_data(self, cache: Path, say: Callable[[str], None]) -> Path:
        """Make or find the data for runs without ``data.path``.

        Raises:
            DataError: if the task has none.
        """
        raise DataError(
            f"task '{self.config.task.name}' has no embedded data; give a folder or JSON list with --data PATH"
        )

    def find(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Find the scans, and decide on the conventions of their labels.

        What is asked for holds for all cases. Else each follows what its data declare, or what ``with_conventions``
        tells of it.
        """
        path = self.data_path(say)
        found, asked = labelled(self.find_scans(path, required=self.required), say), self.config.task.labels
        if self.data_conventions is not self.conventions:  # the data declare their own
            if asked is not None:
                raise ConfigError(f"task.labels is {asked}, but {path} declares its labels itself; leave it out")
            regions = next(iter(self.data_conventions.values())).regions
            own = list(self.conventions.values())
            # The run writes masks in the same numbers, where it can.
            self.convention = next((each for each in own if each.regions == regions), own[0])
        else:
            if asked is None:
                found, undecided = self.with_conventions(found)
                if undecided:
                    raise DataError(
                        f"{undecided[0]}; say it with --set task.labels=NAME:", in_lines(self.conventions.values())
                    )
            else:
                named = self._names_say(found) if asked in self.conventions else {}  # else it is refused below
                if named and set(named.values()) != {asked}:
                    told = f"those of {first_of([*named], 3)} are as in {', '.join(dict.fromkeys(named.values()))}"
                    say(f"labels are read as in {asked} (task.labels); by their names, {told}")
                cases = tuple(replace(case, convention=None) for case in found.cases)
                found = replace(found, cases=cases, label_convention=asked)
            usual = usual_convention(case.convention or found.label_convention for case in found.cases)
            self.convention = detect_convention(usual, asked, self.conventions)
        self.found = found
        return tuple(case.id for case in found.cases)

    def _names_say(self, found: CaseList) -> dict[str, str]:
        """The convention of each case whose release is known, as it would be taken if none was asked for."""
        try:
            told, undecided = self.with_conventions(found)
        except DataError:  # of a damaged file, which is named with all others
            return {}
        names = {case.id: case.convention or told.label_convention for case in told.cases}
        return {} if undecided else {id: name for id, name in names.items() if name is not None}

    def with_conventions(self, found: CaseList) -> tuple[CaseList, Sequence[str]]:
        """Cases, each with its label's convention as far as it can be told; and what the user must decide, in lines.

        Args:
            found: by ``find_scans``, with what their layouts imply.
        """
        return found, ()

    def data_path(self, say: Callable[[str], None]) -> Path:
        """``data.path``, or the embedded data."""
        data = self.config.data
        if data.path is not None:
            return Path(data.path)
        with distributed.first_process_first(), caching():
            return self.embedded_data(cache_folder(data.cache), say)

    @property
    def required(self) -> tuple[str, ...]:
        """Modalities that every case must have: those that are set, and all unless cases may lack some.

        Raises:
            UnknownName: for one in the settings that the run does not use.
        """
        for modality in self.config.data.required:
            if modality not in self.modalities:
                raise UnknownName("modality to require", modality, self.modalities)
        return self.config.data.required if self.config.data.allow_missing else self.modalities

    def find_scans(
        self,
        path: Path,
        modalities: Sequence[str] | None = None,
        *,
        required: Sequence[str] = (),
        need_labels: bool = True,
    ) -> CaseList:
        """Scans in a folder or list, in any of the task's layouts or declared; a case may lack modalities.

        Args:
            path: folder or JSON list.
            modalities: to use; default: all of the run's.
            required: that every case must have; each must have one of ``modalities`` in any case.
            need_labels: whether every case must have a label as well.

        Raises:
            UnknownName: if a required modality is not among those to use.
            DataError: if nothing is found or a case lacks what it must have, which names every such case; or if the
                data declare other regions than the task's.
        """
        wanted = tuple(modalities or self.modalities)
        for modality in required:
            if modality not in wanted:
                raise UnknownName("modality to require", modality, wanted)
        return self.scans_in(path, wanted, required, need_labels=need_labels)

    def scans_in(
        self, path: Path, modalities: Sequence[str], required: Sequence[str], *, need_labels: bool
    ) -> CaseList:
        """Read what ``find_scans`` looks for; all of its arguments are given, and ``required`` are ``modalities``."""
        if declares_labels(path):
            reference = () if self.reference is None else (self.reference,)
            declared = read_any(path, need_labels=need_labels, reference=reference)
            shown = {modality: modality for modality in self.known_modalities}
            self.data_conventions, found = for_run(
                path, *declared, self.conventions.values(), shown, modalities, required
            )
            return found
        self.data_conventions = self.conventions
        return find_cases(
            path,
            modalities,
            self.layouts,
            decathlon_modalities=self.decathlon_modalities,
            decathlon_convention=self.decathlon_convention,
            known_modalities=self.known_modalities,
            need_labels=need_labels,
            required=required,
            remedy=", or use what they have with --set data.allow_missing=true" if need_labels else "",
        )

    @property
    def exclusive(self) -> bool:
        """Whether a voxel belongs to one region at most."""
        return next(iter(self.conventions.values())).exclusive

    def convention_of(self, case: Case) -> LabelConvention:
        """The convention of one case's label: its own, else that of all."""
        return self.data_conventions[str(case.convention or self.found.label_convention)]

    def _meanings(self, cases: Iterable[Case]) -> list[str]:
        """The conventions that cases follow, and others that may be chosen."""
        used = {convention.name: convention for convention in map(self.convention_of, cases)}
        own = self.data_conventions is self.conventions
        others = [each for name, each in self.conventions.items() if own and name not in used]
        return [
            *in_lines(used.values()),
            *(["others, to be chosen with --set task.labels=NAME:", *in_lines(others)] if others else []),
        ]

    def labels_in_words(self, cases: Iterable[Case]) -> str:
        """The conventions that cases follow, see ``conventions_in_words``."""
        return conventions_in_words(self.convention_of(case).name for case in cases)

    def volumes(self) -> SegmentationTask:
        """The task itself."""
        return self

    @property
    def stated_convention(self) -> str | None:
        """``task.labels``."""
        return self.config.task.labels

    @property
    def spacing(self) -> Spacing | None:
        """``data.spacing``."""
        return self.config.data.spacing

    @property
    def reference(self) -> str | None:
        """``data.resample_to``."""
        reference: str | None = self.config.data.resample_to
        return reference

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """What kind of image each modality is; of those that are left out, MRI."""
        return {}

    @property
    def normalisations(self) -> Mapping[str, Normalisation]:
        """How modalities are normalised that are not z-scored."""
        return {}

    @property
    def rescalings(self) -> Mapping[str, Rescaling]:
        """``data.rescaling``."""
        return {modality: Rescaling(**numbers) for modality, numbers in self.config.data.rescaling.items()}

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """``data.patch_size``."""
        return self.config.data.patch_size

    @property
    def window_size(self) -> tuple[int, int, int]:
        """``data.window_size``, else ``data.patch_size``."""
        size: tuple[int, int, int] = self.config.data.window_size or self.patch_size
        return size

    @property
    def overlap(self) -> float:
        """``data.overlap``."""
        return self.config.data.overlap

    @property
    def members(self) -> Sequence[Member]:
        """The cases."""
        return self.found.cases

    @property
    def own_splits(self) -> Splits | None:
        """The fold that is asked for, else what the sections of a datalist say."""
        data = self.config.data
        if data.fold is not None:
            seed = self.config.train.seed
            return fold_splits(self.found.cases, data.fold, validation=data.validation, seed=seed, kind=self.group_kind)
        return None if self.found.sections is None else from_sections(self.found)

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Check and preprocess the scans; with several processes, the first does it for all."""
        data = self.config.data
        if splits.train and self.config.task.component_filter == "validation" and not splits.validation:
            raise ConfigError(
                "task.component_filter is validation, and no case is held out for validation; hold some "
                "out (data.validation), or set task.component_filter=none"
            )
        found: Sequence[Case] = self.found.cases
        if data.missing is not None and splits.train:
            found = without_imposed(found, self.modalities, data.missing, splits.train, self.config.train.seed)
        cases = members_of(splits, found)
        named, count = self.labels_in_words(cases), counted(len(cases), "case")
        say(f"{count} ({self.found.layout}), labels numbered as in {named}; checking and preprocessing")
        preprocessing = self._preprocessing(cases, data.accept)

        def progress(done: int, total: int) -> None:
            if total >= MANY_CASES and done * 10 // total > (done - 1) * 10 // total:
                say(f"{done} of {total} cases ready")

        cache = cache_folder(data.cache) / "preprocessed"
        with distributed.first_process_first():
            rescalings = self._rescalings([case for case in cases if case.id in set(splits.train)], preprocessing)
            preprocessing = replace(preprocessing, rescalings=rescalings)
            meanings = self._meanings(cases)
            prepared = prepare(cases, preprocessing, cache, workers=data.workers, progress=progress, meanings=meanings)
        if data.spacing is None:
            # In the run's settings, so that later scans are resampled to this size.
            self.settle(data=replace(self.config.data, spacing=common_spacing(prepared)))
        self.cases = {case.id: case for case in prepared}
        self.splits = splits
        self.odd = self._odd(prepared, splits)
        of_files = [finding for case in prepared for finding in case.findings]
        decide([*of_files, *self.odd], data.accept, say, accept=ACCEPT)
        for line in remarks(prepared, self.reference, rescalings):
            say(line)
        if splits.train:
            self._require_all_regions(splits.train)

    def _preprocessing(self, cases: Sequence[Case], accepted: tuple[str, ...]) -> Preprocessing:
        data = self.config.data
        return Preprocessing(
            self.modalities,
            self.convention_of(cases[0]),
            data.spacing,
            {case.convention: self.convention_of(case) for case in cases if case.convention is not None},
            data.raters,
            reference=self.reference,
            accepted=accepted,
        )

    def check(self, splits: Splits, say: Callable[[str], object]) -> tuple[Sequence[Finding], Sequence[PreparedCase]]:
        """Everything that checks see in the cases, whether or not it forbids their use.

        Returns:
            The findings, and the cases that could be prepared.
        """
        cases = members_of(splits, self.found.cases)
        say(f"{counted(len(cases), 'case')} ({self.found.layout}); checking")
        every = tuple(kind.name for kind in KINDS.values() if kind.severity == "asked")
        preprocessing = self._preprocessing(cases, every)
        training = [case for case in cases if case.id in set(splits.train)]
        preprocessing = replace(preprocessing, rescalings=self._rescalings(training, preprocessing))
        work = functools.partial(
            prepare_case, preprocessing=preprocessing, cache=cache_folder(self.config.data.cache) / "preprocessed"
        )
        findings: list[Finding] = []
        prepared = []
        workers = min(self.config.data.workers, len(cases))
        for case, outcome in zip(cases, map_in_processes(work, cases, workers), strict=True):
            findings += outcome.findings
            lines = [problem.removeprefix(f"{case.id}: ") for problem in outcome.problems]
            findings += [Finding(KINDS["unusable"], case.id, (), line) for line in lines]
            if not outcome.problems:
                convention = preprocessing.convention_of(case)
                prepared.append(PreparedCase(case.id, case.patient, outcome.folder, case, convention))
        return [*findings, *self._odd(prepared, splits)], prepared

    def overview(self) -> tuple[Table, ...]:
        """How many cases of each split lack each modality, and which lack what; nothing where all are complete."""
        conventions = convention_tables([*self.cases.values()])
        return (*conventions, *lacking_tables(self._lacking(), self.modalities, self.splits))

    def _lacking(self) -> dict[str, dict[str, list[str]]]:
        return lacking({id: case.modalities for id, case in self.cases.items()}, self.modalities, self.splits)

    def _rescalings(self, training: Sequence[Case], preprocessing: Preprocessing) -> Mapping[str, Rescaling]:
        """Those of the settings, to which those that are missing are added from the training cases."""
        data = self.config.data
        missing = {m: kind for m, kind in self.normalisations.items() if m in self.modalities and kind != "z_score"}
        missing = {m: kind for m, kind in missing.items() if m not in data.rescaling}
        if missing and not training:
            raise CheckpointError(f"the run's settings lack data.rescaling of {', '.join(missing)}; train it anew")
        folder = cache_folder(data.cache) / "intensities"
        with caching():
            found = training_rescalings(training, preprocessing, missing, folder, workers=data.workers)
        if found:
            # In the run's settings, so that later scans are normalised alike.
            numbers = {modality: rescaling.settings for modality, rescaling in found.items()}
            self.settle(data=replace(data, rescaling={**data.rescaling, **numbers}))
        return self.rescalings

    def contents(self) -> dict[str, dict[str, str]]:
        """Digests of each case's image files, and the cache key of what was prepared from them and the label."""
        return {id: {**case.facts["files"], "prepared": case.folder.name} for id, case in sorted(self.cases.items())}

    def batches(self, first_step: int, pin_memory: bool) -> Iterable[Batch]:
        """Augmented patches of the training cases."""
        data, train = self.config.data, self.config.train
        cases = [self.cases[id] for id in self.splits.train]
        sampling = PatchSampling(data.patch_size, data.foreground, train.seed)
        size = train.batch_size * train.steps_per_epoch
        dataset = PatchDataset(cases, sampling, Augmentation(data.augmentation), size)
        sampler = self.step_sampler(first_step)
        return patch_loader(dataset, sampler, self.modalities, workers=data.workers, pin_memory=pin_memory)

    def evaluation_batches(self, cases: Sequence[str]) -> Iterable[Batch]:
        """Patches of these cases, drawn as in training but the same at each call, and not augmented."""
        data, train = self.config.data, self.config.train
        size = max(1, train.batch_size // distributed.world_size())
        sampling = PatchSampling(data.patch_size, data.foreground, random_seed(train.seed, Stream.MEASURED_PATCH))
        dataset = PatchDataset([self.cases[id] for id in cases], sampling, Augmentation("none"), 0)
        steps = -(-len(cases) * MEASURED_PATCHES // size)
        sampler = StepSampler(0, steps, steps, size)
        return patch_loader(dataset, sampler, self.modalities, workers=data.workers, pin_memory=False)

    def _encoder(self) -> Callable[[Sequence[int]], Encoder]:
        """Constructs an encoder from the channels, with the strides and kernels that are set."""
        settings = self.config.model
        encoder: type[Encoder] = registry.load(registry.ENCODERS, settings.encoder)
        planned = {name: steps for name in ("strides", "kernels") if (steps := getattr(settings, name))}
        if planned and not issubclass(encoder, UNetEncoder):
            raise ConfigError(
                f"model.{' and model.'.join(planned)} are set, which encoder '{settings.encoder}' does not know; leave "
                "them empty ([]), or use encoder unet"
            )
        return functools.partial(encoder, **planned) if planned else encoder

    def _require_all_regions(self, ids: Sequence[str]) -> None:
        """Refuse to train on cases in which a region never occurs, since it could not be learned."""
        present = {region for id in ids for region in np.unique(self.cases[id].centres[:, 0]).tolist()}
        missing = [name for i, name in enumerate(self.targets) if i not in present]
        if missing:
            raise DataError(
                f"region {', '.join(missing)} has no voxel in any of the {len(ids)} training cases (labels read as "
                f"'{self.labels_in_words(self.cases[id].source for id in ids)}'); train on more cases, or check "
                "what the numbers mean:",
                self._meanings(self.cases[id].source for id in ids),
            )

    def model(self) -> SegmentationModel:
        """A 3-D U-Net with one encoder per modality."""
        settings = self.config.model
        return SegmentationModel(
            self.modalities,
            len(self.targets),
            settings.channels,
            settings.deep_supervision,
            encoder=self.encoder,
            fusion=self.fusion,
            decoder_kernels=settings.kernels or None,
        )

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """Voxel-wise heads on each encoder's pyramid."""
        return UnimodalHeads({m: VoxelwiseHead(self.channels, len(self.targets)) for m in model.modalities})

    def start_from_data(self, model: MultimodalModel, heads: UnimodalHeads | None) -> None:
        """Set the last layers' biases by the regions' shares, if the settings say so."""
        if not self.config.model.prior_bias:
            return
        logits = prior_logits(self._region_shares(), self.exclusive)
        for part in model.modules():  # one network, or one for each modality
            if isinstance(part, SegmentationModel):
                part.predict_at_first(logits)
        if heads is not None:
            heads.predict_at_first(logits)

    def _region_shares(self) -> Tensor:
        """Each region's share of the annotated voxels of training patches, ``(region,)``, never 0 or 1."""
        inside, voxels = torch.zeros(2, len(self.targets), dtype=torch.float64)
        for batch in self.evaluation_batches(self.splits.train[:PRIOR_CASES]):
            known = batch.target != UNKNOWN
            if self.exclusive:  # a voxel of which any region is unknown has no class
                known = known.all(1, keepdim=True).expand_as(known)
            inside += torch.where(known, batch.target, 0).double().sum((0, 2, 3, 4))
            voxels += known.sum((0, 2, 3, 4))
        # As if each region, and what is in none, had been seen in one voxel more.
        return ((inside + 1) / (voxels + len(self.targets) + 1)).float()

    def average(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Of regions that may overlap, or exclude one another."""
        return (average_exclusive if self.exclusive else average_overlapping)(logits, weights)

    def criterion(self) -> nn.Module:
        """Soft Dice plus cross-entropy."""
        cases = self.cases.values()
        partial = any(case.convention.ignore is not None or case.source.not_drawn for case in cases)
        return RegionLoss(exclusive=self.exclusive, partial=partial, batch_dice=self.config.task.batch_dice)

    def score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums of the soft Dice."""
        return soft_dice_sums(logits, target, exclusive=self.exclusive)

    def hard_score_sums(self) -> ScoreSums | None:
        """Sums of the Dice of masks."""
        return functools.partial(hard_dice_sums, exclusive=self.exclusive)

    def findings(self) -> Tree:
        """Of the cases' files."""
        accepted = self.config.data.accept
        of_files = [finding for case in self.cases.values() for finding in case.findings]
        found = [finding.record(accepted) for finding in (*of_files, *self.odd)]
        return {"accepted": list(accepted), "findings": found}

    def recall(self, facts: Tree) -> None:
        """How the run's modalities look, and what is usual among its training cases."""
        self.known = Known.from_facts(facts)

    def familiar(self) -> Sequence[str]:
        """Those that hold voxels which the run was trained on, or chosen by."""
        return [finding.case for finding in self.odd if finding.kind.name == "seen_in_training"]

    def _odd(self, prepared: Sequence[PreparedCase], splits: Splits) -> Sequence[Finding]:
        """What is odd about cases beside one another, or beside those that the run learned from."""
        if not splits.train:
            return [] if self.known is None else findings_beside(prepared, self.known)
        sides = {id: split for split, ids in splits.items() for id in ids}
        return findings_among(prepared, self.modalities, sides, {case.id: case.patient for case in prepared})

    def facts(self) -> Tree:
        """The convention of masks and of labels, how training images look, their voxels, and which cases lack some."""
        training = [self.cases[id] for id in self.splits.train]
        signatures, usual = learn(training, self.modalities), usual_among(training)
        lacking = self._lacking()
        incomplete = {"lacking": lacking} if any(lacking.values()) else {}
        conventions = followed([*self.cases.values()])
        mixed = {"conventions": conventions} if len(conventions) > 1 else {}
        looks = {"signatures": signatures.to_json(), "usual": usual.to_json()}
        seen = (*self.splits.train, *self.splits.validation)
        voxels = {id: [*self.cases[id].measured["voxels"].values()] for id in seen}
        return {"labels": self.convention.name, **looks, "voxels": voxels, **incomplete, **mixed}

    @torch.no_grad()
    def fit_postprocessing(
        self,
        model: MultimodalModel,
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        say: Callable[[str], object],
    ) -> Tree:
        """Choose the component filter, if the settings say so."""
        if self.config.task.component_filter == "none":
            return {}
        ids = self.splits.validation
        say(f"choosing which components to remove on {len(ids)} validation cases")
        model.eval()
        found: dict[str, Any] = {}
        for id in ids[distributed.rank() :: distributed.world_size()]:
            case, drawn_on = self.cases[id], self.cases[id].label_grid
            (answer,) = self.segment(model, case.tensor(device), case.grid, case.modalities, autocast)
            truth, spacing = case.native_target(), (drawn_on or case.grid).spacing
            dice_of = functools.partial(self._dice_of, case, truth, spacing)
            found[id] = try_candidates(answer.on(drawn_on), self.convention, dice_of)
        every = {id: of for part in distributed.gather_json(found, device) for id, of in part.items()}
        choice = choose([every[id] for id in ids], self.targets)
        say(choice_in_words(choice, self.targets))
        return {"component_filter": choice}

    def _dice_of(
        self, case: PreparedCase, truth: NDArray[np.bool_], spacing: Spacing, masks: NDArray[np.bool_]
    ) -> Mapping[str, float]:
        rows = self.score(case.source, case.scored(masks), truth, spacing, full=False)
        return {row["region"]: row["dice"] for row in rows}

    def use_postprocessing(self, fitted: Tree) -> None:
        """Remove from now on the components that the run chose to remove, unless the settings say otherwise."""
        if self.config.task.component_filter == "none":
            return
        try:
            self.component_choice = fitted["component_filter"]
            self.component_filter = filter_of(self.component_choice)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                "task.component_filter is validation, and the run has not chosen a filter, which is done at the end of "
                "training; finish it with 'cggm-med train --resume RUN', or leave masks as they are with "
                "task.component_filter=none"
            ) from error

    def segment(
        self,
        model: MultimodalModel,
        image: Tensor,
        grid: NativeGrid,
        modalities: Sequence[str],
        autocast: Callable[[], AbstractContextManager[Any]],
        *,
        heads: UnimodalHeads | None = None,
        flips: bool = False,
    ) -> Iterator[SegmentedScan]:
        """The regions of a scan as the fusion predicts them, then as each head does, without any component filter.

        Args:
            model: in evaluation mode.
            image: ``(modality, x, y, z)``, preprocessed.
            grid: the scan's own.
            modalities: names of the image's channels, a subset of the model's.
            autocast: context for the network's computations.
            heads: predict as well.
            flips: see ``segment_scan``.
        """

        def logits(windows: Tensor) -> Tensor:
            with autocast():
                inputs = {m: windows[:, i : i + 1] for i, m in enumerate(modalities)}
                if heads is None:
                    fused: Tensor = model(inputs)
                    return fused
                features = model.encode(inputs)
                size = windows.shape[2:]
                answers = [model.head(model.fuse(features)[0])]
                answers += [F.interpolate(x.logits, size, mode="trilinear") for x in heads(features).values()]
                return torch.cat(answers, dim=1)

        data, answers = self.config.data, 1 + (0 if heads is None else len(modalities))
        segmented = segment_scan(
            logits,
            image,
            grid,
            patch_size=self.window_size,
            overlap=data.overlap,
            answers=answers,
            flips=flips,
            activation=activation(self.exclusive),
        )
        yield replace(next(segmented), components=self.component_filter)
        yield from segmented

    def segment_subsets(
        self,
        model: MultimodalModel,
        scan: OneGrid,
        subsets: Sequence[tuple[str, ...]],
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[tuple[tuple[str, ...], SegmentedScan]]:
        """The regions of a scan from each of several subsets of its modalities, see ``subset_segmentation``."""
        data = self.config.data
        return segment_subsets(
            model,
            scan,
            subsets,
            spacing=data.spacing,
            patch_size=self.window_size,
            overlap=data.overlap,
            device=device,
            autocast=autocast,
            rescalings=self.rescalings,
            activation=activation(self.exclusive),
            components=self.component_filter,
        )

    @torch.no_grad()
    def evaluate(
        self,
        model: MultimodalModel,
        heads: UnimodalHeads | None,
        cases: Sequence[str],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
        full: bool,
    ) -> Iterator[CaseResult]:
        """Dice and, when ``full``, all other metrics of each region on the case's own grid."""
        from cggm_med.plots.style import region_colours

        for id in cases:
            case, grid, drawn_on = self.cases[id], self.cases[id].grid, self.cases[id].label_grid
            try:
                answers = self.segment(model, case.tensor(device), grid, case.modalities, autocast, heads=heads)
                fused, *unimodal = (case.scored(answer.on(drawn_on).regions(self.convention)) for answer in answers)
            except NonFiniteLoss as error:
                raise NonFiniteLoss(f"{id}: {error}") from error
            truth = case.native_target()
            scores = self.score(case.source, fused, truth, (drawn_on or grid).spacing, full=full)
            head_scores = [
                {"case": id, "modality": modality, "region": name, "dice": dice(*map(torch.from_numpy, (p, t)))}
                for modality, prediction in zip(case.modalities, unimodal, strict=False)
                for name, p, t in zip(self.targets, prediction, truth, strict=True)
                if name not in case.source.not_drawn
            ]
            if full:
                for name, drawn in case.native_raters().items():
                    masks = dict(zip(self.targets, zip(fused, drawn, strict=True), strict=True))
                    for row in scores:
                        row.setdefault("raters", {})[name] = dice(*map(torch.from_numpy, masks[row["region"]]))
            findings = {"regions": scores, "heads": head_scores, "present": "+".join(case.modalities)}
            mean = statistics.fmean(row["dice"] for row in scores)
            yield CaseResult(
                id, findings, CaseDrawing(region_colours(self.targets, self.colours), case, truth, fused, scores), mean
            )

    def evaluate_subsets(
        self,
        model: MultimodalModel,
        subsets: Sequence[tuple[str, ...]],
        cases: Sequence[str],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[CaseResult]:
        """Dice and, with ``task.subset_hd95``, HD95 of each region on the case's own grid, starting from its files.

        A case that lacks modalities of a subset is predicted from the others; one that has none of them, as empty.
        """
        from cggm_med.plots.style import region_colours

        for id in cases:
            case, drawn_on = self.cases[id], self.cases[id].label_grid
            spacing = (drawn_on or case.grid).spacing
            truth = case.native_target()
            held = {subset: tuple(m for m in subset if m in case.modalities) for subset in subsets}
            given = list(dict.fromkeys(of for of in held.values() if of))
            segmented = self.segment_subsets(model, case.scan(), given, device, autocast)
            masks = ((of, part.on(drawn_on).regions(self.convention)) for of, part in segmented)
            rows, drawn = {}, {of: np.zeros_like(truth) for of in all_and_without_each(case.modalities) if of in given}
            for of, predicted in itertools.chain(masks, ((of, np.zeros_like(truth)) for of in held.values() if not of)):
                scored = case.scored(predicted)
                rows[of] = self._scored(case.source, scored, truth, spacing, self._of_subsets())
                drawn |= {of: scored} if of in drawn else {}
            drawing = LeftOutDrawing(region_colours(self.targets, self.colours), case, truth, drawn, rows)
            findings = {"+".join(s): {"regions": rows[of], "heads": []} for s, of in held.items()}
            yield CaseResult(id, findings, drawing if len(drawn) > 1 else None)

    def chance(self, results: Sequence[CaseResult]) -> Mapping[str, float | None]:
        """A Dice of 0."""
        return dict.fromkeys((f"Dice {name}" for name in (*self.targets, "mean")), 0.0)

    def summarise(self, results: Sequence[CaseResult]) -> Scores:
        """The scores of each region, and the heads' Dice."""
        rows, heads = ([row for r in results for row in r.findings[name]] for name in ("regions", "heads"))
        scores = region_scores(rows, heads, self.metrics)
        present = {r.case: r.findings["present"] for r in results if "present" in r.findings}
        return scores if set(present.values()) <= {"+".join(self.modalities)} else by_presence(scores, present)

    def modality_scores(self, scores: Scores) -> dict[str, float | None]:
        """Dice of each head, the mean over regions."""
        return {m: row["mean"] for m, row in head_summary(scores.heads).items()} if scores.heads else {}

    @classmethod
    def case_values(cls, cases: Sequence[Record]) -> CaseValues:
        """Dice and every metric of another package, for each case by region and averaged over regions."""
        keys = dict.fromkeys(key for row in cases for key in row)
        chosen = load_metrics([key for key in registry.names(registry.METRICS) if key in keys], FACTS)
        return region_case_values(cases, (DICE, *chosen))

    def score(
        self, case: Case, predicted: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Spacing, *, full: bool
    ) -> list[dict[str, Any]]:
        """A row for each region of one case: Dice and, when ``full``, all other metrics.

        Args:
            case: regions that were not drawn in it have no row.
            predicted: ``(region, x, y, z)`` on the case's own grid.
            true: the same, of its label.
            spacing: voxel size in mm along these axes.
            full: see ``evaluate``.
        """
        return self._scored(case, predicted, true, spacing, self.metrics if full else self.metrics[:1])

    def _scored(
        self,
        case: Case,
        predicted: NDArray[np.bool_],
        true: NDArray[np.bool_],
        spacing: Spacing,
        metrics: Sequence[Metric],
    ) -> list[dict[str, Any]]:
        masks = zip(self.targets, predicted, true, strict=True)
        return [score_region(case.id, r, p, t, spacing, metrics) for r, p, t in masks if r not in case.not_drawn]

    def dice_rules(self) -> dict[str, str]:
        """Definitions for a report that holds no metric but Dice."""
        return self._rules(self.metrics[:1])

    def subset_rules(self) -> dict[str, str]:
        """Definitions of the metrics of subsets."""
        return self._rules(self._of_subsets())

    def _of_subsets(self) -> Sequence[Metric]:
        """Dice, the only metric of subsets unless HD95 is asked for."""
        return self.metrics[: 2 if self.config.task.subset_hd95 else 1]

    def rules(self) -> dict[str, str]:
        """Definitions of all metrics and the treatment of empty regions."""
        return self._rules(self.metrics)

    def _choice(self) -> str:
        """How masks follow from probabilities, in words."""
        if self.exclusive:
            return (
                "the most probable of the regions and the background; scored are those of the label map that is written"
            )
        return (
            "probability of at least 0.5; scored are the regions of the label map that is written, into which "
            f"{', '.join(self.convention.paint)} are painted one over the other"
        )

    def _components_rule(self) -> dict[str, str]:
        """Which components are removed and how that was chosen, if it was."""
        if not self.component_choice:
            return {}
        candidates = ", ".join(f"{rule:g}" for rule in CANDIDATES if not isinstance(rule, str))
        return {
            "component filter": f"{choice_in_words(self.component_choice, self.targets)}. Chosen on a run's own "
            "validation cases with all that they have, for each region alone: components below "
            f"{candidates} mm3 or all but the largest, whichever has the highest mean Dice of the region and those "
            f"inside it, if more than half of the cases gain more than {MIN_GAIN:g}. Classifier heads are not filtered"
        }

    def _rules(self, metrics: Sequence[Metric]) -> dict[str, str]:
        first, *others = definitions(metrics).items()
        sources = [case.source for case in self.cases.values()] or self.found.cases
        conventions = [self.convention_of(case) for case in sources]
        ignored = sorted({of.ignore for of in conventions if of.ignore is not None})
        label = f"the label {' or '.join(map(str, ignored))}"
        unscored = f"; voxels with {label}, which nobody annotated, are not scored" if ignored else ""
        complete = all(case.modalities == self.modalities for case in self.cases.values())
        said = "a case is predicted from those of the modalities that it has; one that has none of them as empty"
        incomplete = {} if complete else {"incomplete cases": said}
        return {
            "grid": f"{'each case' if self.reference is None else 'the label'}'s own grid and spacing, whole volume",
            "regions": regions_in_words(conventions),
            **dict([first]),
            "empty region": empty_rule(metrics),
            "threshold": f"{self._choice()}; no voxel that is background in every image given{unscored}",
            **self._components_rule(),
            **dict(others),
            **incomplete,
        }


def _sizes(voxels: Sequence[int]) -> str:
    """One number if all axes have the same."""
    return " x ".join(map(str, voxels if len(set(voxels)) > 1 else voxels[:1]))
