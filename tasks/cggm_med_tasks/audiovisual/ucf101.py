"""UCF101: a human action, one of 101, from video frames and optical flow.

Paper: Soomro, Zamir and Shah 2012, UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild, arXiv
1212.0402; cite it. Data: https://www.crcv.ucf.edu/data/UCF101.php: 13,320 clips of videos from YouTube, which belong to
those who uploaded them; we know of no licence. Frames and flow of Feichtenhofer et al. (CVPR 2016, arXiv 1604.06573):
https://github.com/feichtenhofer/twostreamfusion. The settings are those of OGM (Peng et al., CVPR 2022, arXiv
2203.15332) on other data sets; its extension (T-PAMI 2024, arXiv 2410.11582) uses UCF101, and preset ``tpami`` has its
settings.

Layout: the official lists ``classInd.txt``, ``trainlist0{1,2,3}.txt`` and ``testlist0{1,2,3}.txt`` in the folder
itself, in ``ucfTrainTestlist`` or in ``annotations``; ``data.split`` chooses one of the three divisions. RGB frames
``{clip}/frame_000001.jpg`` or ``{clip}/img_00001.jpg`` in ``frames``, ``rgb``, ``jpegs_256`` or the folder itself; flow
``u/{clip}/frame000001.jpg`` and ``v/{clip}/frame000001.jpg`` in the folder itself, in ``flow`` or in ``tvl1_flow``.
Flow is in 8 bits, no motion in the middle (127.5), u to the right and v downwards. Both modalities show the same
moments and the same part of the picture.

What differs from common practice: validation is held out from the training list, by group, since the clips of a group,
such as ``v_ApplyEyeMakeup_g08``, are cut from one video; a mirrored flow changes the sign of u.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cggm_med.config import Tree, require
from cggm_med.data.cases import natural_key
from cggm_med.errors import DataError
from cggm_med.task.samples import Inputs, Sample, SampleList
from cggm_med_tasks.audiovisual.clips import PRESETS, ClipDataConfig, ClipFiles, ClipTask, read_rows
from cggm_med_tasks.readers.images import frame_files, look_at_frames, normalise, read_image
from cggm_med_tasks.readers.media import Look

MODALITIES = ("rgb", "flow")
SPLITS = 3
LISTS = ("", "ucfTrainTestlist", "annotations")
FRAMES = ("frames", "rgb", "jpegs_256", ".")
FLOW = (".", "flow", "tvl1_flow")
CLIP = re.compile(r"(?P<label>[^/]+)/(?P<clip>(?P<group>v_.+_g\d+)_c\d+)\.avi")
FRAME = re.compile(r"(frame|img|image)?[-_]?\d+", re.IGNORECASE)
# No motion becomes 0; the spread is that of temporal segment networks (Wang et al., ECCV 2016).
FLOW_MEAN, FLOW_STD = (0.5, 0.5), (0.226, 0.226)


@dataclass(frozen=True)
class UCF101DataConfig(ClipDataConfig):
    """Settings of the data, see also the base class.

    Attributes:
        split: number of the official division, 1 to 3.
    """

    split: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.split <= SPLITS, "data.split", self.split, f"1 to {SPLITS}")


class UCF101(ClipTask):
    """A human action."""

    DataConfig = UCF101DataConfig
    description = "UCF101: one of 101 actions from video frames and optical flow"
    url = "https://www.crcv.ucf.edu/data/UCF101.php"
    known_modalities = MODALITIES
    targets = ()
    metrics = ("accuracy",)
    group_kind = "group of clips"
    channels: ClassVar[dict[str, int]] = {"rgb": 3, "flow": 2}
    presets: ClassVar[dict[str, Tree]] = PRESETS

    @property
    def own_folds(self) -> tuple[str, ...]:
        """The three official divisions, whose test clips are all different."""
        return tuple(f"data.split={split}" for split in range(1, SPLITS + 1))

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        folder = next((path / place for place in LISTS if (path / place / "classInd.txt").is_file()), None)
        if folder is None:
            tried = ", ".join((Path(place) / "classInd.txt").as_posix() for place in LISTS)
            raise DataError(f"{path} has no list of classes (tried {tried}); expected the official lists of UCF101")
        classes = _classes(folder / "classInd.txt")
        self.settle_classes(classes, folder / "classInd.txt")
        groups: dict[str, str] = {}
        listed: dict[str, list[tuple[str, int]]] = {}
        for section in ("train", "test"):
            file = folder / f"{section}list{self.config.data.split:02d}.txt"
            listed[section] = []
            for clip, group, label in _clips(file, classes, numbered=section == "train"):
                groups[clip] = group
                listed[section].append((clip, self.targets.index(label)))
        return self.gather(path, listed, self.files(path), groups.__getitem__, say)

    def files(self, path: Path) -> dict[str, list[ClipFiles]]:
        """See the module's docstring."""
        # Copies write HandStandPushups and HandstandPushups; the lists have both.
        places = {"rgb": [ClipFiles("frames", path, FRAMES, key=str.lower)], "flow": []}
        for direction in ("u", "v"):
            inside = [(Path(place) / direction).as_posix() for place in FLOW]
            places["flow"].append(ClipFiles(f"flow {direction}", path, inside, key=str.lower))
        return places

    def looks(self, samples: Sequence[Sample]) -> dict[str, Look]:
        """At frames, and flow of both directions."""
        looks = {"rgb": Look("numbered frames", _look_at_rgb), "flow": Look("flow of two directions", _look_at_flow)}
        return {modality: looks[modality] for modality in self.modalities}

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """Frames ``(frame, 3, size, size)`` and flow ``(frame, 2, size, size)``, channels u and v."""
        inputs = {}
        seed = None if random is None else int(torch.randint(2**62, (), generator=random))
        if "rgb" in self.modalities:
            (folder,) = sample.inputs["rgb"]
            files = _frames(folder)
            clip = self.load_frames(len(files), lambda i: read_image(files[i]), _again(seed), folder)
            inputs["rgb"] = normalise(clip)
        if "flow" in self.modalities:
            pairs = _flow_files(*sample.inputs["flow"])
            where = sample.inputs["flow"][0]
            clip = self.load_frames(len(pairs), lambda i: _read_flow(*pairs[i]), _again(seed), where, mirror_flow)
            inputs["flow"] = normalise(clip, FLOW_MEAN, FLOW_STD)
        return inputs

    def generate(self, folder: Path) -> None:
        """Six actions, each with a motion, clear in the flow, and a tint, faint in the frames; eight groups of each."""
        random = np.random.Generator(np.random.Philox(0))
        names = ["ApplyEyeMakeup", "Archery", "BabyCrawling", "Billiards", "HandstandPushups", "YoYo"]
        lists = folder / "ucfTrainTestlist"
        lists.mkdir()
        (lists / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(names, start=1)))
        rows: dict[str, list[str]] = {f"{s}list{n:02d}.txt": [] for s in ("train", "test") for n in (1, 2, 3)}
        for number, name in enumerate(names):
            for group in range(1, 9):
                for take in range(1, 4):
                    clip = f"v_{name}_g{group:02d}_c{take:02d}"
                    for split in (1, 2, 3):
                        tested = group in (2 * split - 1, 2 * split)
                        end = "" if tested else f" {number + 1}"
                        rows[f"{'test' if tested else 'train'}list{split:02d}.txt"].append(f"{name}/{clip}.avi{end}")
                    _write_clip(folder, clip, number, len(names), random)
        for name, lines in rows.items():
            (lists / name).write_text("".join(f"{line}\r\n" for line in lines))


