"""IEMOCAP: the emotion of an utterance, one of four, from text, audio and vision.

Paper: Busso et al. 2008, https://doi.org/10.1007/s10579-008-9076-6; cite it. Data: https://sail.usc.edu/iemocap, after
signing a licence for research; the features are those of MMIN (Zhao et al. 2021, ACL, 2021.acl-long.203).

Layout: a folder with ``A/comparE.h5`` (utterance -> (time, 130)), ``A/comparE_mean_std.h5`` (fold -> mean, std),
``V/denseface.h5`` ((time, 342)), ``L/bert_large.h5`` ((time, 1024)) and ``target/{1..10}/{trn,val,tst}_label.npy``
(one-hot (N, 4)) with ``{trn,val,tst}_int2name.npy`` (utterance names in the first column). ``data.fold`` chooses one of
the ten folds; audio is normalised with the statistics of that fold.

What differs from the release of CGGM (Guo et al., NeurIPS 2024): all ten folds can be chosen, where there only the
first; utterances of any length are read, where there those beyond 350 frames break; padding is masked; training data
are shuffled; the test split decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from cggm_med.config import Tree, require
from cggm_med.data.arrays import read_npy, require_finite, require_numbers
from cggm_med.data.splits import Splits
from cggm_med.errors import DataError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.sequence import (
    SequenceModelConfig,
    require_channels,
    sequence_heads,
    sequence_model,
    settle_channels,
)
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.samples import Sample, SampleDataConfig, SampleList, presets, with_channels_of
from cggm_med_tasks.affect.cggm_release import TINY, TRAINING

FILES = {"text": "L/bert_large.h5", "audio": "A/comparE.h5", "vision": "V/denseface.h5"}
STATISTICS = "A/comparE_mean_std.h5"
SECTIONS = {"trn": "train", "val": "validation", "tst": "test"}
CLASSES = ("angry", "happy", "sad", "neutral")
FOLDS = 10


@dataclass(frozen=True)
class IEMOCAPDataConfig(SampleDataConfig):
    """Settings of the data.

    Attributes:
        fold: which of the ten folds, from 1.
    """

    fold: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.fold <= FOLDS, "data.fold", self.fold, f"1 to {FOLDS}")


class IEMOCAP(ClassificationTask):
    """Emotion of an utterance: angry, happy (or excited), sad, neutral."""

    DataConfig = IEMOCAPDataConfig
    ModelConfig = SequenceModelConfig
    description = "IEMOCAP: one of four emotions of an utterance from text, audio, vision"
    url = "https://doi.org/10.1007/s10579-008-9076-6"
    known_modalities = tuple(FILES)
    targets = CLASSES
    metrics = ("accuracy", "weighted F1", "UAR")
    sequences = frozenset(FILES)
    group_kind = "utterance"
    generated_version = 2
    presets: ClassVar[dict[str, Tree]] = presets(
        paper={
            "model": {
                "encoder_layers": 4,
                "fusion_layers": 2,
                "head_layers": 2,
                "dropout_attention": 0.15,
                "dropout_relu": 0.15,
                "dropout_embedding": 0.2,
                "dropout_residual": 0.15,
                "dropout_output": 0.2,
            },
            **TRAINING,
        },
        tiny={**TINY, "train": {"batch_size": 16, "epochs": 8}},
    )

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        folder = path / "target" / str(self.config.data.fold)
        files = [path / FILES[m] for m in self.modalities]
        files += [folder / f"{part}_{kind}.npy" for part in SECTIONS for kind in ("label", "int2name")]
        files += [path / STATISTICS] if "audio" in self.modalities else []
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError(f"{path} lacks files; expected a folder with A, V, L and target. Missing are:", missing)
        labels: dict[str, int] = {}
        sections = {}
        for part, section in SECTIONS.items():
            named = _labels(folder, part)
            if again := next((name for name in named if name in labels), None):
                raise DataError(f"{folder / part}_int2name.npy: utterance {again} stands in another split too; fix it")
            sections[section] = list(named)
            labels |= named
        arrays = {m: _arrays(path / FILES[m], list(labels)) for m in self.modalities}
        self._normalise(arrays, path)
        samples = [Sample(id, id, label, {m: arrays[m][id] for m in self.modalities}) for id, label in labels.items()]
        return SampleList(tuple(samples), sections)

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """The utterances of the feature files that are there; those of audio need the statistics of the run's fold."""
        arrays = {m: _arrays(path / FILES[m], None) for m in modalities if (path / FILES[m]).is_file()}
        self._normalise(arrays, path)
        names = dict.fromkeys(name for of_modality in arrays.values() for name in of_modality)
        samples = [Sample(id, id, None, {m: arrays[m][id] for m in arrays if id in arrays[m]}) for id in names]
        require_channels(self.config.model, self.modalities, (sample.inputs for sample in samples))
        return samples

    def _normalise(self, arrays: dict[str, dict[str, NDArray[Any]]], path: Path) -> None:
        """Bring audio, if it is there, to mean 0 and deviation 1 of the fold's training."""
        if "audio" in arrays:
            channels = next((x.shape[1] for x in arrays["audio"].values()), 0)
            mean, spread = _statistics(path / STATISTICS, str(self.config.data.fold), channels)
            for name, x in arrays["audio"].items():
                # Statistics in double precision would double the memory of all audio.
                arrays["audio"][name] = ((x - mean) / spread).astype(np.float32)

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples, and settle the network's channels."""
        super().prepare(splits, say)
        inputs = (sample.inputs for sample in self.samples.values())
        self.settle(model=settle_channels(self.config.model, self.modalities, inputs))

    @property
    def own_folds(self) -> tuple[str, ...]:
        """All ten."""
        return tuple(f"data.fold={fold}" for fold in range(1, FOLDS + 1))

    def model_settings(self, modalities: Sequence[str]) -> Any:
        """With the channels of these modalities."""
        return with_channels_of(self.config, modalities)

    def model(self) -> MultimodalModel:
        """Transformers over time."""
        return sequence_model(self.config.model, self.modalities, len(CLASSES))

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """Transformer heads."""
        return sequence_heads(model, len(CLASSES), self.config.model)

    def generate(self, folder: Path) -> None:
        """Utterances whose emotion shows most in text and least in vision; ten folds that rotate them."""
        random = np.random.Generator(np.random.Philox(0))
        names = [f"Ses{1 + i % 5:02d}F_impro{i // 5:03d}_F000" for i in range(320)]
        labels = random.integers(len(CLASSES), size=len(names))
        # Longest sequence, channels, and how far what an utterance shows is from its emotion.
        sizes = {"text": (8, 1024, 0.6), "audio": (30, 130, 0.8), "vision": (12, 342, 1.1)}
        audio: list[NDArray[np.float64]] = []
        for number, (modality, (longest, channels, doubt)) in enumerate(sizes.items()):
            directions = np.random.Generator(np.random.Philox(number)).normal(size=(len(CLASSES), channels))
            shown = np.eye(len(CLASSES))[labels] + random.normal(size=(len(names), len(CLASSES))) * doubt
            file = folder / FILES[modality]
            file.parent.mkdir(parents=True)
            with h5py.File(file, "w") as store:
                for name, emotions in zip(names, shown, strict=True):
                    time = int(random.integers(3, longest + 1))
                    values = random.normal(size=(time, channels)) + emotions @ directions
                    store[name] = values.astype(np.float32)
                    if modality == "audio":
                        audio.append(values)
        for fold in range(1, FOLDS + 1):
            order = np.roll(np.arange(len(names)), 32 * fold)
            frames = np.concatenate([audio[row] for row in order[96:]])  # of the fold's training
            with h5py.File(folder / STATISTICS, "a") as store:
                store[f"{fold}/mean"], store[f"{fold}/std"] = frames.mean(0), frames.std(0)
            target = folder / "target" / str(fold)
            target.mkdir(parents=True)
            for part, rows in (("tst", order[:64]), ("val", order[64:96]), ("trn", order[96:])):
                np.save(target / f"{part}_label.npy", np.eye(len(CLASSES), dtype=np.float32)[labels[rows]])
                np.save(target / f"{part}_int2name.npy", np.array([[names[row].encode()] for row in rows]))


