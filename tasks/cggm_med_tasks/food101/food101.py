"""UPMC Food-101: one of 101 dishes, from a photograph and the title of the web page that it was found on.

Paper: Wang et al. 2015, ICME workshops, "Recipe recognition with large multimodal food dataset",
https://doi.org/10.1109/ICMEW.2015.7169757; cite it. Data: https://visiir.isir.upmc.fr; images and texts were gathered
on the web and belong to their makers, for the terms of use see that page.

Layout: a folder as in the release of CGGM, ``train.json``, ``test.json`` and perhaps ``dev.json``, each a list of
``{"id", "label", "text_tokens": [words], "img_path"}`` with paths relative to the folder; or the original one,
``images/{train,test}/{label}/{image}.jpg`` with ``texts/train_titles.csv`` and ``texts/test_titles.csv``, whose
columns are image, text, label, with or without a header.

The network sees the features of a frozen BERT and a frozen ViT, ``model.text`` and ``model.image``: folders or
names on the Hugging Face hub. The defaults are those that the release's README names: 768 numbers for each of up to 50
word pieces and 197 patches. Features are computed once and kept
in half precision, 0.4 MB a sample.

What differs from the release of CGGM (Guo et al., NeurIPS 2024): validation is held out from training, where there it
is the test split; images are normalised as the ViT was trained, where there not at all; since features are kept,
images are not augmented, where there they are flipped, recoloured and blurred; padding is masked; text has a
projection of its own, where there it passes through that of images; training data are shuffled in every epoch.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cggm_med import distributed
from cggm_med.config import Tree, require
from cggm_med.data.layouts import read_json
from cggm_med.data.splits import Splits
from cggm_med.errors import ConfigError, DataError, first_of, kind_of
from cggm_med.files import cache_folder, caching, digest_of, write_json, write_text
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.sequence import SequenceModelConfig, sequence_heads, sequence_model, settle_channels
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.samples import Inputs, Sample, SampleList, presets, with_channels_of
from cggm_med_tasks.food101.feature_store import FeatureStore
from cggm_med_tasks.food101.frozen_networks import (
    FrozenImage,
    FrozenNetwork,
    FrozenText,
    compute_features,
    network_folder,
    transformers_library,
)
from cggm_med_tasks.readers.images import look_at_image
from cggm_med_tasks.readers.media import Look, unreadable

MODALITIES = ("text", "image")
LISTS = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
TITLES = {"train": "texts/train_titles.csv", "test": "texts/test_titles.csv"}
LAYOUTS = (
    'JSON lists: train.json, test.json, perhaps dev.json, of {"id", "label", "text_tokens": [words], "img_path"}',
    "original: images/{train,test}/{label}/{image}.jpg with texts/{train,test}_titles.csv of image, text, label",
)
COLUMNS = 3  # image, text, label
GENERATED = "generated"
NETWORKS = {"text": "networks/text", "image": "networks/image"}  # of generated data


# Of generated data: the colour that a dish's photographs have in common, and the words that its titles have.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "apple_pie": (190, 150, 90),
    "beet_salad": (160, 80, 110),
    "guacamole": (120, 160, 80),
    "lasagna": (190, 120, 90),
    "sushi": (180, 170, 160),
}
OWN_WORDS: Mapping[str, tuple[str, ...]] = {
    "apple_pie": ("apple", "pie", "cinnamon"),
    "beet_salad": ("beet", "salad", "vinegar"),
    "guacamole": ("guacamole", "avocado", "lime"),
    "lasagna": ("lasagna", "pasta", "cheese"),
    "sushi": ("sushi", "rice", "tuna"),
}
COMMON_WORDS = ("recipe", "easy", "best", "how", "to", "make", "the", "home", "kitchen", "fresh", "dinner", "and")


class ListedSample(NamedTuple):
    """A line of the data set's lists.

    Attributes:
        id: unique name.
        label: name of the class.
        text: title.
        image: file.
        where: file and row, for messages.
    """

    id: str
    label: str
    text: str
    image: Path
    where: str


@dataclass(frozen=True)
class Food101ModelConfig(SequenceModelConfig):
    """Settings of the network, and of the frozen ones before it.

    Attributes:
        text: folder of a BERT, or its name on the Hugging Face hub; ``generated``: the one beside generated data.
        image: the same for a ViT.
        text_length: word pieces of a text that are kept, special tokens included.
    """

    text: str = "bert-base-uncased"
    image: str = "google/vit-base-patch16-224"
    text_length: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.text_length >= 3, "model.text_length", self.text_length, "at least 3, two of them special tokens")


class Food101(ClassificationTask):
    """A dish, photographed and named."""

    ModelConfig = Food101ModelConfig
    description = "UPMC Food-101: one of 101 dishes from a photograph and a title"
    url = "https://visiir.isir.upmc.fr"
    known_modalities = MODALITIES
    sequences = frozenset(MODALITIES)
    presets: ClassVar[dict[str, Tree]] = presets(
        paper={
            "model": {
                "encoder_layers": 4,
                "fusion_layers": 2,
                "head_layers": 2,
                "dropout_attention": 0.2,
                "dropout_relu": 0.15,
                "dropout_embedding": 0.2,
                "dropout_residual": 0.15,
                "dropout_output": 0.1,
            },
            "optim": {
                "name": "adamw",
                "lr": 1e-3,
                "weight_decay": 6e-3,
                "warmup_fraction": 0.0,
                "schedule": "plateau",
                "plateau_by": "loss",
                "heads_lr": 5e-4,
                "heads_weight_decay": 3e-3,
                "clip_norm": 0.8,
            },
            "train": {"batch_size": 128, "epochs": 60, "steps_per_epoch": 0, "validate_every": 1},
        },
        tiny={
            "model": {
                "text": GENERATED,
                "image": GENERATED,
                "encoder_layers": 1,
                "fusion_layers": 1,
                "head_layers": 1,
            },
            "optim": {"lr": 3e-3, "schedule": "cosine", "heads_lr": None, "heads_weight_decay": None},
            "train": {"batch_size": 16, "epochs": 20, "validate_every": 5},
        },
    )

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        self.path = path
        problems: list[str] = []
        if any((path / name).is_file() for name in LISTS.values()):
            rows = {part: list(_json_rows(path, name, problems)) for part, name in LISTS.items() if _wanted(path, name)}
        elif (path / "texts").is_dir():
            rows = {part: list(_csv_rows(path, part, name, problems)) for part, name in TITLES.items()}
        else:
            raise DataError(f"{path} holds no UPMC Food-101; expected one of these layouts:", LAYOUTS)
        _leave_out_tested(rows, say)
        known = self.config.task.classes or tuple(sorted({row.label for row in rows["train"]}))
        first: dict[str, str] = {}
        for row in (row for part in rows.values() for row in part):
            if known and row.label not in known:
                problems.append(f"{row.where}: unknown label '{row.label}', expected one of {first_of(known)}")
            if "image" in self.modalities and not row.image.is_file():
                problems.append(f"{row.where}: there is no image {row.image}")
            if (other := first.setdefault(row.id, row.where)) != row.where:
                problems.append(f"{row.where}: id {row.id} stands already in {other}")
        problems += self._damaged([row for part in rows.values() for row in part], say)
        if problems:
            raise DataError(f"{path}: problems in {len(problems)} rows; fix or leave out:", problems, listed=20)
        self.settle_classes(known, path)
        numbers = {name: number for number, name in enumerate(self.targets)}
        samples = [
            Sample(row.id, row.id, numbers[row.label], {m: getattr(row, m) for m in self.modalities})
            for part in rows.values()
            for row in part
        ]
        return SampleList(tuple(samples), {part: [row.id for row in listed] for part, listed in rows.items()})

    def _damaged(self, rows: Sequence[ListedSample], say: Callable[[str], None]) -> list[str]:
        """What is wrong with images, before any of the long work on texts and images is done."""
        if "image" not in self.modalities:
            return []
        data = self.config.data
        sources = {row.where: (row.image,) for row in rows if row.image.is_file()}
        look, cache = Look("image", look_at_image), cache_folder(data.cache)
        reasons = unreadable(look, sources, cache, what="images", workers=data.workers, say=say)
        return [f"{where}: {reason}" for where, reason in reasons.items()]

    def prepare(self, splits: Splits, say: Callable[[str], None]) -> None:
        """Keep the samples, have their features computed, and settle the network's channels.

        In several processes the first computes for all.
        """
        super().prepare(splits, say)
        with caching():
            self.samples = self._with_features(self.samples, say)
        some = next(iter(self.samples.values()))
        arrays = [{m: self.features[m][some.inputs[m]] for m in self.modalities}]
        self.settle(model=settle_channels(self.config.model, self.modalities, arrays))

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """The entries of a JSON list, or of all of a folder, that have words or an image; labels are not looked at."""
        self.path = path if path.is_dir() else path.parent
        lists = sorted(path.glob("*.json")) if path.is_dir() else [path]
        problems: list[str] = []
        samples: dict[str, Sample] = {}
        for file in lists:
            for sample in _unlabelled_rows(file, modalities, problems):
                if samples.setdefault(sample.id, sample) is not sample:
                    problems.append(f"{file.name}: id {sample.id} stands there, or in another list, already")
        if problems:
            raise DataError(f"{path}: problems in {len(problems)} entries; fix or leave out:", problems, listed=20)
        return list(self._with_features(samples, say).values())

    def _with_features(self, samples: Mapping[str, Sample], say: Callable[[str], None]) -> dict[str, Sample]:
        """The samples with the keys of their features, which are computed unless the cache has them."""
        data, device = self.config.data, _device(self.config.train.device)
        cache = cache_folder(data.cache) / "features"
        self.features: dict[str, FeatureStore] = {}
        keys: dict[str, dict[str, str]] = {id: {} for id in samples}
        for modality in self.modalities:
            having = {id: sample.inputs[modality] for id, sample in samples.items() if modality in sample.inputs}
            if not having:
                continue
            with distributed.first_process_first():
                network = self._network(modality, say)
                for id, source in having.items():
                    keys[id][modality] = network.key(source)
                sources = {keys[id][modality]: source for id, source in having.items()}
                self.features[modality] = compute_features(
                    network, sources, cache, what=modality, device=device, workers=data.workers, say=say
                )
        return {id: replace(sample, inputs=keys[id]) for id, sample in samples.items()}

    def _network(self, modality: str, say: Callable[[str], None]) -> FrozenNetwork:
        """The frozen network of a modality; a folder's whole path is written to the run's settings."""
        setting, name = f"model.{modality}", getattr(self.config.model, modality)
        if name == GENERATED:
            folder = self.path / NETWORKS[modality]
            if not folder.is_dir():
                default = getattr(Food101ModelConfig, modality)
                raise ConfigError(
                    f"{setting} is '{GENERATED}', expected a folder or a name such as {default}, since only generated "
                    f"data bring a network: there is no {folder}"
                )
            say(f"{modality} features: from the small random network in {folder}")
        else:
            folder = network_folder(name, setting)
            if Path(name).is_dir():
                self.settle(model=replace(self.config.model, **{modality: os.path.abspath(name)}))
        if modality == "text":
            return FrozenText(folder, self.config.model.text_length)
        return FrozenImage.from_folder(folder)

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """Features ``(time, channel)`` of each modality."""
        arrays = {m: self.features[m][sample.inputs[m]] for m in self.modalities}
        return {m: torch.from_numpy(array.astype(np.float32)) for m, array in arrays.items()}

    def digest(self, sample: Sample) -> str:
        """Digest of the class, of title and image file, and of the networks that saw them."""
        stores = [(m, self.features[m]) for m in self.modalities]
        facts = [(m, store.folder.name, store.content(sample.inputs[m])) for m, store in stores]
        return digest_of(repr((sample.target, facts)).encode())

    def model_settings(self, modalities: Sequence[str]) -> Any:
        """With the channels of these modalities."""
        return with_channels_of(self.config, modalities)

    def model(self) -> MultimodalModel:
        """Transformers over word pieces and patches."""
        return sequence_model(self.config.model, self.modalities, len(self.targets))

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """Transformer heads."""
        return sequence_heads(model, len(self.targets), self.config.model)

    def generate(self, folder: Path) -> None:
        """Five dishes, told apart by a word of the title, less well by their colour; and small random networks."""
        random = np.random.Generator(np.random.Philox(0))
        _write_networks(folder)
        for part, count in (("train", 250), ("test", 75)):
            rows = []
            for number in range(count):
                label = list(COLOURS)[number % len(COLOURS)]
                image = f"images/{part}/{label}/{label}_{part}_{number}.jpg"
                (folder / image).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_photograph(random, label)).save(folder / image, quality=90)
                words = _title(random, label)
                rows.append({"id": f"{label}_{part}_{number}", "label": label, "text_tokens": words, "img_path": image})
            write_json(folder / LISTS[part], rows)


def _wanted(path: Path, name: str) -> bool:
    """Whether a list is to be read: dev.json only if it is there."""
    return name != LISTS["validation"] or (path / name).is_file()


def _json_rows(folder: Path, name: str, problems: list[str]) -> Iterator[ListedSample]:
    """The rows of a JSON list; what is wrong with the others is added to ``problems``."""
    content = read_json(folder / name)
    if not isinstance(content, list):
        raise DataError(f"{folder / name} holds {kind_of(content)}, expected a list; {LAYOUTS[0]}")
    for number, entry in enumerate(content):
        where = f"{name}, entry {number}"
        wrong = _wrong_entry(entry)
        if wrong:
            problems.append(f"{where}: {wrong}")
        else:
            text = " ".join(entry["text_tokens"])
            yield ListedSample(str(entry["id"]), entry["label"], text, folder / entry["img_path"], where)


def _unlabelled_rows(file: Path, modalities: Sequence[str], problems: list[str]) -> Iterator[Sample]:
    """The entries of a JSON list without labels; what is wrong with the others is added to ``problems``."""
    content = read_json(file)
    if not isinstance(content, list):
        raise DataError(f'{file} holds {kind_of(content)}, expected a list of {{"id", "text_tokens", "img_path"}}')
    for number, entry in enumerate(content):
        where = f"{file.name}, entry {number}"
        if not isinstance(entry, dict):
            problems.append(f"{where}: {kind_of(entry)}, expected an object with id, and text_tokens or img_path")
            continue
        if wrong := _wrong_entry({"text_tokens": [], "img_path": "-", **entry, "label": "-"}):
            problems.append(f"{where}: {wrong}")
            continue
        inputs: dict[str, Any] = {}
        if "text" in modalities and entry.get("text_tokens"):
            inputs["text"] = " ".join(entry["text_tokens"])
        if "image" in modalities and entry.get("img_path"):
            inputs["image"] = file.parent / entry["img_path"]
            if not inputs["image"].is_file():
                problems.append(f"{where}: there is no image {inputs['image']}")
                continue
        yield Sample(str(entry["id"]), str(entry["id"]), None, inputs)


def _wrong_entry(entry: Any) -> str:
    """What is wrong with an entry of a JSON list, if anything."""
    if not isinstance(entry, dict):
        return f"{kind_of(entry)}, expected an object with id, label, text_tokens, img_path"
    if missing := [key for key in ("id", "label", "text_tokens", "img_path") if key not in entry]:
        return f"no {', '.join(missing)}"
    if not isinstance(entry["id"], (str, int)):
        return f"id is {entry['id']!r}, expected text or a number"
    for key in ("label", "img_path"):
        if not isinstance(entry[key], str) or not entry[key]:
            return f"{key} is {entry[key]!r}, expected text"
    words = entry["text_tokens"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return f"text_tokens is {str(words)[:40]!r}, expected a list of words"
    return ""


def _csv_rows(folder: Path, part: str, name: str, problems: list[str]) -> Iterator[ListedSample]:
    """The rows of a table of titles; what is wrong with the others is added to ``problems``."""
    table: list[tuple[str, list[str]]] = []
    try:
        with (folder / name).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            while True:
                try:
                    cells = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    problems.append(f"{name}, line {reader.line_num}: {error}")
                    continue
                if cells:  # of an empty line there are none
                    table.append((f"{name}, line {reader.line_num}", cells))
    except OSError as error:
        raise DataError(f"cannot read {folder / name}: {error.strerror}; expected one layout of:", LAYOUTS) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{folder / name} is not UTF-8: {error}; save it in this encoding") from error
    for where, cells in table[1:] if _is_header(table) else table:
        if len(cells) != COLUMNS or not cells[0] or not cells[2]:
            problems.append(f"{where}: {len(cells)} columns {str(cells)[:60]}, expected image, text, label")
            continue
        image, text, label = cells
        place = f"{part}/{label}/{PureWindowsPath(image).name}"  # which knows the separators of all systems
        yield ListedSample(place, label, text, folder / "images" / place, where)


def _is_header(table: Sequence[tuple[str, list[str]]]) -> bool:
    """Whether the first row names the columns: its image has no suffix, its label is that of no other row."""
    if not table or len(table[0][1]) != COLUMNS:
        return False
    image, _, label = table[0][1]
    return not PureWindowsPath(image).suffix and all(cells[-1] != label for _, cells in table[1:])


def _leave_out_tested(rows: dict[str, list[ListedSample]], say: Callable[[str], None]) -> None:
    """Leave out a validation split that is the test split, as in the release of CGGM."""
    listed, tested = rows.get("validation", []), rows["test"]
    ids, images = {row.id for row in tested}, {row.image for row in tested}
    shared = [row for row in listed if row.id in ids or row.image in images]
    if shared:
        say(
            f"{len(shared)} of {len(listed)} samples of dev.json stand in test.json too: dev.json is left out, "
            "validation is held out from training"
        )
        del rows["validation"]


def _device(name: str) -> torch.device:
    """Where features are computed."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _photograph(random: np.random.Generator, label: str) -> NDArray[np.uint8]:
    """A picture ``(height, width, 3)`` in the dish's colour, under a light of its own, with a pattern over it."""
    height, width = 40, 56
    light = random.normal(size=3) * 36
    stripes = np.sin(np.arange(width) * random.uniform(0.2, 1.0)) * 15
    picture = np.array(COLOURS[label]) + light + stripes[None, :, None] + random.normal(size=(height, width, 3)) * 20
    return picture.clip(0, 255).astype(np.uint8)


