"""CREMA-D and Kinetics-Sounds: every layout is read, frames and sounds are what they should be, errors are one line."""

import io
import json
import pickle
import re

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import wavfile
from scipy.signal import stft

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, DataError
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.registry import TASKS, load
from cggm_med.runs.checked import check_data
from cggm_med.runs.settings import make_config

RATE = 22050
CLIPS = [f"10{actor:02d}_IEO_{label}_XX" for actor in range(1, 9) for label in ("NEU", "ANG")]


def silent(text):
    pass


def jpeg(shade, size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, (shade,) * 3).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_frames(folder, shades, size=(40, 30), name="frame_{:05d}.jpg"):
    folder.mkdir(parents=True)
    for number, shade in enumerate(shades, start=1):
        (folder / name.format(number)).write_bytes(jpeg(shade, size))


def write_tone(file, hertz, seconds=0.5):
    file.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * RATE)) / RATE
    wavfile.write(file, RATE, (0.5 * np.sin(2 * np.pi * hertz * time) * 32767).astype(np.int16))


def write_cremad(root, sound="AudioWAV", frames="Image-01-FPS"):
    """The last two actors are tested; each clip has six frames, each brighter than the one before."""
    for number, clip in enumerate(CLIPS):
        write_tone(root / sound / f"{clip}.wav", 440 + 10 * number)
        write_frames(root / frames / clip, range(0, 240, 40))
    rows = [f"{clip},{clip.split('_')[2]}\r\n" for clip in CLIPS]
    (root / "train.csv").write_bytes("".join(rows[:12]).encode("utf-8-sig"))
    (root / "test.csv").write_bytes(("".join(rows[12:]) + "\r\n").encode("utf-8-sig"))
    return root


def write_lists(root, frames=".", sound=".", names=("train.txt", "test.txt"), separator=","):
    for name, clips in zip(
        names, ((f"-a{i}_00001" for i in range(8)), (f"_b{i}_00001" for i in range(4))), strict=True
    ):
        rows = []
        for number, clip in enumerate(clips):
            rows.append(separator.join((clip, "10", str(30 - number % 3))))
            write_frames(root / frames / clip, (0, 80, 160), name="{}.jpg")
            (root / sound).mkdir(exist_ok=True)
            np.save(root / sound / f"{clip}.npy", np.full((40, 50), number, np.float32))
        (root / name).write_text("\n".join(rows))
    return root


def write_json(root, sound=".npy", subsets=("training", "validation", "testing")):
    database = {}
    for subset in subsets:
        for number in range(6):
            clip = f"{subset[:2]}-{number}"
            database[clip] = {"subset": subset, "label": ("bowling", "singing")[number % 2]}
            with h5py.File(root / f"{clip}.hdf5", "w") as store:
                video = store.create_dataset("video", (3,), dtype=h5py.vlen_dtype(np.uint8))
                for index, shade in enumerate((0, 80, 160)):
                    video[index] = np.frombuffer(jpeg(shade), np.uint8)
            spectrogram = np.full((40, 50), number, np.float32)
            if sound == ".npy":
                np.save(root / f"{clip}.npy", spectrogram)
            else:
                (root / f"{clip}.pkl").write_bytes(pickle.dumps(spectrogram))
    (root / "KS.json").write_text(json.dumps({"labels": ["bowling", "singing"], "database": database}))
    return root


def make(name, root, cache, *settings):
    words = [f"data.path={root}", f"data.cache={cache}", *settings]
    config = make_config(name, [parse_overrides(words)], preset="tiny", strategy="joint")
    return load(TASKS, name)(config)


def found(name, root, cache, *settings, say=silent):
    task = make(name, root, cache, *settings)
    task.find(say)
    task.prepare(task.default_splits(), say)
    return task


def first(task, random=None):
    return task.load(next(iter(task.samples.values())), random)


