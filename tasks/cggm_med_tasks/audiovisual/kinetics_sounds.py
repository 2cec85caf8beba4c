"""Kinetics-Sounds: an action that can be seen and heard, one of 31, from sound and video frames.

Paper: Arandjelovic and Zisserman 2017, Look, Listen and Learn, ICCV, arXiv 1705.08168; the clips are of Kinetics-400
(Kay et al. 2017, arXiv 1705.06950); cite both. Data: https://github.com/cvdfoundation/kinetics-dataset; the annotations
are licensed by Google under CC BY 4.0, the videos belong to those who uploaded them. The lists are those of OGM (Peng
et al., CVPR 2022, arXiv 2203.15332) and of its extension (Wei et al., T-PAMI 2024, arXiv 2410.11582), which also has
the settings.

Layouts, of which the folder has one:

- lists ``train.txt`` and ``test.txt``, or one file each that is named like ``my_train.txt``, with rows such as
  ``-0cLvm23W4w_000012,10,4`` (clip, seconds, class from 0 to 30; also separated by spaces); frames
  ``{clip}/*.jpg`` in the folder itself, in ``frames``, ``visual`` or ``Image-01-FPS``;
- one JSON file ``{"labels": [...], "database": {clip: {"subset": "training", "label": name}}}``, where subset may also
  be ``validation`` or ``testing``; videos ``{clip}.hdf5``, whose ``video`` holds the bytes of each frame's JPEG, in the
  folder itself, in ``hdf5`` or ``visual``.

In both, spectrograms ``{clip}.npy`` or ``{clip}.pkl``, (frequency, time) or (time, frequency), the same way round in
all, in the folder itself or in ``audio``, ``spectrogram``, ``train_spec``, ``test_spec`` or ``pkl``. The network sees
them as they are. A ``.pkl`` is never unpickled plainly: it is converted when it is first used, a fraction of a second
each, and stays in the cache; where there are thousands, ``.npy`` files save that time and space and are preferred.

What differs from the releases: where the data set names no validation clips beside its test clips, validation is held
out from training, where there the best epoch on the test clips is reported; frames are drawn at random in training and
fixed in evaluation; missing clips are an error, where there they are skipped in silence (videos do vanish from YouTube:
``data.skip_missing=true`` leaves them out and says how many). The settings are OGM's on CREMA-D and VGGSound; preset
``tpami`` has those of its extension, which are for this data set.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cggm_med.config import Tree
from cggm_med.data.arrays import read_npy, require_finite, require_numbers
from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError, kind_of
from cggm_med.files import cache_folder
from cggm_med.task.samples import Inputs, Sample, SampleList
from cggm_med_tasks.audiovisual.clips import PRESETS, ClipFiles, ClipTask, read_rows
from cggm_med_tasks.readers.images import frame_files, look_at_frames_in, normalise, read_image, require_one_size
from cggm_med_tasks.readers.media import Look
from cggm_med_tasks.readers.untrusted_pickle import read_pickle

MODALITIES = ("audio", "visual")
NUMBERS = tuple(str(number) for number in range(31))
SUBSETS = {"training": "train", "validation": "validation", "testing": "test"}
LAYOUTS = "train.txt and test.txt, or one JSON file with labels and database"
SPECTROGRAMS = (".", "audio", "spectrogram", "train_spec", "test_spec", "pkl")
FRAMES = (".", "frames", "visual", "Image-01-FPS")
VIDEOS = (".", "hdf5", "visual")
Listed = dict[str, list[tuple[str, int]]]


class KineticsSounds(ClipTask):
    """An action that can be seen and heard."""

    description = "Kinetics-Sounds: one of 31 actions from sound and video frames"
    url = "https://github.com/cvdfoundation/kinetics-dataset"
    known_modalities = MODALITIES
    targets = NUMBERS
    metrics = ("accuracy", "mAP")
    group_kind = "clip"
    channels: ClassVar[dict[str, int]] = {"audio": 1, "visual": 3}
    presets: ClassVar[dict[str, Tree]] = PRESETS

    def read(self, path: Path, say: Callable[[str], None]) -> SampleList:
        """See the module's docstring."""
        lists = {section: _list_file(path, section) for section in ("train", "test")}
        described = sorted(path.glob("*.json"))
        if bool(described) == any(lists.values()) or len(described) > 1:
            names = [file.name for file in (*filter(None, lists.values()), *described)]
            raise DataError(f"{path} has {', '.join(names) or 'neither lists nor JSON'}; expected either {LAYOUTS}")
        if described:
            listed = self._from_json(described[0], say)
        else:
            self.settle_classes(NUMBERS, path)
            listed = {section: _from_list(file or path / f"{section}.txt") for section, file in lists.items()}
        files = _clip_files(path, videos=bool(described))
        gathered = self.gather(path, listed, files, str, say)
        self._remember_shape(gathered.samples)
        return gathered

    def looks(self, samples: Sequence[Sample]) -> dict[str, Look]:
        """At spectrograms, which must have the shape of the first that can be read, and at videos or frames."""
        found = {}
        if "audio" in self.modalities:
            cache, shape = cache_folder(self.config.data.cache), None
            for sample in samples:
                with contextlib.suppress(DataError):
                    shape = _read_spectrogram(sample.inputs["audio"][0], cache).shape
                    break
            at = functools.partial(_look_at_spectrogram, shape=shape, cache=cache)
            found["audio"] = Look(f"spectrogram of shape {shape}", at)
        if "visual" in self.modalities:
            found["visual"] = Look("video or frames", _look_at_video)
        return found

    def files(self, path: Path) -> dict[str, list[ClipFiles]]:
        """See the module's docstring; frames are looked for where there are no videos."""
        return _clip_files(path, videos=any(next((path / place).glob("*.hdf5"), None) for place in VIDEOS))

    def read_unlabelled(self, path: Path, modalities: Sequence[str], say: Callable[[str], None]) -> list[Sample]:
        """See the base class."""
        samples = super().read_unlabelled(path, modalities, say)
        self._remember_shape([sample for sample in samples if "audio" in sample.inputs])
        return samples

    def _remember_shape(self, samples: Sequence[Sample]) -> None:
        """Of the first spectrogram, which all others must have."""
        if samples and "audio" in samples[0].inputs:
            cache = cache_folder(self.config.data.cache)
            self._shape = _read_spectrogram(samples[0].inputs["audio"][0], cache).shape

    def _from_json(self, file: Path, say: Callable[[str], None]) -> Listed:
        """Clips and class numbers by split."""
        content = read_json(file)
        content = content if isinstance(content, dict) else {}
        labels: Any = content.get("labels")
        database: Any = content.get("database")
        names = isinstance(labels, list) and labels and all(isinstance(name, str) for name in labels)
        if not names or len(set(labels)) < len(labels) or not isinstance(database, dict):
            database_form = '"database": {clip: {"subset": ..., "label": name}}'
            given = f"labels: {labels!r:.80}, database: {kind_of(database)}" if content else "no such object"
            raise DataError(f'{file} holds {given}; expected {{"labels": [different names], {database_form}}}')
        self.settle_classes(labels, file)
        listed: Listed = {section: [] for section in SUBSETS.values()}
        for clip, about in database.items():
            about = about if isinstance(about, dict) else {}
            subset, label = about.get("subset"), about.get("label")
            if not (isinstance(subset, str) and subset in SUBSETS):
                raise DataError(f"{file}: clip {clip} has subset {subset!r}, expected one of {', '.join(SUBSETS)}")
            if label not in labels:
                raise DataError(f"{file}: clip {clip} has label {label!r}, which is not among the {len(labels)} labels")
            listed[SUBSETS[subset]].append((clip, self.targets.index(label)))
        if listed["validation"] and not listed["test"]:
            say(f"{file.name} has no testing clips: its validation clips are tested, others are held out from training")
            listed |= {"test": listed["validation"], "validation": []}
        return listed

    def load(self, sample: Sample, random: torch.Generator | None) -> Inputs:
        """Spectrogram ``(1, ...)`` as it is in the file, and frames ``(frame, 3, size, size)``."""
        inputs = {}
        if "audio" in self.modalities:
            (file,) = sample.inputs["audio"]
            spectrogram = _read_spectrogram(file, cache_folder(self.config.data.cache))
            _require_shape(spectrogram, self._shape, file)
            inputs["audio"] = torch.from_numpy(spectrogram)[None]
        if "visual" in self.modalities:
            (source,) = sample.inputs["visual"]
            inputs["visual"] = normalise(self._frames(source, random))
        return inputs

    def _frames(self, source: Path, random: torch.Generator | None) -> Tensor:
        if source.suffix != ".hdf5":
            files = frame_files(source)
            return self.load_frames(len(files), lambda i: read_image(files[i]), random, source)
        with _opened(source) as video:
            return self.load_frames(len(video), lambda i: _decode(video[i], f"{source}, frame {i}"), random, source)

    def generate(self, folder: Path) -> None:
        """The layout with JSON; six actions with a pitch, clear in the sound, and a tint, faint in the frames."""
        random = np.random.Generator(np.random.Philox(0))
        labels = ["blowing nose", "bowling", "chopping wood", "playing drums", "ripping paper", "tap dancing"]
        database = {}
        for place in ("audio", "visual"):
            (folder / place).mkdir()
        for take in range(28):
            for number, label in enumerate(labels):
                clip = f"{random.integers(36**6):08x}_{take:03d}_{number}"
                database[clip] = {"subset": "testing" if take % 4 == 3 else "training", "label": label}
                spectrogram = random.normal(size=(64, 96)) - 4
                pitch = 3 * 1.4 ** (number + random.normal() * 0.25)  # rows from one overtone to the next
                spectrogram += 2 * np.cos(2 * np.pi * np.arange(64) / pitch)[:, None]
                np.save(folder / "audio" / f"{clip}.npy", spectrogram.astype(np.float32))
                angle = 2 * np.pi * np.array([0, 1 / 3, 2 / 3]) - 2 * np.pi * number / len(labels)
                tint = 128 + 45 * np.cos(angle) + 35 * random.normal(size=3)
                with h5py.File(folder / "visual" / f"{clip}.hdf5", "w") as store:
                    video = store.create_dataset("video", (4,), dtype=h5py.vlen_dtype(np.uint8))
                    for index in range(4):
                        pixels = tint + 20 * random.normal(size=(36, 48, 3))
                        jpeg = io.BytesIO()
                        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(jpeg, "JPEG")
                        video[index] = np.frombuffer(jpeg.getvalue(), np.uint8)
        (folder / "kinetics_sounds.json").write_text(json.dumps({"labels": labels, "database": database}))


