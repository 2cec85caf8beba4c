"""newclassification: which class a sample belongs to, from a sound and an image.

CHANGE: say what is predicted from what, whose data they are, under which licence, and what to cite.

Layout: a folder with ``labels.csv``, whose columns are ``id``, ``label`` and ``group``, and for each modality a folder
with one array a sample: ``sound/{id}.npy``, ``image/{id}.npy``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from cggm_med import (
    ClassificationTask,
    ConfigError,
    ConvEncoder,
    DataError,
    LateFusionModel,
    MultimodalModel,
    Sample,
    SampleList,
    UnimodalHeads,
    read_npy,
    vector_heads,
)
from torch import Tensor, nn

# CHANGE: the modalities, and the shape of a sample's array of each.
MODALITIES = ("sound", "image")
SHAPES = {
    "sound": (24,),  # features
    "image": (1, 8, 8),  # channel, height, width
}
COLUMNS = ("id", "label", "group")
LAYOUT = "labels.csv with the columns id, label, group, and an array MODALITY/ID.npy of each modality of each sample"
MAX_LISTED = 20


@dataclass(frozen=True)
class NewclassificationModelConfig:
    """Settings of the network: ``--set model.width=64``.

    Attributes:
        width: length of each modality's feature vector.
    """

    width: int = 32

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"model.width is {self.width}, expected at least 1")


class NewclassificationTask(ClassificationTask):
    """The base class splits by group, makes batches, trains, scores and reports."""

    ModelConfig = NewclassificationModelConfig
    # CHANGE: the line of 'cggm-med tasks', the scores, and what the column "group" holds, for messages.
    description = "one of several classes from sound and image"
    known_modalities = MODALITIES
    metrics = ("accuracy", "weighted F1")  # also known: "UAR", "mAP"
    group_kind = "person"
    # Raise it whenever ``generate`` changes, or the old data are used again.
    generated_version = 1
    presets: ClassVar[dict[str, Any]] = {
        "tiny": {
            "optim": {"lr": 3e-3},
            "train": {"batch_size": 16, "epochs": 10, "steps_per_epoch": 0, "validate_every": 1},
        },
        # CHANGE: what suits your data. With 0 steps an epoch is one pass through the training samples.
        "base": {"train": {"batch_size": 32, "epochs": 30, "steps_per_epoch": 0, "validate_every": 1}},
    }

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """CHANGE: list the samples of your data; arrays are loaded later, when they are needed."""
        rows = _rows(path / "labels.csv")
        # Classes are numbered by name; when a finished run is evaluated on other data, as in that run.
        self.settle_classes(sorted({row["label"] for row in rows}), path)
        samples = []
        for row in rows:
            files = {m: path / m / f"{row['id']}.npy" for m in self.modalities}
            samples.append(Sample(row["id"], row["group"], self.targets.index(row["label"]), files))
        missing = [str(file) for sample in samples for file in sample.inputs.values() if not file.is_file()]
        if missing:
            raise DataError(f"{path}: {len(missing)} files are missing; expected {LAYOUT}:", missing[:MAX_LISTED])
        return SampleList(tuple(samples))  # with the ids of train, validation and test, if your data declare them

    def load(self, sample: Sample, random: torch.Generator | None) -> dict[str, Tensor]:
        """CHANGE: what the network sees. ``random`` is there in training only: draw augmentation from it."""
        inputs = {}
        for modality in self.modalities:
            file, shape = sample.inputs[modality], SHAPES[modality]
            array = read_npy(file)
            if array.shape != shape or array.dtype.kind not in "fiub":
                raise DataError(f"{file} holds {array.dtype} of shape {array.shape}, expected numbers of shape {shape}")
            if not np.isfinite(array).all():
                raise DataError(f"{file} holds values that are not finite; fix the file")
            inputs[modality] = torch.from_numpy(array.astype(np.float32))
        return inputs

    def model(self) -> MultimodalModel:
        """CHANGE: an encoder for each modality, which makes a vector of its input."""
        width = self.config.model.width
        image = ConvEncoder(channels=SHAPES["image"][0], widths=(8, 16), grid=(2, 2))
        encoders = {
            "sound": nn.Sequential(nn.Linear(SHAPES["sound"][0], width), nn.ReLU(), nn.Linear(width, width)),
            "image": nn.Sequential(image, nn.Linear(image.width, width)),
        }
        # Any subset may be asked for: --set 'task.modalities=[NAME]'
        return LateFusionModel(
            {m: encoders[m] for m in self.modalities}, dict.fromkeys(self.modalities, width), len(self.targets)
        )

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """A linear head on each vector: what each modality can tell alone, by which strategies balance."""
        return vector_heads(model, len(self.targets))

    def generate(self, folder: Path) -> None:
        """CHANGE: made-up samples in the layout of your data; here the sound tells more than the image."""
        random = np.random.Generator(np.random.Philox(0))
        classes = ("autumn", "spring", "summer", "winter")
        typical = {m: random.normal(size=(len(classes), *shape)) for m, shape in SHAPES.items()}
        noise = {"sound": 3.0, "image": 5.0}
        table = []
        for number in range(480):
            id, label = f"sample{number:03d}", number % len(classes)
            table.append({"id": id, "label": classes[label], "group": f"person{number // 20:02d}"})
            for modality, shape in SHAPES.items():
                (folder / modality).mkdir(exist_ok=True)
                array = typical[modality][label] + noise[modality] * random.normal(size=shape)
                np.save(folder / modality / f"{id}.npy", array.astype(np.float32))
        with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table)


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of ``labels.csv``, none of whose cells is empty."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if absent := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise DataError(f"{table} has no column {', '.join(absent)}; expected {LAYOUT}")
            rows = []
            for row in reader:
                if empty := [column for column in COLUMNS if not row[column]]:
                    raise DataError(f"{table}, line {reader.line_num}: {', '.join(empty)} is empty, expected a value")
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {table}: {error}; expected {LAYOUT}") from error
    return rows
