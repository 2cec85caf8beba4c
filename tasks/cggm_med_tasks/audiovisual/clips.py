"""Base class of video clip classification: the networks, frames and files of CREMA-D, Kinetics-Sounds and UCF101."""

from __future__ import annotations

import hashlib
import os
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from cggm_med.config import Tree, require
from cggm_med.data.cases import natural_key
from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.kinds import KINDS
from cggm_med.errors import DataError
from cggm_med.files import cache_folder
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.late_fusion import FUSIONS, LateFusionModel, vector_heads
from cggm_med.models.resnet import ResNetEncoder
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.samples import Sample, SampleDataConfig, SampleList, presets
from cggm_med_tasks.readers.images import (
    centre_crop,
    frame_files,
    holds_frames,
    pick_frames,
    random_crop,
    require_one_size,
    resize,
)
from cggm_med_tasks.readers.media import Look, unreadable

DIGEST_BYTES = 1 << 20  # read of a file for its digest

# OGM (Peng et al., CVPR 2022) on all three data sets; see the tasks for what differs.
OGM_SETTINGS: Tree = {
    "data": {"workers": 4},
    "optim": {
        "name": "sgd",
        "lr": 1e-3,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "warmup_fraction": 0.0,
        "schedule": "step",
        "decay_epochs": 70,
        "clip_norm": float("inf"),
    },
    "train": {"batch_size": 64, "epochs": 100, "steps_per_epoch": 0, "validate_every": 1},
}
# Its extension with OPM (Wei et al., T-PAMI 2024), as in code/config.py of GeWu-Lab/BML_TPAMI2024.
TPAMI_SETTINGS: Tree = {
    "data": {"size": 112, "workers": 4},
    "optim": {
        "name": "adamw",
        "lr": 5e-5,
        "weight_decay": 1e-2,
        "warmup_fraction": 0.0,
        "schedule": "step",
        "decay_epochs": 40,
        "clip_norm": float("inf"),
    },
    "train": {"batch_size": 32, "epochs": 100, "steps_per_epoch": 0, "validate_every": 1},
}
# For generated data on a CPU.
TINY_SETTINGS: Tree = {
    "data": {"size": 32, "frames": 2, "workers": 0},
    "model": {"width": 32, "blocks": [1, 1, 1, 1]},
    "optim": {"name": "adamw", "lr": 3e-3, "weight_decay": 1e-2, "schedule": "cosine", "clip_norm": 1.0},
    "train": {"batch_size": 16, "epochs": 14},
}
PRESETS = {**presets(paper=OGM_SETTINGS, tiny=TINY_SETTINGS), "tpami": TPAMI_SETTINGS}


@dataclass(frozen=True)
class ClipDataConfig(SampleDataConfig):
    """Settings of the data.

    Attributes:
        frames: number of frames of a clip that the network sees: random ones in training, fixed ones in evaluation.
        size: side in pixels of the square that is cut from them.
        skip_missing: leave out clips that are listed but not there, or cannot be read; without it they are an error.
    """

    frames: int = 3
    size: int = 224
    skip_missing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.frames >= 1, "data.frames", self.frames, "at least 1")
        require(self.size >= 32, "data.size", self.size, "at least 32, which the encoder halves five times")


@dataclass(frozen=True)
class ClipModelConfig:
    """The network: a ResNet for each modality and late fusion.

    Attributes:
        fusion: ``concat``, ``sum`` or ``gated``.
        width: length of each modality's feature vector, 512 in ResNet-18.
        blocks: residual blocks at each of the four scales, 2 each in ResNet-18.
    """

    fusion: Literal["concat", "sum", "gated"] = "concat"
    width: int = 512
    blocks: tuple[int, int, int, int] = (2, 2, 2, 2)

    def __post_init__(self) -> None:
        require(self.width >= 8 and self.width % 8 == 0, "model.width", self.width, "a multiple of 8")
        require(min(self.blocks) >= 1, "model.blocks", list(self.blocks), "at least 1 at each scale")


