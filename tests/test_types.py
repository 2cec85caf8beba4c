"""Batches: splitting and moving them changes neither what belongs together nor a value."""

from dataclasses import replace

import pytest
import torch

from cggm_med.types import Batch, Padded


@pytest.fixture
def batch():
    values = torch.arange(24.0).reshape(4, 3, 2)
    valid = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [False, False, False]])
    return Batch(
        {"text": Padded(values, valid), "image": torch.arange(4)[:, None]}, torch.arange(4) * 10, tuple("abcd")
    )


def parts_by_hand(batch, size):
    for start in range(0, 4, size):
        yield [(i, "abcd"[i], i * 10, batch.inputs["text"].valid[i].tolist()) for i in range(start, start + size)]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_hold_the_same_samples_in_their_order(batch, parts):
    for part, expected in zip(batch.split(parts), parts_by_hand(batch, 4 // parts), strict=True):
        numbers = part.inputs["image"][:, 0].tolist()
        text = part.inputs["text"]
        assert isinstance(text, Padded)
        assert list(zip(numbers, part.ids, part.target.tolist(), text.valid.tolist(), strict=True)) == expected
        assert torch.equal(text.values, batch.inputs["text"].values[numbers])


@pytest.mark.parametrize("parts", [3, 5, 8])
def test_parts_that_are_not_equal_are_refused(batch, parts):
    with pytest.raises(ValueError, match=f"4 samples cannot be split into {parts} equal parts"):
        batch.split(parts)


def test_moving_takes_sequences_with_their_masks(batch):
    moved = batch.to(torch.device("meta"))
    tensors = [*moved.inputs["text"], moved.inputs["image"], moved.target]
    assert [x.device.type for x in tensors] == ["meta"] * 4
    assert moved.inputs["text"].valid.dtype == torch.bool
    assert moved.ids == batch.ids
    assert torch.equal(batch.to(torch.device("cpu")).inputs["text"].values, batch.inputs["text"].values)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_everything_is_pinned(batch):
    pinned = batch.pin_memory()
    assert all(x.is_pinned() for x in (*pinned.inputs["text"], pinned.inputs["image"], pinned.target))


def test_who_has_what_is_divided_with_the_samples_and_stays_on_the_cpu(batch):
    present = {"text": torch.tensor([True, False, False, True]), "image": torch.tensor([True, True, True, False])}
    marked = replace(batch, present=present)
    assert marked.counts == {"text": 2, "image": 3}
    halves = marked.split(2)
    assert [half.counts for half in halves] == [{"text": 1, "image": 2}, {"text": 1, "image": 1}]
    assert [half.present["text"].tolist() for half in halves] == [[True, False], [False, True]]
    moved = marked.to(torch.device("meta"))
    assert {m: has.device.type for m, has in moved.present.items()} == {"text": "cpu", "image": "cpu"}
    assert batch.counts is None
    assert batch.split(2)[0].present is None
