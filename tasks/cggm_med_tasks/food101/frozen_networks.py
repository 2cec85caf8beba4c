"""Compute features of texts and images with frozen networks of the transformers library, and keep them on disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cggm_med.data.layouts import read_json
from cggm_med.data.parallel import map_in_processes
from cggm_med.errors import DataError, MissingExtra, first_of, kind_of
from cggm_med.files import did_you_mean, digest_of, pieces
from cggm_med.torchvision_repair import repair_torchvision
from cggm_med_tasks.food101.feature_store import Computed, FeatureStore
from cggm_med_tasks.readers.images import normalise, read_image, resize

VERSION = 1  # part of every store's name: raise it whenever the same files would give other numbers
BATCH_SIZE = 32  # samples that a network sees at once
BLOCK = 256  # samples that are written together; at most as many are lost when the work is interrupted
MANY = 1000  # samples from which on the work takes long enough to report progress
MAX_LISTED = 20
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

Encode = Callable[[Sequence[Any]], list[Tensor]]


class FrozenNetwork(ABC):
    """A network that is used but never trained.

    Attributes:
        folder: in the layout of ``save_pretrained``.
    """

    folder: Path

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the features besides the network's files and the sample."""

    @abstractmethod
    def key(self, source: Any) -> str:
        """The key of a sample's features, found without reading much."""

    @abstractmethod
    def prepare(self, source: Any) -> tuple[Any, str]:
        """A sample as ``encode`` takes it, and a digest of its content.

        Raises:
            DataError: if it cannot be read.
        """

    @abstractmethod
    def load(self, device: torch.device) -> Encode:
        """Load the network; what is returned turns prepared samples into features ``(time, channel)`` each.

        Raises:
            DataError: if the folder holds no such network.
            MissingExtra: if transformers is not installed.
        """

    def fingerprint(self) -> str:
        """Digest of the network's files and settings: whatever is in it changes the features."""
        digest = hashlib.blake2b(json.dumps([VERSION, self.settings()], sort_keys=True).encode(), digest_size=12)
        for pattern in sorted((CONFIG, *WEIGHTS, *TOKENIZER)):
            for file in sorted(self.folder.glob(pattern)):
                digest.update(f"\n{file.name} {file.stat().st_size}\n".encode())
                for piece in pieces(file):
                    digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True)
