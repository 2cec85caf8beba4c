"""IEMOCAP in the layout of MMIN: ten folds, statistics of the fold, utterances of any length, errors of one line."""

import json

import h5py
import numpy as np
import pytest
import torch
from helpers.command_line import command

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, DataError
from cggm_med.registry import TASKS, load
from cggm_med.runs.settings import make_config

SIZES = {"text": 6, "audio": 5, "vision": 4}
FILES = {"text": "L/bert_large.h5", "audio": "A/comparE.h5", "vision": "V/denseface.h5"}
STATISTICS = "A/comparE_mean_std.h5"
CLASSES = ("angry", "happy", "sad", "neutral")
NAMES = [f"Ses0{1 + i % 5}F_impro0{i}_M00{i}" for i in range(10)]
LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 3, 2]
PARTS = {"tst": slice(0, 3), "val": slice(3, 5), "trn": slice(5, 10)}
LONG = 412  # frames of the fourth utterance; beyond 350 the release of CGGM breaks


def order(fold):
    """Utterances of a fold: the first three are for testing."""
    return np.roll(np.arange(10), -fold)


def values(modality, number):
    random = np.random.default_rng([number, *modality.encode()])
    time = LONG if (modality, number) == ("audio", 3) else 1 + number % 4
    return random.normal(3, 2, (time, SIZES[modality])).astype(np.float32)


def write(root, shape=lambda names: names[:, None]):
    """Ten utterances in ten folds; the audio statistics of fold f are mean f, spread f + 1."""
    for modality, file in FILES.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / file, "w") as store:
            for number, name in enumerate(NAMES):
                store[name] = values(modality, number)
    with h5py.File(root / STATISTICS, "w") as store:
        for fold in range(1, 11):
            store[f"{fold}/mean"], store[f"{fold}/std"] = np.full(5, float(fold)), np.full(5, fold + 1.0)
    for fold in range(1, 11):
        folder = root / "target" / str(fold)
        folder.mkdir(parents=True)
        for part, rows in PARTS.items():
            numbers = order(fold)[rows]
            np.save(folder / f"{part}_label.npy", np.eye(4)[np.array(LABELS)[numbers]])
            np.save(folder / f"{part}_int2name.npy", shape(np.array([NAMES[i].encode() for i in numbers])))
    return root


def make(root, cache, *settings, preset="tiny"):
    words = [f"data.path={root}", f"data.cache={cache}", *settings]
    return load(TASKS, "iemocap")(make_config("iemocap", [parse_overrides(words)], preset=preset, strategy="joint"))


def silent(text):
    pass


def found(root, cache, *settings):
    task = make(root, cache, *settings)
    task.find(silent)
    task.prepare(task.default_splits(), silent)
    return task


def probabilities(task, ids):
    torch.manual_seed(0)
    model = task.model().eval()
    results = task.evaluate(model, None, ids, device=torch.device("cpu"), autocast=torch.no_grad, full=True)
    return {result.case: result.findings["fused"]["probability"][0] for result in results}


@pytest.mark.parametrize("fold", range(1, 11))
def test_every_fold_can_be_chosen(fold, tmp_path, cache):
    """Audio of fold f is less f, divided by f + 1; text and vision are as they are."""
    task = found(write(tmp_path), cache, f"data.fold={fold}")
    names = [NAMES[i] for i in order(fold)]
    assert list(task.splits.test) == names[:3]
    assert list(task.splits.validation) == names[3:5]
    assert list(task.splits.train) == names[5:]
    for number, name in enumerate(NAMES):
        sample = task.samples[name]
        assert sample.target == LABELS[number]
        loaded = task.load(sample, None)
        assert {x.dtype for x in loaded.values()} == {torch.float32}
        np.testing.assert_array_equal(loaded["text"], values("text", number))
        np.testing.assert_array_equal(loaded["vision"], values("vision", number))
        expected = (values("audio", number).astype(np.float64) - fold) / (fold + 1)
        np.testing.assert_allclose(loaded["audio"], expected, rtol=1e-6, atol=1e-7)
    assert task.config.model.channels == (6, 5, 4)


@pytest.mark.parametrize("fold", ["0", "11", "-1"])
def test_other_folds_do_not_exist(fold, tmp_path, cache):
    with pytest.raises(ConfigError, match=f"data.fold is {fold}, expected 1 to 10"):
        make(tmp_path, cache, f"data.fold={fold}")


