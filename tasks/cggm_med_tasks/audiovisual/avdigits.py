"""Audio-visual digits: which digit is spoken and shown, from a recording and an image.

Real recordings and real handwriting, small enough for a CPU: the Free Spoken Digit Dataset (Jackson et al.,
https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0, doi 10.5281/zenodo.1342401) beside the 8 x 8
images of scikit-learn's ``load_digits`` (UCI Optical Recognition of Handwritten Digits, Alpaydin and Kaynak 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0); cite both. Who speaks did not write the image: they are paired by digit, so
only the imbalance between the modalities is real, not the pairing.

Layout: ``{digit}_{speaker}_{index}.wav`` in a folder, in its subfolder ``recordings`` or in a ``.tar`` or ``.tar.gz``;
the images come with scikit-learn.

Split by speaker: nobody who is tested was heard in training. Each speaker has images of their own, so the images are
divided as well. To each image noise is added, once and for all (``data.image_noise``): as they are, images alone tell
nearly every digit. AV-MNIST (Vielzeuf et al. 2018, https://arxiv.org/abs/1808.07275) degrades its images for the same
reason.
"""

from __future__ import annotations

import math
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from cggm_med.config import Tree, require
from cggm_med.data.cases import natural_key
from cggm_med.errors import DataError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.models.late_fusion import FUSIONS, LateFusionModel, vector_heads
from cggm_med.models.resnet import ConvEncoder
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.samples import Inputs, Sample, SampleDataConfig, SampleList
from cggm_med_tasks.readers.audio import log_mel, mel_filters, read_wav, standardise

MODALITIES = ("audio", "image")
RATE = 8000  # Hz
LENGTH = 8192  # samples that the network sees, about a second; shorter recordings are padded with silence
HOP = 128
FILTERS = mel_filters(bands=40, n_fft=256, rate=RATE, low=60.0)
EPSILON = 1e-4  # added before the logarithm, so that silence is not far below everything else
SPEEDS = (0.8, 1.25)
MAX_PAUSE = 1600  # samples
NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav", re.IGNORECASE)
LAYOUT = "files {digit}_{speaker}_{index}.wav in a folder, its subfolder 'recordings' or a tar"


@dataclass(frozen=True)
class AVDigitsDataConfig(SampleDataConfig):
    """Settings of the data: of six speakers, one chooses the checkpoint and one is tested.

    Attributes:
        image_noise: standard deviation of the noise on each pixel, whose values are 0 to 1. Without it, images alone
            tell nearly every digit, and there is nothing to balance.
    """

    validation: float = 0.17
    test: float = 0.17
    image_noise: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.image_noise < math.inf, "data.image_noise", self.image_noise, "at least 0 and finite")


@dataclass(frozen=True)
class AVDigitsModelConfig:
    """The network.

    Attributes:
        fusion: ``concat``, ``sum`` or ``gated``.
        audio_widths: channels of each convolution of the audio encoder, each of which halves the grid.
        image_widths: the same for images.
    """

    fusion: Literal["concat", "sum", "gated"] = "concat"
    audio_widths: tuple[int, ...] = (16, 32, 64)
    image_widths: tuple[int, ...] = (16, 32)

    def __post_init__(self) -> None:
        for name in ("audio_widths", "image_widths"):
            widths = getattr(self, name)
            require(bool(widths) and all(w > 0 for w in widths), f"model.{name}", list(widths), "at least one width")


