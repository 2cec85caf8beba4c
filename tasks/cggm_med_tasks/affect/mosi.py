"""CMU-MOSI and CMU-MOSEI: sentiment in [-3, 3] of a spoken sentence, from text, audio and vision.

Papers: Zadeh et al. 2016, https://arxiv.org/abs/1606.06259 (MOSI); Zadeh et al. 2018, ACL, P18-1208 (MOSEI); cite them.
Data: http://multicomp.cs.cmu.edu; features are given out for research, the videos belong to their makers.

Layout: one pickle, or a folder that holds just one, ``{"train" | "valid" | "test": {"text": (N, T, Dt), "audio":
(N, T, Da), "vision": (N, T, Dv), "labels": (N, 1, 1), "id"}}``, aligned or not. ``valid`` may be called ``dev``, and
``labels`` ``regression_labels``. An id is ``video$_$3``, ``video[3]``, ``video_3``, or columns that begin with one or
with the video's name. The pickle is never run, see ``cggm_med_tasks.readers.untrusted_pickle``.

What differs from the release of CGGM (Guo et al., NeurIPS 2024): padding, before or after the sentence, is cut off and
masked, where there it takes part in attention; training data are shuffled; the test split decides nothing; neutral
sentences are handled in both conventions of the literature. Infinite audio features become 0, where there only those
below 0 do.
"""

from __future__ import annotations

import pickle  # only to write generated data
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cggm_med.config import Tree
from cggm_med.data.arrays import require_finite, require_numbers, trim
from cggm_med.data.splits import Splits
from cggm_med.errors import DataError, first_of
from cggm_med.files import atomic_file, cache_folder
from cggm_med.metrics.classification_regression import (
    VALUE_METRICS,
    LabelMetric,
    Predicted,
    by_name,
    mean_absolute_difference,
)
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.sequence import (
    SequenceModelConfig,
    require_channels,
    sequence_heads,
    sequence_model,
    settle_channels,
)
from cggm_med.task.regression import RegressionTask
from cggm_med.task.samples import Sample, SampleList, presets, with_channels_of
from cggm_med_tasks.affect.cggm_release import TINY, TRAINING
from cggm_med_tasks.readers.untrusted_pickle import read_pickle

MODALITIES = ("text", "audio", "vision")
SECTIONS = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}
LAYOUT = "a pickle {train, valid, test} -> {text, audio, vision, labels, id}"
AXES = ("sentence", "time", "channel")
MAX_SENTIMENT = 3.0


def seven_classes(predicted: Predicted) -> float:
    """Share of sentences whose rounded values agree.

    Example:
        >>> seven_classes(Predicted(np.array([-3.0, 0.4]), np.array([-3.9, 0.6])))
        0.5
    """
    true, guess = (np.round(np.clip(x, -MAX_SENTIMENT, MAX_SENTIMENT)) for x in (predicted.true, predicted.predicted))
    return float(np.mean(true == guess))


def accuracy_not_negative(predicted: Predicted) -> float | None:
    """Of two classes, at least 0 and below: share of sentences that agree."""
    return _accuracy(*_not_negative(predicted))


def f1_not_negative(predicted: Predicted) -> float | None:
    """Weighted F1 of the same classes."""
    return _f1(*_not_negative(predicted))


def accuracy_positive(predicted: Predicted) -> float | None:
    """Of two classes, above 0 and not: share of the sentences whose true value is not 0 that agree.

    Example:
        >>> accuracy_positive(Predicted(np.array([0.0, 1.0, -1.0]), np.array([2.0, 2.0, 2.0])))
        0.5
    """
    return _accuracy(*_positive(predicted))


def f1_positive(predicted: Predicted) -> float | None:
    """Weighted F1 of the same classes."""
    return _f1(*_positive(predicted))


METRICS = {
    **VALUE_METRICS,
    **by_name(
        LabelMetric("MAE", mean_absolute_difference, "mean absolute error"),
        LabelMetric(
            "Acc-7",
            seven_classes,
            "share of sentences whose values, cut to [-3, 3] and rounded (halves to even), agree",
        ),
        LabelMetric("Acc-2 has0", accuracy_not_negative, "at least 0 or below, all sentences"),
        LabelMetric("F1 has0", f1_not_negative, "weighted F1 of these two classes"),
        LabelMetric("Acc-2 non0", accuracy_positive, "above 0 or not, sentences whose true value is not 0"),
        LabelMetric("F1 non0", f1_positive, "weighted F1 of these two classes"),
    ),
}


