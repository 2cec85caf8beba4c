"""CREMA-D: the emotion that an actor plays, one of six, from voice and face.

Paper: Cao et al. 2014, CREMA-D: Crowd-sourced Emotional Multimodal Actors Dataset, IEEE Transactions on Affective
Computing, https://doi.org/10.1109/TAFFC.2014.2336244; cite it. 7,442 clips of 91 actors. Data:
https://github.com/CheyneyComputerScience/CREMA-D, under the Open Database License 1.0, contents under the Database
Contents License 1.0. The lists and the settings are those of OGM (Peng et al., CVPR 2022, arXiv 2203.15332).

Layout: ``train.csv`` and ``test.csv`` with rows such as ``1001_IEO_NEU_XX,NEU`` and no header; ``{clip}.wav`` in the
folder itself, in ``AudioWAV`` or in ``audio``; frames ``Image-01-FPS/{clip}/*.jpg``, where 01 is ``data.fps``, in the
folder itself or in ``visual``.

Sound: 22,050 Hz, repeated to three seconds, ``log(|STFT| + 1e-7)`` with windows of 512 every 353 samples: 257
frequencies by 188 times.

The lists divide clips, not actors: who is tested was heard in training. ``data.by_speaker=true`` leaves their division
aside and divides the actors; its scores are lower and cannot be compared with published ones.

What differs from the releases of OGM and MMPareto: validation is held out from training, where there the best epoch on
the test list is reported; frames are drawn at random in training, where OGM draws numbers and then takes the first
frames; any number of frames is used; sounds below one second are repeated as often as it takes; missing clips are an
error, where there they are skipped in silence; frames keep their shape in evaluation. Preset ``tpami`` has the settings
of OGM's extension with OPM (Wei et al., T-PAMI 2024, arXiv 2410.11582).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

from cggm_med.config import Tree, require
from cggm_med.errors import DataError
from cggm_med.task.samples import Inputs, Sample, SampleList
from cggm_med_tasks.audiovisual.clips import PRESETS, ClipDataConfig, ClipFiles, ClipTask, read_rows
from cggm_med_tasks.readers.audio import log_spectrogram, look_at_sound, read_wav, repeat_to
from cggm_med_tasks.readers.images import frame_files, look_at_frames_in, normalise, read_image
from cggm_med_tasks.readers.media import Look

MODALITIES = ("audio", "visual")
CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
LISTS = {"train": "train.csv", "test": "test.csv"}
RATE = 22050  # Hz
SECONDS = 3
N_FFT, HOP = 512, 353
SPEAKER = re.compile(r"(\d{4})_.+")


@dataclass(frozen=True)
class CREMADDataConfig(ClipDataConfig):
    """Settings of the data, see also the base class.

    Attributes:
        fps: use the frames that were extracted at this many frames per second.
        by_speaker: divide actors, not clips; the lists' own division is left aside.
    """

    frames: int = 1
    fps: int = 1
    by_speaker: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.fps >= 1, "data.fps", self.fps, "at least 1")


class CREMAD(ClipTask):
    """Emotion of a clip: neutral, happy, sad, fear, disgust, anger."""

    DataConfig = CREMADDataConfig
    description = "CREMA-D: one of six emotions from voice and face"
    url = "https://github.com/CheyneyComputerScience/CREMA-D"
    known_modalities = MODALITIES
    targets = CLASSES
    metrics = ("accuracy", "mAP")
    group_kind = "group"
    channels: ClassVar[dict[str, int]] = {"audio": 1, "visual": 3}
    presets: ClassVar[dict[str, Tree]] = PRESETS

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        data = self.config.data
        listed = {section: _read_list(path / name) for section, name in LISTS.items()}
        gathered = self.gather(path, listed, self.files(path), _speaker if data.by_speaker else str, say)
        return SampleList(gathered.samples) if data.by_speaker else gathered

    def files(self, path: Path) -> dict[str, list[ClipFiles]]:
        """See the module's docstring."""
        frames = f"Image-{self.config.data.fps:02d}-FPS"
        return {
            "audio": [ClipFiles("sound", path, (".", "AudioWAV", "audio"), (".wav",))],
            "visual": [ClipFiles("frames", path, (frames, f"visual/{frames}"))],
        }

    def looks(self, samples: Sequence[Sample]) -> dict[str, Look]:
        """At sounds and frames."""
        looks = {"audio": Look("sound", look_at_sound), "visual": Look("frames", look_at_frames_in)}
        return {modality: looks[modality] for modality in self.modalities}

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """Log-spectrogram ``(1, 257, 188)`` and frames ``(frame, 3, size, size)``."""
        inputs = {}
        if "audio" in self.modalities:
            (file,) = sample.inputs["audio"]
            samples = torch.from_numpy(read_wav(file, RATE))
            inputs["audio"] = log_spectrogram(repeat_to(samples, SECONDS * RATE), N_FFT, HOP)
        if "visual" in self.modalities:
            (folder,) = sample.inputs["visual"]
            files = frame_files(folder)
            inputs["visual"] = normalise(self.load_frames(len(files), lambda i: read_image(files[i]), random, folder))
        return inputs

    def generate(self, folder: Path) -> None:
        """Eight made-up actors: each emotion has a pitch, clear in the voice, and a tint, faint in the frames."""
        random = np.random.Generator(np.random.Philox(0))
        (folder / "AudioWAV").mkdir()
        rows: dict[str, list[str]] = {name: [] for name in LISTS.values()}
        for actor in range(1001, 1009):
            for take in range(4):
                for number, emotion in enumerate(CLASSES):
                    clip = f"{actor}_S{take:02d}_{emotion}_XX"
                    rows["test.csv" if random.random() < 0.25 else "train.csv"].append(f"{clip},{emotion}")
                    time = np.arange(int(random.uniform(0.5, 0.9) * RATE)) / RATE
                    pitch = 300 * 1.5 ** (number + random.normal() * 0.25)  # Hz
                    overtones = pitch * np.arange(1, int(RATE / 2 / pitch))
                    sound = 0.05 * np.sin(2 * np.pi * np.outer(time, overtones)).sum(axis=1) / len(overtones) ** 0.5
                    sound += 0.01 * random.normal(size=time.shape)
                    wavfile.write(folder / "AudioWAV" / f"{clip}.wav", RATE, (sound * 32767).astype(np.int16))
                    angle = 2 * np.pi * np.array([0, 1 / 3, 2 / 3]) - 2 * np.pi * number / len(CLASSES)
                    tint = 128 + 45 * np.cos(angle) + 35 * random.normal(size=3)
                    frames = folder / "Image-01-FPS" / clip
                    frames.mkdir(parents=True)
                    for index in range(3):
                        pixels = tint + 20 * random.normal(size=(36, 48, 3))
                        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                        image.save(frames / f"frame_{index + 1:05d}.jpg")
        for name, lines in rows.items():
            text = "".join(f"{line}\r\n" for line in lines)
            (folder / name).write_bytes(text.encode("utf-8-sig"))


def _read_list(file: Path) -> list[tuple[str, int]]:
    """Clips and their class numbers."""
    listed = []
    for where, (clip, label) in read_rows(file, ("clip", "label"), r"\s*,\s*"):
        if label not in CLASSES:
            raise DataError(f"{where}: unknown label {label!r}, expected one of {', '.join(CLASSES)}")
        listed.append((clip, CLASSES.index(label)))
    return listed


def _speaker(clip: str) -> str:
    match = SPEAKER.fullmatch(clip)
    if match is None:
        raise DataError(
            f"data.by_speaker=true: clip {clip} does not begin with an actor's number as 1001_IEO_NEU_XX; rename it, "
            "or set data.by_speaker=false"
        )
    return match.group(1)
