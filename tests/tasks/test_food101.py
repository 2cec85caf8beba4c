"""Food-101: both layouts are one data set, features are the networks' own and made once, bad files are told."""

import csv
import json
import shutil
import time

import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from PIL import Image
from torch.nn import functional as F

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, DataError, MissingExtra
from cggm_med.runs.settings import make_config
from cggm_med_tasks.food101 import frozen_networks
from cggm_med_tasks.food101.food101 import Food101
from cggm_med_tasks.food101.frozen_networks import FrozenImage, FrozenText, network_folder, transformers_library

SHORT = ("train.epochs=2", "train.steps_per_epoch=1", "train.checkpoint_every=1", "train.log_every=1")


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Generated data, as JSON lists."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("food") / "lists"
    folder.mkdir()
    Food101(make_config("food101", [])).generate(folder)
    return folder


@pytest.fixture
def few(lists, tmp_path):
    """A copy with ten training and five test samples, to be spoilt."""
    folder = tmp_path / "few"
    shutil.copytree(lists, folder)
    for part, count in (("train", 10), ("test", 5)):
        write(folder / f"{part}.json", entries(lists, part)[:count])
    return folder


@pytest.fixture
def titles(few, tmp_path):
    """The same samples in the original layout, without a header."""
    return original(few, tmp_path / "original")


def entries(folder, part):
    return json.loads((folder / f"{part}.json").read_text())


def write(file, content):
    file.write_text(json.dumps(content))


def original(source, folder, header=None):
    (folder / "texts").mkdir(parents=True)
    shutil.copytree(source / "networks", folder / "networks")
    for part in ("train", "test"):
        with (folder / "texts" / f"{part}_titles.csv").open("w", newline="") as file:
            table = csv.writer(file)
            if header:
                table.writerow(header)
            for entry in entries(source, part):
                image = folder / "images" / part / entry["label"] / f"{entry['id']}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / entry["img_path"], image)
                table.writerow([image.name, " ".join(entry["text_tokens"]), entry["label"]])
    return folder


def task(path, cache, *sets):
    words = [f"data.path={path}", f"data.cache={cache}", *sets]
    return Food101(make_config("food101", [parse_overrides(words)], preset="tiny"))


def read(path, *sets):
    made = task(path, path, *sets)
    said = []
    made.find(said.append)
    return made, said


def prepared(path, cache, *sets):
    made = task(path, cache, *sets)
    said = []
    made.find(said.append)
    made.prepare(made.default_splits(), said.append)
    return made, said


def known_as(made):
    """The samples of each split as class name, title and picture, whatever they are called."""
    of = {sample.id: sample for sample in made.found.samples}
    return {
        part: sorted(
            (made.targets[of[id].target], of[id].inputs["text"], of[id].inputs["image"].read_bytes()) for id in ids
        )
        for part, ids in made.found.sections.items()
    }


@pytest.mark.parametrize("header", [None, ("image_path", "text", "label"), ("img", "title", "class_name")])
def test_both_layouts_hold_the_same_samples(few, tmp_path, header):
    one, _ = read(few)
    other, _ = read(original(few, tmp_path / "csv", header))
    assert known_as(one) == known_as(other)
    assert one.targets == other.targets == ("apple_pie", "beet_salad", "guacamole", "lasagna", "sushi")
    assert {part: len(ids) for part, ids in other.found.sections.items()} == {"train": 10, "test": 5}


def test_titles_with_commas_lines_and_quotes(titles):
    file = titles / "texts" / "train_titles.csv"
    names = [line.split(",")[0] for line in file.read_text().splitlines()]
    odd = ['a, b and "c"', "two\nlines", "crème brûlée, \r\n done", "", "plain"]
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        table = csv.writer(stream)
        for name, text in zip(names, odd, strict=False):
            table.writerow([f"images\\train\\{name}", text, name.rsplit("_", 2)[0]])
    made, _ = read(titles)
    assert [sample.inputs["text"] for sample in made.found.samples][:5] == odd
    assert all(sample.inputs["image"].is_file() for sample in made.found.samples)


@pytest.mark.parametrize("how", ["ids", "some ids", "images"])
def test_a_validation_split_that_is_the_test_split_is_noticed(few, how):
    test = entries(few, "test")
    mine = [{**entry, "id": f"other {i}"} for i, entry in enumerate(test)] if how == "images" else test
    if how == "some ids":
        unseen = {**entries(few, "train")[0], "id": "dev 0", "img_path": entries(few, "train")[0]["img_path"]}
        mine = [test[0], unseen]
    write(few / "dev.json", mine)
    made, said = read(few, "data.validation=0.2")
    assert any("dev.json is left out" in line for line in said)
    splits = made.default_splits()
    train = {entry["id"] for entry in entries(few, "train")}
    assert set(splits.train) | set(splits.validation) == train
    assert len(splits.validation) == 2
    assert set(splits.test) == {entry["id"] for entry in test}


