"""Read the pickles of emotion recognition in conversations: speakers, labels and features of each utterance.

A data set has two of them. One holds the features of all modalities; the other, of the COSMIC authors, four
descriptions of each text by RoBERTa. Both repeat labels, speakers and splits. The pickles are never run, see
``cggm_med_tasks.readers.untrusted_pickle``.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.arrays import require_finite, require_numbers
from cggm_med.data.cases import natural_key
from cggm_med.errors import DataError
from cggm_med_tasks.readers.untrusted_pickle import read_pickle

ROBERTA = ("roberta1", "roberta2", "roberta3", "roberta4")
FEATURES = ("ids", "speakers", "labels", "text", "audio", "vision", "sentences", "train", "test")


@dataclass(frozen=True)
class DialogueLayout:
    """The two pickles of a data set, each a tuple of fields.

    Attributes:
        roberta_file: name of the file with four descriptions of each text.
        roberta_fields: of its tuple, in their order.
        features_file: name of the file with text, audio and vision.
        features_fields: of its tuple, in their order.
        speakers: length of a speaker's one-hot vector.
        speaker_names: the speakers' names in the files; empty where they hold one-hot vectors.
    """

    roberta_file: str
    roberta_fields: tuple[str, ...]
    features_file: str
    features_fields: tuple[str, ...]
    speakers: int
    speaker_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"a folder with {self.roberta_file} (text) and {self.features_file} (audio, vision, and text without the "
            "former)"
        )


IEMOCAP_LAYOUT = DialogueLayout(
    roberta_file="iemocap_features_roberta.pkl",
    roberta_fields=("speakers", "labels", *ROBERTA, "sentences", "train", "test", "valid"),
    features_file="IEMOCAP_features.pkl",
    features_fields=FEATURES,
    speakers=2,
    speaker_names=("M", "F"),
)
MELD_LAYOUT = DialogueLayout(
    roberta_file="meld_features_roberta.pkl",
    roberta_fields=("speakers", "labels", "sentiments", *ROBERTA, "sentences", "train", "test", "valid"),
    features_file="MELD_features_raw1.pkl",
    features_fields=(*FEATURES, "extra"),
    speakers=9,
)


@dataclass(frozen=True)
class Dialogue:
    """A conversation.

    Attributes:
        labels: class number of each utterance.
        speakers: ``(utterance, speaker)``, one-hot.
        features: by modality, ``(utterance, channel)``.
    """

    labels: tuple[int, ...]
    speakers: NDArray[np.float32]
    features: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Dialogues:
    """A data set.

    Attributes:
        by_id: all dialogues of the splits.
        sections: ids of ``train``, ``test`` and, if the files name it, ``validation``, in natural order.
        streams: descriptions of each text, one after the other in its channels.
    """

    by_id: Mapping[str, Dialogue]
    sections: Mapping[str, Sequence[str]]
    streams: int


def read_dialogues(
    folder: Path,
    layout: DialogueLayout,
    modalities: Sequence[str],
    classes: int,
    *,
    cache: Path,
    say: Callable[[str], None],
) -> Dialogues:
    """Read and compare the files of a data set.

    Labels, speakers and splits are those of the RoBERTa file wherever there is one, also if its text is not asked for,
    so that every subset of the modalities is trained and tested on the same dialogues.

    Args:
        folder: holds the files.
        layout: of the data set.
        modalities: of ``text``, ``audio`` and ``vision``; files that only others need may be absent.
        classes: number of emotions.
        cache: for converted pickles.
        say: receives a line if the validation dialogues of the file cannot be used.

    Raises:
        DataError: if a file is missing or damaged, or they contradict one another; names file, dialogue and utterance.
    """
    files = _files(folder, layout, modalities, cache)
    first = files[0]
    sections = first.sections(say)
    ids = [id for section in sections.values() for id in section]
    labels = {id: first.labels(id, classes) for id in ids}
    speakers = {id: first.speakers(id, len(labels[id]), layout) for id in ids}
    for other in files[1:]:
        _require_same_splits(first, other)
        for id in ids:
            _require_same_labels(first, labels[id], other, other.labels(id, classes), id)
    features: dict[str, dict[str, NDArray[np.float32]]] = {}
    streams = 1
    for modality in modalities:
        if modality == "text" and first.has(ROBERTA[0]):
            streams = len(ROBERTA)
            parts = [first.features(field, labels) for field in ROBERTA]
            features[modality] = {id: np.concatenate([part[id] for part in parts], axis=1) for id in ids}
            _require_equal_streams(first, parts)
        else:
            features[modality] = files[-1].features(modality, labels)
    by_id = {id: Dialogue(labels[id], speakers[id], {m: features[m][id] for m in modalities}) for id in ids}
    return Dialogues(by_id, sections, streams)


def read_unlabelled_dialogues(
    folder: Path, layout: DialogueLayout, modalities: Sequence[str], *, cache: Path
) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, NDArray[np.float32]]], int]:
    """Every dialogue of the files that are there, without looking at labels and splits.

    Text is that of the RoBERTa file, where there is one.

    Args:
        folder: holds the files, in which the fields of labels and splits may be empty.
        layout: of the data set.
        modalities: to look for.
        cache: for converted pickles.

    Returns:
        Speakers by dialogue; features of each modality by dialogue; and the streams of the text, see ``Dialogues``.

    Raises:
        DataError: if no file is there or one is damaged; names file, dialogue and utterance.
    """
    fields = {layout.roberta_file: layout.roberta_fields, layout.features_file: layout.features_fields}
    files = {name: _File(folder / name, of, cache) for name, of in fields.items() if (folder / name).is_file()}
    if not files:
        raise DataError(f"{folder} holds neither {layout.roberta_file} nor {layout.features_file}; expected {layout}")
    roberta, other = (files.get(name) for name in fields)
    first = next(iter(files.values()))
    speakers = {id: first.speakers(id, None, layout) for id in first.dialogues()}
    features: dict[str, dict[str, NDArray[np.float32]]] = {}
    for modality in modalities:
        if modality == "text" and roberta is not None:
            parts = [roberta.features(field, speakers) for field in ROBERTA]
            _require_equal_streams(roberta, parts)
            features[modality] = {id: np.concatenate([part[id] for part in parts], axis=1) for id in speakers}
        elif other is not None and other.filled(modality):
            features[modality] = other.features(modality, speakers)
    return speakers, features, len(ROBERTA) if roberta is not None else 1


class _File:
    """One pickle; dialogues are known by the text of their ids, which are numbers in MELD."""

    def __init__(self, path: Path, fields: Sequence[str], cache: Path) -> None:
        self.path = path
        content = read_pickle(path, cache)
        if not isinstance(content, (tuple, list)) or len(content) != len(fields):
            found = f"{len(content)} fields" if isinstance(content, (tuple, list)) else type(content).__name__
            raise DataError(f"{path} holds {found}, expected a tuple of {len(fields)}: {', '.join(fields)}")
        self._fields: dict[str, Any] = {
            name: {str(id): rows for id, rows in field.items()} if isinstance(field, dict) else field
            for name, field in zip(fields, content, strict=True)
        }

    def has(self, field: str) -> bool:
        """Whether the file has a field of this name."""
        return field in self._fields

    def filled(self, field: str) -> bool:
        """Whether a field has anything of any dialogue."""
        return bool(self._fields.get(field))

    def dialogues(self) -> list[str]:
        """Ids of all dialogues, by who speaks in them."""
        speakers = self._fields["speakers"]
        return sorted(speakers, key=natural_key) if isinstance(speakers, dict) else []

    def listed(self, section: str) -> list[str]:
        """Ids of ``train``, ``test`` or ``valid``, ordered: a set's order changes from one process to the next."""
        ids = self._fields[section]
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if not isinstance(ids, (list, tuple, set, frozenset)):
            raise DataError(f"{self.path}: {section} is {type(ids).__name__}, expected a list of dialogue ids")
        return sorted(map(str, ids), key=natural_key)

    def sections(self, say: Callable[[str], None]) -> dict[str, list[str]]:
        """Ids of each split; validation only if none of its dialogues is trained or tested on."""
        sections = {"train": self.listed("train"), "test": self.listed("test")}
        validation = self.listed("valid") if self.has("valid") else []
        if shared := set(validation) & {*sections["train"], *sections["test"]}:
            say(
                f"{self.path.name}: {len(shared)} of {len(validation)} validation dialogues also stand in train or "
                "test; its validation split is not used"
            )
        elif validation:
            sections["validation"] = validation
        return sections

    def labels(self, id: str, classes: int) -> tuple[int, ...]:
        """Class number of each utterance."""
        labels = self._rows("labels", id)
        if not len(labels):
            raise DataError(f"{self.path}, dialogue {id} has no utterance")
        for i, label in enumerate(labels):
            if type(label) is not int or not 0 <= label < classes:
                where = f"{self.path}, dialogue {id}, utterance {i}"
                raise DataError(f"{where}: label {reprlib.repr(label)}, expected 0 to {classes - 1}")
        return tuple(labels)

    def speakers(self, id: str, utterances: int | None, layout: DialogueLayout) -> NDArray[np.float32]:
        """``(utterance, speaker)``, one-hot; of as many utterances as there must be, if that is known."""
        rows = self._rows("speakers", id, utterances)
        names = layout.speaker_names
        one_hot = np.zeros((len(rows), layout.speakers), dtype=np.float32)
        for i, row in enumerate(rows):
            row = row.tolist() if isinstance(row, np.ndarray) else row
            where = f"{self.path}, dialogue {id}, utterance {i}: speaker {reprlib.repr(row)}"
            if names and row not in names:
                raise DataError(f"{where}, expected {' or '.join(map(repr, names))}")
            if not names and not _is_one_hot(row, layout.speakers):
                raise DataError(f"{where}, expected a one-hot list of {layout.speakers}")
            one_hot[i, names.index(row) if names else row.index(1)] = 1
        return one_hot

    def features(self, field: str, labels: Mapping[str, Sized]) -> dict[str, NDArray[np.float32]]:
        """``(utterance, channel)`` of each dialogue of ``labels``, all with the same number of channels.

        Of ``labels`` only the number of utterances counts.
        """
        arrays: dict[str, NDArray[np.float32]] = {}
        width = first = None
        for id, own in labels.items():
            where = f"{self.path}, dialogue {id}"
            rows = self._rows(field, id, len(own))
            vectors = [_vector(row, f"{where}, utterance {i}: {field}") for i, row in enumerate(rows)]
            for i, vector in enumerate(vectors):
                if width is None:
                    width, first = len(vector), f"dialogue {id}"
                if len(vector) != width:
                    raise DataError(f"{where}, utterance {i}: {field} has {len(vector)} channels, {first} has {width}")
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
                arrays[id] = np.stack(vectors).astype(np.float32)
            require_finite(arrays[id], f"{where}: {field}")
        return arrays

    def _rows(self, field: str, id: str, utterances: int | None = None) -> Sequence[Any]:
        """A field's values, one for each utterance of a dialogue."""
        dialogues = self._fields[field]
        if not isinstance(dialogues, dict):
            raise DataError(f"{self.path}: {field} is {type(dialogues).__name__}, expected a dict {{dialogue: [...]}}")
        if id not in dialogues:
            raise DataError(f"{self.path}: {field} lacks dialogue {id}, which a split names; fix the file")
        rows = dialogues[id]
        if isinstance(rows, np.ndarray):
            rows = rows.tolist() if rows.ndim == 1 else list(rows) if rows.ndim else rows
        if not isinstance(rows, (list, tuple)):
            raise DataError(
                f"{self.path}, dialogue {id}: {field} is {type(rows).__name__}, expected a list of utterances"
            )
        if utterances is not None and len(rows) != utterances:
            raise DataError(
                f"{self.path}, dialogue {id}: {field} has {len(rows)} utterances, labels {utterances}; fix the file"
            )
        return rows


