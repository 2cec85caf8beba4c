"""IEMOCAP and MELD as dialogues: the files are read and compared, speakers travel along, utterances are counted."""

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, DataError, MissingExtra
from cggm_med.objectives.targets import IGNORED
from cggm_med.registry import TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med.task.base import CaseResult
from cggm_med.types import Padded
from cggm_med_tasks.affect.dialogue_files import IEMOCAP_LAYOUT, MELD_LAYOUT, ROBERTA

TASK = {"iemocap_dialogue": IEMOCAP_LAYOUT, "meld": MELD_LAYOUT}
WIDTHS = dict.fromkeys(ROBERTA, 3) | {"text": 7, "audio": 5, "vision": 4}
LENGTHS = (3, 1, 4, 2, 5, 2, 3, 2)  # of dialogues a to h: five for training, one for validation, two for testing
TRAIN, VALID, TEST = slice(0, 5), slice(5, 6), slice(6, 8)


def silent(text):
    pass


def content(layout):
    """All fields of both files, with names of dialogues as each data set has them."""
    random = np.random.Generator(np.random.Philox(0))
    names = [f"Ses01F_{letter}" for letter in "abcdefgh"] if layout.speaker_names else list(range(8))
    length = dict(zip(names, LENGTHS, strict=True))
    one_hot = np.eye(9, dtype=int).tolist()
    fields = {
        "ids": {name: list(range(n)) for name, n in length.items()},
        "labels": {name: [(d + i) % 6 for i in range(length[name])] for d, name in enumerate(names)},
        "sentiments": {name: [0] * n for name, n in length.items()},
        "sentences": {name: ["words"] * n for name, n in length.items()},
        "speakers": {
            name: [layout.speaker_names[i % 2] if layout.speaker_names else one_hot[(d + i) % 9] for i in range(n)]
            for d, (name, n) in enumerate(length.items())
        },
        "extra": None,
    }
    for field, width in WIDTHS.items():
        fields[field] = {name: [random.normal(size=width) for _ in range(n)] for name, n in length.items()}
    roberta = {**fields, "train": names[TRAIN], "valid": names[VALID], "test": names[TEST]}
    features = {**fields, "train": set(names[:6]), "test": set(names[TEST])}
    return {"roberta": copy.deepcopy(roberta), "features": copy.deepcopy(features)}  # a test may change one of them


def write(folder, layout, files):
    folder.mkdir(exist_ok=True)
    for kind, fields in files.items():
        order = getattr(layout, f"{kind}_fields")
        with (folder / getattr(layout, f"{kind}_file")).open("wb") as file:
            pickle.dump(tuple(fields[name] for name in order), file, protocol=2)
    return folder


def make_task(name, path, cache, *settings):
    words = ["model.width=8", f"data.cache={cache}", *([] if path is None else [f"data.path={path}"]), *settings]
    return load(TASKS, name)(make_config(name, [parse_overrides(words)], preset="tiny"))


def prepared(name, path, cache, *settings, say=silent):
    task = make_task(name, path, cache, *settings)
    task.find(say)
    task.prepare(task.default_splits(), say)
    return task


@pytest.fixture(params=list(TASK))
def name(request):
    return request.param


@pytest.fixture
def small(name, tmp_path):
    """Both files of a small data set."""
    return write(tmp_path / "data", TASK[name], content(TASK[name]))


@pytest.fixture
def problem(tmp_path):
    """What is said of files that ``change`` has spoilt; its arguments are the fields of both files."""

    def refused(name, change, *settings, only=("roberta", "features")):
        files = content(TASK[name])
        change(files)
        folder = write(tmp_path / "spoilt", TASK[name], {kind: files[kind] for kind in only})
        with pytest.raises(DataError) as error:
            prepared(name, folder, tmp_path / "cache", *settings)
        return str(error.value)

    return refused


# What is read