def grey(clip):
    """The shade of each normalised frame, 0 to 255."""
    return (clip[:, 0].mean(dim=(1, 2)) * 0.229 + 0.485) * 255


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("sound", "frames", "fps"),
    [(".", "Image-01-FPS", 1), ("AudioWAV", "visual/Image-01-FPS", 1), ("audio", "Image-05-FPS", 5)],
)
def test_every_layout_of_crema_d(sound, frames, fps, tmp_path, cache):
    task = found("cremad", write_cremad(tmp_path, sound, frames), cache, f"data.fps={fps}")
    assert set(task.samples) == set(CLIPS)
    assert task.targets[task.samples["1001_IEO_ANG_XX"].target] == "ANG"
    assert set(task.splits.test) == set(CLIPS[12:])
    assert set(task.splits.train) | set(task.splits.validation) == set(CLIPS[:12])
    assert task.splits.validation


def test_by_speaker_no_actor_stands_on_two_sides(tmp_path, cache):
    task = found("cremad", write_cremad(tmp_path), cache, "data.by_speaker=true", "data.test=0.25")
    actors = [{clip[:4] for clip in clips} for _, clips in task.splits.items()]
    assert all(actors)
    assert sum(map(len, actors)) == len(set.union(*actors)) == 8
    assert len(task.splits.test) == 4


def test_the_spectrogram_peaks_where_the_tone_is(tmp_path, cache):
    """1,000 Hz is 1000 / (22050 / 512) = 23.2: row 23; SciPy's own transform agrees with the values."""
    write_cremad(tmp_path)
    write_tone(tmp_path / "AudioWAV" / f"{CLIPS[0]}.wav", 1000, seconds=4)
    audio = first(found("cremad", tmp_path, cache))["audio"]
    assert audio.shape == (1, 257, 188)
    assert set(audio[0].argmax(dim=0)[5:-5].tolist()) == {23}
    _, sound = wavfile.read(tmp_path / "AudioWAV" / f"{CLIPS[0]}.wav")
    _, _, waves = stft(sound[: 3 * RATE] / 32768, nperseg=512, noverlap=512 - 353, boundary="even", padded=False)
    # SciPy scales by the sum of the window; a periodic Hann window of 512 sums to 256.
    expected = np.log(np.abs(waves) * 256 + 1e-7)
    inner = slice(5, 180)
    np.testing.assert_allclose(audio[0, 20:27, inner], expected[20:27, inner], atol=1e-3)


def test_short_sounds_are_repeated_to_three_seconds(tmp_path, cache):
    write_cremad(tmp_path)
    write_tone(tmp_path / "AudioWAV" / f"{CLIPS[0]}.wav", 1000, seconds=0.2)
    audio = first(found("cremad", tmp_path, cache))["audio"]
    assert audio.shape == (1, 257, 188)
    assert audio[0, 23].min() > 2  # nothing is silent after the end


def test_frames_are_random_in_training_and_fixed_in_evaluation(tmp_path, cache):
    """Of six frames with shades 0, 40 ... 200, evaluation takes the middles of two halves, 1 and 4."""
    task = found("cremad", write_cremad(tmp_path), cache, "data.frames=2", "data.size=32")
    fixed = [first(task)["visual"] for _ in range(2)]
    assert torch.equal(*fixed)
    assert fixed[0].shape == (2, 3, 32, 32)
    assert grey(fixed[0]).tolist() == pytest.approx([40, 160], abs=2)
    drawn = [grey(first(task, seeded(seed))["visual"]).div(40).round().int().tolist() for seed in range(40)]
    assert {early for early, _ in drawn} == {0, 1, 2}
    assert {late for _, late in drawn} == {3, 4, 5}
    again = [first(task, seeded(3))["visual"] for _ in range(2)]
    assert torch.equal(*again)


def test_all_frames_of_a_clip_are_cut_alike(tmp_path, cache):
    """Frames that are one and the same picture stay so; different clips, or draws, are cut otherwise."""
    write_cremad(tmp_path)
    folder = tmp_path / "Image-01-FPS" / CLIPS[0]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    for file in folder.iterdir():
        file.unlink()
    for number in range(4):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    task = found("cremad", tmp_path, cache, "data.frames=4")
    clips = [first(task, seeded(seed))["visual"] for seed in range(4)]
    for clip in clips:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
    assert not torch.equal(clips[0], clips[1])