@pytest.mark.parametrize(
    "shape",
    [
        lambda names: names,
        lambda names: names[:, None],
        lambda names: np.stack([names, np.full_like(names, b"ang")], axis=1),
        lambda names: names.astype(str),
        lambda names: names.astype(str)[:, None],
    ],
)
def test_names_in_every_form(shape, tmp_path, cache):
    assert set(found(write(tmp_path, shape), cache).samples) == set(NAMES)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.bool_, np.float32])
def test_one_hot_labels_of_any_kind(kind, tmp_path, cache):
    file = write(tmp_path) / "target" / "1" / "tst_label.npy"
    np.save(file, np.load(file).astype(kind))
    task = found(tmp_path, cache)
    assert [task.samples[name].target for name in task.splits.test] == LABELS[1:4]


def test_long_utterances_are_read_whole_and_padding_changes_nothing(tmp_path, cache):
    """Law: an utterance is predicted alike alone and beside one of 412 frames."""
    task = found(write(tmp_path), cache)
    assert len(task.load(task.samples[NAMES[3]], None)["audio"]) == LONG
    together = probabilities(task, NAMES)
    alone = {name: probabilities(task, [name])[name] for name in NAMES}
    assert alone == pytest.approx(together, abs=1e-5)
    assert len({round(value, 4) for value in together.values()}) > 5


def test_the_order_of_utterances_does_not_matter(tmp_path, cache):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    task = found(write(tmp_path / "a"), cache)
    folder = write(tmp_path / "b") / "target" / "1"
    for kind in ("label", "int2name"):
        np.save(folder / f"trn_{kind}.npy", np.load(folder / f"trn_{kind}.npy")[::-1])
    again = found(tmp_path / "b", cache)
    assert again.splits.train == task.splits.train[::-1]
    assert again.contents() == task.contents()


def test_a_constant_channel_is_centred_only(tmp_path, cache):
    """Its spread is 0; nothing is divided by it."""
    with h5py.File(write(tmp_path) / STATISTICS, "a") as store:
        store["1/std"][2] = 0
    task = found(tmp_path, cache)
    got = task.load(task.samples[NAMES[1]], None)["audio"]
    np.testing.assert_allclose(got[:, 2], values("audio", 1)[:, 2] - 1, rtol=1e-6)
    np.testing.assert_allclose(got[:, 3], (values("audio", 1)[:, 3] - 1) / 2, rtol=1e-6)


def test_statistics_may_have_an_axis_more(tmp_path, cache):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with h5py.File(write(tmp_path / "b") / STATISTICS, "a") as store:
        for kind in ("mean", "std"):
            value = store[f"1/{kind}"][()]
            del store[f"1/{kind}"]
            store[f"1/{kind}"] = value[None]
    expected = found(write(tmp_path / "a"), cache).contents()
    assert found(tmp_path / "b", cache).contents() == expected


def test_only_what_is_asked_for_is_needed(tmp_path, cache):
    write(tmp_path)
    for file in ("A/comparE.h5", STATISTICS, "V/denseface.h5"):
        (tmp_path / file).unlink()
    task = found(tmp_path, cache, "task.modalities=[text]")
    assert task.config.model.channels == (6,)
    assert len(probabilities(task, task.splits.test)) == 3


def test_an_empty_validation_split_is_drawn_from_training(tmp_path, cache):
    """A tenth of five utterances, at least one."""
    folder = write(tmp_path) / "target" / "1"
    np.save(folder / "val_label.npy", np.zeros((0, 4)))
    np.save(folder / "val_int2name.npy", np.array([]))
    task = found(tmp_path, cache)
    assert [len(ids) for _, ids in task.splits.items()] == [4, 1, 3]


def test_everything_that_is_missing_is_listed(tmp_path, cache):
    write(tmp_path)
    for file in ("A/comparE.h5", STATISTICS, "target/1/val_int2name.npy"):
        (tmp_path / file).unlink()
    with pytest.raises(DataError, match="expected a folder with A, V, L and target") as error:
        found(tmp_path, cache)
    assert set(error.value.problems) == {
        str(tmp_path / file) for file in ("A/comparE.h5", STATISTICS, "target/1/val_int2name.npy")
    }
    assert found(tmp_path, cache, "data.fold=2", "task.modalities=[text,vision]").splits.test


def test_a_file_in_place_of_the_folder_is_told(tmp_path, cache):
    with pytest.raises(DataError, match="lacks files; expected a folder with A, V, L and target"):
        found(write(tmp_path) / FILES["text"], cache)