class AVDigits(ClassificationTask):
    """A digit, spoken and written."""

    DataConfig = AVDigitsDataConfig
    ModelConfig = AVDigitsModelConfig
    description = "spoken and written digits: one of ten from a recording and an image"
    url = "https://github.com/Jakobovski/free-spoken-digit-dataset"
    known_modalities = MODALITIES
    targets = tuple("0123456789")
    metrics = ("accuracy", "weighted F1")
    group_kind = "speaker"
    presets: ClassVar[dict[str, Tree]] = {
        "tiny": {
            "optim": {"lr": 3e-3},
            "train": {"batch_size": 32, "epochs": 15, "steps_per_epoch": 0, "validate_every": 1},
        },
        "base": {"train": {"batch_size": 32, "epochs": 20, "steps_per_epoch": 0, "validate_every": 1}},
    }

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        recordings: dict[tuple[str, str, str], NDArray[np.float32]] = {}
        unknown, damaged = [], []
        for name, file in _recordings(path):
            match = NAME.fullmatch(name)
            if match is None:
                unknown.append(name)
                continue
            digit, speaker, index = match.groups()
            try:
                recordings[digit, speaker, index] = read_wav(file, RATE, name=name)
            except DataError as error:
                damaged.append(str(error))
        if damaged:
            raise DataError(f"{path}: {len(damaged)} recordings are damaged; copy them anew:", damaged, listed=20)
        if unknown:
            raise DataError(f"{path} holds recordings with other names; expected {LAYOUT}:", unknown, listed=20)
        if not recordings:
            raise DataError(f"{path} holds no recording; expected {LAYOUT}")
        speakers = sorted({speaker for _, speaker, _ in recordings})
        images = _images(speakers)
        samples = []
        for digit, speaker, index in sorted(recordings, key=lambda key: natural_key("_".join(key))):
            id = f"{digit}_{speaker}_{index}"
            choice = images[speaker, int(digit)]
            # Drawn by name, so that neither the order nor the number of recordings matters.
            random = np.random.Generator(np.random.Philox(zlib.crc32(id.encode())))
            image = choice[random.integers(len(choice))]
            noise = random.normal(scale=self.config.data.image_noise, size=image.shape)
            inputs = {"audio": recordings[digit, speaker, index], "image": (image + noise).astype(np.float32)}
            samples.append(Sample(id, speaker, int(digit), inputs))
        return SampleList(tuple(samples))

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """Recordings of any name. Images are paired with them by the digit, which is not known, so there are none."""
        if "audio" not in modalities:
            raise DataError(
                f"{path}: without labels there are only recordings, of audio; expected a run that hears them"
            )
        return [
            Sample(name[: -len(".wav")], name, None, {"audio": read_wav(file, RATE, name=f"{path}: {name}")})
            for name, file in _recordings(path)
        ]

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """Log-mel spectrogram ``(1, 40, 65)`` with mean 0 and standard deviation 1, and image ``(1, 8, 8)``.

        While training, recordings are played at another speed and begin later, at random: four speakers to learn from
        are few.
        """
        inputs = {}
        if "audio" in self.modalities:
            heard = torch.from_numpy(sample.inputs["audio"])
            if random is not None:
                slowest, fastest = SPEEDS
                speed = slowest + (fastest - slowest) * torch.rand((), generator=random).item()
                heard = interpolate(heard[None, None], size=max(1, round(len(heard) / speed)), mode="linear")[0, 0]
                pause = int(torch.randint(MAX_PAUSE, (), generator=random))
                heard = torch.cat([torch.zeros(pause), heard])
            samples = torch.zeros(LENGTH)
            samples[: len(heard)] = heard[:LENGTH]
            inputs["audio"] = standardise(log_mel(samples, FILTERS, HOP, EPSILON))
        if "image" in self.modalities:
            inputs["image"] = torch.from_numpy(sample.inputs["image"])[None]
        return inputs

    def model(self) -> MultimodalModel:
        """Small convolutional encoders and late fusion."""
        settings = self.config.model
        encoders = {
            "audio": ConvEncoder(1, settings.audio_widths, grid=(4, 4)),
            "image": ConvEncoder(1, settings.image_widths, grid=(2, 2)),
        }
        chosen = {m: encoders[m] for m in self.modalities}
        widths = {m: encoder.width for m, encoder in chosen.items()}
        return LateFusionModel(chosen, widths, len(self.targets), fusion=FUSIONS[settings.fusion])

    def unimodal_heads(self, model: MultimodalModel) -> UnimodalHeads:
        """A linear head on each vector."""
        return vector_heads(model, len(self.targets))

    def rules(self) -> dict[str, str]:
        """Definitions of the scores, and what was done to the images."""
        noise = f"noise of standard deviation {self.config.data.image_noise:g} on pixels of 0 to 1"
        return {**super().rules(), "images": noise}

    def generate(self, folder: Path) -> None:
        """Six made-up speakers: a digit is four tones, low or high as its binary digits; a speaker has a pitch."""
        from scipy.io import wavfile

        random = np.random.Generator(np.random.Philox(0))
        (folder / "recordings").mkdir()
        for number, speaker in enumerate(("ada", "ben", "cleo", "dan", "eve", "finn")):
            for digit in range(10):
                for index in range(6):
                    time = np.arange(int(random.uniform(0.08, 0.12) * RATE)) / RATE
                    pitch = 1 + number / 20
                    tones = [pitch * (1800 if digit >> bit & 1 else 500) for bit in range(4)]
                    sound = np.concatenate([np.sin(2 * np.pi * tone * time) for tone in tones]) / 4
                    sound = sound + random.normal(size=sound.shape) * 0.15
                    file = folder / "recordings" / f"{digit}_{speaker}_{index}.wav"
                    wavfile.write(file, RATE, (sound.clip(-1, 1) * 32767).astype(np.int16))


def _recordings(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each recording."""
    if path.is_dir():
        folder = path / "recordings" if (path / "recordings").is_dir() else path
        for place in sorted(folder.glob("*.wav")):
            with place.open("rb") as file:
                yield place.name, file
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member)  # in memory; None of what is no file
                if content is not None and member.name.lower().endswith(".wav"):
                    yield Path(member.name).name, content
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no tar, or a damaged one; expected {LAYOUT}") from error


def _images(speakers: Sequence[str]) -> dict[tuple[str, int], NDArray[np.float32]]:
    """Images ``(image, 8, 8)`` in [0, 1] by speaker and digit; no image has two speakers."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16).astype(np.float32)
    of_digit = {digit: pixels[bunch.target == digit] for digit in range(10)}
    return {
        (speaker, digit): images[number :: len(speakers)]
        for number, speaker in enumerate(speakers)
        for digit, images in of_digit.items()
    }