def test_half_of_the_training_clips_are_mirrored(tmp_path, cache):
    """A picture that is dark left and bright right tells which way round it is."""
    write_cremad(tmp_path)
    pixels = np.tile(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], (60, 1, 3))
    for file in (tmp_path / "Image-01-FPS" / CLIPS[0]).iterdir():
        Image.fromarray(pixels).save(file)
    task = found("cremad", tmp_path, cache)
    rises = [bool((v := first(task, seeded(s))["visual"])[0, 0, 0, -1] > v[0, 0, 0, 0]) for s in range(60)]
    assert 18 < sum(rises) < 42
    assert first(task)["visual"][0, 0, 0, -1] > first(task)["visual"][0, 0, 0, 0]


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
@pytest.mark.parametrize("modalities", ["[audio,visual]", "[visual]"])
def test_the_network_takes_what_is_loaded(fusion, modalities, tmp_path, cache):
    settings = (f"model.fusion={fusion}", f"task.modalities={modalities}")
    task = found("cremad", write_cremad(tmp_path), cache, *settings)
    model = task.model().eval()
    assert isinstance(model, LateFusionModel)
    batch = task.collate([(sample, task.load(sample, None)) for sample in list(task.samples.values())[:2]])
    assert model(batch.inputs).shape == (2, 6)
    assert set(task.unimodal_heads(model)(model.encode(batch.inputs))) == set(task.modalities)


def test_the_paper_preset_is_resnet_18_as_ogm_trains_it():
    config = make_config("cremad", [], preset="paper", strategy="joint")
    model = load(TASKS, "cremad")(config).model()
    # torchvision's resnet18 without its last layer has 11,176,512; with one input channel 6,272 fewer.
    count = sum(p.numel() for p in model.parameters())
    assert count == 2 * 11_176_512 - 6_272 + 1024 * 6 + 6
    assert (config.optim.name, config.optim.lr, config.train.batch_size, config.train.epochs) == ("sgd", 1e-3, 64, 100)
    assert (config.data.size, config.data.frames, config.data.fps) == (224, 1, 1)
    assert (config.optim.nesterov, config.optim.schedule, config.optim.decay_epochs) == (False, "step", 70)


@pytest.mark.parametrize("name", ["cremad", "kinetics_sounds", "ucf101"])
def test_the_extension_of_ogm_has_a_preset(name):
    """Those of code/config.py in GeWu-Lab/BML_TPAMI2024."""
    config = make_config(name, [], preset="tpami", strategy="joint")
    optim, train = config.optim, config.train
    assert (optim.name, optim.lr, optim.schedule, optim.decay_epochs, optim.decay_factor) == (
        *("adamw", 5e-5, "step"),
        *(40, 0.1),
    )
    assert (config.data.size, train.batch_size, train.epochs) == (112, 32, 100)


@pytest.mark.parametrize(
    ("frames", "sound", "names", "separator"),
    [
        (".", ".", ("train.txt", "test.txt"), ","),
        ("visual", "audio", ("my_train.txt", "my_test.txt"), " "),
        ("Image-01-FPS", "train_spec", ("ks_train_real.txt", "ks_test_real.txt"), ", "),
    ],
)
def test_kinetics_sounds_as_lists(frames, sound, names, separator, tmp_path, cache):
    task = found("kinetics_sounds", write_lists(tmp_path, frames, sound, names, separator), cache)
    assert len(task.targets) == 31
    assert task.targets[task.samples["-a1_00001"].target] == "29"
    assert set(task.splits.test) == {f"_b{i}_00001" for i in range(4)}
    assert len(task.splits.train) + len(task.splits.validation) == 8
    inputs = task.load(task.samples["-a7_00001"], None)
    assert torch.equal(inputs["audio"], torch.full((1, 40, 50), 7.0))
    assert grey(inputs["visual"]).tolist() == pytest.approx([0, 160], abs=2)


