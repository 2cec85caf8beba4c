"""A small task on samples, of two sequences a sample, with which what such tasks share is tested."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from cggm_med.config import RunConfig, TrainConfig
from cggm_med.models.sequence import SequenceModelConfig, sequence_heads, sequence_model
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.task.base import TaskConfig
from cggm_med.task.classification import ClassificationTask, ClassificationTaskConfig
from cggm_med.task.regression import RegressionTask
from cggm_med.task.samples import Sample, SampleDataConfig, SampleList
from cggm_med.training.build import build

CLASSES = ("low", "middle", "high")
CPU = torch.device("cpu")
CHANNELS = {"text": 3, "audio": 2}


@dataclass(frozen=True)
class ToyTaskConfig(ClassificationTaskConfig):
    name: str = "toy"
    modalities: tuple[str, ...] = tuple(CHANNELS)


@dataclass(frozen=True)
class ToyValueConfig(TaskConfig):
    name: str = "toy_value"
    modalities: tuple[str, ...] = tuple(CHANNELS)


class Sequences:
    """Sequences of 1 to 6 steps that are read from a file with one row a sample."""

    known_modalities = tuple(CHANNELS)
    sequences = frozenset(CHANNELS)
    group_kind = "speaker"
    sections = None  # by name, as a data set declares them

    def generate(self, folder):
        folder.joinpath("count.txt").write_text("24")

    def read(self, path, say):
        count = int((path / "count.txt").read_text())
        samples = tuple(self.sample(number) for number in range(count))
        return SampleList(samples, self.sections)

    def sample(self, number):
        random = np.random.default_rng(number)
        inputs = {m: random.normal(size=(1 + (number * k) % 6, c)) for (m, c), k in zip(CHANNELS.items(), (1, 5))}  # noqa: B905
        return Sample(f"s{number}", f"speaker{number // 2}", self.target(number), inputs)

    def model(self):
        return sequence_model(self.config.model, self.modalities, self.outputs)

    def unimodal_heads(self, model):
        return sequence_heads(model, self.outputs, self.config.model)


class ToyTask(Sequences, ClassificationTask):
    TaskConfig = ToyTaskConfig
    metrics = ("accuracy", "weighted F1", "UAR", "mAP")
    targets = CLASSES
    outputs = len(CLASSES)

    def target(self, number):
        return number % len(CLASSES)


class ToyValueTask(Sequences, RegressionTask):
    TaskConfig = ToyValueConfig
    targets = ("value",)
    outputs = 1
    residual_scale = 1.0

    def target(self, number):
        return number / 10


def toy(kind=ToyTask, *, task=None, model=None, data=None, **train):
    """A task that has not looked for its data yet."""
    modalities = (task or {}).get("modalities", tuple(CHANNELS))
    channels = tuple(CHANNELS[m] for m in modalities if m in CHANNELS)
    small = SequenceModelConfig(channels, width=4, attention_heads=2, encoder_layers=1, fusion_layers=1, head_layers=1)
    settings = {"epochs": 2, "batch_size": 4, "steps_per_epoch": 3, "validate_every": 1, "log_every": 1} | train
    return kind(
        RunConfig(
            task=kind.TaskConfig(**(task or {})),
            data=SampleDataConfig(**(data or {})),
            model=replace(small, **(model or {})),
            strategy=CGGMConfig("cggm"),
            train=TrainConfig(**settings),
        )
    )


def found(task, folder, said=None):
    """The same task with its samples divided as it sees fit."""
    say = (said if said is not None else []).append
    task.settle(data=replace(task.config.data, cache=str(folder)))
    task.find(say)
    task.prepare(task.default_splits(), say)
    return task


def built(task):
    """A new network and its strategy."""
    strategy = CGGM(task.config.strategy)
    return build(task, strategy, task.config, CPU), strategy