def _files(folder: Path, layout: DialogueLayout, modalities: Sequence[str], cache: Path) -> list[_File]:
    """The RoBERTa file, if there is one, and then the other, if it is needed."""
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected {layout}")
    roberta, features = folder / layout.roberta_file, folder / layout.features_file
    needing = [m for m in modalities if m != "text" or not roberta.is_file()]
    if needing and not features.is_file():
        found = ", ".join(path.name for path in (roberta,) if path.is_file()) or "neither file"
        raise DataError(f"{folder} holds {found}; {features.name} is missing ({', '.join(needing)}); expected {layout}")
    files = [_File(roberta, layout.roberta_fields, cache)] if roberta.is_file() else []
    return [*files, _File(features, layout.features_fields, cache)] if needing else files


def _require_same_splits(a: _File, b: _File) -> None:
    """Which training dialogues are for validation, the one file may say and the other not."""
    known = {
        file: {id for name in ("train", "test", "valid") if file.has(name) for id in file.listed(name)}
        for file in (a, b)
    }
    for one, other in ((a, b), (b, a)):
        if lacking := sorted(known[one] - known[other], key=natural_key):
            raise DataError(
                f"{other.path} lacks {len(lacking)} dialogues of {one.path.name}; use files of one source:",
                lacking,
                listed=20,
            )
    if moved := sorted(set(a.listed("test")) ^ set(b.listed("test")), key=natural_key):
        raise DataError(
            f"{len(moved)} dialogues stand in test of {a.path} or of {b.path.name} only; use files of one source:",
            moved,
            listed=20,
        )