def test_a_validation_split_of_its_own_is_used(few):
    train = entries(few, "train")
    write(few / "dev.json", train[8:])
    write(few / "train.json", train[:8])
    made, said = read(few)
    assert made.default_splits().validation == tuple(entry["id"] for entry in train[8:])
    assert not any("dev.json" in line for line in said)


def test_features_are_those_of_the_networks_themselves(few, tmp_path):
    made, _ = prepared(few, tmp_path, "model.text_length=6")
    entry = entries(few, "test")[3]
    with transformers_library() as library:
        bert = library.BertModel.from_pretrained(str(few / "networks/text")).eval()
        vit = library.ViTModel.from_pretrained(str(few / "networks/image")).eval()
    vocabulary = (few / "networks/text/vocab.txt").read_text().split()
    pieces = [vocabulary.index(word) for word in entry["text_tokens"]][:4]
    pieces = [vocabulary.index("[CLS]"), *pieces, vocabulary.index("[SEP]")]
    pixels = torch.from_numpy(np.array(Image.open(few / entry["img_path"]))).permute(2, 0, 1)[None]
    pixels = F.interpolate(pixels, (32, 32), mode="bilinear", antialias=True) / 255
    with torch.no_grad():
        expected = {
            "text": bert(torch.tensor([pieces])).last_hidden_state[0],
            "image": vit((pixels - 0.5) / 0.5).last_hidden_state[0],
        }
    found = made.load(made.samples[entry["id"]], None)
    assert found["image"].shape == (17, 32)
    for modality, values in expected.items():
        assert found[modality].dtype == torch.float32
        torch.testing.assert_close(found[modality], values, rtol=2**-10, atol=2e-5)


