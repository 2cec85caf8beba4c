"""Tasks on samples: every sample is seen as often as the others, scored once, and every error is one clear line."""

import contextlib
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy_task import CHANNELS, CLASSES, CPU, ToyTask, ToyValueTask, built, found, toy
from torch._utils import ExceptionWrapper

from cggm_med import distributed
from cggm_med.data.splits import Splits
from cggm_med.errors import ConfigError, DataError, NonFiniteLoss, UnknownName
from cggm_med.objectives.targets import IGNORED
from cggm_med.task import samples
from cggm_med.task.base import CaseResult
from cggm_med.task.samples import Sample, SampleList, pad, presets


@pytest.fixture
def task(tmp_path):
    return found(toy(), tmp_path)


def evaluated(task, model, heads, cases=None):
    cases = cases or [*task.splits.train, *task.splits.validation, *task.splits.test]
    model.eval()
    if heads is not None:
        heads.eval()
    return list(task.evaluate(model, heads, cases, device=CPU, autocast=contextlib.nullcontext, full=heads is not None))


def plain(batches):
    """Batches as values that can be compared."""
    return [
        (b.ids, b.target.tolist(), {m: (x.values.tolist(), x.valid.tolist()) for m, x in b.inputs.items()})
        for b in batches
    ]


# --- what is found ---


def test_generated_data_are_made_once_and_named_as_such(tmp_path):
    said = []
    task = found(toy(), tmp_path, said)
    folder = tmp_path / "generated" / "toy-v1"
    assert f"no --data given: using generated data in {folder} (not real ones)" in said
    assert said[-1] == "24 samples found, 24 in use"
    (folder / "count.txt").write_text("30")
    assert len(found(toy(), tmp_path).samples) == 30
    assert len(task.samples) == 24


def test_data_that_are_missing_empty_or_ambiguous_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=f"^no data at {tmp_path / 'x'}; name a folder or file with --data$"):
        toy(data={"path": str(tmp_path / "x")}).find(print)
    (tmp_path / "count.txt").write_text("0")
    task = toy(data={"path": str(tmp_path)})
    with pytest.raises(DataError, match=f"^{tmp_path} holds no sample$"):
        task.find(print)
    monkeypatch.setattr(ToyTask, "read", lambda self, path, say: SampleList((self.sample(1),) * 2 + (self.sample(2),)))
    with pytest.raises(DataError, match="1 ids stand for more than one sample:\n  s1$"):
        task.find(print)


@pytest.mark.parametrize(
    ("modalities", "error", "message"),
    [
        ((), ConfigError, r"task\.modalities is \[\], expected at least one of text, audio"),
        (("text", "text"), ConfigError, "expected each modality once"),
        (("text", "smell"), UnknownName, "no modality 'smell'"),
    ],
)
def test_modalities_are_checked(modalities, error, message):
    with pytest.raises(error, match=message):
        toy(task={"modalities": modalities})


def test_classes_of_a_task_that_has_its_own_cannot_be_renamed(tmp_path):
    """They would be written to the settings of the run and change nothing else."""
    with pytest.raises(ConfigError, match=r"task\.classes is \('a', 'b'\), expected the task's own: low, middle, high"):
        found(toy(task={"classes": ("a", "b")}), tmp_path)
    assert found(toy(task={"classes": CLASSES}), tmp_path).targets == CLASSES


def test_classes_that_only_the_data_know_are_numbered_once(tmp_path):
    task = toy()
    task.settle_classes(["b", "a"], tmp_path)
    assert task.targets == task.config.task.classes == ("b", "a")
    task.settle_classes(["a"], tmp_path)
    assert task.targets == ("b", "a")
    with pytest.raises(DataError, match=f"^{tmp_path}: unknown classes c, d; known: b, a$"):
        task.settle_classes(["d", "a", "c"], tmp_path)


def test_classes_without_a_training_sample_are_said(tmp_path):
    said = []
    task = found(toy(), tmp_path)
    task.prepare(Splits(("s0", "s3"), ("s1",), ()), said.append)
    assert said == ["24 samples found, 3 in use", "2 of 3 classes have no training sample: middle, high"]


# --- splits ---