def test_a_sample_is_a_dialogue_with_its_speakers_behind_each_modality(name, small, tmp_path):
    layout, fields = TASK[name], content(TASK[name])["roberta"]
    task = prepared(name, small, tmp_path)
    assert len(task.samples) == len(LENGTHS)
    for id, sample in task.samples.items():
        key = id if layout.speaker_names else int(id)
        assert sample.target == tuple(fields["labels"][key])
        loaded = task.load(sample, None)
        text = np.concatenate([np.array(fields[field][key]) for field in ROBERTA], axis=1)
        expected = {"text": text, **{m: np.array(fields[m][key]) for m in ("audio", "vision")}}
        for modality, values in expected.items():
            features, speakers = loaded[modality].split([values.shape[1], layout.speakers], dim=1)
            np.testing.assert_allclose(features.numpy(), values, rtol=1e-6)
            if layout.speaker_names:
                assert speakers.tolist() == [[float(who == "M"), float(who == "F")] for who in fields["speakers"][key]]
            else:
                assert speakers.tolist() == fields["speakers"][key]
    assert task.config.model.channels == (12, 5, 4)
    assert task.config.model.streams == 4


def test_splits_are_those_of_the_file_that_names_a_validation(name, small, tmp_path):
    task = prepared(name, small, tmp_path)
    ids = list(task.samples)
    assert (task.splits.train, task.splits.validation, task.splits.test) == tuple(
        tuple(sorted(ids)[part]) for part in (TRAIN, VALID, TEST)
    )


def test_every_subset_of_the_modalities_has_the_same_splits(name, small, tmp_path):
    whole = prepared(name, small, tmp_path)
    for subset in ("text", "audio", "vision,audio"):
        assert prepared(name, small, tmp_path, f"task.modalities=[{subset}]").splits == whole.splits


def test_features_alone_give_their_own_text_and_no_validation(name, tmp_path):
    files = content(TASK[name])
    folder = write(tmp_path / "data", TASK[name], {"features": files["features"]})
    task = prepared(name, folder, tmp_path, "data.validation=0.2")
    assert task.config.model.channels == (7, 5, 4)
    assert task.config.model.streams == 1
    assert len(task.splits.train) == 5
    assert len(task.splits.validation) == 1
    tested = {str(id) for id in files["features"]["test"]}
    assert set(task.splits.test) == tested
    assert not tested & {*task.splits.train, *task.splits.validation}


def test_text_needs_the_roberta_file_only(name, tmp_path):
    folder = write(tmp_path / "data", TASK[name], {"roberta": content(TASK[name])["roberta"]})
    task = prepared(name, folder, tmp_path, "task.modalities=[text]")
    assert task.config.model.channels == (12,)
    with pytest.raises(DataError, match=rf"{TASK[name].features_file} is missing \(audio\)"):
        prepared(name, folder, tmp_path, "task.modalities=[text,audio]")


@pytest.mark.parametrize("shared", ["train", "test"])
def test_validation_that_is_trained_or_tested_on_is_not_used_and_that_is_said(name, shared, tmp_path):
    files = content(TASK[name])
    files["roberta"]["train"] += files["roberta"]["valid"]
    files["roberta"]["valid"] = files["roberta"][shared][:2]
    folder = write(tmp_path / "data", TASK[name], files)
    said = []
    task = prepared(name, folder, tmp_path, "data.validation=0.2", say=said.append)
    assert any("2 of 2 validation dialogues also stand in train or test" in line for line in said)
    assert set(task.splits.test) == {str(id) for id in files["roberta"]["test"]}
    assert len(task.splits.train) == 5
    assert len(task.splits.validation) == 1


def test_order_in_the_files_changes_nothing(name, small, tmp_path):
    """Python's sets have another order in each process; a resumed run must have the same samples."""
    files = content(TASK[name])
    for fields in files.values():
        fields["train"], fields["test"] = list(fields["train"])[::-1], list(fields["test"])[::-1]
        fields["labels"] = dict(reversed(fields["labels"].items()))
    other = prepared(name, write(tmp_path / "other", TASK[name], files), tmp_path)
    task = prepared(name, small, tmp_path)
    assert other.splits == task.splits
    assert list(other.samples) == list(task.samples)
    assert other.contents() == task.contents()


