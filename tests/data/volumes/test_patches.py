"""Patches: the same key gives the same bits, cases are visited alike, and cutting then stitching is the identity."""

from collections import Counter

import numpy as np
import pytest
import torch

from cggm_med.data.volumes.augment import Augmentation
from cggm_med.data.volumes.patches import (
    PatchDataset,
    PatchSampling,
    StepSampler,
    crop,
    patch_loader,
    random_seed,
)
from cggm_med.errors import DataError
from cggm_med.models.sliding_window import _ways, predict_volume, window_count


class Memory:
    """A prepared case in memory: a ramp whose value tells the voxel, and one region."""

    def __init__(self, name, shape=(20, 18, 16), modalities=("flair", "t1")):
        self.id, self.modalities = name, modalities
        x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
        self._image = np.stack([x * 10000 + y * 100 + z, -x]).astype(np.float32)[: len(modalities)]
        self._target = np.zeros((2, *shape), np.uint8)
        self._target[0, 12:15, 3:6, 8:11] = 1
        self.centres = np.array([[0, *v] for v in np.argwhere(self._target[0])], np.int32)

    def image(self):
        return self._image

    def target(self):
        return self._target


def dataset(amount="none", cases=None, size=(8, 8, 8), foreground=0.5, seed=0, epoch_size=12):
    cases = cases or [Memory(name) for name in "abc"]
    return PatchDataset(cases, PatchSampling(size, foreground, seed), Augmentation(amount), epoch_size)


@pytest.mark.parametrize("amount", ["none", "light", "standard"])
def test_the_same_key_gives_the_same_bits_in_any_order(amount):
    keys = [(epoch, position) for epoch in range(2) for position in range(4)]
    first = {key: dataset(amount)[key] for key in keys}
    torch.manual_seed(99)
    again = dataset(amount)
    for key in reversed(keys):
        image, target, name = again[key]
        assert torch.equal(image, first[key][0])
        assert torch.equal(target, first[key][1])
        assert name == first[key][2]


@pytest.mark.parametrize("amount", ["light", "standard"])
def test_patches_do_not_disturb_other_random_numbers(amount):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset(amount)[0, 0]
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_epoch_or_position_gives_another_patch():
    reference = dataset()[1, 5][0]
    others = [dataset(seed=1)[1, 5][0], dataset()[2, 5][0], dataset()[1, 6][0]]
    assert not any(torch.equal(reference, other) for other in others)


def test_every_case_is_visited_equally_often():
    data = dataset(epoch_size=10)
    visits = [data[epoch, position][2] for epoch in range(3) for position in range(10)]
    assert Counter(visits) == {"a": 10, "b": 10, "c": 10}
    assert all(set(visits[i : i + 3]) == set("abc") for i in range(0, 30, 3))
    assert visits[:3] != visits[3:6] or visits[3:6] != visits[6:9]  # shuffled anew


@pytest.mark.parametrize(("foreground", "expected"), [(1.0, 1.0), (0.0, 0.2)])
def test_the_share_of_patches_with_foreground_is_as_asked(foreground, expected):
    data = dataset(foreground=foreground, size=(4, 4, 4))
    hits = np.mean([bool(data[0, i][1][0].any()) for i in range(60)])
    assert hits >= expected if foreground else hits <= expected