def mirror_flow(clip: Tensor) -> Tensor:
    """Flow with left and right swapped: what moved to the right moves to the left.

    Args:
        clip: ``(frame, channel, height, width)``, uint8, channels u and v.

    Example:
        >>> mirror_flow(torch.tensor([[[[10, 20]], [[30, 40]]]], dtype=torch.uint8)).tolist()
        [[[[235, 245]], [[40, 30]]]]
    """
    mirrored = clip.flip(-1)
    return torch.cat([255 - mirrored[:, :1], mirrored[:, 1:]], dim=1)


def _again(seed: int | None) -> torch.Generator | None:
    """A generator that draws the same for each modality, so that they show the same."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def _classes(file: Path) -> list[str]:
    """Names in the order of their numbers."""
    names: list[str] = []
    for where, (number, name) in read_rows(file, ("number", "class"), r"\s+"):
        if number != str(len(names) + 1):
            raise DataError(f"{where}: number {number!r}, expected {len(names) + 1}")
        if name in names:
            raise DataError(f"{where}: class {name} is listed twice")
        names.append(name)
    return names


def _clips(file: Path, classes: list[str], numbered: bool) -> list[tuple[str, str, str]]:
    """Clip, group and class of each row."""
    clips = []
    fields = ("clip", "number of the class") if numbered else ("clip",)
    for where, (path, *numbers) in read_rows(file, fields, r"\s+"):
        match = CLIP.fullmatch(path)
        if match is None:
            raise DataError(f"{where}: {path!r}, expected a clip such as Archery/v_Archery_g01_c01.avi")
        label = match["label"]
        if label not in classes:
            raise DataError(f"{where}: unknown class {label!r}, which classInd.txt does not have")
        if numbers and numbers[0] != str(classes.index(label) + 1):
            raise DataError(
                f"{where}: number {numbers[0]!r}, but {label} is {classes.index(label) + 1} in classInd.txt"
            )
        clips.append((match["clip"], match["group"], label))
    return clips


def _frames(folder: Path) -> list[Path]:
    """Numbered frames; some copies have flow beside the frames, named flow_x_00001.jpg, which is not meant."""
    files = [file for file in frame_files(folder) if FRAME.fullmatch(file.stem)]
    if not files:
        raise DataError(f"{folder} has no frames of the usual names, such as frame_000001.jpg or img_00001.jpg")
    return files


def _flow_files(u: Path, v: Path) -> list[tuple[Path, Path]]:
    """The files of both directions of each frame."""
    files_u, files_v = _frames(u), _frames(v)
    if [file.name for file in files_u] != [file.name for file in files_v]:
        one = sorted({file.name for file in files_u} ^ {file.name for file in files_v}, key=natural_key)[0]
        raise DataError(f"{u} and {v} hold different frames: {one} is in one of them only; extract the flow anew")
    return list(zip(files_u, files_v, strict=True))


def _look_at_rgb(folder: Path) -> None:
    look_at_frames(_frames(folder), folder)


def _look_at_flow(u: Path, v: Path) -> None:
    _flow_files(u, v)
    for folder in (u, v):
        look_at_frames(_frames(folder), folder)
    _read_flow(_frames(u)[0], _frames(v)[0])


def _read_flow(u: Path, v: Path) -> Tensor:
    """Flow ``(2, height, width)``; the files are grey, so one channel says all."""
    flow = [read_image(file)[:1] for file in (u, v)]
    if flow[0].shape != flow[1].shape:
        raise DataError(f"{u} is {tuple(flow[0].shape[1:])}, {v} is {tuple(flow[1].shape[1:])}; expected one size")
    return torch.cat(flow)


def _write_clip(folder: Path, clip: str, number: int, classes: int, random: np.random.Generator) -> None:
    """Four frames and three of flow; which way something moves sideways tells nothing, since mirrors swap it."""
    angle = 2 * np.pi * np.array([0, 1 / 3, 2 / 3]) - 2 * np.pi * number / classes
    tint = 128 + 45 * np.cos(angle) + 50 * random.normal(size=3)
    direction = np.pi * (number / (classes - 1) - 0.5) + 0.12 * random.normal()
    motion = 80 * np.array([np.cos(direction) * random.choice([-1, 1]), np.sin(direction)])
    for index in range(4):
        _save(folder / "jpegs_256" / clip / f"frame{index + 1:06d}.jpg", tint + 20 * random.normal(size=(36, 48, 3)))
    for index in range(3):
        for name, speed in zip("uv", motion, strict=True):
            pixels = 127.5 + speed + 15 * random.normal(size=(36, 48))
            _save(folder / "tvl1_flow" / name / clip / f"frame{index + 1:06d}.jpg", pixels)


def _save(file: Path, pixels: NDArray[np.float64]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