@pytest.mark.parametrize("as_what", [np.float32, np.float64, list, "rows"])
def test_vectors_may_be_arrays_lists_or_one_array(name, as_what, small, tmp_path):
    files = content(TASK[name])
    for fields in files.values():
        for field in WIDTHS:
            for id, vectors in fields[field].items():
                rows = np.array(vectors)
                kinds = {list: rows.tolist(), "rows": rows}
                fields[field][id] = kinds[as_what] if as_what in kinds else list(rows.astype(as_what))
    other = prepared(name, write(tmp_path / "other", TASK[name], files), tmp_path)
    assert other.contents() == prepared(name, small, tmp_path).contents()


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_generated_data_go_through_the_real_reader(name, shared_cache):
    task = prepared(name, None, shared_cache)
    audio = {"iemocap_dialogue": 1582, "meld": 300}[name]
    assert task.config.model.channels == (4096, audio, 342)
    assert [len(ids) for _, ids in task.splits.items()] == [40, 8, 16]
    lengths = {len(sample.target) for sample in task.samples.values()}
    assert min(lengths) >= 5
    assert max(lengths) <= 12
    used = {label for sample in task.samples.values() for label in sample.target}
    assert used == set(range(len(task.targets)))


def test_generated_emotions_last(name, shared_cache):
    """The share of repeated emotions is clearly above that of utterances in any order."""
    task = prepared(name, None, shared_cache)
    targets = [np.array(sample.target) for sample in task.samples.values()]
    follows = np.concatenate([t[1:] == t[:-1] for t in targets]).mean()
    share = np.bincount(np.concatenate(targets)) / sum(map(len, targets))
    assert follows > (share**2).sum() + 0.2


# What is refused: file, dialogue and utterance are named


def spoil(kind, field, value, row=None):
    """Replaces a field of dialogue c, or one of its utterances."""

    def change(files):
        dialogues = files[kind][field]
        id = list(dialogues)[2]
        if row is None:
            dialogues[id] = value(dialogues[id])
        else:
            dialogues[id] = list(dialogues[id])
            dialogues[id][row] = value(dialogues[id][row])

    return change


@pytest.mark.parametrize("label", [-1, 7, 1.0, "sad", True, None])
def test_unknown_labels(name, label, problem):
    message = problem(name, spoil("roberta", "labels", lambda _: label, row=1))
    assert TASK[name].roberta_file in message
    third = "Ses01F_c" if TASK[name].speaker_names else "2"
    assert (
        f"dialogue {third}, utterance 1: label {label!r}, expected 0 to {len(load(TASKS, name).targets) - 1}" in message
    )


@pytest.mark.parametrize(
    ("name", "speaker", "expected"),
    [
        ("iemocap_dialogue", "X", "speaker 'X', expected 'M' or 'F'"),
        ("iemocap_dialogue", [1, 0], "expected 'M' or 'F'"),
        ("meld", "M", "speaker 'M', expected a one-hot list of 9"),
        ("meld", [0] * 9, "expected a one-hot list of 9"),
        ("meld", [1, 1] + [0] * 7, "expected a one-hot list of 9"),
        ("meld", [1] + [0] * 7, "expected a one-hot list of 9"),
        ("meld", [2, -1] + [0] * 7, "expected a one-hot list of 9"),
        ("meld", ["a", 1] + [0] * 7, "expected a one-hot list of 9"),
    ],
)
def test_unknown_speakers(name, speaker, expected, problem):
    message = problem(name, spoil("roberta", "speakers", lambda _: speaker, row=3))
    assert "utterance 3" in message
    assert expected in message


@pytest.mark.parametrize("field", ["roberta3", "audio"])
def test_features_that_are_no_vectors_of_one_width(name, field, problem):
    kind = "roberta" if field.startswith("roberta") else "features"
    width = WIDTHS[field]
    third = "Ses01F_c" if TASK[name].speaker_names else "2"
    cases = {
        f"dialogue {third}, utterance 1: {field} has {width + 1} channels": lambda x: [*x, 0.0],
        f"utterance 1: {field} holds float64 of shape (1, {width})": lambda x: x[None],
        f"utterance 1: {field} holds str": lambda x: "words",
        f"utterance 1: {field} is no list of numbers": lambda x: [[1.0], [1.0, 2.0]],
        f"utterance 1: {field} is empty": lambda x: np.zeros(0),
        f"{field}: 1 values are not finite, the first in row 1": lambda x: np.r_[x[:-1], np.nan],
        f"{field}: {width} values are not finite, the first in row 1": lambda x: np.full(width, 1e300),
    }
    for expected, value in cases.items():
        message = problem(name, spoil(kind, field, value, row=1))
        assert expected in message
        assert getattr(TASK[name], f"{kind}_file") in message
        assert third in message