def test_splits_are_drawn_by_group(task):
    """No speaker on two sides; 12 speakers of two samples: 0.1 and 0.15 of them are 1 and 2."""
    sides = [{task.samples[id].group for id in ids} for _, ids in task.splits.items()]
    assert list(map(len, sides)) == [9, 1, 2]
    assert len(set.union(*sides)) == 12
    assert sum(len(ids) for _, ids in task.splits.items()) == 24


def ids(numbers):
    return [f"s{n}" for n in numbers]


def test_the_data_sets_own_splits_are_kept(tmp_path, monkeypatch):
    own = {"train": ids(range(10)), "validation": ids(range(10, 14)), "test": ids(range(20, 24))}
    monkeypatch.setattr(ToyTask, "sections", own)
    task = found(toy(data={"validation": 0.5, "test": 0.0}), tmp_path)
    assert {name: list(split) for name, split in task.splits.items()} == own
    assert len(task.samples) == 18


def test_a_missing_validation_split_is_drawn_from_training(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyTask, "sections", {"train": ids(range(16)), "test": ids(range(16, 24))})
    task = found(toy(data={"validation": 0.25}), tmp_path)
    assert task.splits.test == tuple(ids(range(16, 24)))
    assert len(task.splits.validation) == 4
    assert sorted(task.splits.train + task.splits.validation) == sorted(ids(range(16)))
    assert not {task.samples[i].group for i in task.splits.train} & {
        task.samples[i].group for i in task.splits.validation
    }
    assert found(toy(data={"validation": 0.0}), tmp_path).splits == Splits(
        tuple(ids(range(16))), (), tuple(ids(range(16, 24)))
    )


def test_splits_that_share_a_group_or_name_strangers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ToyTask, "sections", {"train": ["s0"], "validation": ["s99"], "test": ["s1"]})
    with pytest.raises(DataError) as error:
        found(toy(), tmp_path)
    assert str(error.value).splitlines() == [
        "the data set's own splits cannot be used; fix the file or split anew:",
        "  validation names case s99, which the data do not have",
        "  speaker speaker0 stands in train (case s0) and test (case s1)",
    ]


def test_samples_that_went_missing_are_listed(task):
    with pytest.raises(DataError) as error:
        task.prepare(Splits(tuple(ids(range(60))), (), ()), print)
    assert error.value.problems == (*sorted(ids(range(24, 60)))[:20], "and 16 more")
    assert str(error.value).startswith("36 cases of the splits missing in the data; ")


# --- contents ---


def test_the_digest_stands_for_all_that_the_network_sees(task):
    """Another value, shape, kind, target or set of modalities is another digest; the name of a sample is not."""
    sample = task.sample(4)
    inputs = dict(sample.inputs)
    turned = {**inputs, "text": inputs["text"].reshape(-1, 1)}
    nudged = {**inputs, "audio": np.nextafter(inputs["audio"], 9)}
    swapped = {"text": inputs["audio"], "audio": inputs["text"]}
    others = [replace(sample, inputs=other) for other in (turned, nudged, swapped)] + [replace(sample, target=0)]
    digests = [task.digest(one) for one in (sample, *others)]
    assert len(set(digests)) == 5
    assert digests[0] == task.digest(task.sample(4)) == task.digest(replace(sample, id="x", group="y"))
    assert toy(task={"modalities": ("text",)}).digest(sample) not in digests
    same = replace(sample, inputs=dict.fromkeys(CHANNELS, inputs["text"]))
    assert toy(task={"modalities": ("text",)}).digest(same) != toy(task={"modalities": ("audio",)}).digest(same)
    assert task.contents()["s4"] == {"prepared": digests[0]}
    assert list(task.contents()) == sorted(task.samples)


def test_the_digest_reads_files_and_lists_folders(task, tmp_path):
    file, folder = tmp_path / "a.wav", tmp_path / "frames"
    folder.mkdir()
    digests = []
    for step in (
        lambda: file.write_bytes(b"1"),
        lambda: file.write_bytes(b"2"),
        lambda: folder.joinpath("1.jpg").write_bytes(b"1"),
        lambda: folder.joinpath("1.jpg").write_bytes(b"12"),
        lambda: folder.joinpath("1.jpg").rename(folder / "2.jpg"),
    ):
        step()
        digests.append(task.digest(Sample("a", "a", 1, {"text": file, "audio": folder})))
    assert len(set(digests)) == 5
    (tmp_path / "b").mkdir()
    file.rename(tmp_path / "b" / "b.wav")
    moved = Sample("a", "a", 1, {"text": tmp_path / "b" / "b.wav", "audio": folder})
    assert task.digest(moved) == digests[-1]