class MOSI(RegressionTask):
    """Sentiment of a spoken sentence."""

    ModelConfig = SequenceModelConfig
    description = "CMU-MOSI: sentiment of a spoken sentence from text, audio, vision"
    url = "https://arxiv.org/abs/1606.06259"
    known_modalities = MODALITIES
    targets = ("sentiment",)
    sequences = frozenset(MODALITIES)
    group_kind = "video"
    residual_scale = 1.0
    signed = True
    generated_version = 2
    metrics = METRICS
    presets: ClassVar[dict[str, Tree]] = presets(
        paper={
            "model": {
                "encoder_layers": 5,
                "fusion_layers": 3,
                "head_layers": 2,
                "dropout_attention": 0.15,
                "dropout_relu": 0.15,
                "dropout_embedding": 0.2,
                "dropout_residual": 0.1,
                "dropout_output": 0.1,
            },
            **TRAINING,
        },
        tiny={**TINY, "train": {"batch_size": 16, "epochs": 10}},
    )

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        file = _the_pickle(path)
        content = read_pickle(file, cache_folder(self.config.data.cache))
        keys = content.keys() if isinstance(content, dict) else set()
        if not {"train", "test"} <= keys or {"valid", "dev"} <= keys:
            raise DataError(f"{file} holds {_kind(content)}, expected {LAYOUT}")
        samples: dict[str, Sample] = {}
        sections: dict[str, list[str]] = {}
        infinite = 0
        for section in [section for section in SECTIONS if section in content]:
            read, count = self._section(content[section], f"{file}: {section}", section)
            if again := next((sample.id for sample in read if sample.id in samples), None):
                raise DataError(f"{file}: id {again} of {section} stands in another split too; get the file anew")
            samples |= {sample.id: sample for sample in read}
            sections[SECTIONS[section]] = [sample.id for sample in read]
            infinite += count
        if infinite:
            say(f"{infinite} infinite audio features were set to 0")
        return SampleList(tuple(samples.values()), sections)

    def _section(self, content: Any, where: str, section: str) -> tuple[list[Sample], int]:
        """The samples of one split, and how many audio features were infinite."""
        if not isinstance(content, dict):
            raise DataError(f"{where} holds {_kind(content)}, expected {LAYOUT}")
        key = "regression_labels" if "regression_labels" in content and "labels" not in content else "labels"
        missing = {*self.modalities, key} - set(content)
        if missing == {"text"} and "text_bert" in content:
            raise DataError(
                f"{where} has the numbers of tokens, text_bert, but no text; add what BERT makes of them as 'text', "
                "or set task.modalities=[audio,vision]"
            )
        if missing:
            raise DataError(f"{where} has no {', '.join(sorted(missing))}; expected {LAYOUT}")
        labels = _values(content[key], f"{where}: {key}")
        sequences, infinite = _sequences(content, self.modalities, where, len(labels), key)
        names = _names(content.get("id"), f"{where}: id", section, len(labels))
        samples = [
            Sample(id, video, float(labels[i]), {m: trim(rows[i]) for m, rows in sequences.items()})
            for i, (id, video) in enumerate(names)
        ]
        return samples, infinite

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """The sentences of a pickle of such arrays, or of all splits of one."""
        file = _the_pickle(path)
        content = read_pickle(file, cache_folder(self.config.data.cache))
        keys = content.keys() if isinstance(content, dict) else set()
        parts = {section: content[section] for section in SECTIONS if section in keys}
        samples: list[Sample] = []
        for section, part in (parts or {"sentence": content}).items():
            given = [m for m in modalities if isinstance(part, dict) and m in part]
            where = f"{file}: {section}" if parts else str(file)
            if not given:
                raise DataError(f"{where} holds {_kind(part)}, expected some of {', '.join(modalities)}; {LAYOUT}")
            first = require_numbers(part[given[0]], AXES, f"{where}: {given[0]}")
            sequences, infinite = _sequences(part, given, where, len(first), given[0])
            if infinite:
                say(f"{infinite} infinite audio features were set to 0")
            names = _names(part.get("id"), f"{where}: id", section, len(first))
            samples += [
                Sample(id, video, None, {m: trim(rows[i]) for m, rows in sequences.items()})
                for i, (id, video) in enumerate(names)
            ]
        require_channels(self.config.model, self.modalities, (sample.inputs for sample in samples))
        return samples

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples, and settle the network's channels."""
        super().prepare(splits, say)
        inputs = (sample.inputs for sample in self.samples.values())
        self.settle(model=settle_channels(self.config.model, self.modalities, inputs))

    def model_settings(self, modalities: Sequence[str]) -> Any:
        """With the channels of these modalities."""
        return with_channels_of(self.config, modalities)

    def model(self) -> MultimodalModel:
        """Transformers over time."""
        return sequence_model(self.config.model, self.modalities, 1)

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """Transformer heads."""
        return sequence_heads(model, 1, self.config.model)

    def generate(self, folder: Path) -> None:
        """Sentences whose sentiment shows most in text and least in vision."""
        random = np.random.Generator(np.random.Philox(0))
        content = {}
        start = 0
        for section, count in (("train", 192), ("valid", 48), ("test", 64)):
            content[section] = _sentences(random, start, count)
            start += count
        with atomic_file(folder / "mosi.pkl") as file:
            pickle.dump(content, file, protocol=4)