def _clip_files(path: Path, *, videos: bool) -> dict[str, list[ClipFiles]]:
    """Where spectrograms are, and videos or frames."""
    visual = ClipFiles("video", path, VIDEOS, (".hdf5",)) if videos else ClipFiles("frames", path, FRAMES)
    return {"audio": [ClipFiles("spectrogram", path, SPECTROGRAMS, (".npy", ".pkl"))], "visual": [visual]}


def _list_file(root: Path, section: str) -> Path | None:
    """``train.txt``, or the one text file whose name has that word; None if there is none."""
    if (root / f"{section}.txt").is_file():
        return root / f"{section}.txt"
    files = sorted(root.glob(f"*{section}*.txt"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{root} has several lists for {section}: {names}; rename the right one to {section}.txt")
    return files[0] if files else None


def _from_list(file: Path) -> list[tuple[str, int]]:
    """Clips and their class numbers."""
    listed = []
    for where, (clip, _, label) in read_rows(file, ("clip", "seconds", "class"), r"\s*,\s*|\s+"):
        if label not in NUMBERS:
            raise DataError(f"{where}: unknown class {label!r}, expected 0 to {NUMBERS[-1]}")
        listed.append((clip.removesuffix(".mp4"), int(label)))
    return listed


def _read_spectrogram(file: Path, cache: Path) -> NDArray[np.float32]:
    array: Any = read_npy(file) if file.suffix == ".npy" else read_pickle(file, cache)
    if isinstance(array, np.ndarray) and array.ndim == 3 and len(array) == 1:
        array = array[0]
    array = require_numbers(array, ("frequency", "time"), str(file))
    if min(array.shape) < 32:
        raise DataError(f"{file} has shape {array.shape}, expected at least 32 frequencies and times")
    require_finite(array, str(file))
    return np.ascontiguousarray(array, dtype=np.float32)


def _require_shape(spectrogram: NDArray[np.float32], shape: tuple[int, ...] | None, file: Path) -> None:
    if shape is not None and spectrogram.shape != shape:
        raise DataError(f"{file} has shape {spectrogram.shape}, expected that of the first clip, {shape}")


def _look_at_spectrogram(file: Path, *, shape: tuple[int, ...] | None, cache: Path) -> None:
    _require_shape(_read_spectrogram(file, cache), shape, file)


def _look_at_video(source: Path) -> None:
    """At all frames in a folder; of a video at the first, middle and last, since its file tells whether it is whole."""
    if source.suffix != ".hdf5":
        look_at_frames_in(source)
        return
    with _opened(source) as video:
        picked = (0, len(video) // 2, len(video) - 1)
        frames = [_decode(video[index], f"{source}, frame {index}") for index in picked]
    require_one_size([(frame.shape[-2], frame.shape[-1]) for frame in frames], source)


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[h5py.Dataset]:
    """The frames of a video.

    Raises:
        DataError: if it has none, or cannot be read.
    """
    try:
        with h5py.File(source, "r") as store:
            video = store.get("video")
            if not isinstance(video, h5py.Dataset) or not video.shape or not len(video):
                raise DataError(f"{source} has no frames in 'video'; expected the bytes of one JPEG each")
            yield video
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise DataError(f"{source} is damaged or no HDF5 file: {reason}; make it anew") from error


def _decode(frame: Any, name: str) -> Tensor:
    """A frame from the bytes of its JPEG."""
    if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8):
        given = getattr(frame, "dtype", type(frame).__name__)
        raise DataError(f"{name} holds {given}, expected the bytes of a JPEG (uint8)")
    return read_image(io.BytesIO(frame.tobytes()), name=name)