def test_pixels_by_hand_and_as_pillow_resizes_them(tmp_path, lists):
    network = tmp_path / "vit"
    shutil.copytree(lists / "networks/image", network)
    Image.new("RGB", (50, 40), (255, 0, 51)).save(tmp_path / "plain.png")
    pixels, _ = FrozenImage.from_folder(network).prepare(tmp_path / "plain.png")
    assert pixels.shape == (3, 32, 32)
    torch.testing.assert_close(pixels[:, 7, 9], torch.tensor([1.0, -1.0, -0.6]))
    write(network / "preprocessor_config.json", {"image_mean": [0.5, 0, 0.2], "image_std": [0.25, 1, 0.1]})
    pixels, _ = FrozenImage.from_folder(network).prepare(tmp_path / "plain.png")
    torch.testing.assert_close(pixels[:, 0, 0], torch.tensor([2.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    write(
        network / "preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": False}
    )
    photograph = lists / entries(lists, "train")[0]["img_path"]
    pixels, _ = FrozenImage.from_folder(network).prepare(photograph)
    expected = np.array(Image.open(photograph).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.abs(pixels.numpy() * 255 - expected).max() <= 1.01  # a grey level, by rounding


def test_features_are_computed_once(few, tmp_path, monkeypatch):
    one, said = prepared(few, tmp_path)
    assert sum("computing" in line for line in said) == 2

    def refuse(*_):
        raise AssertionError("loaded again")

    monkeypatch.setattr(frozen_networks, "_load_network", refuse)
    other, said = prepared(few, tmp_path)
    assert not any("computing" in line for line in said)
    assert one.contents() == other.contents()
    for id, sample in one.samples.items():
        for modality, values in one.load(sample, None).items():
            assert torch.equal(values, other.load(other.samples[id], None)[modality])
    # A picture that changed is seen again, and is another picture.
    entry = entries(few, "train")[0]
    Image.new("RGB", (20, 20)).save(few / entry["img_path"])
    with pytest.raises(AssertionError, match="loaded again"):
        prepared(few, tmp_path)
    monkeypatch.undo()
    third, said = prepared(few, tmp_path)
    assert any("image features of 1 samples" in line for line in said)
    changed = [id for id, digest in one.contents().items() if third.contents()[id] != digest]
    assert changed == [entry["id"]]


def test_work_that_was_killed_goes_on(few, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    monkeypatch.setattr(frozen_networks, "BATCH_SIZE", 2)
    monkeypatch.setattr(frozen_networks, "BLOCK", 4)
    monkeypatch.setattr(frozen_networks, "MANY", 7)
    seen = []
    real = FrozenImage.prepare

    def prepare(self, source):
        seen.append(source)
        if len(seen) == 10:
            raise KilledError
        return real(self, source)

    monkeypatch.setattr(FrozenImage, "prepare", prepare)
    with pytest.raises(KilledError):
        prepared(few, tmp_path)
    first = seen[:8]  # two blocks
    del seen[:]
    seen += [None] * 100
    made, said = prepared(few, tmp_path)
    assert sorted([*first, *seen[100:]]) == sorted(
        few / e["img_path"] for p in ("train", "test") for e in entries(few, p)
    )
    assert any("image features of 7 samples" in line for line in said)
    assert [line for line in said if " of 7 samples" in line][1:] == [
        f"image features: {done} of 7 samples" for done in (2, 4, 6, 7)
    ]
    monkeypatch.undo()
    whole, _ = prepared(few, tmp_path / "other")
    for id, sample in whole.samples.items():
        image = made.load(made.samples[id], None)["image"]
        torch.testing.assert_close(image, whole.load(sample, None)["image"], rtol=2**-9, atol=1e-4)


def test_whatever_decides_the_features_makes_another_store(lists, tmp_path):
    folder = tmp_path / "bert"
    shutil.copytree(lists / "networks/text", folder)
    prints = {FrozenText(folder, length).fingerprint() for length in (5, 6)}
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("easy", "hard"))
    prints.add(FrozenText(folder, 5).fingerprint())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    prints.add(FrozenText(folder, 5).fingerprint())
    image = FrozenImage(lists / "networks/image", (32, 32), (0.5,) * 3, (0.5,) * 3)
    other = FrozenImage(lists / "networks/image", (32, 32), (0.4,) * 3, (0.5,) * 3)
    assert len(prints | {image.fingerprint(), other.fingerprint()}) == 6
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert FrozenText(copy, 5).fingerprint() == FrozenText(folder, 5).fingerprint()


def test_workers_give_the_same_and_report_what_they_cannot_read(few, tmp_path):
    alone, _ = prepared(few, tmp_path / "a")
    together, _ = prepared(few, tmp_path / "b", "data.workers=2")
    assert alone.contents() == together.contents()
    bad = [few / entry["img_path"] for entry in entries(few, "train")[:2]]
    # What is cut short is told before any feature is computed; what begins and ends well only then.
    for end, message in ((b"\xff\xd9", "images that cannot be read"), (b"", "problems in 2 rows; fix or leave out")):
        for file in bad:
            file.write_bytes(file.read_bytes()[:200] + end)
        with pytest.raises(DataError, match=message) as error:
            prepared(few, tmp_path / "b", "data.workers=2")
        assert all(str(file) in problem for file, problem in zip(bad, error.value.problems, strict=True))


def test_batches_hold_padded_features(few, tmp_path):
    made, _ = prepared(few, tmp_path)
    batch = made.collate([(s, made.load(s, None)) for s in made.samples.values()])
    assert batch.inputs["image"].values.shape == (15, 17, 32)
    text = batch.inputs["text"]
    words = {e["id"]: len(e["text_tokens"]) + 2 for p in ("train", "test") for e in entries(few, p)}
    assert text.valid.sum(1).tolist() == [words[id] for id in batch.ids]


def test_one_modality_needs_only_its_own_files(few, tmp_path):
    shutil.rmtree(few / "images")
    shutil.rmtree(few / "networks/image")
    made, _ = prepared(few, tmp_path, "task.modalities=[text]")
    assert set(made.features) == {"text"}


BAD_ENTRIES = {
    "no list": ({}, "holds an object, expected a list"),
    "no object": (["x"], "train.json, entry 0: text, expected an object"),
    "no label": ([{"id": "a", "text_tokens": [], "img_path": "x"}], "train.json, entry 0: no label"),
    "id": ([{"id": None, "label": "a", "text_tokens": [], "img_path": "x"}], "entry 0: id is None"),
    "label": ([{"id": 1, "label": 7, "text_tokens": [], "img_path": "x"}], "entry 0: label is 7"),
    "words": ([{"id": 1, "label": "a", "text_tokens": "word", "img_path": "x"}], "entry 0: text_tokens is 'word'"),
    "word": ([{"id": 1, "label": "a", "text_tokens": [1], "img_path": "x"}], "expected a list of words"),
    "image": ([{"id": 1, "label": "a", "text_tokens": [], "img_path": "x.jpg"}], "entry 0: there is no image"),
}


@pytest.mark.parametrize("name", BAD_ENTRIES)
def test_bad_lists_are_told(few, name):
    content, expected = BAD_ENTRIES[name]
    write(few / "train.json", content)
    with pytest.raises(DataError) as error:
        read(few)
    assert expected in str(error.value)


def test_unknown_labels_and_ids_that_stand_twice_are_told_with_their_rows(few):
    train, test = entries(few, "train"), entries(few, "test")
    write(few / "test.json", [{**test[0], "label": "durian"}, {**test[1], "id": train[2]["id"]}, *test[2:]])
    with pytest.raises(DataError, match="problems in 2 rows") as error:
        read(few)
    unknown, twice = error.value.problems
    assert unknown.startswith("test.json, entry 0: unknown label 'durian', expected one of apple_pie")
    assert twice == f"test.json, entry 1: id {train[2]['id']} stands already in train.json, entry 2"


def test_at_most_twenty_problems_are_listed(lists, tmp_path):
    shutil.copytree(lists, tmp_path / "many")
    shutil.rmtree(tmp_path / "many/images/train")
    with pytest.raises(DataError, match="problems in 250 rows") as error:
        read(tmp_path / "many")
    assert len(error.value.problems) == 21
    assert error.value.problems[20] == "and 230 more"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"a.jpg,text\n", "line 11: 2 columns"),
        (b"a.jpg,text,\n", "line 11: 3 columns"),
        (b"a.jpg,one,two,sushi\n", "line 11: 4 columns"),
        (b"absent.jpg,text,sushi\n", "line 11: there is no image"),
        (b'a.jpg,"open\n', "line 11: "),
        (b'a.jpg,"shut"open,sushi\n', "line 11: "),
        (b"a.jpg,\xff\xfe,sushi\n", "is not UTF-8"),
    ],
)
def test_bad_rows_of_a_table_are_told(titles, row, expected):
    with (titles / "texts" / "train_titles.csv").open("ab") as file:
        file.write(row)
    with pytest.raises(DataError) as error:
        read(titles)
    assert expected in str(error.value)
    assert "train_titles.csv" in str(error.value)


