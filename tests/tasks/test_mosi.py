"""MOSI and MOSEI: every copy of the layout is read, padding changes nothing, scores are those of the literature."""

import json
import pickle

import numpy as np
import pytest
import torch
from helpers.command_line import command
from hypothesis import assume, given
from hypothesis import strategies as st

from cggm_med.config import parse_overrides
from cggm_med.errors import DataError, OutputError
from cggm_med.metrics.classification_regression import Predicted
from cggm_med.registry import TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med_tasks.affect.mosi import (
    MOSI,
    accuracy_not_negative,
    accuracy_positive,
    f1_not_negative,
    f1_positive,
    seven_classes,
)

SIZES = {"text": 6, "audio": 5, "vision": 4}
COUNTS = {"train": 6, "valid": 3, "test": 4}
LONGEST = 7


def sentences(section, count=None, in_front=True, times=None):
    """Sentences of 2 to 6 steps, padded to 7 or to ``times``, two of each video; aligned, as MulT has them."""
    count = COUNTS[section] if count is None else count
    random = np.random.default_rng(list(section.encode()))
    lengths = [2 + i % 5 for i in range(count)]
    content = {}
    for modality, size in SIZES.items():
        time = (times or {}).get(modality, LONGEST)
        array = np.zeros((count, time, size), np.float32)
        for row, length in enumerate(lengths):
            where = slice(time - length, time) if in_front else slice(length)
            array[row, where] = random.uniform(0.1, 1, (length, size))
        content[modality] = array
    content["labels"] = random.uniform(-3, 3, (count, 1, 1)).astype(np.float32)
    content["id"] = np.array([f"{section}{row // 2}$_${row % 2}" for row in range(count)])
    return content


def whole(**options):
    return {section: sentences(section, **options) for section in COUNTS}


def save(folder, content, protocol=4):
    file = folder / "mosi.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return file


def make(path, cache, *settings, name="mosi", preset="tiny"):
    words = [f"data.path={path}", f"data.cache={cache}", *settings]
    return load(TASKS, name)(make_config(name, [parse_overrides(words)], preset=preset, strategy="joint"))


def silent(text):
    pass


def found(path, cache, *settings, say=silent, **options):
    task = make(path, cache, *settings, **options)
    task.find(say)
    task.prepare(task.default_splits(), say)
    return task


def read(folder, content, cache, *settings):
    return found(save(folder, content), cache, *settings)


def inputs(task):
    return {id: {m: task.load(sample, None)[m] for m in task.modalities} for id, sample in task.samples.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[id][m], b[id][m]) for id in a for m in a[id])


def predictions(task, ids):
    torch.manual_seed(0)
    model = task.model().eval()
    results = task.evaluate(model, None, ids, device=torch.device("cpu"), autocast=torch.no_grad, full=True)
    return {result.case: result.findings["fused"]["predicted"] for result in results}


@pytest.mark.parametrize("name", ["mosi", "mosei"])
def test_what_is_written_comes_back(name, tmp_path, cache):
    """Sentence 3 of the training split has 5 steps."""
    content = whole()
    task = found(save(tmp_path, content), cache, name=name)
    assert {split: len(ids) for split, ids in task.splits.items()} == {"train": 6, "validation": 3, "test": 4}
    assert task.splits.train == ("train0$_$0", "train0$_$1", "train1$_$0", "train1$_$1", "train2$_$0", "train2$_$1")
    sample = task.samples["train1$_$1"]
    assert sample.group == "train1"
    assert sample.target == float(content["train"]["labels"][3, 0, 0])
    for modality in SIZES:
        torch.testing.assert_close(
            task.load(sample, None)[modality], torch.from_numpy(content["train"][modality][3, 2:]), rtol=0, atol=0
        )
    assert task.config.model.channels == (6, 5, 4)