def test_streams_of_other_widths(name, problem):
    def change(files):
        files["roberta"]["roberta2"] = {id: [x[:2] for x in rows] for id, rows in files["roberta"]["roberta2"].items()}

    assert "have [3, 2, 3, 3] channels, expected as many in each" in problem(name, change)


@pytest.mark.parametrize("field", ["speakers", "roberta1", "roberta4"])
def test_other_numbers_of_utterances_within_a_file(name, field, problem):
    message = problem(name, spoil("roberta", field, lambda rows: rows[:-1]))
    assert f"{field} has 3 utterances, labels 4" in message


def test_dialogues_without_utterances(name, problem):
    assert "has no utterance" in problem(name, spoil("roberta", "labels", lambda _: []))


@pytest.mark.parametrize("field", ["labels", "speakers", "roberta2"])
def test_absent_dialogues(name, field, problem):
    def change(files):
        del files["roberta"][field][next(iter(files["roberta"][field]))]

    first = "Ses01F_a" if TASK[name].speaker_names else "0"
    assert f"{TASK[name].roberta_file}: {field} lacks dialogue {first}, which a split names" in problem(name, change)


def test_files_with_other_dialogues(name, problem):
    def lose(files):
        files["features"]["train"].remove(next(iter(files["roberta"]["train"])))

    def move(files):
        moved = files["roberta"]["train"].pop(0)
        files["roberta"]["test"].append(moved)

    first = "Ses01F_a" if TASK[name].speaker_names else "0"
    assert (
        f"{TASK[name].features_file} lacks 1 dialogues of {TASK[name].roberta_file}; use files of one source:\n"
        f"  {first}" in problem(name, lose)
    )
    assert "1 dialogues stand in test of" in problem(name, move)


def test_files_with_other_labels(name, problem):
    message = problem(name, spoil("features", "labels", lambda label: (label + 1) % 6, row=2))
    assert f"{TASK[name].features_file}, dialogue" in message
    assert f"utterance 2: label 5, {TASK[name].roberta_file} has 4" in message
    message = problem(name, spoil("features", "labels", lambda labels: labels[:-1]))
    assert f"has 3 utterances, {TASK[name].roberta_file} has 4" in message


def test_dialogues_in_two_splits(name, problem):
    def change(files):
        files["features"]["test"].add(min(files["features"]["train"]))

    assert "stands in train and again in test" in problem(name, change, only=("features",))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda files: files.update(roberta={**files["roberta"], "labels": [1]}), "labels is list, expected a dict"),
        (lambda files: files.update(roberta={**files["roberta"], "test": 3}), "test is int, expected a list"),
        (lambda files: spoil("roberta", "labels", lambda _: 4)(files), "labels is int, expected a list of utterances"),
    ],
)
def test_fields_of_another_kind(name, change, expected, problem):
    assert expected in problem(name, change)


def test_files_of_another_kind(name, tmp_path):
    layout = TASK[name]
    folder = tmp_path / "data"
    folder.mkdir()
    for value, found in (((1, 2), "2 fields"), ({"a": 1}, "dict")):
        (folder / layout.roberta_file).write_bytes(pickle.dumps(value))
        with pytest.raises(
            DataError, match=f"holds {found}, expected a tuple of {len(layout.roberta_fields)}: speakers"
        ):
            prepared(name, folder, tmp_path, "task.modalities=[text]")


def test_missing_files(name, tmp_path):
    (tmp_path / "empty").mkdir()
    layout = TASK[name]
    with pytest.raises(DataError, match=rf"neither file; {layout.features_file} is missing \(text, audio, vision\)"):
        prepared(name, tmp_path / "empty", tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=f"is a file; expected a folder with {layout.roberta_file}"):
        prepared(name, tmp_path / "file", tmp_path)


