"""IEMOCAP and MELD as conversations: the emotion of every utterance of a dialogue, from text, audio and vision.

Papers: Busso et al. 2008, https://doi.org/10.1007/s10579-008-9076-6 (IEMOCAP); Poria et al. 2019,
https://arxiv.org/abs/1810.02508 (MELD); cite them. Data: https://sail.usc.edu/iemocap, after signing a licence for
research; https://affective-meld.github.io, whose repository is under GPL-3.0, while the videos belong to their makers.
The feature files are those of MMGCN (Hu et al. 2021, ACL, 2021.acl-long.440) and COSMIC (Ghosal et al. 2020,
https://arxiv.org/abs/2010.02795).

Layout: a folder with ``iemocap_features_roberta.pkl`` and ``IEMOCAP_features.pkl``, or ``meld_features_roberta.pkl``
and ``MELD_features_raw1.pkl``; the fields of each are listed in ``dialogue_files``. Text are the four descriptions of
the RoBERTa file, and those of the other file where there is none; audio and vision come from the other file.

A sample is a dialogue, and scores count utterances. Where the files name no validation split, it is held out from the
training dialogues, with which it may share speakers; the test dialogues have speakers of their own in IEMOCAP.

What differs from the release of DGS (github.com/G22-web/DGS), whose network and settings these are: a validation split
chooses the checkpoint, where there the best epoch on test is reported; embeddings are added once, where there they
accumulate; each epoch has its own order and dropout; the focal loss is that of Lin et al. 2017; each modality has a
classifier head, where there the first channels of its features stand for logits; the modality embedding is there for
IEMOCAP too, where only the command for MELD has ``--use_modal``.

The command for MELD also has ``--use_topic``. It does nothing: ``model_OGM_Shapley_MMPareto.py`` (commit f9732da) reads
it in lines 842 to 846 alone, for the graph types GCN3 and DeepGCN, and there both branches make the same empty list;
the command's graph type is ``hyper``. Hence there is no such setting here.
"""

from __future__ import annotations

import importlib.util
import pickle  # only to write generated data
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cggm_med.config import RunConfig, Tree, require
from cggm_med.data.splits import Splits
from cggm_med.errors import DataError, MissingExtra
from cggm_med.files import atomic_file, cache_folder
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.utterance_loss import UtteranceLoss
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.samples import Sample, SampleList, presets, with_channels_of
from cggm_med_tasks.affect.dialogue_files import (
    IEMOCAP_LAYOUT,
    MELD_LAYOUT,
    ROBERTA,
    DialogueLayout,
    read_dialogues,
    read_unlabelled_dialogues,
)
from cggm_med_tasks.affect.dialogue_network import DialogueModel, LinearEncoder, TextEncoder, UtteranceHead

MODALITIES = ("text", "audio", "vision")
# Of the six emotions among all utterances of IEMOCAP, in the order of the classes, as the release of DGS has them.
IEMOCAP_FREQUENCIES = (0.0867, 0.1444, 0.2279, 0.1606, 0.1277, 0.2527)
# Of generated data: dialogues in each split, how often an emotion lasts, how clearly each modality shows it.
TRAINING, VALIDATION, TEST = 40, 8, 16
LASTING = 0.4
EVIDENCE = {"text": 1.8, "audio": 1.5, "vision": 0.8}
# The release makes a schedule and never steps it, and clips nothing.
CONSTANT: Tree = {"warmup_fraction": 0.0, "final_lr_fraction": 1.0, "clip_norm": float("inf")}
TINY: Tree = {
    "model": {"width": 64, "dropout": 0.1},
    "optim": {"lr": 3e-3, "final_lr_fraction": 0.01, "clip_norm": 1.0},
    "train": {"batch_size": 8, "epochs": 20},
}


@dataclass(frozen=True)
class DialogueModelConfig:
    """The network of dialogues.

    Attributes:
        channels: numbers per utterance of each modality, in their order, without the speaker; default: the data's own.
        streams: descriptions of each text, one after the other in its channels; default: the data's own.
        width: channels of each modality's features; each of the two graphs has half of it.
        hypergraph_layers: convolutions of the hypergraph.
        graph_layers: convolutions of the graph.
        dropout: of the fused features.
    """

    channels: tuple[int, ...] | None = None
    streams: int | None = None
    width: int = 1024
    hypergraph_layers: int = 1
    graph_layers: int = 1
    dropout: float = 0.5

    def __post_init__(self) -> None:
        require(self.width >= 2 and self.width % 2 == 0, "model.width", self.width, "an even number, at least 2")
        require(self.hypergraph_layers >= 1, "model.hypergraph_layers", self.hypergraph_layers, "at least 1")
        require(self.graph_layers >= 0, "model.graph_layers", self.graph_layers, "at least 0")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "at least 0, below 1")