def test_utterances_that_a_file_lacks_are_listed(tmp_path, cache):
    with h5py.File(write(tmp_path) / FILES["vision"], "a") as store:
        del store[NAMES[4]], store[NAMES[7]]
        store.create_group(NAMES[7])
    with pytest.raises(DataError, match=r"V/denseface\.h5 lacks 2 utterances of target/; use files of") as error:
        found(tmp_path, cache)
    assert set(error.value.problems) == {NAMES[4], NAMES[7]}


def test_without_labels_what_is_no_utterance_is_listed(tmp_path, cache):
    with h5py.File(write(tmp_path) / FILES["vision"], "a") as store:
        store.create_group("more")
    with pytest.raises(DataError, match=r"V/denseface\.h5 holds what is no array of an utterance") as error:
        make(tmp_path, cache).read_unlabelled(tmp_path, ("vision",), silent)
    assert error.value.problems == ("more",)


def test_without_labels_a_missing_file_is_not_called_damaged(tmp_path, cache):
    write(tmp_path)
    (tmp_path / STATISTICS).unlink()
    with pytest.raises(DataError, match=r"A/comparE_mean_std\.h5 is missing; copy it there$"):
        make(tmp_path, cache).read_unlabelled(tmp_path, ("audio",), silent)


def npy(file, change):
    def damage(root):
        path = root / "target" / "1" / file
        np.save(path, change(np.load(path)))

    return damage


def h5(file, key, value):
    def damage(root):
        with h5py.File(root / file, "a") as store:
            old = store[key][()]
            del store[key]
            if value is not None:
                store[key] = value(old)

    return damage


def cut(file, share):
    def damage(root):
        whole = (root / file).read_bytes()
        (root / file).write_bytes(whole[: int(len(whole) * share)])

    return damage


