"""IEMOCAP: the emotion of an utterance, one of four, from text, audio and vision.

Paper: Busso et al. 2008, https://doi.org/10.1007/s10579-008-9076-6; cite it. Data: https://sail.usc.edu/iemocap, after
signing a licence for research; the features are those of MMIN (Zhao et al. 2021, ACL, 2021.acl-long.203).

Layout: a folder with ``A/comparE.h5`` (utterance -> (time, 130)), ``A/comparE_mean_std.h5`` (fold -> mean, std),
``V/denseface.h5`` ((time, 342)), ``L/bert_large.h5`` ((time, 1024)) and ``target/{1..10}/{trn,val,tst}_label.npy``
(one-hot (N, 4)) with ``{trn,val,tst}_int2name.npy`` (utterance names in the first column). ``data.fold`` chooses one of
the ten folds; audio is normalised with the statistics of that fold.

What differs from the release of CGGM (Guo et al., NeurIPS 2024): all ten folds can be chosen, where there only the
first; utterances of any length are read, where there those beyond 350 frames break; padding is masked; training data
are shuffled; the test split decides nothing; the learning rate falls with a cosine, where there it falls when the
validation loss stands still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from cggm_med.classification import ClassificationTask, ClassificationTaskConfig
from cggm_med.config import Tree, require
from cggm_med.data.arrays import read_npy, require_finite, require_numbers
from cggm_med.data.splits import Splits
from cggm_med.errors import DataError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.sequence import SequenceModelConfig, sequence_heads, sequence_model, settle_channels
from cggm_med.models.unimodal import UnimodalHeads
from cggm_med.samples import Sample, SampleDataConfig, SampleList, presets

FILES = {"text": "L/bert_large.h5", "audio": "A/comparE.h5", "vision": "V/denseface.h5"}
STATISTICS = "A/comparE_mean_std.h5"
SECTIONS = {"trn": "train", "val": "validation", "tst": "test"}
CLASSES = ("angry", "happy", "sad", "neutral")
FOLDS = 10
MOST_LISTED = 20


@dataclass(frozen=True)
class IEMOCAPTaskConfig(ClassificationTaskConfig):
    """Settings of the task, see the base class."""

    name: str = "iemocap"
    modalities: tuple[str, ...] = tuple(FILES)


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

    TaskConfig = IEMOCAPTaskConfig
    DataConfig = IEMOCAPDataConfig
    ModelConfig = SequenceModelConfig
    description = "IEMOCAP: one of four emotions of an utterance from text, audio, vision"
    url = "https://doi.org/10.1007/s10579-008-9076-6"
    known_modalities = tuple(FILES)
    targets = CLASSES
    measures = ("accuracy", "weighted F1", "UAR")
    sequences = frozenset(FILES)
    group_kind = "utterance"
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
            "optim": {"name": "adam", "lr": 1e-3, "weight_decay": 0.0, "warmup_fraction": 0.0, "clip_norm": 0.8},
            "train": {"batch_size": 64, "epochs": 30, "steps_per_epoch": 0, "validate_every": 1},
        },
        tiny={
            "model": {"encoder_layers": 1, "fusion_layers": 1, "head_layers": 1},
            "train": {"batch_size": 16, "epochs": 6},
        },
    )

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        folder = path / "target" / str(self.config.data.fold)
        files = [path / FILES[m] for m in self.modalities]
        files += [folder / f"{part}_{kind}.npy" for part in SECTIONS for kind in ("label", "int2name")]
        files += [path / STATISTICS] if "audio" in self.modalities else []
        if missing := [str(file) for file in files if not file.is_file()]:
            raise DataError("files are missing; expected the layout in the documentation of task 'iemocap':", missing)
        labels: dict[str, int] = {}
        sections = {}
        for part, section in SECTIONS.items():
            named = _labels(folder, part)
            sections[section] = list(named)
            labels |= named
        arrays = {m: _arrays(path / FILES[m], list(labels)) for m in self.modalities}
        if "audio" in self.modalities:
            mean, spread = _statistics(path / STATISTICS, str(self.config.data.fold))
            arrays["audio"] = {name: (x - mean) / spread for name, x in arrays["audio"].items()}
        samples = [Sample(id, id, label, {m: arrays[m][id] for m in self.modalities}) for id, label in labels.items()]
        return SampleList(tuple(samples), sections)

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples, and settle the network's channels."""
        super().prepare(splits, say)
        inputs = (sample.inputs for sample in self.samples.values())
        settled = settle_channels(self.config.model, self.modalities, inputs)
        self.config = replace(self.config, model=settled)

    def model(self) -> MultimodalModel:
        """Transformers over time."""
        return sequence_model(self.config.model, self.modalities, len(CLASSES))

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """Transformer heads."""
        return sequence_heads(model, len(CLASSES), self.config.model)

    def generate(self, folder: Path) -> None:
        """Utterances whose emotion shows most in text and least in vision; ten folds that rotate them."""
        random = np.random.Generator(np.random.Philox(0))
        names = [f"Ses{1 + i % 5:02d}F_impro{i // 5:03d}_F000" for i in range(160)]
        labels = random.integers(len(CLASSES), size=len(names))
        sizes = {"text": (8, 1024, 8.0), "audio": (40, 130, 8.0), "vision": (12, 342, 14.0)}
        audio: list[NDArray[np.float32]] = []
        for number, (modality, (longest, channels, noise)) in enumerate(sizes.items()):
            directions = np.random.Generator(np.random.Philox(number)).normal(size=(len(CLASSES), channels))
            file = folder / FILES[modality]
            file.parent.mkdir(parents=True)
            with h5py.File(file, "w") as store:
                for name, label in zip(names, labels, strict=True):
                    time = int(random.integers(3, longest + 1))
                    values = random.normal(size=(time, channels)) * noise + directions[label] / 2
                    store[name] = values.astype(np.float32)
                    if modality == "audio":
                        audio.append(values)
        frames = np.concatenate(audio)
        with h5py.File(folder / STATISTICS, "w") as store:
            for fold in range(1, FOLDS + 1):
                store[f"{fold}/mean"], store[f"{fold}/std"] = frames.mean(0), frames.std(0)
        for fold in range(1, FOLDS + 1):
            order = np.roll(np.arange(len(names)), 16 * fold)
            target = folder / "target" / str(fold)
            target.mkdir(parents=True)
            for part, rows in (("tst", order[:32]), ("val", order[32:48]), ("trn", order[48:])):
                np.save(target / f"{part}_label.npy", np.eye(len(CLASSES), dtype=np.float32)[labels[rows]])
                np.save(target / f"{part}_int2name.npy", np.array([[names[row].encode()] for row in rows]))