def test_a_folder_with_one_pickle_is_as_good_as_the_file(tmp_path, cache):
    file = save(tmp_path, whole())
    (tmp_path / "._mosi.pkl").write_bytes(b"of macOS")
    (tmp_path / "readme.txt").write_text("")
    assert equal(inputs(found(tmp_path, cache)), inputs(found(file, cache)))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_any_protocol(protocol, tmp_path, cache):
    """Protocols 0 to 2 are those of Python 2."""
    content = whole()
    task = found(save(tmp_path, content, protocol), cache)
    assert equal(inputs(task), inputs(read(tmp_path, content, cache)))


def test_padding_in_front_or_behind_gives_the_same_prediction(tmp_path, cache):
    """The law that masking is for; unaligned copies have other lengths for each modality."""
    front = read(tmp_path, whole(), cache)
    behind = read(tmp_path, whole(in_front=False), cache)
    longer = read(tmp_path, whole(in_front=False, times={"audio": 30, "vision": 50}), cache)
    assert equal(inputs(front), inputs(behind))
    assert equal(inputs(front), inputs(longer))
    expected = predictions(front, front.splits.test)
    assert predictions(longer, front.splits.test) == expected
    alone = {id: value for one in front.splits.test for id, value in predictions(front, [one]).items()}
    assert alone == pytest.approx(expected, abs=1e-5)
    assert len(set(expected.values())) == len(expected)


def test_the_order_of_sentences_in_the_file_does_not_matter(tmp_path, cache):
    content = whole()
    task = read(tmp_path, content, cache)
    order = [2, 0, 3, 1]
    content["test"] = {key: value[order] for key, value in content["test"].items()}
    shuffled = read(tmp_path, content, cache)
    assert shuffled.splits.test != task.splits.test
    assert equal(inputs(shuffled), inputs(task))
    assert shuffled.contents() == task.contents()
    assert predictions(shuffled, shuffled.splits.test) == pytest.approx(predictions(task, task.splits.test), abs=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x,
        lambda x: x.reshape(-1),
        lambda x: x.reshape(-1, 1),
        lambda x: x.reshape(-1).tolist(),
        lambda x: x.astype(np.float64),
        lambda x: x.astype(object).reshape(-1),
    ],
)
@pytest.mark.parametrize("key", ["labels", "regression_labels"])
def test_labels_in_every_form(form, key, tmp_path, cache):
    content = whole()
    values = content["test"]["labels"].reshape(-1).tolist()
    for section in content.values():
        section[key] = form(section.pop("labels"))
    task = read(tmp_path, content, cache)
    assert [task.samples[id].target for id in task.splits.test] == values


@pytest.mark.parametrize("label", [-3, 0, 3])
def test_whole_labels_at_the_ends_are_kept(label, tmp_path, cache):
    content = whole()
    content["test"]["labels"] = np.full(4, label)
    task = read(tmp_path, content, cache)
    assert {task.samples[id].target for id in task.splits.test} == {float(label)}


VIDEO = "-3g5yACwYnA"


@pytest.mark.parametrize(
    ("ids", "names", "videos"),
    [
        (np.array([f"{VIDEO}$_$3", "dI_1$_$12"]), [f"{VIDEO}$_$3", "dI_1$_$12"], [VIDEO, "dI_1"]),
        (np.array([[f"{VIDEO}[3]"], ["b[12]"]]), [f"{VIDEO}[3]", "b[12]"], [VIDEO, "b"]),
        (np.array([b"a_3", b"a_4"]), ["a_3", "a_4"], ["a", "a"]),
        # MOSEI and MOSI of MulT: video or video_sentence, start, end; the second in bytes
        (np.array([["a", "0.5", "3.0"], ["a", "3.0", "4"]]), ["a_0.5_3.0", "a_3.0_4"], ["a", "a"]),
        (np.array([[b"a_1", b"0.5", b"3"], [b"b_1", b"0", b"4"]]), ["a_1_0.5_3", "b_1_0_4"], ["a", "b"]),
        (np.array([["100178", "0.5", "3.0"], ["100178", "3", "4"]]), ["100178_0.5_3.0", "100178_3_4"], ["100178"] * 2),
        (np.array([["a", 0.5], ["b", 1]], dtype=object), ["a_0.5", "b_1"], ["a", "b"]),
        ([("a", 1.0), ("b", 2.0)], ["a_1.0", "b_2.0"], ["a", "b"]),
        (["a[1]", "a[2]"], ["a[1]", "a[2]"], ["a", "a"]),
        # the video alone, once for each of its sentences
        (np.array(["a", "a"]), ["a", "a#2"], ["a", "a"]),
        # numbers of rows, and nothing at all
        (np.arange(2), ["test00000", "test00001"], ["test00000", "test00001"]),
        (np.array([["0"], ["1"]]), ["test00000", "test00001"], ["test00000", "test00001"]),
        (None, ["test00000", "test00001"], ["test00000", "test00001"]),
    ],
)
def test_ids_in_every_form(ids, names, videos, tmp_path, cache):
    content = whole()
    content["test"] = sentences("test", 2) | {"id": ids}
    if ids is None:
        del content["test"]["id"]
    task = read(tmp_path, content, cache)
    assert list(task.splits.test) == names
    assert [task.samples[name].group for name in names] == videos