def at(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


LABEL, NAME = "target/1/tst_label.npy", "target/1/tst_int2name.npy"
DAMAGE = {
    "two classes": (
        npy("tst_label.npy", at((1, 0), 1)),
        rf"{LABEL} has \[1.0, 0.0, 1.0, 0.0\] in row 1, expected one-h",
    ),
    "sums to one": (
        npy("tst_label.npy", at(2, [2, -1, 0, 0])),
        rf"{LABEL} has \[2.0, -1.0, 0.0, 0.0\] in row 2, expec",
    ),
    "no class": (
        npy("tst_label.npy", at(0, 0)),
        r"label.npy has \[0.0, 0.0, 0.0, 0.0\] in row 0, expected one-hot over ",
    ),
    "NaN": (
        npy("tst_label.npy", at((2, 1), np.nan)),
        r"label.npy has \[0.0, nan, 0.0, 1.0\] in row 2, expected one-hot",
    ),
    "six classes": (
        npy("tst_label.npy", lambda x: np.eye(6)[:3]),
        rf"{LABEL} has shape \(3, 6\), expected a column for each of angry, happy, sad, neutral",
    ),
    "numbers": (
        npy("tst_label.npy", lambda x: x.argmax(1)),
        rf"{LABEL} holds int64 of shape \(3,\), expected numbers \(utterance, class\)",
    ),
    "words": (
        npy("tst_label.npy", lambda x: np.array([["a"]])),
        rf"{LABEL} holds str32 of shape \(1, 1\), expected nu",
    ),
    "fewer names": (
        npy("tst_int2name.npy", lambda x: x[:2]),
        rf"{NAME} has 2 rows, tst_label.npy has 3; they belong tog",
    ),
    "numbered": (
        npy("tst_int2name.npy", lambda x: np.arange(3)),
        rf"{NAME} holds int64 of shape \(3,\), expected utter",
    ),
    "one name": (
        npy("tst_int2name.npy", lambda x: x[0, 0]),
        rf"{NAME} holds bytes\d+ of shape \(\), expected utterance",
    ),
    "no column": (
        npy("tst_int2name.npy", lambda x: x[:, :0]),
        rf"{NAME} holds bytes\d+ of shape \(3, 0\), expected utt",
    ),
    "three axes": (
        npy("tst_int2name.npy", lambda x: x[None]),
        rf"{NAME} holds bytes\d+ of shape \(1, 3, 1\), expected ",
    ),
    "repeated": (
        npy("tst_int2name.npy", at(2, NAMES[1])),
        rf"{NAME} has '{NAMES[1]}' in row 2, expected a name that no",
    ),
    "empty name": (
        npy("tst_int2name.npy", at(1, b"")),
        rf"{NAME} has '' in row 1, expected a name that no row above has",
    ),
    "in two splits": (
        npy("tst_int2name.npy", at(0, NAMES[9])),
        rf"{NAME}: utterance {NAMES[9]} stands in another split",
    ),
    "labels cut": (cut(LABEL, 0.9), rf"{LABEL} is damaged or no array of numbers or text: "),
    "names cut": (cut(NAME, 0.5), rf"{NAME} is damaged or no array of numbers or text: "),
    "features cut": (cut(FILES["text"], 0.7), r"L/bert_large\.h5 is damaged or no HDF5 file: .*; copy it anew$"),
    "empty file": (cut(FILES["audio"], 0), r"A/comparE\.h5 is damaged or no HDF5 file: .*; copy it anew$"),
    "statistics cut": (cut(STATISTICS, 0.5), r"A/comparE_mean_std\.h5 is damaged or no HDF5 file: .*; copy it anew$"),
    "NaN features": (
        h5(FILES["audio"], NAMES[2], at((1, 3), np.nan)),
        rf"A/comparE\.h5: {NAMES[2]}: 1 values are not finite, the first in row 1; fix the file",
    ),
    "no frame": (
        h5(FILES["text"], NAMES[2], lambda x: x[:0]),
        rf"h5: {NAMES[2]} has shape \(0, 6\), expected at least one frame and channel",
    ),
    "no channel": (h5(FILES["text"], NAMES[2], lambda x: x[:, :0]), r"has shape \(3, 0\), expected at least one frame"),
    "a vector": (
        h5(FILES["vision"], NAMES[6], lambda x: x[0]),
        rf"V/denseface\.h5: {NAMES[6]} holds float32 of shape \(4,\), expected numbers \(time, channel\)",
    ),
    "text": (
        h5(FILES["vision"], NAMES[6], lambda x: "words"),
        rf"{NAMES[6]} holds bytes, expected numbers \(time, chan",
    ),
    "nothing": (
        h5(FILES["vision"], NAMES[6], lambda x: h5py.Empty("f4")),
        rf"{NAMES[6]} holds Empty, expected numbers",
    ),
    "other width": (
        h5(FILES["audio"], NAMES[9], lambda x: x[:, :4]),
        rf"A/comparE\.h5: {NAMES[9]} has 4 channels, {NAMES[6]} 5; fix the file",
    ),
    "fold's mean": (h5(STATISTICS, "1/mean", None), r"mean_std\.h5: 1/mean is missing; expected fold -> mean, std"),
    "fold's spread": (h5(STATISTICS, "1/std", None), r"mean_std\.h5: 1/std is missing; expected fold -> mean, std"),
    "narrow": (
        h5(STATISTICS, "1/mean", lambda x: x[:3]),
        r"A/comparE_mean_std\.h5: 1/mean has 3 channels, A/comparE\.h5 has 5; fix the file",
    ),
    "one number": (h5(STATISTICS, "1/std", lambda x: 2.0), r"1/std has 1 channels, A/comparE\.h5 has 5; fix the file"),
    "two rows": (
        h5(STATISTICS, "1/std", lambda x: np.stack([x, x])),
        r"1/std holds float64 of shape \(2, 5\), expected numbers \(channel\)",
    ),
    "NaN mean": (h5(STATISTICS, "1/mean", at(4, np.nan)), r"1/mean: 1 values are not finite, the first in row 4; fix"),
    "negative": (h5(STATISTICS, "1/std", at(3, -1)), r"mean_std\.h5: 1/std is negative in channel 3; fix the file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(damage, tmp_path, cache):
    do, message = DAMAGE[damage]
    do(write(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        found(tmp_path, cache)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(str(tmp_path))


def test_damage_to_another_fold_does_not_matter(tmp_path, cache):
    npy("trn_label.npy", lambda x: x[:1])(write(tmp_path))
    assert found(tmp_path, cache, "data.fold=2").splits.test


def test_hdf5_files_with_any_bytes_changed_raise_nothing_but_one_line(tmp_path, cache):
    file = write(tmp_path) / FILES["text"]
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    refused = []
    for _ in range(60):
        content = bytearray(whole)
        for place in random.integers(len(whole), size=40):
            content[place] = random.integers(256)
        file.write_bytes(content)
        try:
            found(tmp_path, cache)
        except DataError as error:
            refused.append(error)
    assert len(refused) > 20
    assert all(len(str(error).splitlines()) == 1 + len(error.problems) for error in refused)


# Table of hyper-parameters of the CGGM paper.
PAPER = {
    "train.batch_size": 64,
    "train.epochs": 30,
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.0,
    "optim.clip_norm": 0.8,
    "model.dropout_attention": 0.15,
    "model.dropout_relu": 0.15,
    "model.dropout_embedding": 0.2,
    "model.dropout_residual": 0.15,
    "model.dropout_output": 0.2,
    "model.encoder_layers": 4,
    "model.fusion_layers": 2,
    "model.head_layers": 2,
    "model.attention_heads": 5,
    "model.width": 40,
}


def test_preset_paper_holds_the_papers_values():
    config = make_config("iemocap", [], preset="paper", strategy="joint")
    assert {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in PAPER} == PAPER
    assert config.train.steps_per_epoch == 0  # one pass over the data
    assert isinstance(load(TASKS, "iemocap")(config).criterion(), torch.nn.CrossEntropyLoss)


def test_scores_are_those_of_the_field():
    task = make("x", "x")
    assert set(task.metrics) == {"accuracy", "weighted F1", "UAR"}
    assert task.targets == CLASSES


def accuracies(file):
    return {row["predicted_by"]: row["accuracy"] for row in json.loads(file.read_text())["summary"]}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated")
    make("x", "x").generate(folder)
    return folder


def test_generated_data_have_the_widths_of_the_real_ones(generated):
    widths = {"text": 1024, "audio": 130, "vision": 342}
    for modality, file in FILES.items():
        with h5py.File(generated / file) as store:
            shapes = [data.shape for data in store.values()]
        assert {shape[1] for shape in shapes} == {widths[modality]}
        assert len({shape[0] for shape in shapes}) > 3


def test_every_generated_utterance_is_tested_in_two_of_ten_folds(generated):
    """Ten folds test a fifth each; no two test the same."""
    tested = [np.load(generated / "target" / str(fold) / "tst_int2name.npy")[:, 0].tolist() for fold in range(1, 11)]
    every = [name for names in tested for name in names]
    assert {every.count(name) for name in every} == {2}
    assert len({tuple(sorted(names)) for names in tested}) == 10


def test_generated_statistics_are_of_the_folds_training_frames(generated, cache):
    """So the audio of each fold's training has mean 0 and spread 1, and that of its test nearly."""
    for fold in (1, 10):
        task = found(generated, cache, f"data.fold={fold}")
        frames = np.concatenate([task.samples[name].inputs["audio"] for name in task.splits.train])
        np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)
        others = np.concatenate([task.samples[name].inputs["audio"] for name in task.splits.test])
        assert 1e-3 < abs(others.mean(0)).max() < 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run on the last fold of generated data, with the tiny preset as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("iemocap") / "run"
        words = ["--task", "iemocap", "--strategy", "joint", "--out", folder]
        command(patch, "train", *words, "--set", f"data.cache={cache}", "--set", "data.fold=10")
    return folder


def test_on_generated_data_fusion_is_best_and_vision_worst(run):
    """And none of them perfect, so that a table shows something."""
    got = accuracies(run / "results.json")
    assert 0.95 > got["fused"] > got["text"] > got["vision"] > 0.25
    assert got["fused"] > got["audio"] > got["vision"]


def test_the_fold_is_kept_with_the_run(run, cache, monkeypatch):
    (folder,) = (cache / "generated").glob("iemocap-v*")
    tested = {name.decode() for name in np.load(folder / "target" / "10" / "tst_int2name.npy")[:, 0]}
    assert {row["case"] for row in json.loads((run / "results.json").read_text())["cases"]} == tested
    command(monkeypatch, "evaluate", run)
    assert accuracies(run / "evaluations" / "test" / "results.json") == accuracies(run / "results.json")


def wide(root):
    """The ten utterances with the generated data's widths."""
    widths = {"text": 1024, "audio": 130, "vision": 342}
    for modality, file in FILES.items():
        with h5py.File(root / file, "w") as store:
            for number, name in enumerate(NAMES):
                store[name] = np.random.default_rng(number).normal(size=(3, widths[modality]))
    with h5py.File(root / STATISTICS, "w") as store:
        store["10/mean"], store["10/std"] = np.zeros(130), np.ones(130)


def test_other_data_of_the_same_layout_are_scored(run, tmp_path, monkeypatch, capsys):
    write(tmp_path)
    words = ["evaluate", run, "--data", tmp_path, "--out"]
    command(monkeypatch, *words, tmp_path / "narrow", code=1)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "channels of a time step differ: {'text': 6, 'audio': 5, 'vision': 4} and {'text': 1024, 'audio': 130," in said
    )
    wide(tmp_path)
    command(monkeypatch, *words, tmp_path / "scores")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {row["case"]: row["true"] for row in results["cases"]} == {
        name: CLASSES[label] for name, label in zip(NAMES, LABELS, strict=True)
    }