def _labels(folder: Path, part: str) -> dict[str, int]:
    """Class number of each utterance of a split."""
    file, names_file = folder / f"{part}_label.npy", folder / f"{part}_int2name.npy"
    labels = require_numbers(read_npy(file), ("utterance", "class"), str(file))
    names = read_npy(names_file)
    if len(names) != len(labels):
        raise DataError(f"{names_file} has {len(names)} rows, {file.name} has {len(labels)}; they belong together")
    one_hot = labels.shape[1] == len(CLASSES) and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()
    if not one_hot:
        wrong = np.flatnonzero(labels.sum(1) != 1)
        row = f", such as row {wrong[0]}" if len(wrong) else ""
        raise DataError(f"{file} is not one-hot over {', '.join(CLASSES)}{row}; shape {labels.shape}")
    first = names.reshape(len(names), -1)[:, 0]
    return {_text(name): int(label) for name, label in zip(first, labels.argmax(1), strict=True)}


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def _arrays(file: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The features of each utterance, ``(time, channel)``."""
    problems, arrays = [], {}
    try:
        with h5py.File(file, "r") as store:
            for name in names:
                if not isinstance(store.get(name), h5py.Dataset):
                    problems.append(name)
                    continue
                where = f"{file}: {name}"
                array = require_numbers(store[name][()], ("time", "channel"), where)
                if not len(array):
                    raise DataError(f"{where} has no frame")
                require_finite(array, where)
                arrays[name] = array
    except OSError as error:
        raise DataError(f"{file} is damaged or no HDF5 file: {' '.join(str(error).split())}; copy it anew") from error
    if problems:
        raise DataError(f"{file} lacks {len(problems)} utterances of target/:", problems[:MOST_LISTED])
    return arrays


def _statistics(file: Path, fold: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and standard deviation of each audio channel; a constant channel is only centred."""
    try:
        with h5py.File(file, "r") as store:
            mean, spread = store[f"{fold}/mean"][()], store[f"{fold}/std"][()]
    except (OSError, KeyError) as error:
        raise DataError(f"{file} has no mean and std of fold {fold}: {' '.join(str(error).split())}") from error
    return mean, np.where(spread == 0, 1, spread)