@pytest.mark.parametrize("sound", [".npy", ".pkl"])
def test_kinetics_sounds_as_json(sound, tmp_path, cache):
    task = found("kinetics_sounds", write_json(tmp_path, sound), cache)
    assert task.targets == task.config.task.classes == ("bowling", "singing")
    for section, start in (("train", "tr"), ("validation", "va"), ("test", "te")):
        assert set(getattr(task.splits, section)) == {f"{start}-{i}" for i in range(6)}
    inputs = task.load(task.samples["te-5"], None)
    assert torch.equal(inputs["audio"], torch.full((1, 40, 50), 5.0))
    assert grey(inputs["visual"]).tolist() == pytest.approx([0, 160], abs=2)


def test_npy_is_preferred_to_pkl(tmp_path, cache):
    write_json(tmp_path)
    (tmp_path / "tr-0.pkl").write_bytes(b"not read")
    assert found("kinetics_sounds", tmp_path, cache).samples["tr-0"].inputs["audio"][0].suffix == ".npy"


def test_without_testing_clips_the_validation_clips_are_tested(tmp_path, cache):
    said = []
    write_json(tmp_path, subsets=("training", "validation"))
    task = found("kinetics_sounds", tmp_path, cache, "data.validation=0.3", say=said.append)
    assert set(task.splits.test) == {f"va-{i}" for i in range(6)}
    assert len(task.splits.validation) == 2
    assert "KS.json has no testing clips" in said[0]


def test_hostile_pickles_are_refused(tmp_path, cache):
    class Hostile:
        def __reduce__(self):
            return (print, ("it runs",))

    write_json(tmp_path, ".pkl")
    (tmp_path / "tr-0.pkl").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(DataError, match="print"):
        found("kinetics_sounds", tmp_path, cache)


def test_missing_clips_are_listed_or_left_out(tmp_path, cache):
    write_cremad(tmp_path)
    (tmp_path / "AudioWAV" / f"{CLIPS[0]}.wav").unlink()
    (tmp_path / "Image-01-FPS" / CLIPS[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="2 of 16 listed clips lack files") as error:
        make("cremad", tmp_path, cache).find(silent)
    assert error.value.problems == (
        f"{CLIPS[0]}: no sound (tried {CLIPS[0]}.wav, AudioWAV/{CLIPS[0]}.wav, audio/{CLIPS[0]}.wav)",
        f"{CLIPS[1]}: no frames (tried Image-01-FPS/{CLIPS[1]}/, visual/Image-01-FPS/{CLIPS[1]}/)",
    )
    said = []
    task = found("cremad", tmp_path, cache, "data.skip_missing=true", say=said.append)
    assert set(task.samples) == set(CLIPS[2:])
    assert said[0].startswith("2 of 16 listed clips left out")
    assert set(found("cremad", tmp_path, cache, "data.skip_missing=true", "task.modalities=[audio]").samples) == set(
        CLIPS[1:]
    )


def test_at_most_twenty_missing_clips_are_listed(tmp_path, cache):
    rows = "".join(f"{1001 + i}_IEO_NEU_XX,NEU\n" for i in range(50))
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "test.csv").write_text("1099_IEO_NEU_XX,NEU\n")
    for setting in ("data.skip_missing=false", "data.skip_missing=true"):  # nothing would be left
        with pytest.raises(DataError, match="51 of 51 listed clips") as error:
            make("cremad", tmp_path, cache, setting).find(silent)
        assert "skip_missing" not in str(error.value)  # which would not help
        assert len(error.value.problems) == 21
        assert error.value.problems[20] == "and 31 more"


def test_a_clip_is_known_again_by_what_it_holds(tmp_path, cache):
    write_cremad(tmp_path)
    digests = found("cremad", tmp_path, cache).contents()
    assert len({d["prepared"] for d in digests.values()}) == len(CLIPS)
    (tmp_path / "Image-01-FPS" / CLIPS[0] / "frame_00004.jpg").write_bytes(jpeg(7))
    write_tone(tmp_path / "AudioWAV" / f"{CLIPS[1]}.wav", 99)
    changed = found("cremad", tmp_path, cache).contents()
    assert {clip for clip in CLIPS if changed[clip] != digests[clip]} == set(CLIPS[:2])


def rewrite(file, change):
    file.write_text(change(file.read_text(encoding="utf-8-sig")))