def test_row_numbers_that_begin_anew_in_each_split_are_no_ids(tmp_path, cache):
    content = whole()
    for section in content.values():
        section["id"] = np.arange(len(section["labels"]))[:, None]
    assert len(read(tmp_path, content, cache).samples) == 13


def mmsa(tokens=None):
    """Unaligned, padded behind, with the keys of MMSA and features of BERT that are not zero in padding."""
    content = whole(in_front=False, times={"audio": 30, "vision": 40})
    for section in content.values():
        labels = section.pop("labels").reshape(-1)
        count = len(labels)
        lengths = [2 + i % 5 for i in range(count)]
        mask = np.array([[1.0] * length + [0.0] * (LONGEST - length) for length in lengths])
        section["text_bert"] = np.stack([mask * 101, mask, mask * 0], axis=1)
        if tokens:
            section["text_bert"] = tokens(section["text_bert"])
        section["text"] = section["text"] + np.float32(0.3)
        section |= {
            "regression_labels": labels,
            "classification_labels": np.sign(labels) + 1,
            "annotations": ["Positive"] * count,
            "raw_text": np.array(["words"] * count),
            "audio_lengths": lengths,
            "vision_lengths": lengths,
        }
    return content


def test_the_keys_of_mmsa(tmp_path, cache):
    """Sentence i has 2 + i % 5 steps; what BERT makes of padding is cut off by the mask."""
    task = read(tmp_path, mmsa(), cache)
    lengths = [[len(x) for x in modalities.values()] for modalities in inputs(task).values()]
    assert lengths == [[2 + i % 5] * 3 for count in COUNTS.values() for i in range(count)]


def test_masked_text_is_predicted_alike_whatever_stands_in_padding(tmp_path, cache):
    content = mmsa()
    task = read(tmp_path, content, cache)
    for section in content.values():
        section["text"][section["text_bert"][:, 1] == 0] = 7
    again = read(tmp_path, content, cache)
    assert predictions(again, again.splits.test) == predictions(task, task.splits.test)


@pytest.mark.parametrize("tokens", [lambda x: x[:, :, :-1], lambda x: x[:, :2]])
def test_a_mask_of_another_text_is_not_used(tokens, tmp_path, cache):
    task = read(tmp_path, mmsa(tokens), cache)
    assert {len(modalities["text"]) for modalities in inputs(task).values()} == {LONGEST}


def test_a_mask_is_not_used_for_text_padded_in_front(tmp_path, cache):
    """Of words padded in front, the mask of tokens padded behind would keep the wrong end."""
    content = mmsa()
    expected = inputs(read(tmp_path, whole(), cache))
    for name, section in content.items():
        section["text"] = sentences(name)["text"]
    got = inputs(read(tmp_path, content, cache))
    assert all(torch.equal(got[id]["text"], expected[id]["text"]) for id in expected)