def test_contents_follow_the_splits(task):
    before = task.contents()
    task.prepare(Splits(("s1",), (), ("s2",)), print)
    assert task.contents() == {id: before[id] for id in ("s1", "s2")}


# --- batches ---


def test_every_sample_is_seen_as_often_as_the_others(task):
    """3 steps of 4 an epoch, 18 samples: 6 epochs are 4 rounds."""
    assert len(task.splits.train) == 18
    task.settle(train=replace(task.config.train, epochs=6))
    seen = Counter(id for batch in task.batches(0, False) for id in batch.ids)
    assert seen == dict.fromkeys(task.splits.train, 4)


def test_a_batch_holds_the_arrays_of_its_samples(task):
    for batch in task.batches(0, False):
        for row, id in enumerate(batch.ids):
            sample = task.samples[id]
            assert batch.target[row] == sample.target
            for modality, x in batch.inputs.items():
                array = sample.inputs[modality].astype(np.float32)
                np.testing.assert_array_equal(x.values[row][x.valid[row]], array)
                assert x.valid[row].tolist() == [True] * len(array) + [False] * (x.valid.shape[1] - len(array))
                assert (x.values[row][~x.valid[row]] == 0).all()


def test_resuming_and_processes_see_the_same_batches(task, monkeypatch):
    whole = plain(task.batches(0, False))
    assert plain(task.batches(4, False)) == whole[4:]
    assert list(task.batches(6, False)) == []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(task.batches(0, False)))
    for (expected, *_), first, second in zip(whole, *parts, strict=True):
        assert (first.ids, second.ids) == (expected[0::2], expected[1::2])


def test_workers_see_the_same_batches(task):
    whole = plain(task.batches(0, False))
    task.settle(data=replace(task.config.data, workers=2))
    assert plain(task.batches(0, False)) == whole
    # Where processes are not forked, as on macOS, a worker gets the task as a pickle.
    again = pickle.loads(pickle.dumps(task))  # noqa: S301 - its own
    again.settle(data=replace(again.config.data, workers=0))
    assert plain(again.batches(0, False)) == whole


def test_augmentation_depends_on_seed_epoch_and_position_alone(task):
    task.load = lambda sample, random: {m: torch.rand(1, 1, generator=random) for m in CHANNELS}
    whole = plain(task.batches(0, False))
    assert plain(task.batches(0, False)) == whole
    assert plain(task.batches(3, False)) == whole[3:]
    drawn = [sample for *_, inputs in whole for sample in inputs["text"][0]]
    assert len({value for ((value,),) in drawn}) == len(drawn) == 24
    task.settle(train=replace(task.config.train, seed=1))
    assert plain(task.batches(0, False)) != whole


def test_read_only_arrays_are_taken(task):
    """Such as those of a memory map; torch warns where it shares memory with one."""
    sample = task.sample(5)
    sample.inputs.update({m: x.astype(np.float32) for m, x in sample.inputs.items()})
    sample.inputs["text"] = sample.inputs["text"][::-1]
    for array in sample.inputs.values():
        array.setflags(write=False)
    loaded = task.load(sample, None)
    for modality, x in loaded.items():
        assert x.dtype == torch.float32
        x += 1
        np.testing.assert_allclose(x - 1, sample.inputs[modality], atol=1e-6)


@pytest.mark.parametrize("in_worker", [False, True])
def test_an_error_while_loading_is_as_clear_from_a_worker(task, in_worker, monkeypatch):
    """A worker's errors are raised again by torch's own class; a real worker takes seconds to end after one."""

    class Loader:
        def __init__(self, *args, **settings):
            pass

        def __iter__(self):
            try:
                raise DataError("a.wav is damaged; copy it anew:", ["one", "two"])
            except DataError:
                if not in_worker:
                    raise
                ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr(samples, "DataLoader", Loader)
    model, _ = built(task)
    for load in (lambda: next(iter(task.batches(0, False))), lambda: evaluated(task, model, None)):
        with pytest.raises(DataError) as error:
            load()
        assert str(error.value) == "a.wav is damaged; copy it anew:\n  one\n  two"