def test_features_of_another_kind_than_those_trained_on(name, small, tmp_path):
    with pytest.raises(DataError, match="channels \\(12, 5, 4\\), the network was made for \\(7, 5, 4\\)"):
        prepared(name, small, tmp_path, "model.channels=[7,5,4]")
    with pytest.raises(DataError, match="streams 4, the network was made for 1"):
        prepared(name, small, tmp_path, "model.streams=1")


@pytest.mark.parametrize("wrong", ["width=7", "width=0", "hypergraph_layers=0", "graph_layers=-1", "dropout=1"])
def test_impossible_settings(name, wrong):
    with pytest.raises(ConfigError, match=f"model.{wrong.split('=')[0]}"):
        make_config(name, [parse_overrides([f"model.{wrong}"])])


def test_focal_gamma_between_none_and_one():
    with pytest.raises(ConfigError, match="model.focal_gamma is 0.5, expected 0 or at least 1"):
        make_config("meld", [parse_overrides(["model.focal_gamma=0.5"])])


def test_without_torch_geometric(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric", None)
    with pytest.raises(MissingExtra, match=f"task '{name}' needs torch-geometric"):
        load(TASKS, name)(make_config(name, []))


# What is learned and counted


def batch_of(task, ids):
    return task.collate([(task.samples[id], task.load(task.samples[id], None)) for id in ids])


def test_a_dialogue_in_a_batch_has_the_logits_it_has_alone(name, small, tmp_path):
    task = prepared(name, small, tmp_path)
    model = task.model().eval()
    heads = task.unimodal_heads(model).eval()
    batch = batch_of(task, list(task.samples))
    assert batch.target.shape == (8, 5)
    together = model(batch.inputs)
    apart = heads(model.encode(batch.inputs))
    for i, id in enumerate(batch.ids):
        alone = batch_of(task, [id])
        length = LENGTHS[sorted(task.samples).index(id)]
        assert isinstance(alone.inputs["text"], Padded)
        torch.testing.assert_close(model(alone.inputs), together[i : i + 1, :, :length])
        for modality, output in heads(model.encode(alone.inputs)).items():
            torch.testing.assert_close(output.logits, apart[modality].logits[i : i + 1, :, :length])
        assert batch.target[i].tolist() == [*task.samples[id].target, *[IGNORED] * (5 - length)]


def test_scores_count_utterances(name, small, tmp_path):
    """Against scikit-learn on predictions that are written out one by one."""
    task = prepared(name, small, tmp_path, "train.batch_size=2")
    model = task.model().eval()
    heads = task.unimodal_heads(model).eval()
    ids = list(task.samples)
    cpu = torch.device("cpu")
    results = list(task.evaluate(model, heads, ids, device=cpu, autocast=torch.no_grad, full=True))
    scores = task.summarise(results)
    true, predicted = [], []
    for id in ids:
        with torch.no_grad():
            predicted += model(batch_of(task, [id]).inputs)[0].argmax(0).tolist()
        true += task.samples[id].target
    assert len(true) == sum(LENGTHS)
    assert scores.headline["accuracy"] == accuracy_score(true, predicted)
    assert scores.headline["weighted F1"] == f1_score(true, predicted, average="weighted", zero_division=0)
    assert [row["samples"] for row in scores.summary] == [sum(LENGTHS)] * 4
    names = task.targets
    assert [(row["true"], row["predicted"]) for row in scores.cases] == [
        (names[t], names[p]) for t, p in zip(true, predicted, strict=True)
    ]
    assert [row["utterance"] for row in scores.cases] == [i for id in ids for i in range(len(task.samples[id].target))]
    assert len(scores.heads) == 3 * sum(LENGTHS)


def test_accuracy_by_hand(small, name, tmp_path):
    """Dialogues of 3 and 1 utterances, of which 2 and 0 are right: 2 of 4, where a mean of dialogues would be 1/3."""
    task = prepared(name, small, tmp_path)
    first, second = sorted(task.samples)[:2]
    assert [len(task.samples[id].target) for id in (first, second)] == [3, 1]
    results = []
    for id, guesses in ((first, (0, 1, 0)), (second, (0,))):
        target = task.target_tensor([task.samples[id].target, (0,) * 5])[0]  # padded to five
        logits = F.one_hot(torch.tensor([*guesses, *[3] * (5 - len(guesses))]), len(task.targets)).T.double()
        results.append(CaseResult(id, {"fused": task.finding(logits, target)}))
    assert task.samples[first].target == (0, 1, 2)
    assert task.samples[second].target == (1,)
    assert task.summarise(results).headline["accuracy"] == 0.5


def test_loss_of_a_batch_of_whole_training_data_is_the_weighted_mean(tmp_path):
    """Class weights are 1 / published frequency, with a mean of 1 over the training utterances."""
    folder = write(tmp_path / "data", IEMOCAP_LAYOUT, content(IEMOCAP_LAYOUT))
    task = prepared("iemocap_dialogue", folder, tmp_path)
    batch = batch_of(task, task.splits.train)
    logits = torch.randn(len(batch.target), 6, batch.target.shape[1])
    weights = 1 / torch.tensor([0.0867, 0.1444, 0.2279, 0.1606, 0.1277, 0.2527])
    expected = F.cross_entropy(logits, batch.target, weight=weights, ignore_index=IGNORED)
    torch.testing.assert_close(task.criterion()(logits, batch.target), expected)
    plain = prepared("iemocap_dialogue", folder, tmp_path, "model.class_weights=false")
    expected = F.cross_entropy(logits, batch.target, ignore_index=IGNORED)
    torch.testing.assert_close(plain.criterion()(logits, batch.target), expected)


def test_focal_loss_of_the_whole_training_data(tmp_path):
    folder = write(tmp_path / "data", MELD_LAYOUT, content(MELD_LAYOUT))
    task = prepared("meld", folder, tmp_path)
    batch = batch_of(task, task.splits.train)
    logits = torch.randn(len(batch.target), 7, batch.target.shape[1])
    chosen = torch.softmax(logits, 1).permute(0, 2, 1)[batch.target != IGNORED]
    p = chosen[torch.arange(len(chosen)), batch.target[batch.target != IGNORED]]
    torch.testing.assert_close(task.criterion()(logits, batch.target), (-((1 - p) ** 2.5) * p.log()).mean())


def test_paper_settings(name):
    config = make_config(name, [], preset="paper")
    assert (config.model.width, config.model.hypergraph_layers, config.model.graph_layers) == (1024, 1, 1)
    assert config.optim.name == "adam"
    found = (config.optim.lr, config.optim.weight_decay, config.model.dropout, config.train.epochs)
    assert found == {"iemocap_dialogue": (1e-4, 3e-6, 0.5, 80), "meld": (1e-5, 3e-5, 0.4, 50)}[name]


# Through the command line; training on generated data, and resuming, are tested for all tasks together


def test_a_run_on_features_alone_is_scored_again_and_refuses_other_features(name, tmp_path, monkeypatch, capsys):
    files = content(TASK[name])
    alone = write(tmp_path / "alone", TASK[name], {"features": files["features"]})
    both = write(tmp_path / "both", TASK[name], files)
    run = tmp_path / "run"
    settings = [
        f"data.cache={tmp_path}",
        "data.validation=0.2",
        "model.width=8",
        "train.epochs=1",
        "train.batch_size=2",
    ]
    flags = set_options(settings)
    words = ["train", "--task", name, "--preset", "tiny", "--strategy", "joint", "--data", alone, "--out", run]
    command(monkeypatch, *words, *flags)
    results = json.loads((run / "results.json").read_text())
    assert results["summary"][0]["samples"] == sum(LENGTHS[TEST]) == len(results["cases"])
    command(monkeypatch, "evaluate", run, "--split", "test")
    again = json.loads((run / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == results["cases"]
    command(monkeypatch, "train", "--resume", run)
    assert json.loads((run / "results.json").read_text())["cases"] == results["cases"]
    capsys.readouterr()
    command(monkeypatch, "evaluate", run, "--data", both, "--split", "test", code=1)
    assert "the network was made for" in capsys.readouterr().err