class DialogueTask(ClassificationTask):
    """Base of both tasks; a subclass says how its files lie on disk, and its loss.

    Attributes:
        layout: of the files.
        generated_channels: of audio and vision in generated data.
    """

    known_modalities = MODALITIES
    sequences = frozenset(MODALITIES)
    group_kind = "dialogue"
    layout: ClassVar[DialogueLayout]
    generated_channels: ClassVar[dict[str, int]]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        # Checked here, since the network is made only after the data have been read.
        if importlib.util.find_spec("torch_geometric") is None:
            raise MissingExtra(f"task '{config.task.name}'", "torch-geometric", "dialogue")

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        cache = cache_folder(self.config.data.cache)
        found = read_dialogues(path, self.layout, self.modalities, len(self.targets), cache=cache, say=say)
        self._streams = found.streams
        samples = []
        for id, dialogue in found.by_id.items():
            inputs = {m: np.concatenate([x, dialogue.speakers], axis=1) for m, x in dialogue.features.items()}
            samples.append(Sample(id, id, dialogue.labels, inputs))
        return SampleList(tuple(samples), found.sections)

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """The dialogues of the files that are there; without one of them its modalities are absent."""
        cache = cache_folder(self.config.data.cache)
        speakers, features, streams = read_unlabelled_dialogues(path, self.layout, modalities, cache=cache)
        config = self.config.model
        channels = dict(zip(self.modalities, config.channels, strict=True))
        for modality, of_dialogue in features.items():
            width = next((x.shape[1] for x in of_dialogue.values()), channels[modality])
            found, expected = (streams, config.streams) if modality == "text" else (1, 1)
            if (width, found) != (channels[modality], expected):
                raise DataError(
                    f"{path}: {modality} has {width} channels in {found} streams, the network was made for "
                    f"{channels[modality]} in {expected}; use features of one kind, as in training"
                )
        return [
            Sample(id, id, None, {m: np.concatenate([x[id], who], axis=1) for m, x in features.items()})
            for id, who in speakers.items()
        ]

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the dialogues, and settle the network's channels."""
        super().prepare(splits, say)
        inputs = next(iter(self.samples.values())).inputs  # the reader has found all others alike
        channels = tuple(inputs[m].shape[1] - self.layout.speakers for m in self.modalities)
        config = self.config.model
        for key, found in (("channels", channels), ("streams", self._streams)):
            made_for = getattr(config, key)
            if made_for is not None and made_for != found:
                raise DataError(
                    f"the features of {', '.join(self.modalities)} have {key} {found}, the network was made for "
                    f"{made_for}; use features of one kind, as in training"
                )
        self.settle(model=replace(config, channels=channels, streams=self._streams))

    def training_labels(self) -> NDArray[np.int64]:
        """Class numbers of all training utterances."""
        return np.array([label for id in self.splits.train for label in self._numbers(id)])

    def mean_length(self) -> float:
        """Mean number of utterances of a training dialogue."""
        return len(self.training_labels()) / len(self.splits.train)

    def model_settings(self, modalities: Sequence[str]) -> Any:
        """With the channels of these modalities."""
        return with_channels_of(self.config, modalities)

    def model(self) -> MultimodalModel:
        """Encoders of utterances, fused by a hypergraph and a graph."""
        config, speakers = self.config.model, self.layout.speakers
        encoders = {
            m: TextEncoder(channels, speakers, config.width, config.streams)
            if m == "text"
            else LinearEncoder(channels, speakers, config.width)
            for m, channels in zip(self.modalities, config.channels, strict=True)
        }
        layers = config.hypergraph_layers, config.graph_layers
        return DialogueModel(encoders, config.width, len(self.targets), *layers, config.dropout)

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """A linear layer on each utterance."""
        width = self.config.model.width
        return UnimodalHeads({m: UtteranceHead(width, len(self.targets)) for m in model.modalities})

    def generate(self, folder: Path) -> None:
        """Dialogues in which emotions last and speakers differ, and show most in text and least in vision."""
        random = np.random.Generator(np.random.Philox(0))
        names, dialogues = _conversations(random, self.layout, len(self.targets))
        fields: dict[str, Any] = {
            "ids": {id: list(range(len(labels))) for id, (labels, _) in dialogues.items()},
            "speakers": {id: speakers for id, (_, speakers) in dialogues.items()},
            "labels": {id: labels for id, (labels, _) in dialogues.items()},
            "sentiments": {id: [0] * len(labels) for id, (labels, _) in dialogues.items()},
            "sentences": {id: ["..."] * len(labels) for id, (labels, _) in dialogues.items()},
            "test": names[-TEST:],
            "valid": names[TRAINING:-TEST],
            "extra": [],
        }
        channels = dict.fromkeys(ROBERTA, 1024) | {"text": 100} | self.generated_channels
        evidence = {
            m: {id: _evidence(random, labels, m, len(self.targets)) for id, (labels, _) in dialogues.items()}
            for m in MODALITIES
        }
        for number, (field, size) in enumerate(channels.items()):
            directions = np.random.Generator(np.random.Philox(number + 1)).normal(size=(len(self.targets), size))
            of_modality = evidence["text" if field in ROBERTA else field]
            fields[field] = {id: list(_features(random, x @ directions)) for id, x in of_modality.items()}
        roberta, features = self.layout.roberta_fields, self.layout.features_fields
        _write(folder / self.layout.roberta_file, roberta, {**fields, "train": names[:TRAINING]})
        _write(folder / self.layout.features_file, features, {**fields, "train": names[:-TEST]})