CREMAD_ERRORS = {
    "no list": (lambda r: (r / "test.csv").unlink(), r"test\.csv is missing; expected a list with clip, label"),
    "empty list": (lambda r: (r / "test.csv").write_text("\n"), r"test\.csv is empty"),
    "no text": (
        lambda r: (r / "test.csv").write_bytes(b"\xff\xfe\x00"),
        r"test\.csv is not UTF-8: .*; save it in",
    ),
    "label": (
        lambda r: rewrite(r / "test.csv", lambda t: t.replace("NEU\n", "JOY\n", 1)),
        r"row 1: unknown label 'JOY'",
    ),
    "columns": (
        lambda r: rewrite(r / "test.csv", lambda t: t.replace(",", ";")),
        r"test\.csv, row 1: .*expected clip, l",
    ),
    "twice": (lambda r: rewrite(r / "test.csv", lambda t: t + t.split()[0]), r"1 ids stand for more than one sample"),
    "both": (
        lambda r: rewrite(r / "test.csv", lambda t: t + f"{CLIPS[0]},NEU"),
        "1 ids stand for more than one sample",
    ),
}


@pytest.mark.parametrize("name", CREMAD_ERRORS)
def test_bad_lists_of_crema_d(name, tmp_path, cache):
    spoil, message = CREMAD_ERRORS[name]
    write_cremad(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        make("cremad", tmp_path, cache).find(silent)


def test_names_without_an_actor_cannot_be_split_by_speaker(tmp_path, cache):
    write_cremad(tmp_path)
    (tmp_path / "AudioWAV" / "anne.wav").touch()
    (tmp_path / "Image-01-FPS" / "anne").mkdir()
    (tmp_path / "test.csv").write_text("anne,NEU")
    with pytest.raises(DataError, match="clip anne does not begin with an actor's number"):
        make("cremad", tmp_path, cache, "data.by_speaker=true").find(silent)


def spoil_frames(root):
    for file in (root / "Image-01-FPS" / CLIPS[0]).iterdir():
        file.unlink()


LOADING_ERRORS = {
    "sound": (lambda r: (r / "AudioWAV" / f"{CLIPS[0]}.wav").write_bytes(b"RIFF"), rf"{CLIPS[0]}\.wav cannot be read"),
    "no frames": (spoil_frames, rf"{CLIPS[0]} holds no frames"),
    "frame": (
        lambda r: (r / "Image-01-FPS" / CLIPS[0] / "frame_00002.jpg").write_bytes(b"no"),
        r"frame_00002\.jpg cannot be read as an image",
    ),
    "size": (
        lambda r: (r / "Image-01-FPS" / CLIPS[0] / "frame_00002.jpg").write_bytes(jpeg(0, (20, 20))),
        r"frames of several sizes, 20 x 20, 30 x 40",
    ),
}


@pytest.mark.parametrize("name", LOADING_ERRORS)
def test_damaged_clips_of_crema_d(name, tmp_path, cache):
    """They are found before the first step, and where they are damaged after that, when they are loaded."""
    spoil, message = LOADING_ERRORS[name]
    task = make("cremad", write_cremad(tmp_path), tmp_path / "cache", "data.frames=2")
    task.find(silent)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        task.load(task.found.samples[0], None)
    with pytest.raises(DataError, match=rf"^1 of 16 listed clips lack files.*\n  {CLIPS[0]}: .*{message}"):
        make("cremad", tmp_path, tmp_path / "other").find(silent)


def test_all_damaged_files_are_told_at_once_or_left_out(tmp_path):
    """As for a clip that Git LFS never fetched, which used to be found when the test split was scored."""
    write_cremad(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 72000\n"
    (tmp_path / "AudioWAV" / f"{CLIPS[15]}.wav").write_text(pointer)
    (tmp_path / "AudioWAV" / f"{CLIPS[0]}.wav").write_bytes(b"")
    for file in (tmp_path / "Image-01-FPS" / CLIPS[0]).iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="^2 of 16 listed clips lack files") as error:
        make("cremad", tmp_path, tmp_path / "cache").find(silent)
    first, last = error.value.problems
    assert re.fullmatch(
        rf"{CLIPS[0]}: .*\.wav cannot be read as sound: it is empty; .*; .*frame_00001\.jpg cannot .*", first
    )
    assert "pointer of Git LFS; fetch its content with git lfs pull" in last
    said = []
    task = found("cremad", tmp_path, tmp_path / "cache", "data.skip_missing=true", say=said.append)
    assert set(task.samples) == set(CLIPS[1:15])
    assert said[0].startswith("2 of 16 listed clips left out")
    checked = check_data(make("cremad", tmp_path, tmp_path / "cache", "data.skip_missing=true"), (), silent)
    assert (checked.count, [finding.case for finding in checked.objecting]) == (14, [CLIPS[0], CLIPS[15]])
    assert [(f["case"], f["kind"], f["roles"]) for f in task.findings()["findings"]] == [
        (CLIPS[0], "unusable", ["audio", "visual"]),
        (CLIPS[15], "unusable", ["audio"]),
    ]


def test_sound_files_are_looked_at_once(tmp_path, monkeypatch):
    write_cremad(tmp_path)
    found("cremad", tmp_path, tmp_path / "cache")
    looked = []
    reader = "cggm_med_tasks.audiovisual.cremad.look_at_sound"
    monkeypatch.setattr(reader, lambda file: looked.append(file.stem))
    found("cremad", tmp_path, tmp_path / "cache")
    assert not looked
    write_tone(tmp_path / "AudioWAV" / f"{CLIPS[3]}.wav", 440, seconds=0.4)
    found("cremad", tmp_path, tmp_path / "cache")
    assert looked == [CLIPS[3]]


def set_json(root, change):
    content = json.loads((root / "KS.json").read_text())
    change(content)
    (root / "KS.json").write_text(json.dumps(content))


KINETICS_ERRORS = {
    "nothing": (
        lambda r: (r / "KS.json").unlink(),
        "has neither lists nor JSON; expected either train.txt and test.txt",
    ),
    "two": (lambda r: (r / "a.json").write_text("{}"), r"has KS\.json, a\.json; expected either"),
    "both": (lambda r: (r / "train.txt").write_text("a,1,1"), r"has train\.txt, KS\.json; expected either"),
    "no JSON": (lambda r: (r / "KS.json").write_text("{"), r"KS\.json is not JSON: line 1"),
    "a list": (lambda r: (r / "KS.json").write_text("[]"), r'KS\.json holds .*; expected \{"labels"'),
    "labels": (lambda r: set_json(r, lambda c: c.update(labels=["a", "a"])), r'KS\.json holds .*; expected \{"labels"'),
    "database": (lambda r: set_json(r, lambda c: c.update(database=[])), r'KS\.json holds .*; expected \{"labels"'),
    "subset": (
        lambda r: set_json(r, lambda c: c["database"]["tr-0"].update(subset="dev")),
        "clip tr-0 has subset 'dev', expected one of training, validation, testing",
    ),
    "label": (
        lambda r: set_json(r, lambda c: c["database"]["tr-0"].update(label="x")),
        "clip tr-0 has label 'x', which is not among the 2 labels",
    ),
    "subsets": (lambda r: set_json(r, lambda c: c["database"]["tr-0"].update(subset=[])), r"clip tr-0 has subset \[\]"),
    "clip": (lambda r: set_json(r, lambda c: c["database"].update({"tr-0": 3})), "clip tr-0 has subset None"),
    "video": (
        lambda r: (r / "tr-0.hdf5").unlink(),
        r"tr-0: no video \(tried tr-0\.hdf5, hdf5/tr-0\.hdf5, visual/tr-0\.hdf5\)",
    ),
    "sound": (lambda r: (r / "tr-0.npy").unlink(), r"tr-0: no spectrogram \(tried tr-0\.npy, audio/tr-0\.npy.*pkl"),
    "shape": (lambda r: np.save(r / "tr-0.npy", np.zeros(9)), r"tr-0\.npy holds float64 of shape \(9,\)"),
    "size": (lambda r: np.save(r / "tr-0.npy", np.zeros((9, 99))), "expected at least 32 frequencies and times"),
    "values": (lambda r: np.save(r / "tr-0.npy", np.full((40, 50), -np.inf)), "2000 values are not finite"),
}


@pytest.mark.parametrize("name", KINETICS_ERRORS)
def test_bad_json_of_kinetics_sounds(name, tmp_path, cache):
    spoil, message = KINETICS_ERRORS[name]
    write_json(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        make("kinetics_sounds", tmp_path, cache).find(silent)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,10,31", r"train\.txt, row 1: unknown class '31', expected 0 to 30"),
        ("a,10", r"train\.txt, row 1: 'a,10', expected clip, seconds, class"),
    ],
)
def test_bad_lists_of_kinetics_sounds(row, message, tmp_path, cache):
    write_lists(tmp_path)
    (tmp_path / "train.txt").write_text(row)
    with pytest.raises(DataError, match=message):
        make("kinetics_sounds", tmp_path, cache).find(silent)