def _title(random: np.random.Generator, label: str) -> list[str]:
    """Two to four common words and two of the dish's own, but of a dish drawn at random in every fourth title."""
    subject = label if random.random() < 0.75 else str(random.choice(list(OWN_WORDS)))
    words = [*random.choice(COMMON_WORDS, int(random.integers(2, 5))), *random.choice(OWN_WORDS[subject], 2)]
    return [str(word) for word in random.permutation(words)]


def _write_networks(folder: Path) -> None:
    """A BERT and a ViT with random weights, small enough for any machine, as ``save_pretrained`` writes them."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    words = [word for own in OWN_WORDS.values() for word in own]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COMMON_WORDS, *words]
    with transformers_library() as library, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bert = library.BertConfig(vocab_size=len(vocabulary), **sizes)
        # Weights larger than those that training starts from, so that patches are told apart without training.
        vit = library.ViTConfig(image_size=32, patch_size=8, initializer_range=0.1, **sizes)
        library.BertModel(bert, add_pooling_layer=False).save_pretrained(folder / NETWORKS["text"])
        library.ViTModel(vit, add_pooling_layer=False).save_pretrained(folder / NETWORKS["image"])
    write_text(folder / NETWORKS["text"] / "vocab.txt", "\n".join(vocabulary) + "\n")
