"""The audio-visual digits: recordings as users have them, pairing, splits by speaker, and what the network sees."""

import tarfile

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from sklearn.datasets import load_digits

from cggm_med import DataError
from cggm_med.config import parse_overrides
from cggm_med.runs.settings import make_config
from cggm_med_tasks.audiovisual.avdigits import LENGTH, AVDigits


def task(*settings):
    return AVDigits(make_config("avdigits", [parse_overrides(settings)]))


def record(folder, name, seconds=0.3, rate=8000):
    folder.mkdir(parents=True, exist_ok=True)
    sound = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    wavfile.write(folder / name, rate, (sound * 20000).astype(np.int16))


def read(path, *settings):
    return task(*settings).read(path, print).samples


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdd")
    for digit in range(10):
        for speaker in ("ada", "ben"):
            for index in (0, 1, 10):
                record(folder / "recordings", f"{digit}_{speaker}_{index}.wav")
    return folder


def test_folder_subfolder_and_tar_are_the_same(recordings, tmp_path):
    with tarfile.open(tmp_path / "recordings.tar", "w") as archive:
        archive.add(recordings / "recordings", "recordings")
    ways = [read(recordings), read(recordings / "recordings"), read(tmp_path / "recordings.tar")]
    for other in ways[1:]:
        for a, b in zip(ways[0], other, strict=True):
            assert (a.id, a.group, a.target) == (b.id, b.group, b.target)
            assert all(np.array_equal(a.inputs[m], b.inputs[m]) for m in ("audio", "image"))


def test_names_say_digit_and_speaker(recordings):
    samples = {sample.id: sample for sample in read(recordings)}
    assert len(samples) == 60
    assert (samples["7_ben_10"].target, samples["7_ben_10"].group) == (7, "ben")
    assert list(samples)[:3] == ["0_ada_0", "0_ada_1", "0_ada_10"]


def test_images_are_of_the_digit_and_of_one_speaker_only(recordings):
    """Without noise each image is one of scikit-learn's, of the right digit; no image has two speakers."""
    bunch = load_digits()
    pixels_of = [(image / 16).astype(np.float32).tobytes() for image in bunch.images]
    known = dict(zip(pixels_of, bunch.target.tolist(), strict=True))
    owners = {}
    for sample in read(recordings, "data.image_noise=0"):
        pixels = sample.inputs["image"].tobytes()
        assert known[pixels] == sample.target
        assert owners.setdefault(pixels, sample.group) == sample.group


def test_noise_is_part_of_the_data(recordings):
    """The same in every epoch and every run, other for each recording, of the size that is asked for."""
    clean, noisy, again = (read(recordings, f"data.image_noise={n}") for n in ("0", "0.4", "0.4"))
    noise = np.stack([b.inputs["image"] - a.inputs["image"] for a, b in zip(clean, noisy, strict=True)])
    assert all(np.array_equal(a.inputs["image"], b.inputs["image"]) for a, b in zip(noisy, again, strict=True))
    # 3,840 values: standard error of their standard deviation 0.4 / sqrt(2 x 3840) = 0.0046, of their mean 0.0065
    assert noise.std() == pytest.approx(0.4, abs=0.02)
    assert abs(noise.mean()) < 0.03
    assert len(np.unique(noise[:, 0, 0])) == 60


def test_what_is_drawn_for_a_recording_does_not_depend_on_the_others(recordings, tmp_path):
    for digit in range(10):
        for speaker in ("ada", "ben"):
            record(tmp_path, f"{digit}_{speaker}_1.wav")
    few = {sample.id: sample for sample in read(tmp_path)}
    for sample in read(recordings):
        if sample.id in few:
            assert np.array_equal(sample.inputs["image"], few[sample.id].inputs["image"])


def test_splits_are_by_speaker(tmp_path):
    for speaker in "abcdef":
        record(tmp_path, f"3_{speaker}_0.wav")
        record(tmp_path, f"4_{speaker}_0.wav")
    one = task(f"data.path={tmp_path}")
    one.find(print)
    splits = one.default_splits()
    speakers = [{id.split("_")[1] for id in ids} for _, ids in splits.items()]
    assert [len(s) for s in speakers] == [4, 1, 1]
    assert not speakers[0] & speakers[1] | speakers[0] & speakers[2] | speakers[1] & speakers[2]


def test_the_network_sees_a_standardised_spectrogram(recordings):
    one = task()
    sample = one.read(recordings, print).samples[0]
    seen = one.load(sample, None)
    assert seen["audio"].shape == (1, 40, 1 + LENGTH // 128)
    assert seen["image"].shape == (1, 8, 8)
    assert seen["audio"].mean().item() == pytest.approx(0, abs=1e-5)
    assert seen["audio"].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    # 440 Hz is mel 550; bands are (2146 - 98) / 41 = 50 mel apart, so the ninth band (98 + 9 x 50 = 548) hears it.
    assert seen["audio"][0, :, 5].argmax().item() == 8


def test_training_hears_it_otherwise_each_time_and_evaluation_never(recordings):
    one = task()
    sample = one.read(recordings, print).samples[0]
    draws = [one.load(sample, torch.Generator().manual_seed(seed))["audio"] for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(one.load(sample, None)["audio"], one.load(sample, None)["audio"])


def test_a_recording_longer_than_a_second_is_cut(tmp_path):
    record(tmp_path, "1_ada_0.wav", seconds=2.0)
    one = task()
    sample = one.read(tmp_path, print).samples[0]
    for random in (None, torch.Generator().manual_seed(0)):
        assert one.load(sample, random)["audio"].shape == (1, 40, 65)


def bad_name(folder):
    record(folder, "seven_ada_0.wav")


def no_recording(folder):
    (folder / "notes.txt").write_text("nothing here")


def truncated(folder):
    record(folder, "1_ada_0.wav")
    file = folder / "1_ada_0.wav"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (bad_name, r"other names; expected files \{digit\}_\{speaker\}_\{index\}\.wav.*\n  seven_ada_0\.wav"),
        (no_recording, "holds no recording; expected files"),
        (truncated, r"1_ada_0\.wav cannot be read as sound"),
    ],
)
def test_bad_recordings(spoil, message, tmp_path):
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_a_damaged_tar(recordings, tmp_path):
    file = tmp_path / "recordings.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(recordings / "recordings", "recordings")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    # Whichever notices first: the archive between two members, or a recording that ends in its middle.
    with pytest.raises(DataError, match="is no tar, or a damaged one|cannot be read as sound"):
        read(file)
    file.write_bytes(b"no tar at all")
    with pytest.raises(DataError, match="is no tar, or a damaged one"):
        read(file)


def test_the_real_recordings(shared_data):
    samples = read(shared_data("fsdd/recordings.tar"))
    assert len(samples) == 3000
    assert {s.group for s in samples} == {"george", "jackson", "lucas", "nicolas", "theo", "yweweler"}
    assert np.bincount([s.target for s in samples]).tolist() == [300] * 10