def test_infinite_audio_becomes_zero_and_is_told(tmp_path, cache):
    content = whole()
    content["train"]["audio"][1, -1, 2] = -np.inf
    content["test"]["audio"][0, -2, 0] = np.inf
    content["test"]["audio"][0, -1, 0] = -np.inf
    said = []
    task = found(save(tmp_path, content), cache, say=said.append)
    assert "3 infinite audio features were set to 0" in said
    assert task.load(task.samples["train0$_$1"], None)["audio"][-1, 2] == 0
    assert task.load(task.samples["test0$_$0"], None)["audio"][:, 0].tolist() == [0, 0]
    said.clear()
    again = found(save(tmp_path, content), cache, "task.modalities=[text,vision]", say=said.append)
    assert not [line for line in said if "infinite" in line]
    assert again.config.model.channels == (6, 4)


def test_a_sentence_without_audio_keeps_one_step(tmp_path, cache):
    """A few sentences of MOSEI have no audio or no vision at all."""
    content = whole()
    content["test"]["audio"][2] = 0
    task = read(tmp_path, content, cache)
    assert task.load(task.samples["test1$_$0"], None)["audio"].tolist() == [[0.0] * 5]
    assert all(np.isfinite(list(predictions(task, task.splits.test).values())))


def test_the_validation_split_may_be_called_dev(tmp_path, cache):
    content = whole()
    content["dev"] = content.pop("valid")
    assert read(tmp_path, content, cache).splits.validation == ("valid0$_$0", "valid0$_$1", "valid1$_$0")


def test_without_a_validation_split_whole_videos_are_held_out(tmp_path, cache):
    """Of three videos of two sentences, 0.1 is one video."""
    content = whole()
    del content["valid"]
    task = read(tmp_path, content, cache)
    assert (len(task.splits.train), len(task.splits.validation), len(task.splits.test)) == (4, 2, 4)
    assert len({task.samples[id].group for id in task.splits.validation}) == 1


def test_only_what_is_asked_for_is_needed(tmp_path, cache):
    content = whole()
    for section in content.values():
        del section["audio"], section["vision"]
    task = read(tmp_path, content, cache, "task.modalities=[text]")
    assert task.config.model.channels == (6,)
    assert task.model()(task.collate([(s, task.load(s, None)) for s in task.samples.values()]).inputs).shape == (13, 1)


def put(section, key, value):
    """Changes a part of the whole content; a function gets the old value."""

    def change(content):
        where = content[section]
        where[key] = value(where[key]) if callable(value) else value

    return change


def drop(section, *keys):
    def change(content):
        for key in keys:
            del content[section][key]

    return change


def point(section, key, row, value):
    def change(content):
        content[section][key][row].flat[-1] = value

    return change


def text_as_tokens(content):
    for section in content.values():
        del section["text"]
        section["text_bert"] = np.zeros((len(section["labels"]), 3, LONGEST))


def both_names(content):
    content["dev"] = content["valid"]