class FrozenText(FrozenNetwork):
    """A text encoder such as BERT: one vector per word piece, its special tokens included, none for padding.

    Attributes:
        folder: of network and tokenizer.
        length: word pieces of a text that are kept, special tokens included.
    """

    folder: Path
    length: int

    def settings(self) -> dict[str, Any]:
        """The length."""
        return {"length": self.length}

    def key(self, source: str) -> str:
        """Digest of the text."""
        return digest_of(source.encode(errors="surrogatepass"))

    def prepare(self, source: str) -> tuple[str, str]:
        """The text, with question marks for invalid characters."""
        return source.encode(errors="replace").decode(), self.key(source)

    def load(self, device: torch.device) -> Encode:
        """See the base class."""
        network = _load_network(self.folder, device)
        if not any((self.folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise DataError(f"{self.folder} has no tokenizer; expected tokenizer.json or vocab.txt beside the network")
        with transformers_library() as library, _explained(self.folder):
            tokenizer = library.AutoTokenizer.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False
            )
        positions = getattr(network.config, "max_position_embeddings", self.length)
        if len(tokenizer) > network.config.vocab_size:
            raise DataError(
                f"{self.folder}: the network knows {network.config.vocab_size} word pieces, its tokenizer has "
                f"{len(tokenizer)}; use the tokenizer that belongs to the network"
            )
        if self.length > positions:
            raise DataError(
                f"{self.folder}: model.text_length is {self.length}, expected at most {positions}, as many word pieces "
                "as the network has positions for"
            )

        def encode(texts: Sequence[str]) -> list[Tensor]:
            pieces = tokenizer(list(texts), truncation=True, max_length=self.length, padding=True, return_tensors="pt")
            hidden = network(**pieces.to(device)).last_hidden_state
            return [x[mask.bool()] for x, mask in zip(hidden, pieces["attention_mask"], strict=True)]

        return encode


@dataclass(frozen=True)
class FrozenImage(FrozenNetwork):
    """An image encoder such as ViT: one vector per patch, its class token first.

    Images are resized to the network's own square, bilinearly and whatever their shape, and normalised.

    Attributes:
        folder: of the network.
        size: height and width of the images that it expects.
        mean: by channel, in [0, 1].
        std: by channel, in [0, 1].
    """

    folder: Path
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> FrozenImage:
        """Size from the network's configuration; mean and std from its preprocessor's, 0.5 where there is none.

        Raises:
            DataError: if the folder says something else.
        """
        size = _read_settings(folder / CONFIG).get("image_size")
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        if not (isinstance(height, int) and isinstance(width, int)):
            raise DataError(f"{folder / CONFIG}: image_size is {size!r}, expected pixels; name a network for images")
        stated = _read_settings(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
        values = {"image_mean": stated.get("image_mean", [0.5] * 3), "image_std": stated.get("image_std", [0.5] * 3)}
        if stated.get("do_normalize") is False:
            values = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
        for name, value in values.items():
            if not (isinstance(value, list) and len(value) == 3 and all(isinstance(x, (int, float)) for x in value)):
                raise DataError(f"{folder / PREPROCESSOR}: {name} is {value!r}, expected three numbers")
        return cls(folder, (height, width), tuple(values["image_mean"]), tuple(values["image_std"]))

    def settings(self) -> dict[str, Any]:
        """Size, mean and standard deviation."""
        return {"size": self.size, "mean": self.mean, "std": self.std}

    def key(self, source: Path) -> str:
        """Digest of the file's path, size and time of change."""
        facts = source.stat()
        return digest_of(f"{source.resolve()}\n{facts.st_size}\n{facts.st_mtime_ns}".encode(errors="surrogatepass"))

    def prepare(self, source: Path) -> tuple[Tensor, str]:
        """Pixels ``(3, height, width)`` as the network expects them, and a digest of the file."""
        try:
            data = source.read_bytes()
        except OSError as error:
            raise DataError(f"{source} cannot be read: {error.strerror or error}") from error
        image = read_image(io.BytesIO(data), name=str(source))
        return normalise(resize(image, self.size), self.mean, self.std), digest_of(data)

    def load(self, device: torch.device) -> Encode:
        """See the base class."""
        network = _load_network(self.folder, device)

        def encode(images: Sequence[Tensor]) -> list[Tensor]:
            return list(network(pixel_values=torch.stack(list(images)).to(device)).last_hidden_state)

        return encode


def network_folder(name: str, setting: str) -> Path:
    """The folder of a network, fetched from the Hugging Face hub if it is not on this machine yet.

    Fetched are its configuration, tokenizer and weights as safetensors; with ``HF_HUB_OFFLINE=1`` nothing is.

    Args:
        name: a folder, or a name on the hub.
        setting: where the name stands, for messages.

    Raises:
        DataError: if there is no such network, or nothing but pickled weights.
        MissingExtra: if transformers is not installed.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(name, setting)
    if not _is_network(folder):
        raise DataError(
            f"{setting} {name}: {folder} has no {CONFIG} or no .safetensors weights; pickled weights (.bin) are not "
            "loaded, write them anew with save_pretrained of a current transformers"
        )
    return folder


@torch.inference_mode()
def compute_features(
    network: FrozenNetwork,
    sources: Mapping[str, Any],
    cache: Path,
    *,
    what: str,
    device: torch.device,
    workers: int,
    say: Callable[[str], None],
) -> FeatureStore:
    """The features of all samples; what the cache has already is not computed again.

    Args:
        network: computes them.
        sources: the samples' texts or image files, by key.
        cache: folder for the results.
        what: kind of sample, for messages.
        device: where the network computes.
        workers: processes that prepare samples.
        say: receives a line at the start and, if there are many samples, after every tenth of them.

    Raises:
        DataError: lists the first samples that cannot be read.
        OutputError: if the cache cannot be written.
    """
    store = FeatureStore(cache / network.fingerprint())
    missing = [key for key in sources if key not in store]
    if not missing:
        return store
    say(f"computing {what} features of {len(missing)} samples on {device}, once; kept in {store.folder}")
    encode = network.load(device)
    work = functools.partial(_prepared, network=network)
    samples = map_in_processes(work, [(key, sources[key]) for key in missing], min(workers, len(missing)))
    problems: list[str] = []
    block: dict[str, Computed] = {}
    done = 0
    while batch := list(itertools.islice(samples, BATCH_SIZE)):
        readable = [(key, *one) for key, *one, why in batch if not why]
        problems += [why for *_, why in batch if why]
        features = encode([prepared for _, prepared, _ in readable]) if readable else []
        for (key, _, content), values in zip(readable, features, strict=True):
            block[key] = Computed(_half(values, network.folder), content)
        before, done = done, done + len(batch)
        if len(block) >= BLOCK:
            store.add(block)
            block = {}
        if len(missing) >= MANY and done * 10 // len(missing) > before * 10 // len(missing):
            say(f"{what} features: {done} of {len(missing)} samples")
        if len(problems) >= MAX_LISTED:
            break
    if block:
        store.add(block)
    if problems:
        raise DataError(f"{what}s that cannot be read; fix or leave out these files:", problems[:MAX_LISTED])
    return store


@contextlib.contextmanager
def transformers_library() -> Iterator[Any]:
    """The transformers library, silenced: what it would report is checked here or does not matter.

    Raises:
        MissingExtra: if it is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra("task 'food101'", "transformers", "food101")
    repair_torchvision()
    import transformers

    words = transformers.utils.logging
    level, bars = words.get_verbosity(), words.is_progress_bar_enabled()
    words.set_verbosity_error()
    words.disable_progress_bar()
    try:
        yield transformers
    finally:
        words.set_verbosity(level)
        if bars:
            words.enable_progress_bar()


def _prepared(item: tuple[str, Any], network: FrozenNetwork) -> tuple[str, Any, str, str]:
    """Key, sample as a network takes it, digest of its content; and why it cannot be read, if so."""
    key, source = item
    try:
        return key, *network.prepare(source), ""
    except DataError as error:
        return key, None, "", str(error)


def _half(values: Tensor, folder: Path) -> Any:
    if values.ndim != 2:
        raise DataError(f"{folder} gives features of shape {tuple(values.shape)}, expected (time, channel)")
    half = values.cpu().numpy().astype(np.float16)
    if not np.isfinite(half).all():
        raise DataError(f"{folder} gives features that are not finite in half precision; name another network")
    return half


def _read_settings(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} holds {kind_of(content)}, expected settings by name")
    return content


def _is_network(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and any(folder.glob(WEIGHTS[0]))


def _from_hub(name: str, setting: str) -> Path:
    fix = f"name a folder with --set {setting}=FOLDER, or fetch it where there is a network: hf download {name}"
    with transformers_library():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    wanted = [CONFIG, PREPROCESSOR, *TOKENIZER, "model*.safetensors", "model.safetensors.index.json"]
    # What is here already comes first: it is quick, and a run does not change when the hub does.
    with contextlib.suppress(OSError, ValueError):
        here = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if _is_network(here):
            return here
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=5))
    except HFValidationError as error:
        near = did_you_mean(Path(name))
        raise DataError(
            f"{setting} is {name}, which does not exist{near}; expected a folder with {CONFIG}, or a name on the hub"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(f"{setting} {name} is no folder and cannot be had from the hub ({reason}); {fix}") from error


def _load_network(folder: Path, device: torch.device) -> Any:
    """The network in evaluation mode, every weight from its file."""
    with transformers_library() as library, _explained(folder):
        network, report = library.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    # The pooler is drawn at random where a network was saved without it; nothing here reads it.
    absent = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    if absent or report["mismatched_keys"]:
        some = first_of([*sorted(absent), *map(str, report["mismatched_keys"])])
        raise DataError(
            f"{folder}: the weights do not belong to the network of {CONFIG}, get both from one source; missing or "
            f"different: {some}"
        )
    return network.to(device).eval()


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn whatever transformers raises for damaged files into one line."""
    try:
        yield
    except Exception as error:  # it raises anything, safetensors' own class included
        reason = " ".join(str(error).split())[:200]
        if "ignore_mismatched_sizes" in reason:  # which is advice for programmers, and wrong
            reason = f"the weights have other sizes than {CONFIG} says"
        raise DataError(
            f"{folder} cannot be loaded by transformers: {type(error).__name__}: {reason}; copy it anew or name another"
        ) from error