def test_padding_by_hand():
    padded = pad([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])])
    assert padded.values.tolist() == [[[1, 2], [0, 0]], [[3, 4], [5, 6]]]
    assert padded.valid.tolist() == [[True, False], [True, True]]


def test_targets_of_conversations_are_padded_with_what_the_loss_ignores(task):
    assert task.target_tensor([(1, 2), (0,)]).tolist() == [[1, 2], [0, IGNORED]]
    assert task.target_tensor([2, 0]).tolist() == [2, 0]
    assert toy(ToyValueTask).target_tensor([0.5, -1]).tolist() == [[0.5], [-1.0]]


@pytest.mark.parametrize(("cases", "batch", "steps"), [(18, 4, 4), (16, 4, 4), (3, 4, 1), (1, 1, 1)])
def test_an_epoch_of_no_stated_length_is_one_pass(cases, batch, steps):
    config = toy(steps_per_epoch=0, batch_size=batch).config
    assert config.train.steps_in_epoch(cases) == steps
    assert toy(steps_per_epoch=7, batch_size=batch).config.train.steps_in_epoch(cases) == 7


def test_presets_lie_over_one_another():
    paper = {"model": {"width": 40, "layers": 5}, "optim": {"lr": 1}}
    made = presets(paper, {"model": {"layers": 1}, "train": {"epochs": 2}})
    assert made["tiny"] == {"model": {"width": 40, "layers": 1}, "optim": {"lr": 1}, "train": {"epochs": 2}}
    assert made["paper"] == {"model": {"width": 40, "layers": 5}, "optim": {"lr": 1}}


# --- evaluation ---


def test_each_sample_is_scored_once_in_any_order_and_batch(task):
    model, strategy = built(task)
    whole = evaluated(task, model, strategy.heads)
    order = [*task.splits.train, *task.splits.validation, *task.splits.test]
    assert [result.case for result in whole] == order
    assert all(list(result.findings) == ["fused", *CHANNELS] for result in whole)
    by_case = {result.case: result.findings for result in whole}
    task.settle(train=replace(task.config.train, batch_size=7))
    for result in evaluated(task, model, strategy.heads, order[::-1]):
        for who, finding in result.findings.items():
            expected = by_case[result.case][who]
            assert finding["predicted"] == expected["predicted"]
            assert finding["probabilities"][0] == pytest.approx(expected["probabilities"][0], abs=1e-6)
    fused = evaluated(task, model, None, order[:3])
    assert [list(result.findings) for result in fused] == [["fused"]] * 3


def test_findings_are_the_models_own_words(task):
    """Independent authority: the network asked about one sample at a time."""
    model, strategy = built(task)
    results = evaluated(task, model, strategy.heads)
    for result in results:
        sample = task.samples[result.case]
        inputs = {m: pad([torch.from_numpy(x.astype(np.float32))]) for m, x in sample.inputs.items()}
        with torch.no_grad():
            features = model.encode(inputs)
            logits = {"fused": model(inputs)[0], **{m: o.logits[0] for m, o in strategy.heads(features).items()}}
        for who, x in logits.items():
            finding = result.findings[who]
            assert finding["true"] == [sample.target]
            assert finding["predicted"] == [int(x.argmax())]
            assert finding["probabilities"][0] == pytest.approx(torch.softmax(x, 0).tolist(), abs=1e-5)
            assert finding["probability"] == [max(finding["probabilities"][0])]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("who", ["fused", "audio"])
@pytest.mark.parametrize("kind", [ToyTask, ToyValueTask])
def test_a_prediction_that_is_no_number_names_its_sample(tmp_path, kind, who, value):
    task = found(toy(kind), tmp_path)
    model, strategy = built(task)
    bad = task.splits.test[1]
    before = {who: model.head if who == "fused" else strategy.heads.heads[who] for who in ("fused", "audio")}[who]
    load, loaded = task.load, []
    task.load = lambda sample, random: loaded.append(sample.id) or load(sample, random)

    def broken(module, given, output):
        logits = output if who == "fused" else output.logits
        logits[[id == bad for id in loaded[-len(logits) :]]] = value

    before.register_forward_hook(broken)
    message = rf"^the {who} prediction of 1 samples is NaN or infinite, the first {bad}; look at these samples, or"
    with pytest.raises(NonFiniteLoss, match=message):
        evaluated(task, model, strategy.heads)