def test_one_list_is_missing_or_there_are_two(tmp_path, cache):
    write_lists(tmp_path, names=("my_train.txt", "my_test.txt"))
    (tmp_path / "old_train.txt").write_text("a,1,1")
    with pytest.raises(DataError, match=r"several lists for train: my_train\.txt, old_train\.txt; rename the right"):
        make("kinetics_sounds", tmp_path, cache).find(silent)
    (tmp_path / "old_train.txt").unlink()
    (tmp_path / "my_test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt is missing"):
        make("kinetics_sounds", tmp_path, cache).find(silent)


def test_a_spectrogram_of_another_shape(tmp_path, cache):
    write_json(tmp_path)
    np.save(tmp_path / "tr-1.npy", np.zeros((50, 40)))
    with pytest.raises(DataError, match=r"tr-1\.npy has shape \(50, 40\), expected that of the first clip, \(40, 50\)"):
        found("kinetics_sounds", tmp_path, cache)


def write_video(file, content, kind):
    with h5py.File(file, "w") as store:
        store.create_dataset("video", data=content, dtype=kind)


VIDEO_ERRORS = {
    "no frames": (lambda f: write_video(f, [], "f4"), "has no frames in 'video'"),
    "a number": (lambda f: write_video(f, 3, "i4"), "has no frames in 'video'"),
    "numbers": (lambda f: write_video(f, [1.0, 2.0], "f4"), "frame 0 holds float32, expected the bytes of a JPEG"),
    "no image": (lambda f: write_video(f, np.zeros((2, 9), np.uint8), "u1"), "frame 0 cannot be read as an image"),
    "another name": (lambda f: h5py.File(f, "w").close(), "has no frames in 'video'"),
    "no HDF5": (lambda f: f.write_bytes(b"no"), "is damaged or no HDF5 file"),
}


