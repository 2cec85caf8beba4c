"""The laws of sound: files as Python's own reader sees them, spectrograms as NumPy's FFT computes them."""

import io
import math
import struct
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import ShortTimeFFT

from cggm_med.errors import DataError
from cggm_med_tasks.readers.audio import log_mel, log_spectrogram, mel_filters, read_wav, repeat_to, standardise

RECORDINGS = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "fsdd" / "recordings.tar"


def chunk(name, body, size=None):
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def noise(seed, size):
    return np.random.default_rng(seed).bytes(size)


def riff(*chunks):
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def form(bits, channels=1, rate=8000, tag=1):
    block = channels * bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits))


def pcm(raw, bits, channels=1, rate=8000):
    """A WAV file by Python's own writer."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, bits // 8, rate, 0, "NONE", ""))
        writer.writeframes(raw)
    return file.getvalue()


def floats(values, dtype="<f4", rate=8000):
    file = io.BytesIO()
    wavfile.write(file, rate, np.array(values, dtype))
    return file.getvalue()


def read(raw, rate=8000):
    return read_wav(io.BytesIO(raw), rate, name="clip.wav")


def by_wave(raw):
    """Samples by Python's own reader, byte for byte."""
    with wave.open(io.BytesIO(raw)) as file:
        size, channels = file.getsampwidth(), file.getnchannels()
        data = file.readframes(file.getnframes())
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    if size == 1:
        values = [(p[0] - 128) / 128 for p in pieces]
    else:
        values = [int.from_bytes(p, "little", signed=True) / 2 ** (8 * size - 1) for p in pieces]
    return np.array(values).reshape(-1, channels).mean(axis=1)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_depth_is_what_pythons_reader_gives(bits, channels):
    raw = pcm(noise(bits, channels * bits // 8 * 51), bits, channels)
    samples = read(raw)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, by_wave(raw), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("bits", "raw"),
    [
        (8, bytes([0, 128, 192])),
        (16, struct.pack("<3h", -(2**15), 0, 2**14)),
        (24, b"\0\0\x80" + b"\0\0\0" + b"\0\0\x40"),
        (32, struct.pack("<3i", -(2**31), 0, 2**30)),
    ],
)
def test_full_scale_is_one(bits, raw):
    """The lowest value, the middle (128 of unsigned bytes) and half the highest: -1, 0 and a half."""
    assert read(pcm(raw, bits)).tolist() == [-1, 0, 0.5]


def test_channels_are_averaged():
    assert read(pcm(struct.pack("<4h", 8192, 16384, -8192, 8192), 16, channels=2)).tolist() == [0.375, 0]


def test_floats_are_kept_and_clipped_at_full_scale():
    for dtype in ("<f4", "<f8"):
        assert read(floats([0.25, -0.5, 1.5, -1.01], dtype)).tolist() == [0.25, -0.5, 1, -1]


def test_a_path_and_an_open_file_are_read_alike(tmp_path):
    raw = pcm(noise(0, 400), 16)
    path = tmp_path / "clip.wav"
    path.write_bytes(raw)
    with path.open("rb") as file:
        assert np.array_equal(read_wav(path, 8000), read_wav(file, 8000))


@pytest.mark.parametrize(("own", "rate"), [(44100, 22050), (8000, 22050), (16000, 8000), (22050, 22050)])
def test_resampling_keeps_a_tone(own, rate):
    """440 Hz of amplitude 0.5 and as long; away from the ends, where the filter reads zeros."""
    tone = (16384 * np.sin(2 * np.pi * 440 * np.arange(own) / own)).round().astype("<i2")
    samples = read(pcm(tone.tobytes(), 16, rate=own), rate)
    assert len(samples) == rate
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    assert np.abs(samples - expected)[200:-200].max() < 2e-3


def test_chunks_that_do_not_matter_do_not_matter():
    raw = struct.pack("<4h", 1, 2, 3, 4)
    odd = (chunk(b"LIST", b"INFOsoft"), chunk(b"bext", b"some text"), chunk(b"id3 ", b"odd"), chunk(b"JUNK", bytes(7)))
    expected = np.array([1, 2, 3, 4]) / 2**15
    assert np.array_equal(read(riff(form(16), *odd, chunk(b"data", raw))), expected)
    assert np.array_equal(read(riff(form(16), chunk(b"data", raw), *odd)), expected)
    assert np.array_equal(read(riff(form(16), chunk(b"data", raw)) + b"behind the end"), expected)


def test_damaged_files_are_one_line_that_names_them(tmp_path):
    samples = struct.pack("<100h", *range(100))
    data, whole = chunk(b"data", samples), pcm(samples, 16)
    cases = [
        (b"", "it is empty"),
        (b"ID3\x04" + whole, r"begins with b'ID3\\x04', a WAV file with b'RIFF'"),
        (b"OggS" + whole, "begins with b'OggS'"),
        (b"RF64" + whole[4:], "begins with b'RF64'"),
        (b"RIFF", "header is damaged"),
        (whole[:30], "ends after 10 of 16 bytes"),
        (whole[:18], "header is damaged"),
        (whole[:36], "Unexpected end of file"),
        (whole[:-50], "ends after 150 of 200 bytes"),
        (whole[:-1], "ends after 199 of 200 bytes"),
        # The outer size fits what is left, so that only the inner one tells.
        (riff(form(16), chunk(b"data", samples, size=400)), "ends after 200 of 400 bytes"),
        (riff(form(16), data)[:-200] + samples[:100], "ends after 100 of 200 bytes"),
        (whole[:4] + struct.pack("<I", 0xFFFFFFFF) + whole[8:], "Reached EOF"),
        (whole[:4] + struct.pack("<I", 0) + whole[8:], "no format or no samples"),
        (riff(form(16)), "no format or no samples"),
        (riff(data), "No fmt chunk"),
        (riff(form(16), chunk(b"data", b"")), "no samples"),
        (riff(form(16, channels=0), data), "header is damaged"),
        (riff(form(16, rate=0), data), "sampling rate is 0 Hz"),
        (riff(form(16, rate=2**31 - 1), data), "sampling rate is 2147483647 Hz, expected 1000 to 768000"),
        (riff(form(8, tag=7), data), "MULAW"),
        (riff(form(16, channels=3), data), "cannot reshape"),
        (riff(form(16), chunk(b"data", samples[:-1])), "multiple"),
        (floats([0.0, float("nan")]), "not finite"),
        (floats([0.0, float("-inf")]), "not finite"),
        (floats([0.0, -32768.0]), "float samples reach 32768, expected -1 to 1"),
        (chunk(b"RIFF", b"AVI " + data), "AVI"),
    ]
    path = tmp_path / "clip.wav"
    for raw, reason in cases:
        path.write_bytes(raw)
        for source, options in ((path, {}), (io.BytesIO(raw), {"name": "archive: clip.wav"})):
            with pytest.raises(DataError, match=reason) as caught:
                read_wav(source, 8000, **options)
            assert "clip.wav cannot be read as sound" in str(caught.value)
            assert "expected a whole WAV file" in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere.wav cannot be read as sound: there is no such file"):
        read_wav(tmp_path / "nowhere.wav", 8000)
    with pytest.raises(DataError, match="cannot be read as sound"):
        read_wav(tmp_path, 8000)


def test_whatever_is_damaged_samples_or_a_data_error_result():
    whole = [pcm(noise(b, 12 * 20), b, channels=2) for b in (8, 16, 24, 32)] + [floats([0.5] * 60)]
    chance, refused = np.random.default_rng(0), []
    for i in range(3000):
        raw = bytearray(whole[i % len(whole)])
        for _ in range(chance.choice([1, 2, 4])):
            raw[chance.integers(48)] = chance.choice([0, 1, 127, 128, 254, 255, chance.integers(256)])
        if chance.random() < 0.3:
            raw = raw[: chance.integers(len(raw))]
        try:
            samples = read(raw)
            assert len(samples)
            assert np.abs(samples).max() <= 1
        except DataError as error:
            refused.append(str(error))
    assert 1000 < len(refused) < 3000
    assert all(line.startswith("clip.wav cannot be read") and "\n" not in line for line in refused)


def test_members_of_a_tar_are_read_where_they_lie(tmp_path):
    raw = {f"recordings/{i}.wav": pcm(noise(i, 200), 16) for i in range(3)}
    path = tmp_path / "recordings.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in raw.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with tarfile.open(path) as tar:
        for name, content in raw.items():
            assert np.array_equal(read_wav(tar.extractfile(name), 8000, name=name), read(content))
    cut = io.BytesIO(path.read_bytes()[: 512 + 100])
    with tarfile.open(fileobj=cut) as tar, pytest.raises(DataError, match=r"recordings/0.wav .*unexpected end of data"):
        read_wav(tar.extractfile(tar.next()), 8000, name="recordings/0.wav")


@pytest.mark.skipif(not RECORDINGS.exists(), reason="no shared data")
def test_real_recordings():
    """Ten of each speaker, against Python's own reader: 8 kHz, 0.14 to 2.3 s."""
    with tarfile.open(RECORDINGS) as tar:
        members = {m.name: m for m in tar.getmembers() if m.name.endswith(".wav")}
        assert len(members) == 3000
        for speaker in ("george", "jackson", "lucas", "nicolas", "theo", "yweweler"):
            for digit in range(10):
                name = f"recordings/{digit}_{speaker}_{digit}.wav"
                raw = tar.extractfile(members[name]).read()
                samples = read_wav(tar.extractfile(members[name]), 8000, name=name)
                np.testing.assert_allclose(samples, by_wave(raw), atol=1e-7)
                assert 0.14 * 8000 <= len(samples) <= 2.3 * 8000
                assert samples.std() > 1e-3


def test_repeating():
    samples = torch.arange(5.0)
    assert repeat_to(samples, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert repeat_to(samples, 5).tolist() == samples.tolist()
    assert repeat_to(samples, 2).tolist() == [0, 1]
    # NumPy's rule, which OGM uses for recordings of one second or more.
    assert np.array_equal(repeat_to(samples, 13).numpy(), np.tile(samples.numpy(), 3)[:13])
    with pytest.raises(ValueError, match="no samples to repeat"):
        repeat_to(samples[:0], 3)


def by_numpy(samples, n_fft, hop, epsilon):
    """Frame by frame: mirrored ends, ``0.5 - 0.5 cos(2 pi n / n_fft)``, NumPy's FFT."""
    padded = np.pad(samples, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    starts = range(0, len(padded) - n_fft + 1, hop)
    frames = np.stack([np.fft.rfft(window * padded[s : s + n_fft]) for s in starts], axis=1)
    return np.log(np.abs(frames) + epsilon)


@pytest.mark.parametrize(
    ("length", "n_fft", "hop", "shape"), [(66150, 512, 353, (257, 188)), (8000, 256, 128, (129, 63))]
)
def test_spectrograms_are_numpys_and_scipys(length, n_fft, hop, shape):
    """In doubles, since the logarithm magnifies what rounding leaves of a silent frequency."""
    samples = torch.randn(length, dtype=torch.float64) * 0.1
    found = log_spectrogram(samples, n_fft, hop, epsilon=1e-7)
    assert found.shape == (1, *shape)
    np.testing.assert_allclose(found[0].numpy(), by_numpy(samples.numpy(), n_fft, hop, 1e-7), atol=1e-7)

    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    whole = slice(n_fft // hop + 1, -(n_fft // hop + 1))  # scipy has zeros beyond the ends
    scipys = np.abs(ShortTimeFFT(window, hop, fs=1.0).stft(samples.numpy(), p0=0, p1=shape[1]))
    np.testing.assert_allclose(found[0].exp().numpy()[:, whole], scipys[:, whole], rtol=1e-6, atol=3e-7)


def test_a_tone_is_a_line():
    """1000 Hz at 8000 Hz is bin 32 of 256; amplitude 1 times half of the window's sum, 128, is 64 there; log 4.159."""
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(8000) / 8000)
    spectrogram = log_spectrogram(tone, 256, 128)[0, :, 5:-5]
    assert (spectrogram.argmax(0) == 32).all()
    torch.testing.assert_close(spectrogram[32], torch.full_like(spectrogram[32], 4.159), atol=1e-3, rtol=0)


def test_silence_is_the_logarithm_of_epsilon():
    """log(1e-7) = -16.118."""
    assert log_spectrogram(torch.zeros(600), 512, 353).unique().item() == pytest.approx(-16.118, abs=1e-3)


def test_too_few_samples_to_mirror_are_an_error():
    assert log_spectrogram(torch.zeros(129), 256, 128).shape == (1, 129, 2)
    with pytest.raises(ValueError, match="128 samples are too few for windows of 256: give more than 128"):
        log_spectrogram(torch.zeros(128), 256, 128)


def test_standardised_spectrograms_do_not_tell_how_loud_they_were():
    spectrogram = torch.randn(1, 30, 20) * 3 - 5
    found = standardise(spectrogram)
    np.testing.assert_allclose(found.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(found.numpy().std(), 1, rtol=1e-5)
    torch.testing.assert_close(standardise(2 * spectrogram + 7), found)
    assert standardise(torch.full((1, 3, 3), -16.118)).abs().max() < 0.01  # what rounding leaves


def test_mel_filters_against_another_implementation():
    audio_utils = pytest.importorskip("transformers.audio_utils")
    expected = audio_utils.mel_filter_bank(129, 40, 60.0, 4000.0, 8000, norm=None, mel_scale="htk").T
    np.testing.assert_allclose(mel_filters(40, 256, 8000, 60.0).numpy(), expected, atol=1e-6)


def test_every_frequency_between_the_first_and_last_peak_is_heard_equally_loud():
    """Neighbouring triangles of height 1 that reach from peak to peak sum to 1."""
    filters = mel_filters(bands=20, n_fft=2048, rate=8000, low=60.0)
    peaks = filters.argmax(1)
    torch.testing.assert_close(filters.sum(0)[peaks[0] + 1 : peaks[-1]], torch.ones(peaks[-1] - peaks[0] - 1))


def test_log_mel_by_hand():
    """The filters' sums of the power, and silence is log(epsilon)."""
    samples = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    filters = mel_filters(10, 256, 8000, 60.0)
    power = (log_spectrogram(samples, 256, 128, 0.0).exp() ** 2)[0]
    expected = torch.log(torch.einsum("bf,ft->bt", filters, power) + 1e-4)[None]
    torch.testing.assert_close(log_mel(samples, filters, 128, 1e-4), expected, rtol=1e-4, atol=1e-4)
    silence = log_mel(torch.zeros(4000), filters, 128, 1e-4)
    torch.testing.assert_close(silence, torch.full_like(silence, math.log(1e-4)))