# --- summaries ---


def said(true, probabilities):
    best = [int(np.argmax(row)) for row in probabilities]
    return {
        "true": true,
        "predicted": best,
        "probability": [row[c] for row, c in zip(probabilities, best, strict=True)],
        "probabilities": probabilities,
    }


def test_a_summary_by_hand(task):
    right, wrong = [0.1, 0.7, 0.2], [0.5, 0.3, 0.2]
    results = [
        CaseResult("s1", {"fused": said([1], [right]), "text": said([1], [wrong])}),
        CaseResult("s2", {"fused": said([2], [right]), "text": said([2], [wrong])}),
    ]
    scores = task.summarise(results)
    assert scores.headline == pytest.approx({"accuracy": 0.5, "weighted F1": 1 / 3, "UAR": 0.5, "mAP": 0.5})
    assert [(row["predicted_by"], row["accuracy"], row["samples"]) for row in scores.summary] == [
        ("fused", 0.5, 2),
        ("text", 0, 2),
    ]
    assert scores.cases == (
        {"case": "s1", "true": "middle", "predicted": "middle", "probability": 0.7},
        {"case": "s2", "true": "high", "predicted": "middle", "probability": 0.7},
    )
    assert scores.heads[0] == {
        "modality": "text",
        "case": "s1",
        "true": "middle",
        "predicted": "low",
        "probability": 0.5,
    }
    assert [table.title for table in scores.tables] == ["", "classes", "cases"]


def test_utterances_are_numbered_and_count_one_by_one(task):
    """A conversation of one utterance is one too; what is after the end of another does not count."""
    for id, target in (("s1", (1, 2)), ("s2", (0,))):
        task.samples[id] = replace(task.samples[id], target=target)
    logits = torch.zeros(2, 3, 2)
    logits[0, 1] = logits[1, 0] = 5
    target = task.target_tensor([(1, 2), (0,)])
    results = [CaseResult(id, {"fused": task.finding(logits[i], target[i])}) for i, id in enumerate(("s1", "s2"))]
    scores = task.summarise(results)
    assert scores.headline["accuracy"] == pytest.approx(2 / 3)
    assert scores.summary[0]["samples"] == 3
    rows = [(row["case"], row["utterance"], row["true"], row["predicted"]) for row in scores.cases]
    assert rows == [("s1", 0, "middle", "middle"), ("s1", 1, "high", "middle"), ("s2", 0, "low", "low")]


def test_the_order_of_samples_does_not_change_a_score(task):
    model, strategy = built(task)
    results = evaluated(task, model, strategy.heads)
    assert task.summarise(results[::-1]).headline == pytest.approx(dict(task.summarise(results).headline))


def test_values_by_hand(tmp_path):
    task = found(toy(ToyValueTask), tmp_path)
    results = [
        CaseResult("s1", {"fused": {"true": 0.1, "predicted": 0.5}, "text": {"true": 0.1, "predicted": 1.0}}),
        CaseResult("s2", {"fused": {"true": 0.2, "predicted": 0.2}, "text": {"true": 0.2, "predicted": 1.0}}),
    ]
    scores = task.summarise(results)
    assert scores.headline == pytest.approx({"MAE": 0.2, "Corr": -1.0})
    assert scores.summary[1] == {"predicted_by": "text", "MAE": pytest.approx(0.85), "Corr": None, "samples": 2}
    assert scores.cases[0] == {"case": "s1", "true": 0.1, "predicted": 0.5}
    assert scores.heads[1] == {"case": "s2", "modality": "text", "true": 0.2, "predicted": 1.0}
    assert set(task.rules()) == {"MAE", "Corr"}


@pytest.mark.parametrize(("kind", "file"), [(ToyTask, "confusion.png"), (ToyValueTask, "predictions.png")])
def test_all_samples_are_drawn_together(kind, file, tmp_path):
    task = found(toy(kind), tmp_path)
    model, strategy = built(task)
    task.draw(evaluated(task, model, strategy.heads), tmp_path / "figures")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == [file]


def test_every_rule_is_told(task):
    assert set(task.rules()) == {*task.metrics, "predicted class"}