@pytest.mark.parametrize("name", VIDEO_ERRORS)
def test_damaged_videos(name, tmp_path, cache):
    spoil, message = VIDEO_ERRORS[name]
    task = found("kinetics_sounds", write_json(tmp_path), cache)
    spoil(tmp_path / "tr-0.hdf5")
    with pytest.raises(DataError, match=rf"tr-0\.hdf5.*{message}"):
        task.load(task.samples["tr-0"], None)
    with pytest.raises(DataError, match=rf"^1 of 18 listed clips .*\n  tr-0: .*tr-0\.hdf5.*{message}"):
        found("kinetics_sounds", tmp_path, cache)


def test_a_video_that_is_cut_anywhere_is_an_error_or_whole(tmp_path, cache):
    task = found("kinetics_sounds", write_json(tmp_path), cache, "task.modalities=[visual]")
    file = tmp_path / "tr-0.hdf5"
    whole, expected = file.read_bytes(), task.load(task.samples["tr-0"], None)["visual"]
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        try:
            assert torch.equal(task.load(task.samples["tr-0"], None)["visual"], expected)
        except DataError as error:
            assert "tr-0.hdf5" in str(error)  # noqa: PT017 - some cuts do no harm


@pytest.mark.parametrize(
    "setting", ["data.frames=0", "data.size=16", "data.fps=0", "model.width=12", "model.blocks=[1,0,1,1]"]
)
def test_impossible_settings(setting, tmp_path, cache):
    with pytest.raises(ConfigError, match=re.escape(setting.split("=")[0])):
        make("cremad", tmp_path, cache, setting)