def _require_same_labels(a: _File, of_a: Sequence[int], b: _File, of_b: Sequence[int], id: str) -> None:
    if len(of_a) != len(of_b):
        raise DataError(
            f"{b.path}, dialogue {id} has {len(of_b)} utterances, {a.path.name} has {len(of_a)}; use files of one "
            "source"
        )
    for i, (one, other) in enumerate(zip(of_a, of_b, strict=True)):
        if one != other:
            raise DataError(
                f"{b.path}, dialogue {id}, utterance {i}: label {other}, {a.path.name} has {one}; use files of one "
                "source"
            )


def _require_equal_streams(file: _File, parts: Sequence[Mapping[str, NDArray[np.float32]]]) -> None:
    widths = [next(iter(part.values())).shape[1] for part in parts if part]
    if len(set(widths)) > 1:
        raise DataError(f"{file.path}: {', '.join(ROBERTA)} have {widths} channels, expected as many in each")


def _vector(row: Any, where: str) -> NDArray[Any]:
    if not isinstance(row, np.ndarray):
        try:
            row = np.asarray(row)
        except ValueError as error:
            raise DataError(f"{where} is no list of numbers; fix the file") from error
    vector = require_numbers(row, ("channel",), where)
    if not len(vector):
        raise DataError(f"{where} is empty; fix the file")
    return vector


def _is_one_hot(row: Any, length: int) -> bool:
    plain = isinstance(row, (list, tuple)) and len(row) == length and all(x in (0, 1) for x in row)
    return plain and sum(row) == 1