class MOSEI(MOSI):
    """The same question about ten times as many sentences, from files of the same layout."""

    description = "CMU-MOSEI: sentiment of a spoken sentence from text, audio, vision"
    url = "https://aclanthology.org/P18-1208"


def _sequences(
    content: Mapping[str, Any], modalities: Sequence[str], where: str, count: int, counted: str
) -> tuple[dict[str, list[NDArray[Any]]], int]:
    """The sentences of each modality, padding of BERT's tokens cut off, and how many audio features were infinite.

    There must be ``count`` of each, as there are of ``counted``.
    """
    arrays = {m: require_numbers(content[m], AXES, f"{where}: {m}") for m in modalities}
    infinite = 0
    for modality, array in arrays.items():
        if len(array) != count:
            raise DataError(f"{where}: {modality} has {len(array)} rows, {counted} {count}; fix the file")
        if 0 in array.shape[1:]:
            raise DataError(f"{where}: {modality} has shape {array.shape}, expected at least one step and channel")
        if modality == "audio":
            wrong = np.isinf(array)
            infinite = int(wrong.sum())
            np.copyto(array, 0, where=wrong)  # in place: what was read is ours alone, and may be gigabytes
        require_finite(array, f"{where}: {modality}")
    sequences = {m: list(array) for m, array in arrays.items()}
    if "text" in modalities and "text_bert" in content:
        sequences["text"] = _without_padding_tokens(arrays["text"], content["text_bert"], f"{where}: text_bert")
    return sequences, infinite


def _the_pickle(path: Path) -> Path:
    if path.is_file():
        return path
    found = (file for file in path.iterdir() if not file.name.startswith("."))  # as macOS puts beside each file
    files = sorted(file for file in found if file.suffix in (".pkl", ".pickle"))
    if len(files) != 1:
        if not files:
            raise DataError(f"{path} holds no pickle (.pkl or .pickle); expected {LAYOUT}")
        raise DataError(f"{path} holds several pickles, {first_of([file.name for file in files])}; name one of them")
    return files[0]


def _kind(content: Any) -> str:
    """The content of a file of another layout, in one line."""
    if not isinstance(content, dict):
        return type(content).__name__
    keys = sorted(map(repr, content))
    return f"keys {first_of(keys, 10)}"


def _values(content: Any, where: str) -> NDArray[Any]:
    """The label of each sentence, ``(sentence,)``."""
    try:
        labels = np.asarray(content)
    except ValueError:  # of lists of different lengths
        labels = np.empty((), object)
    if labels.ndim == 0 or labels.dtype.kind not in "fiu" or labels.size != len(labels):
        kind = f"{labels.dtype.name} of shape {labels.shape}" if labels.ndim else type(content).__name__
        raise DataError(f"{where} holds {kind}, expected one number per sentence")
    labels = labels.reshape(-1)
    require_finite(labels, where)
    if (wrong := np.abs(labels) > MAX_SENTIMENT).any():
        row = int(np.argmax(wrong))
        raise DataError(f"{where} holds {labels[row]:g} in row {row}, expected -3 to 3")
    return labels