class ClipTask(ClassificationTask):
    """Base of tasks on clips; a subclass finds, looks at and loads its files, and says how many channels they have.

    Attributes:
        channels: of each modality's input.
        left_out: listed clips that cannot be used, and why.
    """

    DataConfig = ClipDataConfig
    ModelConfig = ClipModelConfig
    channels: ClassVar[Mapping[str, int]]
    left_out: tuple[Finding, ...] = ()

    def model(self) -> MultimodalModel:
        """A ResNet for each modality and late fusion."""
        settings = self.config.model
        encoders = {m: ResNetEncoder(self.channels[m], settings.width, settings.blocks) for m in self.modalities}
        widths = {m: encoder.width for m, encoder in encoders.items()}
        return LateFusionModel(encoders, widths, len(self.targets), fusion=FUSIONS[settings.fusion])

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """A linear head on each vector."""
        return vector_heads(model, len(self.targets))

    def load_frames(
        self,
        count: int,
        read: Callable[[int], Tensor],
        random: Generator | None,
        where: Path,
        mirror: Callable[[Tensor], Tensor] = lambda clip: clip.flip(-1),
    ) -> Tensor:
        """Frames as the network sees them, ``(frame, channel, size, size)``, uint8.

        In training random ones, with the same random part of each, all mirrored half of the time. In evaluation those
        at fixed times, the shorter side brought to ``data.size`` and the middle square cut out.

        Args:
            count: number of frames of the clip.
            read: gives one of them by its number, ``(channel, height, width)``, uint8.
            random: for training; None in evaluation.
            where: what errors call the clip.
            mirror: swaps left and right of ``(frame, channel, height, width)``.

        Raises:
            DataError: if a frame cannot be read, or is of another size than the first.
        """
        wanted, size = self.config.data.frames, self.config.data.size
        frames = [read(index) for index in pick_frames(count, wanted, random)]
        require_one_size([(frame.shape[-2], frame.shape[-1]) for frame in frames], where)
        stacked = torch.cat(frames)  # as channels of one image, so that all are cut alike
        if random is None:
            return centre_crop(resize(stacked, size), size).unflatten(0, (wanted, -1))
        clip = random_crop(stacked, size, random).unflatten(0, (wanted, -1))
        return mirror(clip) if torch.rand((), generator=random) < 0.5 else clip

    def gather(
        self,
        root: Path,
        listed: Mapping[str, Sequence[tuple[str, int]]],
        files: Mapping[str, Sequence[ClipFiles]],
        group: Callable[[str], str],
        say: Callable[[str], None],
    ) -> SampleList:
        """The samples of the clips that have all their files; ``inputs`` holds a path per modality and ``ClipFiles``.

        All files are looked at now, so that none is found damaged in the middle of a run.

        Args:
            root: folder of the data.
            listed: clips and class numbers by split.
            files: of each modality.
            group: the group of a clip.
            say: receives the number of clips that are left out.

        Raises:
            DataError: if any clip lacks a file, or has one that cannot be read, unless ``data.skip_missing`` leaves it
                out; lists up to twenty of them with the places that were tried.
        """
        samples: list[Sample] = []
        unusable: dict[str, Finding] = {}
        sections: dict[str, list[str]] = {}
        needed = [part for modality in self.modalities for part in files[modality]]
        for section, rows in listed.items():
            sections[section] = []
            for clip, number in rows:
                if lacking := [f"{part.kind} (tried {part.tried(clip)})" for part in needed if clip not in part]:
                    absent = tuple(m for m in self.modalities if any(clip not in part for part in files[m]))
                    unusable[clip] = Finding(KINDS["unusable"], clip, absent, f"no {', no '.join(lacking)}")
                    continue
                inputs = {m: tuple(part[clip] for part in files[m]) for m in self.modalities}
                samples.append(Sample(clip, group(clip), number, inputs))
                sections[section].append(clip)
        listed_count = len(samples) + len(unusable)
        unusable |= self._damaged([sample for sample in samples if sample.id not in unusable], say)
        samples = [sample for sample in samples if sample.id not in unusable]
        count = f"{len(unusable)} of {listed_count} listed clips"
        if unusable and not (self.config.data.skip_missing and samples):
            skip = ", or leave the clips out with data.skip_missing=true" if samples else ", or give their folder"
            raise DataError(
                f"{count} lack files in {root}, or have some that cannot be read; add or copy these anew{skip}:",
                [f"{clip}: {finding.seen}" for clip, finding in unusable.items()],
                listed=20,
            )
        if unusable:
            first = next(iter(unusable.values()))
            say(f"{count} left out, since files are missing or damaged; the first is {first.case}: {first.seen}")
        self.left_out = tuple(unusable.values())
        kept = {sample.id for sample in samples}
        return SampleList(tuple(samples), {name: [id for id in ids if id in kept] for name, ids in sections.items()})

    def findings(self) -> Tree:
        """The clips that were left out, and why."""
        return {"accepted": [], "findings": [finding.record(()) for finding in self.left_out]}

    def _damaged(self, samples: Sequence[Sample], say: Callable[[str], None]) -> dict[str, Finding]:
        """What cannot be read of the files of clips."""
        data = self.config.data
        cache = cache_folder(data.cache)
        found: dict[str, dict[str, str]] = {}
        for modality, look in self.looks(samples).items():
            sources = {sample.id: sample.inputs[modality] for sample in samples}
            for id, reason in unreadable(look, sources, cache, what=modality, workers=data.workers, say=say).items():
                found.setdefault(id, {})[modality] = reason
        return {id: Finding(KINDS["unusable"], id, (*of,), "; ".join(of.values())) for id, of in found.items()}

    @abstractmethod
    def looks(self, samples: Sequence[Sample]) -> Mapping[str, Look]:
        """How to look at the files of each used modality.

        Args:
            samples: that will be looked at, with all files of these modalities.
        """

    @abstractmethod
    def files(self, path: Path) -> Mapping[str, Sequence[ClipFiles]]:
        """Where the files of each modality are; a clip has a modality if it has all of them."""

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """Every clip of which there are all files of a modality; folders without frames are none."""
        files = {m: parts for m, parts in self.files(path).items() if m in modalities}
        clips: dict[str, str] = {}
        for part in (part for parts in files.values() for part in parts):
            for clip in part:
                if not part[clip].is_dir() or holds_frames(part[clip]):
                    clips.setdefault(part.key(clip), clip)
        inputs = {
            clip: {
                m: tuple(part[clip] for part in parts) for m, parts in files.items() if all(clip in p for p in parts)
            }
            for clip in sorted(clips.values(), key=natural_key)
        }
        return [Sample(clip, clip, None, of_clip) for clip, of_clip in inputs.items() if of_clip]

    def digest(self, sample: Sample) -> str:
        """Digest that identifies a clip: of files the first MiB, of folders the names and the middle frame.

        Reading all frames of a data set would take longer than an epoch of training.
        """
        digest = hashlib.blake2b(repr(sample.target).encode(), digest_size=12)
        for modality in self.modalities:
            digest.update(modality.encode())
            for path in sample.inputs[modality]:
                if path.is_dir():
                    files = frame_files(path)
                    digest.update("\n".join(file.name for file in files).encode())
                    path = files[len(files) // 2]
                digest.update(f"{path.stat().st_size} ".encode())
                with path.open("rb") as file:
                    digest.update(file.read(DIGEST_BYTES))
        return digest.hexdigest()


class ClipFiles:
    """Files, or folders, of a data set by clip, from whichever of the usual places have them.

    Each place is listed once: asking for every clip in every place takes minutes on a network disk.

    Args:
        kind: their name in messages.
        root: folder of the data.
        places: its subfolders where they may be, the preferred first; ``.`` is ``root`` itself.
        suffixes: of the files' names, the preferred first; an empty one for folders.
        key: what identifies a clip, made from its name.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "a.wav").write_bytes(b"")
        >>> sounds = ClipFiles("sound", root, (".", "AudioWAV"), (".wav",))
        >>> "a" in sounds, "b" in sounds, sounds.tried("b")
        (True, False, 'b.wav, AudioWAV/b.wav')
    """

    def __init__(
        self,
        kind: str,
        root: Path,
        places: Sequence[str],
        suffixes: Sequence[str] = ("",),
        key: Callable[[str], str] = str,
    ) -> None:
        self.kind, self.places, self.suffixes, self.key = kind, places, suffixes, key
        self._paths: dict[str, Path] = {}
        listed = [(root / place, _names(root / place)) for place in places]
        for suffix in suffixes:
            for folder, names in listed:
                for name, is_folder in names:
                    if name.endswith(suffix) and is_folder == (not suffix):
                        self._paths.setdefault(key(name.removesuffix(suffix)), folder / name)

    def __iter__(self) -> Iterator[str]:
        """Names of all clips, as their files or folders have them."""
        for path in self._paths.values():
            yield path.name.removesuffix(next(suffix for suffix in self.suffixes if path.name.endswith(suffix)))

    def __contains__(self, clip: str) -> bool:
        return self.key(clip) in self._paths

    def __getitem__(self, clip: str) -> Path:
        return self._paths[self.key(clip)]

    def tried(self, clip: str) -> str:
        """The places where this clip was looked for."""
        ends = [suffix or "/" for suffix in self.suffixes]
        return ", ".join((Path(place) / clip).as_posix() + end for end in ends for place in self.places)


def _names(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, and which are folders; none if there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]


def read_rows(file: Path, fields: Sequence[str], separator: str) -> list[tuple[str, list[str]]]:
    """The rows of a list of clips: where each stands, for messages, and its fields.

    A byte-order mark, Windows line ends and empty lines are fine.

    Args:
        file: to read.
        fields: names of the fields of each row.
        separator: regular expression.

    Raises:
        DataError: if the file is missing, not text or empty, or a row has more or fewer fields.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{file} is missing; expected a list with {', '.join(fields)} in each row") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; expected a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}; save it in this encoding") from error
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        values = re.split(separator, line.strip())
        if len(values) != len(fields) or not all(values):
            raise DataError(f"{file}, row {number}: {line.strip()[:80]!r}, expected {', '.join(fields)}")
        rows.append((f"{file}, row {number}", values))
    if not rows:
        raise DataError(f"{file} is empty; expected {', '.join(fields)} in each row")
    return rows
