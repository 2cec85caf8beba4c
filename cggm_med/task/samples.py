"""Base class of tasks whose cases are samples of a data set, for classification and regression."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from cggm_med import distributed
from cggm_med.config import RunConfig, Tree, require
from cggm_med.data.splits import NAMES, Member, Splits, check_splits, members_of, split_by_group
from cggm_med.data.step_sampler import visited
from cggm_med.errors import DataError, NonFiniteLoss
from cggm_med.files import cache_folder, caching, did_you_mean, pieces
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.results import Scores
from cggm_med.stop import leave_signals_to_parent
from cggm_med.task.base import CaseResult, Task
from cggm_med.task.capabilities import UnlabelledSamples
from cggm_med.task.generated import generated_data
from cggm_med.types import Batch, Padded

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class SampleDataConfig:
    """Where the samples are and how they are divided.

    Attributes:
        path: folder or file; default: generated data, whose scores say nothing about real data.
        splits: JSON file with ids for train, validation and test; default: the data set's own, or drawn from the seed.
        validation: share of the groups to choose the best checkpoint by, where the data set names no such split.
        test: share of the groups that are scored at the end, where the data set names no such split.
        cache: folder for files made from the data; default: ``$XDG_CACHE_HOME/cggm-med`` or ``~/.cache/cggm-med``.
        workers: processes that load samples; 0 loads them in the training process.
    """

    path: str | None = None
    splits: str | None = None
    validation: float = 0.1
    test: float = 0.15
    cache: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            require(0 <= getattr(self, name) < 1, f"data.{name}", getattr(self, name), "at least 0, below 1")
        require(self.workers >= 0, "data.workers", self.workers, "at least 0")


@dataclass(frozen=True)
class Sample:
    """One case of a data set.

    Attributes:
        id: unique name.
        group: what no split may divide, such as the speaker or the video.
        target: class number, value, or a class number for each utterance of a conversation; None where unknown.
        inputs: the source of each modality: an array, file or folder.
    """

    id: str
    group: str
    target: int | float | tuple[int, ...] | None
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class SampleList:
    """The samples of a data set.

    Attributes:
        samples: all of them.
        sections: ids of the splits that the data set itself declares, among ``train``, ``validation`` and ``test``.
    """

    samples: tuple[Sample, ...]
    sections: Mapping[str, Sequence[str]] | None = None


class SampleTask(Task):
    """Base of tasks that predict a label of each sample; a subclass reads its data and makes its network.

    Attributes:
        sequences: modalities whose samples are sequences of different lengths, ``(time, channel)``.
        generated_version: part of the generated data's folder name; raise it when ``generate`` changes.
    """

    DataConfig = SampleDataConfig
    says_loss: ClassVar[bool] = True
    cheap_heads: ClassVar[bool] = True
    sequences: ClassVar[frozenset[str]] = frozenset()
    generated_version: ClassVar[int] = 1

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.samples: dict[str, Sample] = {}
        self._contents: dict[str, dict[str, str]] = {}

    @abstractmethod
    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """Find the samples in a data set, without loading what is slow to load.

        Raises:
            DataError: names what is missing, damaged or unknown, and the layout that is expected.
        """

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> Iterable[Sample]:
        """Find samples to be labelled, in the same layout but for labels and splits, which are not looked at.

        Offered to ``predict`` by tasks that override this. A sample's ``inputs`` hold the modalities that it has.

        Args:
            path: folder or file.
            modalities: to look for, a subset of the run's.
            say: receives lines of progress.

        Raises:
            DataError: names what is damaged or unknown, and the layout that is expected.
        """
        return ()

    @abstractmethod
    def label_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """What the logits of one sample say, as rows of plain values for people."""

    @abstractmethod
    def generate(self, folder: Path) -> None:
        """Write a small data set in the real layout, for runs without ``data.path``."""

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """The network's inputs for a sample: by default its arrays, in single precision.

        Args:
            sample: to load.
            random: for augmentation while training; None in evaluation.

        Raises:
            DataError: if a file is missing or damaged.
        """
        arrays = {m: np.array(sample.inputs[m], dtype=np.float32, order="C") for m in self.modalities}
        return {m: torch.from_numpy(array) for m, array in arrays.items()}

    @abstractmethod
    def target_tensor(self, targets: Sequence[Any]) -> Tensor:
        """Targets of a batch as the criterion takes them."""

    @abstractmethod
    def finding(self, logits: Tensor, target: Tensor) -> dict[str, Any]:
        """What ``summarise`` needs of one predictor's logits for one sample, as plain values."""

    def find(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Read the list of samples; without a path, of generated data."""
        data = self.config.data
        with distributed.first_process_first(), caching():
            if data.path is None:
                cache = cache_folder(data.cache)
                path = generated_data(self.config.task.name, self.generated_version, self.generate, cache, say)
            else:
                path = Path(data.path)
                if not path.exists():
                    raise DataError(f"no data at {path}{did_you_mean(path)}; name a folder or file with --data")
            self.found = self.read(path, say)
        if not self.found.samples:
            raise DataError(f"{path} holds no sample")
        ids = Counter(sample.id for sample in self.found.samples)
        if twice := [id for id, count in ids.items() if count > 1]:
            raise DataError(f"{path}: {len(twice)} ids stand for more than one sample:", twice, listed=20)
        return tuple(ids)

    @property
    def members(self) -> Sequence[Member]:
        """The samples."""
        return self.found.samples

    @property
    def own_splits(self) -> Splits | None:
        """The data set's own splits; if they lack a validation split, it is drawn from the training split."""
        data, seed, kind = self.config.data, self.config.train.seed, self.group_kind
        samples, sections = self.found.samples, self.found.sections
        if sections is None:
            return None
        train, validation, test = (tuple(sections.get(name, ())) for name in NAMES)
        if not validation and data.validation:
            mine = set(train)
            training = [sample for sample in samples if sample.id in mine]
            drawn = split_by_group(training, validation=data.validation, test=0, seed=seed, kind=kind)
            train, validation = drawn.train, drawn.validation
        splits = Splits(train, validation, test)
        check_splits(splits, samples, where="the data set's own splits", kind=kind)
        return splits

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples of ``splits``."""
        self.samples = {sample.id: sample for sample in members_of(splits, self.found.samples)}
        self.splits = splits
        say(f"{len(self.found.samples)} samples found, {len(self.samples)} in use")

    def contents(self) -> dict[str, dict[str, str]]:
        """A digest of each sample: of its arrays or files, and its target."""
        if self._contents.keys() != self.samples.keys():
            self._contents = {id: {"prepared": self.digest(sample)} for id, sample in sorted(self.samples.items())}
        return self._contents

    def group_of(self, case: str) -> str:
        """The sample's group, which no split may divide."""
        return self.samples[case].group

    def digest(self, sample: Sample) -> str:
        """Digest of the target and of the sources of all used modalities; of a folder, names and sizes."""
        digest = hashlib.blake2b(repr(sample.target).encode(), digest_size=12)
        for modality in self.modalities:
            digest.update(modality.encode())
            _update(digest, sample.inputs[modality])
        return digest.hexdigest()

    def batches(self, first_step: int, pin_memory: bool) -> Iterable[Batch]:
        """Training samples in random order, each of them once before any is repeated."""
        train = self.config.train
        samples = [self.samples[id] for id in self.splits.train]
        dataset = _TrainingSamples(self, samples, train.batch_size * train.steps_per_epoch, train.seed)
        return _in_plain_words(
            DataLoader(  # the data set yields samples, collated into batches
                dataset,
                batch_sampler=self.step_sampler(first_step),
                collate_fn=self.collate,
                num_workers=self.config.data.workers,
                worker_init_fn=leave_signals_to_parent,
                pin_memory=pin_memory,
            )
        )

    def collate(self, loaded: Sequence[tuple[Sample, Inputs]]) -> Batch:
        """A batch of loaded samples; sequences are padded to the longest."""
        inputs = self.stack([one for _, one in loaded])
        return Batch(inputs, self.target_tensor([s.target for s, _ in loaded]), tuple(s.id for s, _ in loaded))

    def stack(self, loaded: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor | Padded]:
        """Inputs of samples that have the same modalities; sequences are padded to the longest."""
        inputs: dict[str, Tensor | Padded] = {}
        for modality in [m for m in self.modalities if m in loaded[0]]:
            values = [one[modality] for one in loaded]
            inputs[modality] = pad(values) if modality in self.sequences else torch.stack(values)
        return inputs

    def unlabelled_samples(self) -> UnlabelledSamples | None:
        """Those of ``read_unlabelled``, if the task overrides it."""
        if type(self).read_unlabelled is SampleTask.read_unlabelled:
            return None
        samples: dict[str, Sample] = {}

        def find(path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> dict[str, tuple[str, ...]]:
            for sample in self.read_unlabelled(path, modalities, say):
                if sample.id in samples:
                    raise DataError(f"{path}: id {sample.id} stands for more than one sample")
                samples[sample.id] = sample
            return {id: tuple(m for m in self.modalities if m in one.inputs) for id, one in samples.items()}

        def load(id: str) -> Inputs:
            seen = copy.copy(self)  # ``load`` reads the task's modalities
            seen.modalities = tuple(m for m in self.modalities if m in samples[id].inputs)
            return seen.load(samples[id], None)

        return UnlabelledSamples(find, load, self.stack, self.label_rows)

    def evaluation_batches(self, cases: Sequence[str]) -> Iterable[Batch]:
        """These samples in their order, without augmentation, on the CPU."""
        return _in_plain_words(
            DataLoader(
                _EvaluationSamples(self, [self.samples[id] for id in cases]),
                batch_size=self.config.train.batch_size,
                collate_fn=self.collate,
                num_workers=self.config.data.workers,
                worker_init_fn=leave_signals_to_parent,
            )
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
        """Findings of the fused prediction and of each head, for each sample; unless ``full``, its loss as well.

        Raises:
            NonFiniteLoss: if a prediction is NaN or infinite; names the sample.
        """
        for loaded in self.evaluation_batches(cases):
            batch = loaded.to(device)
            with autocast():
                features = model.encode(batch.inputs)
                logits = {FUSED: model.head(model.fuse(features)[0])}
                if heads is not None:
                    logits |= {m: output.logits for m, output in heads(features).items()}
            # Only while training: the loss may take the training samples to be known.
            criterion = self.criterion() if self.splits.train and not full else None
            for i, (id, findings) in enumerate(zip(batch.ids, self._findings(logits, batch), strict=True)):
                one = slice(i, i + 1)
                loss = None
                if criterion is not None:
                    loss = float(criterion(logits[FUSED][one].float().cpu(), batch.target[one].cpu()))
                yield CaseResult(id, findings, loss=loss)

    @torch.no_grad()
    def evaluate_subsets(
        self,
        model: MultimodalModel,
        subsets: Sequence[tuple[str, ...]],
        cases: Sequence[str],
        *,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> Iterator[CaseResult]:
        """Findings of the fused prediction from each subset, for each sample.

        Raises:
            NonFiniteLoss: if a prediction is NaN or infinite; names the sample.
        """
        for loaded in self.evaluation_batches(cases):
            batch = loaded.to(device)
            with autocast():
                features = model.encode(batch.inputs)
                logits = {"+".join(s): model.head(model.fuse({m: features[m] for m in s})[0]) for s in subsets}
            for id, findings in zip(batch.ids, self._findings(logits, batch), strict=True):
                yield CaseResult(id, {name: {FUSED: finding} for name, finding in findings.items()})

    def modality_scores(self, scores: Scores) -> dict[str, float | None]:
        """The metric ``chosen_by`` of each head."""
        rows = {row["predicted_by"]: row for row in scores.summary}
        return {modality: row[self.chosen_by] for modality, row in rows.items() if modality != FUSED}

    def _findings(self, logits: Mapping[str, Tensor], batch: Batch) -> Iterator[dict[str, Any]]:
        """The findings of each sample of a batch, by predictor."""
        logits = {name: values.float().cpu() for name, values in logits.items()}
        require_finite_logits(logits, batch.ids)
        target = batch.target.cpu()
        for i in range(len(batch.ids)):
            yield {name: self.finding(values[i], target[i]) for name, values in logits.items()}


def pad(values: Sequence[Tensor]) -> Padded:
    """Sequences ``(time, channel)`` as one tensor, with zeros after each end.

    Example:
        >>> pad([torch.ones(1, 2), torch.ones(3, 2)]).valid.tolist()
        [[True, False, False], [True, True, True]]
    """
    lengths = torch.tensor([len(x) for x in values])
    padded = pad_sequence(list(values), batch_first=True)
    return Padded(padded, torch.arange(padded.shape[1])[None] < lengths[:, None])


class _TrainingSamples(Dataset[tuple[Sample, Inputs]]):
    """Samples by (epoch, position): the same pair gives the same sample and augmentation in any process."""

    def __init__(self, task: SampleTask, samples: Sequence[Sample], epoch_size: int, seed: int) -> None:
        self.task, self.samples, self.epoch_size, self.seed = task, samples, epoch_size, seed

    def __getitem__(self, index: tuple[int, int]) -> tuple[Sample, Inputs]:
        epoch, position = index
        sample = self.samples[visited(self.seed, epoch * self.epoch_size + position, len(self.samples))]
        random = torch.Generator().manual_seed(random_seed(self.seed, Stream.AUGMENTATION, epoch, position))
        return sample, self.task.load(sample, random)


class _EvaluationSamples(Dataset[tuple[Sample, Inputs]]):
    """Samples in their order, without augmentation."""

    def __init__(self, task: SampleTask, samples: Sequence[Sample]) -> None:
        self.task, self.samples = task, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Sample, Inputs]:
        return self.samples[index], self.task.load(self.samples[index], None)


def _in_plain_words(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, with errors about the data that read the same whichever process loads them."""
    try:
        yield from batches
    except DataError as error:
        # torch passes a worker's error on with the traceback as its text and the message at the end.
        _, raised_by_worker, text = str(error).rpartition(f"{DataError.__module__}.{DataError.__qualname__}: ")
        if not raised_by_worker:
            raise
        raise DataError(text.rstrip()) from error


def require_finite_logits(logits: Mapping[str, Tensor], ids: Sequence[str]) -> None:
    """Refuse predictions that are not finite.

    Args:
        logits: ``(batch, ...)``, by predictor.
        ids: of the samples.

    Raises:
        NonFiniteLoss: if a prediction is NaN or infinite; names the first such sample.
    """
    for name, values in logits.items():
        finite = torch.isfinite(values).flatten(1).all(dim=1)
        if not finite.all():
            first = ids[int(finite.int().argmin())]
            raise NonFiniteLoss(
                f"the {name} prediction of {int((~finite).sum())} samples is NaN or infinite, the first {first}; "
                "look at these samples, or train with a lower optim.lr or train.precision=float32"
            )


def _update(digest: Any, source: Any) -> None:
    if isinstance(source, Path) and source.is_dir():
        for inside in sorted(source.iterdir()):
            digest.update(f"{inside.name} {inside.stat().st_size}".encode())
    elif isinstance(source, Path):
        for piece in pieces(source):
            digest.update(piece)
    elif isinstance(source, (np.ndarray, Tensor)):
        array = np.ascontiguousarray(source)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    else:
        digest.update(repr(source).encode())


def with_channels_of(config: RunConfig, modalities: Sequence[str]) -> Any:
    """The network's settings with the ``channels`` of these of the run's modalities, see ``Task.model_settings``."""
    of = dict(zip(config.task.modalities, config.model.channels, strict=True))
    return replace(config.model, channels=tuple(of[m] for m in modalities))


def presets(paper: Tree, tiny: Tree) -> dict[str, Tree]:
    """The presets of a sample task: ``paper``, and ``tiny``, which is ``paper`` with some settings replaced."""
    merged = {section: dict(values) for section, values in paper.items()}
    for section, values in tiny.items():
        merged[section] = {**merged.get(section, {}), **values}
    return {"tiny": merged, "paper": paper}