def test_a_folder_of_neither_layout_is_told_both(tmp_path, few, titles):
    with pytest.raises(DataError) as error:
        read(tmp_path)
    assert "train.json" in str(error.value)
    assert "images/{train,test}/{label}" in str(error.value)
    (few / "test.json").unlink()
    with pytest.raises(DataError, match=r"cannot read .*test\.json"):
        read(few)
    (titles / "texts" / "test_titles.csv").unlink()
    with pytest.raises(DataError, match=r"cannot read .*test_titles\.csv"):
        read(titles)


def test_networks_that_cannot_be_used_are_told(few, tmp_path, lists, monkeypatch):
    start = time.monotonic()
    with pytest.raises(DataError, match=r"model\.text nobody/nothing is no folder .* --set model\.text=FOLDER"):
        prepared(few, tmp_path, "model.text=nobody/nothing")
    with pytest.raises(DataError, match=r"model\.image is /no/such/folder, which does not exist; expected a folder"):
        network_folder("/no/such/folder", "model.image")
    assert time.monotonic() - start < 10
    shutil.rmtree(few / "networks")
    with pytest.raises(ConfigError, match="only generated data bring a network"):
        prepared(few, tmp_path)
    bert = tmp_path / "bert"
    shutil.copytree(lists / "networks/text", bert)
    cpu = torch.device("cpu")
    with pytest.raises(DataError, match=r"model\.text_length is 600, expected at most 512"):
        FrozenText(bert, 600).load(cpu)
    with pytest.raises(DataError, match="image_size is None"):
        FrozenImage.from_folder(bert)
    (bert / "vocab.txt").unlink()
    with pytest.raises(DataError, match="has no tokenizer"):
        FrozenText(bert, 50).load(cpu)
    shutil.copy(lists / "networks/image/model.safetensors", bert)
    with pytest.raises(DataError, match="do not belong to the network"):
        FrozenText(bert, 50).load(cpu)
    (bert / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be loaded by transformers"):
        FrozenText(bert, 50).load(cpu)
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights"):
        network_folder(str(bert), "model.text")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"task 'food101' needs transformers: pip install 'cggm-med\[food101\]'"):
        network_folder("nobody/nothing", "model.text")


def test_from_the_command_line(lists, tmp_path, monkeypatch):
    """Two steps, then scored again, then resumed from the first: the same scores each time."""

    def fused(folder):
        return json.loads((folder / "results.json").read_text())["cases"]

    run = tmp_path / "run"
    networks = [f"model.{m}={lists / 'networks' / m}" for m in ("text", "image")]
    sets = set_options((*SHORT, *networks, f"data.cache={tmp_path / 'cache'}"))
    command(
        monkeypatch,
        "train",
        "--task",
        "food101",
        "--data",
        lists,
        "--strategy",
        "joint",
        "--preset",
        "tiny",
        "--out",
        run,
        *sets,
    )
    scores = fused(run)
    assert len(scores) == 75
    command(monkeypatch, "evaluate", run, "--out", tmp_path / "again")
    assert fused(tmp_path / "again") == scores
    (run / "results.json").unlink()
    command(monkeypatch, "train", "--resume", run)
    assert fused(run) == scores
