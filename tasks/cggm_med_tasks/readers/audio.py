"""Read WAV files, and compute the spectrograms that audio encoders take."""

from __future__ import annotations

import io
import math
import struct
import tarfile
import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from cggm_med.errors import DataError
from cggm_med.files import what_it_is

RATES = (1_000, 768_000)  # Hz; beyond them a header is damaged, and resampling could need any amount of memory
MAX_PEAK = 10.0  # float samples beyond this were never scaled to full scale 1

# What scipy raises for impossible headers, and for damaged files in general.
HEADER = (struct.error, TypeError, OverflowError, ZeroDivisionError)
UNREADABLE = (*HEADER, OSError, EOFError, ValueError, MemoryError, UnboundLocalError, tarfile.TarError)


def read_wav(source: Path | IO[bytes], rate: int, *, name: str = "") -> NDArray[np.float32]:
    """Samples of a WAV file: mono, in [-1, 1], at a given sampling rate.

    PCM of 8 (unsigned), 16, 24 and 32 bits and float files are read; channels are averaged; another rate is resampled
    with a polyphase filter. Peaks above full scale, from a float file or from resampling, are clipped, as in the loader
    of OGM.

    Args:
        source: a path, or an open binary file such as ``tarfile.extractfile`` gives.
        rate: sampling rate of the result in Hz.
        name: what errors call it; the path, unless given.

    Returns:
        ``(time,)``.

    Raises:
        DataError: if it is missing, cut short, not a WAV file, of an unusual coding, empty or not finite.

    Example:
        >>> file = io.BytesIO()
        >>> wavfile.write(file, 8000, np.array([0, 16384, -32768], np.int16))
        >>> read_wav(file, rate=8000).tolist()
        [0.0, 0.5, -1.0]
    """
    own_rate, data = _samples(source, name or str(source))
    mono = _full_scale(data).reshape(len(data), -1).mean(axis=1)
    if own_rate != rate:
        common = math.gcd(own_rate, rate)
        mono = resample_poly(mono, rate // common, own_rate // common)
    return mono.clip(-1, 1).astype(np.float32)


def look_at_sound(file: Path) -> None:
    """Find out whether a WAV file can be read, without computing anything.

    Raises:
        DataError: as ``read_wav`` does.
    """
    _samples(file, str(file))


def repeat_to(samples: Tensor, length: int) -> Tensor:
    """The samples, repeated and cut to a length, as OGM brings clips to three seconds.

    Args:
        samples: ``(time,)``, at least one.
        length: number of samples of the result.

    Raises:
        ValueError: if there is nothing to repeat.

    Example:
        >>> repeat_to(torch.tensor([1.0, 2.0]), 5)
        tensor([1., 2., 1., 2., 1.])
    """
    if not len(samples):
        raise ValueError("no samples to repeat")
    return samples.repeat(-(-length // len(samples)))[:length]


def log_spectrogram(samples: Tensor, n_fft: int, hop: int, epsilon: float = 1e-7) -> Tensor:
    """``log(|STFT| + epsilon)``, as the loader of OGM computes it with librosa.

    Frames are centred on every ``hop``-th sample, beyond the ends the sound is mirrored, and windows are periodic Hann:
    the defaults of librosa when OGM was written; since 0.9 it takes zeros beyond the ends. OGM has 22,050 Hz, 3 s,
    ``n_fft`` 512 and ``hop`` 353: 257 frequencies by 188 times.

    Args:
        samples: ``(time,)``, more than ``n_fft / 2``.
        n_fft: samples in a window.
        hop: samples from one window to the next.
        epsilon: keeps silence finite; 1e-7 is OGM's, -16 after the logarithm.

    Returns:
        ``(1, frequency, time)``: ``n_fft // 2 + 1`` frequencies, ``1 + samples // hop`` times.

    Raises:
        ValueError: if there are too few samples to mirror.

    Example:
        >>> log_spectrogram(torch.zeros(66150), n_fft=512, hop=353).shape
        torch.Size([1, 257, 188])
    """
    return (_magnitudes(samples, n_fft, hop) + epsilon).log()[None]


def _magnitudes(samples: Tensor, n_fft: int, hop: int) -> Tensor:
    if len(samples) <= n_fft // 2:
        raise ValueError(f"{len(samples)} samples are too few for windows of {n_fft}: give more than {n_fft // 2}")
    window = torch.hann_window(n_fft, dtype=samples.dtype, device=samples.device)
    waves = torch.stft(samples, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    return waves.abs()


def mel_filters(bands: int, n_fft: int, rate: int, low: float) -> Tensor:
    """Triangular filters, evenly spaced on the mel scale, that hear as the ear does: finer at low frequencies.

    A mel is ``2595 log10(1 + f / 700)``, f in Hz (O'Shaughnessy 1987, the scale of HTK); each triangle reaches from the
    peak of the one before to that of the one after, and peaks at 1.

    Args:
        bands: number of filters.
        n_fft: samples in a window.
        rate: samples a second.
        low: lowest frequency in Hz; the highest is half the rate.

    Returns:
        ``(band, n_fft // 2 + 1)``, for the power of each frequency.

    Example:
        >>> mel_filters(bands=40, n_fft=256, rate=8000, low=60.0).shape
        torch.Size([40, 129])
    """
    frequencies = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    ends = 2595 * torch.log10(1 + torch.tensor([low, rate / 2], dtype=torch.float64) / 700)
    lowest, highest = ends.tolist()
    edges = 700 * (10 ** (torch.linspace(lowest, highest, bands + 2, dtype=torch.float64) / 2595) - 1)
    before, peak, after = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - before) / (peak - before), (after - frequencies) / (after - peak)
    return torch.minimum(rising, falling).clamp_min(0).float()


def log_mel(samples: Tensor, filters: Tensor, hop: int, epsilon: float) -> Tensor:
    """``log(filters |STFT|^2 + epsilon)``, with the windows of ``log_spectrogram``.

    Args:
        samples: ``(time,)``, more than half a window.
        filters: ``(band, frequency)``, see ``mel_filters``.
        hop: samples from one window to the next.
        epsilon: keeps silence finite, and quiet noise from being heard as loud as speech.

    Returns:
        ``(1, band, time)``.
    """
    power = _magnitudes(samples, 2 * (filters.shape[1] - 1), hop) ** 2
    return (filters.to(power) @ power + epsilon).log()[None]


def standardise(spectrogram: Tensor) -> Tensor:
    """The spectrogram with mean 0 and standard deviation 1: how loud a recording is tells who made it, not what it is.

    Silence, which has no spread, becomes zeros but for rounding.

    Args:
        spectrogram: of any shape, all of one recording.

    Example:
        >>> standardise(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """
    return (spectrogram - spectrogram.mean()) / spectrogram.std(correction=0).clamp_min(1e-3)


class _WholeFile(io.BytesIO):
    """Short reads are errors: of a data chunk that was cut, scipy takes what is there and says nothing."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        # Up to four bytes are a chunk's name or size, at which scipy looks for the end itself.
        if size is not None and size > 4 and len(data) < size:
            raise EOFError(f"it ends after {len(data)} of {size} bytes")
        return data


def _samples(source: Path | IO[bytes], name: str) -> tuple[int, NDArray]:
    """Sampling rate and samples as they are in the file, checked."""
    try:
        raw = source.read_bytes() if isinstance(source, Path) else source.read()
        if raw[:4] not in (b"RIFF", b"RIFX"):  # RF64, for more than 4 GiB, would be no clip
            raise ValueError(what_it_is(raw) or f"it begins with {raw[:4]!r}, a WAV file with b'RIFF'")
        rate, data = _parse(raw)
        _check(rate, data)
    except UNREADABLE as error:
        reason = _reason(error)
        raise DataError(
            f"{name} cannot be read as sound: {reason}; expected a whole WAV file (PCM or float)"
        ) from error
    return rate, data


def _parse(raw: bytes) -> tuple[int, NDArray]:
    """Sampling rate and samples as they are in the file, ``(time,)`` or ``(time, channel)``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that only the program that wrote them knows
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        try:
            return wavfile.read(_WholeFile(raw))
        except wavfile.WavFileWarning as error:
            raise EOFError(str(error)) from error


def _check(rate: int, data: NDArray) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"its sampling rate is {rate} Hz, expected {RATES[0]} to {RATES[1]}")
    if not data.size:
        raise ValueError("it has no samples")
    if data.dtype.kind == "f":
        if not np.isfinite(data).all():
            raise ValueError("it has samples that are not finite")
        if (peak := np.abs(data).max()) > MAX_PEAK:
            raise ValueError(f"its float samples reach {peak:g}, expected -1 to 1")


def _full_scale(data: NDArray) -> NDArray[np.float64]:
    """Samples in which 1 is full scale; integers are left-justified in their container."""
    samples = data.astype(np.float64)
    if data.dtype.kind == "f":
        return samples
    half = 2.0 ** (8 * data.dtype.itemsize - 1)
    return (samples - half) / half if data.dtype.kind == "u" else samples / half


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnboundLocalError):
        return "it has no format or no samples"  # the variables that scipy would have filled from them
    if isinstance(error, HEADER):
        return "its header is damaged"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), "") or type(error).__name__