def _labels(folder: Path, part: str) -> dict[str, int]:
    """Class number of each utterance of a split."""
    file, names_file = folder / f"{part}_label.npy", folder / f"{part}_int2name.npy"
    labels = require_numbers(read_npy(file), ("utterance", "class"), str(file))
    names = read_npy(names_file)
    if names.ndim not in (1, 2) or (len(names) and (names.size == 0 or names.dtype.kind not in "SU")):
        raise DataError(f"{names_file} holds {names.dtype.name} of shape {names.shape}, expected utterance names")
    if len(names) != len(labels):
        raise DataError(f"{names_file} has {len(names)} rows, {file.name} has {len(labels)}; they belong together")
    if labels.shape[1] != len(CLASSES):
        raise DataError(f"{file} has shape {labels.shape}, expected a column for each of {', '.join(CLASSES)}")
    one_hot = ((labels == 0) | (labels == 1)).all(axis=1) & (labels.sum(axis=1) == 1)
    if not one_hot.all():
        row = int(np.argmin(one_hot))
        raise DataError(f"{file} has {labels[row].tolist()} in row {row}, expected one-hot over {', '.join(CLASSES)}")
    first = [_text(row if names.ndim == 1 else row[0]) for row in names]
    numbers: dict[str, int] = {}
    for row, (name, number) in enumerate(zip(first, labels.argmax(axis=1), strict=True)):
        if not name or name in numbers:
            raise DataError(f"{names_file} has '{name}' in row {row}, expected a name that no row above has")
        numbers[name] = int(number)
    return numbers


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _arrays(file: Path, names: list[str] | None) -> dict[str, NDArray[Any]]:
    """The features of these utterances, or of all, ``(time, channel)``."""
    problems: list[str] = []
    arrays: dict[str, NDArray[Any]] = {}
    with _opened(file) as store:
        for name in store if names is None else names:
            if not isinstance(store.get(name), h5py.Dataset):
                problems.append(name)
                continue
            where = f"{file}: {name}"
            array = require_numbers(store[name][()], ("time", "channel"), where)
            if 0 in array.shape:
                raise DataError(f"{where} has shape {array.shape}, expected at least one frame and channel")
            first, other = next(iter(arrays.items()), (name, array))
            if array.shape[1] != other.shape[1]:
                raise DataError(f"{where} has {array.shape[1]} channels, {first} {other.shape[1]}; fix the file")
            require_finite(array, where)
            arrays[name] = array
    if problems and names is None:
        raise DataError(f"{file} holds what is no array of an utterance, (time, channel):", problems, listed=20)
    if problems:
        raise DataError(
            f"{file} lacks {len(problems)} utterances of target/; use files of one source:", problems, listed=20
        )
    return arrays