DAMAGE = {
    "keys": (
        lambda c: c.pop("test"),
        r"mosi.pkl holds keys 'train', 'valid', expected a pickle \{train, valid, test\}",
    ),
    "names": (both_names, "holds keys 'dev', 'test', 'train', 'valid', expected a pickle"),
    "list": (lambda c: c.update(train=[1, 2]), "mosi.pkl: train holds list, expected a pickle"),
    "modality": (drop("valid", "audio", "vision"), "mosi.pkl: valid has no audio, vision; expected a pickle"),
    "no labels": (drop("test", "labels"), "mosi.pkl: test has no labels; expected"),
    "tokens": (text_as_tokens, r"train has the numbers of tokens, text_bert, but no text; add .* task.modalities"),
    "words": (put("train", "text", ["a"] * 6), r"train: text holds list, expected numbers \(sentence, time, channel\)"),
    "strings": (
        put("train", "text", np.array([["a"]] * 6)),
        r"train: text holds str32 of shape \(6, 1\), expected num",
    ),
    "vectors": (put("test", "audio", lambda x: x[:, 0]), r"test: audio holds float32 of shape \(4, 5\), expected"),
    "rows": (put("test", "audio", lambda x: x[:3]), "test: audio has 3 rows, labels 4; fix the file"),
    "no step": (put("test", "text", lambda x: x[:, :0]), r"test: text has shape \(4, 0, 6\), expected at least one st"),
    "no channel": (put("test", "text", lambda x: x[..., :0]), r"test: text has shape \(4, 7, 0\), expected at least"),
    "NaN audio": (point("train", "audio", 4, np.nan), "train: audio: 1 values are not finite, the first in row 4"),
    "NaN text": (point("test", "text", 3, np.nan), "test: text: 1 values are not finite, the first in row 3"),
    "infinite": (point("test", "vision", 1, np.inf), "test: vision: 1 values are not finite, the first in row 1"),
    "NaN label": (point("test", "labels", 2, np.nan), "test: labels: 1 values are not finite, the first in row 2"),
    "label": (point("valid", "labels", 1, 3.5), "valid: labels holds 3.5 in row 1, expected -3 to 3"),
    "low label": (point("valid", "labels", 0, -4), "valid: labels holds -4 in row 0, expected -3 to 3"),
    "emotions": (
        put("test", "labels", lambda x: np.zeros((4, 1, 7))),
        r"test: labels holds float64 of shape \(4, 1, 7\), expected one number per sentence",
    ),
    "named": (
        put("test", "labels", ["Positive"] * 4),
        r"test: labels holds str256 of shape \(4,\), expected one number",
    ),
    "ragged": (
        put("test", "labels", [[1.0], [1.0, 2.0], [], []]),
        "test: labels holds list, expected one number per sen",
    ),
    "one label": (put("test", "labels", 1.0), "test: labels holds float, expected one number per sentence"),
    "by id": (put("test", "labels", {"a": 1.0}), "test: labels holds dict, expected one number per sentence"),
    "ids": (put("test", "id", lambda x: x[:2]), "test: id has 2 rows, expected 4; fix the file"),
    "one id": (put("test", "id", "abcd"), "test: id holds str, expected a name for each sentence"),
    "scalar id": (put("test", "id", np.array("abcd")), "test: id holds ndarray, expected a name for each sentence"),
    "empty id": (put("test", "id", ["a", "b", "", "c"]), "test: id is empty in row 2, expected a name"),
    "empty row": (put("test", "id", [["a"], [], ["c"], ["d"]]), "test: id is empty in row 1, expected a name"),
    "repeated": (
        lambda c: c["test"].update(id=["a", "train2$_$1", "b", "c"]),
        r"mosi.pkl: id train2\$_\$1 of test stands in another split too; get the file anew",
    ),
    "mask": (put("test", "text_bert", ["a"] * 4), "test: text_bert holds list, expected numbers"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(damage, tmp_path, cache):
    change, message = DAMAGE[damage]
    content = whole()
    change(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, content, cache)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(str(tmp_path / "mosi.pkl"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [([1], "list"), ({}, "keys "), (dict.fromkeys(range(99), 0), "keys 0, 1, 10, .*, 17, ... and 89 more,")],
)
def test_other_pickles_are_told_in_one_line(content, kind, tmp_path, cache):
    with pytest.raises(DataError, match=f"mosi.pkl holds {kind}.*expected a pickle") as error:
        read(tmp_path, content, cache)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_a_video_in_two_splits_is_refused(tmp_path, cache):
    """Two sentences of one video share speaker and recording."""
    content = whole()
    content["test"]["id"] = np.array([["train1", str(i), str(i + 1)] for i in range(4)])
    with pytest.raises(
        DataError, match=r"video train1 stands in train \(case train1\$_\$0\) and test \(case train1_0_1"
    ):
        read(tmp_path, content, cache)


def test_a_cache_that_cannot_be_written_names_the_setting_that_chooses_another(tmp_path):
    file = save(tmp_path, whole())
    with pytest.raises(OutputError, match="choose another folder for the cache with --set data.cache=FOLDER$"):
        found(file, cache=file)
    found(file, cache=tmp_path / "other")


def test_a_folder_with_several_pickles_or_none_is_told(tmp_path, cache):
    with pytest.raises(DataError, match=r"holds no pickle \(\.pkl or \.pickle\); expected a pickle \{train"):
        found(tmp_path, cache)
    save(tmp_path, whole()).rename(tmp_path / "mosi_data.pkl")
    (tmp_path / "mosi_data_noalign.pickle").write_bytes(b"")
    with pytest.raises(DataError, match=r"several pickles, mosi_data\.pkl, mosi_data_noalign\.pickle; name one"):
        found(tmp_path, cache)


def test_pickles_that_are_damaged_or_do_more_are_refused(tmp_path, cache):
    file = save(tmp_path, whole())
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"mosi\.pkl .*Get the file from its source again"):
        found(file, cache)
    file = save(tmp_path, {"train": print, "test": 0})
    with pytest.raises(DataError, match=r"print.*Get the file from its source again"):
        found(file, cache)


# Scores, transcribed here once more from the definitions of the literature, sentence by sentence.


def rounded(value):
    """Cut to [-3, 3], rounded with halves to the even neighbour, as Python and numpy do."""
    return round(min(3.0, max(-3.0, value)))


def weighted_f1(pairs):
    """F1 of each class, weighted by how often it is true."""
    total = 0.0
    for c in (False, True):
        both = sum(t == p == c for t, p in pairs)
        either = sum(t == c for t, _ in pairs) + sum(p == c for _, p in pairs)
        total += (2 * both / either if either else 0) * sum(t == c for t, _ in pairs)
    return total / len(pairs)


def share(pairs):
    return sum(t == p for t, p in pairs) / len(pairs)


tricky = st.sampled_from([-3.5, -3, -2.5, -1.5, -1e-9, -0.5, -0.0, 0.0, 1e-9, 0.5, 1.5, 2.5, 3, 9]) | st.floats(-4, 4)
pairs = st.lists(st.tuples(st.sampled_from([-3.0, -2.5, -0.5, 0.0, 0.4, 0.5, 1.5, 3.0]), tricky), min_size=1)


@given(pairs)
def test_scores_are_those_of_the_literature(values):
    predicted = Predicted(*map(np.array, zip(*values, strict=True)))
    assert seven_classes(predicted) == pytest.approx(share([(rounded(t), rounded(p)) for t, p in values]))
    has0 = [(t >= 0, p >= 0) for t, p in values]
    assert accuracy_not_negative(predicted) == pytest.approx(share(has0))
    assert f1_not_negative(predicted) == pytest.approx(weighted_f1(has0))
    non0 = [(t > 0, p > 0) for t, p in values if t != 0]
    assume(non0)
    assert accuracy_positive(predicted) == pytest.approx(share(non0))
    assert f1_positive(predicted) == pytest.approx(weighted_f1(non0))


def test_scores_by_hand():
    """True 0 counts as not negative, and not at all; predicted 0 is not negative, and not positive.

    has0: true + + - +, predicted + - - +, so three of four; F1 4/5 of three and 2/3 of one, 2.3/3.
    non0: true - + -> rows 2 and 3, predicted - and not: one of two; F1 2/3 of one, 0 of the other.
    Acc-7: 0 and 0.5 -> 0 and 0 (halves to even); 0 and -0.6 -> 0 and -1; -2.5 and -9 -> -2 and -3; 1 and 0.
    """
    predicted = Predicted(np.array([0.0, 0.0, -2.5, 1.0]), np.array([0.5, -0.6, -9.0, 0.0]))
    assert accuracy_not_negative(predicted) == 0.75
    assert f1_not_negative(predicted) == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)
    assert accuracy_positive(predicted) == 0.5
    assert f1_positive(predicted) == pytest.approx((2 / 3 + 0) / 2)
    assert seven_classes(predicted) == 0.25


def test_scores_without_anything_to_score_are_not_defined():
    neutral = Predicted(np.zeros(3), np.ones(3))
    assert accuracy_positive(neutral) is None
    assert f1_positive(neutral) is None
    assert accuracy_not_negative(neutral) == 1


def test_every_score_has_a_rule():
    assert set(make("x", "x").rules()) == set(MOSI.metrics)


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
    "model.dropout_residual": 0.1,
    "model.dropout_output": 0.1,
    "model.encoder_layers": 5,
    "model.fusion_layers": 3,
    "model.head_layers": 2,
    "model.attention_heads": 5,
    "model.width": 40,
}