def _without_padding_tokens(text: NDArray[Any], tokens: Any, where: str) -> list[NDArray[Any]]:
    """The text of each sentence up to the end that the mask of BERT's tokens tells.

    What BERT makes of padding is not zero. Text that begins with zeros is padded in front, so it comes from elsewhere;
    of that the mask says nothing.
    """
    tokens = require_numbers(tokens, ("sentence", "number, mask, segment", "time"), where)
    if tokens.shape != (len(text), 3, text.shape[1]) or not text[:, 0].any(axis=1).all():
        return list(text)
    lengths = (tokens[:, 1] == 1).sum(axis=1)
    return [rows[: max(1, length)] for rows, length in zip(text, lengths, strict=True)]


def _names(ids: Any, where: str, section: str, count: int) -> list[tuple[str, str]]:
    """Id and video of each sentence; numbers count rows and name no video, so they are as good as none."""
    if isinstance(ids, np.ndarray) and ids.ndim:
        ids = ids.tolist()
    if ids is not None and not isinstance(ids, (list, tuple)):
        raise DataError(f"{where} holds {type(ids).__name__}, expected a name for each sentence")
    if ids is not None and len(ids) != count:
        raise DataError(f"{where} has {len(ids)} rows, expected {count}; fix the file")
    rows = [[_text(part) for part in (row if isinstance(row, (list, tuple)) else [row])] for row in ids or ()]
    if all(len(row) == 1 and row[0].isdecimal() for row in rows):
        return [(f"{section}{row:05d}",) * 2 for row in range(count)]
    names, seen = [], Counter[str]()
    for number, row in enumerate(rows):
        if not row or not row[0]:
            raise DataError(f"{where} is empty in row {number}, expected a name")
        id = "_".join(row)
        seen[id] += 1
        # Files that name only the video name it once for each of its sentences.
        names.append((id if seen[id] == 1 else f"{id}#{seen[id]}", _video(row[0])))
    return names


def _text(part: Any) -> str:
    return part.decode("latin1") if isinstance(part, bytes) else str(part)


def _video(name: str) -> str:
    """The video that a sentence was cut from.

    Example:
        >>> {_video(name) for name in ("03bSnISJMiM", "03bSnISJMiM$_$11", "03bSnISJMiM[11]", "03bSnISJMiM_11")}
        {'03bSnISJMiM'}
    """
    return re.sub(r"(\$_\$|_)\d+$|\[\d+\]$", "", name)


def _not_negative(predicted: Predicted) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return predicted.true >= 0, predicted.predicted >= 0


def _positive(predicted: Predicted) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    spoken = predicted.true != 0
    return predicted.true[spoken] > 0, predicted.predicted[spoken] > 0


def _accuracy(true: NDArray[np.bool_], guess: NDArray[np.bool_]) -> float | None:
    return float(np.mean(true == guess)) if len(true) else None


def _f1(true: NDArray[np.bool_], guess: NDArray[np.bool_]) -> float | None:
    from sklearn.metrics import f1_score

    return float(f1_score(true, guess, average="weighted", zero_division=0)) if len(true) else None


def _sentences(random: np.random.Generator, start: int, count: int) -> dict[str, Any]:
    """Sentences of 5 to 20 steps, padded in front to 20, as the aligned copies of MOSI are."""
    time, sizes = 20, {"text": 300, "audio": 74, "vision": 35}
    doubt = {"text": 0.7, "audio": 1.2, "vision": 2.5}  # how far what a modality shows is from the label
    labels = random.uniform(-MAX_SENTIMENT, MAX_SENTIMENT, count)
    lengths = random.integers(5, time + 1, count)
    inside = np.arange(time)[None] >= time - lengths[:, None]
    arrays = {}
    for number, (modality, size) in enumerate(sizes.items()):
        direction = np.random.Generator(np.random.Philox(number)).normal(size=size)
        shown = labels + random.normal(size=count) * doubt[modality]
        values = random.normal(size=(count, time, size)) + shown[:, None, None] * direction / 3
        arrays[modality] = np.where(inside[..., None], values, 0).astype(np.float32)
    arrays["audio"][0, -1, 0] = -np.inf  # as silence has in the real files
    ids = np.array([f"video{(start + i) // 8:03d}$_${i % 8}" for i in range(count)])
    return {**arrays, "labels": labels.astype(np.float32).reshape(count, 1, 1), "id": ids}