@dataclass(frozen=True)
class IEMOCAPDialogueModelConfig(DialogueModelConfig):
    """Settings of the network, see the base class, and of its loss.

    Attributes:
        class_weights: weigh each emotion in the loss by 1 / its published frequency.
    """

    class_weights: bool = True


class IEMOCAPDialogue(DialogueTask):
    """Six emotions in conversations of two."""

    ModelConfig = IEMOCAPDialogueModelConfig
    description = "IEMOCAP: one of six emotions of each utterance of a dialogue from text, audio, vision"
    url = "https://doi.org/10.1007/s10579-008-9076-6"
    targets = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    layout = IEMOCAP_LAYOUT
    generated_channels: ClassVar[dict[str, int]] = {"audio": 1582, "vision": 342}
    presets: ClassVar[dict[str, Tree]] = presets(
        paper={
            "model": {"width": 1024, "dropout": 0.5, "class_weights": True},
            "optim": {"name": "adam", "lr": 1e-4, "weight_decay": 3e-6, **CONSTANT},
            "train": {"batch_size": 8, "epochs": 80, "steps_per_epoch": 0, "validate_every": 1},
        },
        tiny=TINY,
    )

    def criterion(self) -> nn.Module:
        """Cross-entropy of utterances, with class weights whose mean over the training utterances is 1."""
        if not self.config.model.class_weights:
            return UtteranceLoss(self.mean_length())
        weights = 1 / np.array(IEMOCAP_FREQUENCIES)
        weights /= weights[self.training_labels()].mean()
        return UtteranceLoss(self.mean_length(), weights.tolist())


@dataclass(frozen=True)
class MELDModelConfig(DialogueModelConfig):
    """Settings of the network, see the base class, and of its loss.

    Attributes:
        focal_gamma: of the focal loss; 0 for cross-entropy.
    """

    focal_gamma: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.focal_gamma == 0 or self.focal_gamma >= 1, "model.focal_gamma", self.focal_gamma, "0 or at least 1"
        )


class MELD(DialogueTask):
    """Seven emotions in conversations of several people, from a television series."""

    ModelConfig = MELDModelConfig
    description = "MELD: one of seven emotions of each utterance of a dialogue from text, audio, vision"
    url = "https://affective-meld.github.io"
    targets = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
    layout = MELD_LAYOUT
    generated_channels: ClassVar[dict[str, int]] = {"audio": 300, "vision": 342}
    presets: ClassVar[dict[str, Tree]] = presets(
        paper={
            "model": {"width": 1024, "dropout": 0.4, "focal_gamma": 2.5},
            "optim": {"name": "adam", "lr": 1e-5, "weight_decay": 3e-5, **CONSTANT},
            "train": {"batch_size": 8, "epochs": 50, "steps_per_epoch": 0, "validate_every": 1},
        },
        tiny=TINY,
    )

    def criterion(self) -> nn.Module:
        """Focal loss of utterances."""
        return UtteranceLoss(self.mean_length(), gamma=self.config.model.focal_gamma)


def _conversations(
    random: np.random.Generator, layout: DialogueLayout, classes: int
) -> tuple[list[Any], dict[Any, tuple[list[int], list[Any]]]]:
    """Names of the dialogues, in the order of the splits; of each, the emotions and who speaks, as the files say it.

    An emotion lasts into the next utterance, or a new one comes from the speaker's temper.
    """
    people = layout.speaker_names or np.eye(layout.speakers, dtype=int).tolist()
    names: list[Any] = list(range(TRAINING + VALIDATION + TEST))  # as in MELD
    if layout.speaker_names:
        names = [f"Ses{1 + i % 4:02d}F_impro{i // 4:02d}" for i in names[:-TEST]]
        names += [f"Ses05F_impro{i:02d}" for i in range(TEST)]
    tempers = random.dirichlet(np.ones(classes), size=len(people))
    dialogues = {}
    for name in names:
        present = random.choice(len(people), size=2, replace=False)
        labels: list[int] = []
        speakers = []
        for _ in range(int(random.integers(5, 13))):
            speaker = int(random.choice(present))
            lasts = labels and random.random() < LASTING
            labels.append(labels[-1] if lasts else int(random.choice(classes, p=tempers[speaker])))
            speakers.append(people[speaker])
        dialogues[name] = (labels, speakers)
    return names, dialogues


def _evidence(random: np.random.Generator, labels: Sequence[int], modality: str, classes: int) -> NDArray[np.float64]:
    """How much the modality speaks for each class in each utterance, ``(utterance, class)``."""
    return random.normal(size=(len(labels), classes)) + EVIDENCE[modality] * np.eye(classes)[labels]


def _features(random: np.random.Generator, values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The values and their noise, in the precision of the files."""
    return (values + 0.5 * random.normal(size=values.shape)).astype(np.float32)


def _write(path: Path, fields: Sequence[str], content: dict[str, Any]) -> None:
    with atomic_file(path) as file:
        pickle.dump(tuple(content[field] for field in fields), file, protocol=2)