@pytest.mark.parametrize("name", ["mosi", "mosei"])
def test_preset_paper_holds_the_papers_values(name):
    config = make_config(name, [], preset="paper", strategy="joint")
    assert {key: getattr(getattr(config, key.split(".")[0]), key.split(".")[1]) for key in PAPER} == PAPER
    assert config.train.steps_per_epoch == 0  # one pass over the data
    assert isinstance(load(TASKS, name)(config).criterion(), torch.nn.L1Loss)


def test_the_network_of_the_paper_has_its_size(tmp_path, cache):
    """0.38 million parameters with 300, 74 and 35 channels, and 0.12 million in the heads."""
    task = make(tmp_path, cache, "model.channels=[300,74,35]", preset="paper")
    model = task.model()
    counts = [sum(p.numel() for p in module.parameters()) for module in (model, task.unimodal_heads(model))]
    assert counts == [pytest.approx(0.38e6, abs=0.01e6), pytest.approx(0.12e6, abs=0.01e6)]


def table(file):
    return {row["predicted_by"]: row for row in json.loads(file.read_text())["summary"]}


def test_generated_data_are_sentences_of_the_real_layout(tmp_path):
    task = make("x", "x")
    task.generate(tmp_path)
    first = (tmp_path / "mosi.pkl").read_bytes()
    task.generate(tmp_path)
    assert (tmp_path / "mosi.pkl").read_bytes() == first
    content = pickle.loads(first)  # noqa: S301  our own
    assert {name: section["labels"].shape for name, section in content.items()} == {
        "train": (192, 1, 1),
        "valid": (48, 1, 1),
        "test": (64, 1, 1),
    }
    test = content["test"]
    assert {m: test[m].shape for m in SIZES} == {"text": (64, 20, 300), "audio": (64, 20, 74), "vision": (64, 20, 35)}
    assert np.isneginf(test["audio"]).sum() == 1
    assert not any(test["text"][test["text"][:, 0, 0] == 0][:, 0].any(axis=1))


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run on generated data, with the tiny preset as it is."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("mosi") / "run"
        words = ["--task", "mosi", "--strategy", "joint", "--out", folder, "--set", f"data.cache={cache}"]
        command(patch, "train", *words)
    return folder