def test_image_and_target_are_cut_at_the_same_place():
    for position in range(20):
        image, target, _ = dataset(foreground=1)[0, position]
        x, y, z = (image[0][target[0].bool()][0].long() // n % 100 for n in (10000, 100, 1))
        assert 12 <= x < 15
        assert 3 <= y < 6
        assert 8 <= z < 11


@pytest.mark.parametrize("amount", ["light", "standard"])
def test_augmentation_changes_image_and_target_alike(amount):
    """Where the target is a threshold of the image it stays close to one, whatever is mirrored, turned or scaled."""
    case = Memory("a")
    blob = np.zeros((1, 20, 18, 16), np.float32)
    blob[:, 6:14, 5:12, 4:11] = 10
    case._image, case._target = blob, (blob > 5).astype(np.uint8)
    case.centres = np.array([[0, 10, 8, 7]], np.int32)
    data = dataset(amount, cases=[case], size=(12, 12, 12), foreground=1)
    agreement, changed = [], 0
    for position in range(12):
        image, target, _ = data[0, position]
        assert image.shape == (1, 12, 12, 12)
        assert set(target.unique().tolist()) <= {0, 1}
        guess, truth = image[0] > image.max() / 2, target[0].bool()
        agreement.append((2 * (guess & truth).sum() / (guess.sum() + truth.sum())).item())
        changed += not torch.equal(image, data[0, 0][0])
    assert np.mean(agreement) > 0.9
    assert changed > 6


def test_a_volume_smaller_than_the_patch_is_padded_with_background():
    image, target, _ = dataset(cases=[Memory("a", (15, 16, 11))], size=(16, 16, 16))[0, 0]
    assert image.shape == (2, 16, 16, 16)
    assert target.sum() == 27


def test_cropping_by_hand():
    volume = np.arange(27).reshape(1, 3, 3, 3)
    assert crop(volume, (1, 1, 1), (2, 2, 2)).ravel().tolist() == [13, 14, 16, 17, 22, 23, 25, 26]
    assert crop(volume, (-1, -1, -1), (2, 2, 2)).ravel().tolist() == [0, 0, 0, 0, 0, 0, 0, 0]
    assert crop(volume, (2, 2, 2), (2, 2, 2)).ravel().tolist() == [26, 0, 0, 0, 0, 0, 0, 0]


def test_a_patch_reads_only_its_own_part_of_the_file(tmp_path):
    path = tmp_path / "volume.npy"
    np.save(path, np.random.default_rng(0).random((1, 64, 64, 64), np.float32))
    mapped = np.load(path, mmap_mode="r")
    window = crop(mapped, (10, 10, 10), (8, 8, 8))
    assert isinstance(mapped, np.memmap)
    assert not isinstance(window, np.memmap)
    np.testing.assert_array_equal(window, np.load(path)[:, 10:18, 10:18, 10:18])


# Steps and processes


def test_resuming_walks_the_same_steps():
    whole = list(StepSampler(0, 10, 4, 2))
    assert list(StepSampler(7, 10, 4, 2)) == whole[7:]
    assert whole[5] == [(1, 2), (1, 3)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_share_a_batch_without_overlap(world_size):
    shares = [list(StepSampler(0, 6, 3, 6, rank, world_size)) for rank in range(world_size)]
    for step in range(6):
        together = sorted(key for share in shares for key in share[step])
        assert together == list(StepSampler(0, 6, 3, 6))[step]


def test_a_batch_that_cannot_be_shared_is_an_error():
    with pytest.raises(ValueError, match="batch_size 3 cannot be shared by 2 processes"):
        StepSampler(0, 1, 1, 3, 0, 2)


def test_the_number_of_workers_does_not_matter():
    def batches(workers):
        loader = patch_loader(
            dataset("standard"), StepSampler(2, 6, 3, 2), ("flair", "t1"), workers=workers, pin_memory=False
        )
        return list(loader)

    for alone, shared in zip(batches(0), batches(2), strict=True):
        assert alone.ids == shared.ids
        assert list(alone.inputs) == ["flair", "t1"]
        assert all(torch.equal(alone.inputs[m], shared.inputs[m]) for m in alone.inputs)
        assert torch.equal(alone.target, shared.target)


# Cases that lack modalities


def incomplete_batches(amount="none"):
    cases = [Memory("a"), Memory("b", modalities=("t1",)), Memory("c", modalities=("t2", "flair"))]
    modalities = ("flair", "t1", "t2")
    return list(patch_loader(dataset(amount, cases), StepSampler(0, 12, 6, 2), modalities, workers=0, pin_memory=False))


@pytest.mark.parametrize("amount", ["none", "light", "standard"])
def test_a_batch_says_who_has_what_and_absent_channels_stay_zero(amount):
    held = {"a": ("flair", "t1"), "b": ("t1",), "c": ("t2", "flair")}
    partly = 0
    for batch in incomplete_batches(amount):
        assert list(batch.present) == ["flair", "t1", "t2"]
        for modality, has in batch.present.items():
            assert has.tolist() == [modality in held[id] for id in batch.ids]
            assert (modality in batch.inputs) == bool(has.any())  # nothing stands for what nobody has
            for there, image in zip(has, batch.inputs.get(modality, ()), strict=False):
                assert bool(image.any()) == bool(there)
            partly += bool(has.any() and not has.all())
    assert partly > 5


def test_every_channel_goes_to_its_modality():
    data = dataset("none", [Memory("c", modalities=("t1", "flair"))])
    batch = patch_loader(data, StepSampler(0, 1, 1, 1), ("flair", "t1", "t2"), workers=0, pin_memory=False)
    (batch,) = batch
    image, target, _ = data[0, 0]
    assert torch.equal(batch.inputs["t1"][0, 0], image[0])
    assert torch.equal(batch.inputs["flair"][0, 0], image[1])
    assert torch.equal(batch.target[0], target)


def test_complete_cases_say_nothing_of_it():
    loader = patch_loader(dataset(), StepSampler(0, 2, 2, 2), ("flair", "t1"), workers=0, pin_memory=False)
    assert [batch.present for batch in loader] == [None, None]


def test_seeds_from_neighbouring_keys_are_far_apart():
    seeds = {random_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert max(seeds) < 2**63


# The way back


@pytest.mark.parametrize("shape", [(20, 18, 16), (8, 8, 8), (7, 30, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_stitching_patches_gives_the_volume_back(shape, overlap):
    volume = torch.randn(2, *shape)
    back = predict_volume(torch.clone, volume, (8, 8, 8), overlap=overlap)
    torch.testing.assert_close(back, volume, rtol=1e-4, atol=1e-4)


def test_a_prediction_may_have_other_channels_than_the_image():
    volume = torch.randn(2, 10, 10, 10)
    out = predict_volume(lambda patch: patch.sum(1, keepdim=True).repeat(1, 3, 1, 1, 1), volume, (8, 8, 8), overlap=0.5)
    torch.testing.assert_close(out, volume.sum(0, keepdim=True).repeat(3, 1, 1, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "overlap"), [((20, 18, 16), 0.5), ((8, 9, 30), 0.25), ((3, 8, 8), 0.0)])
def test_windows_are_as_many_as_were_announced(shape, overlap):
    seen = []
    predict_volume(
        lambda patch: seen.append(len(patch)) or patch.clone(), torch.randn(1, *shape), (8, 8, 8), overlap=overlap
    )
    assert sum(seen) == window_count(shape, (8, 8, 8), overlap)


def test_where_memory_is_short_fewer_windows_are_predicted_at_once():
    volume, asked = torch.randn(1, 20, 8, 8), []

    def predict(patch):
        asked.append(len(patch))
        if len(patch) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return 2 * patch

    with pytest.warns(UserWarning, match="memory is short: now") as said:
        found = predict_volume(predict, volume, (8, 8, 8), overlap=0.5, batch_size=4)
    assert [str(w.message) for w in said] == [
        f"memory is short: now {n} window(s) at once, put together on cpu" for n in (2, 1)
    ]
    assert asked == [4, 2, *[1] * window_count((20, 8, 8), (8, 8, 8), 0.5)]
    assert torch.equal(found, predict_volume(lambda patch: 2 * patch, volume, (8, 8, 8), overlap=0.5, batch_size=1))


def test_a_window_that_never_fits_is_an_error_in_words():
    def predict(patch):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(DataError, match="one window of 8 x 8 x 8 voxels does not fit into the memory of cpu"):
        predict_volume(predict, torch.randn(1, 9, 9, 9), (8, 8, 8), overlap=0.5)


def test_a_gpu_that_is_too_small_lets_the_cpu_put_the_volume_together():
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    assert _ways(4, gpu) == [(4, gpu), (2, gpu), (1, gpu), (1, cpu)]
    assert _ways(1, cpu) == [(1, cpu)]