def _statistics(file: Path, fold: str, channels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of each audio channel; a constant channel is only centred."""
    statistics = {}
    with _opened(file) as store:
        for kind in ("mean", "std"):
            where = f"{file}: {fold}/{kind}"
            if not isinstance(store.get(f"{fold}/{kind}"), h5py.Dataset):
                raise DataError(f"{where} is missing; expected fold -> mean, std")
            statistics[kind] = np.atleast_1d(np.squeeze(store[f"{fold}/{kind}"][()]))
            require_numbers(statistics[kind], ("channel",), where)
            if len(statistics[kind]) != channels:
                raise DataError(
                    f"{where} has {len(statistics[kind])} channels, {FILES['audio']} has {channels}; fix the file"
                )
            require_finite(statistics[kind], where)
    if (wrong := statistics["std"] < 0).any():
        raise DataError(f"{file}: {fold}/std is negative in channel {int(np.argmax(wrong))}; fix the file")
    return statistics["mean"], np.where(statistics["std"] == 0, 1, statistics["std"])


@contextmanager
def _opened(file: Path) -> Iterator[h5py.File]:
    """Open the file for reading; errors of HDF5 about damage become one line."""
    try:
        with h5py.File(file, "r") as store:
            yield store
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing; copy it there") from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file} is damaged or no HDF5 file: {' '.join(str(error).split())}; copy it anew") from error