def test_on_generated_data_fusion_is_best_and_vision_worst(run):
    """And none of them perfect, so that a table shows something."""
    error = {who: row["MAE"] for who, row in table(run / "results.json").items()}
    assert 0.2 < error["fused"] < error["text"] < error["audio"] < error["vision"] < 1.6


def test_other_data_of_the_same_layout_are_scored(run, tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    content = {}
    for section, count in COUNTS.items():
        arrays = {
            m: random.normal(size=(count, 9, size)) for m, size in {"text": 300, "audio": 74, "vision": 35}.items()
        }
        content[section] = {
            **arrays,
            "labels": random.uniform(-3, 3, count),
            "id": [f"{section}_{i}" for i in range(count)],
        }
    file = save(tmp_path, content)
    command(monkeypatch, "evaluate", run, "--data", file, "--out", tmp_path / "scores")
    results = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert {row["case"]: row["true"] for row in results["cases"]} == pytest.approx(
        {f"{section}_{i}": content[section]["labels"][i] for section in content for i in range(COUNTS[section])}
    )
    for section in content.values():
        section["audio"] = section["audio"][..., :5]
    save(tmp_path, content)
    capsys.readouterr()
    command(monkeypatch, "evaluate", run, "--data", file, "--out", tmp_path / "again", code=1)
    said = " ".join(capsys.readouterr().err.split())
    assert "channels of a time step differ: {'text': 300, 'audio': 5, 'vision': 35} and" in said


def test_sentences_that_were_trained_on_are_not_scored_by_accident(run, cache, tmp_path, monkeypatch, capsys):
    (file,) = (cache / "generated").glob("mosi-v*/mosi.pkl")
    command(monkeypatch, "evaluate", run, "--data", file, "--out", tmp_path / "scores", code=1)
    assert "240 of 304 cases were used to train this run" in " ".join(capsys.readouterr().err.split())
