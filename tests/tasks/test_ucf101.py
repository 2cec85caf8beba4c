"""UCF101: official splits are kept, groups never divided, flow is mirrored with its sign, errors are one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from cggm_med.config import parse_overrides
from cggm_med.errors import ConfigError, DataError
from cggm_med.registry import TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med_tasks.audiovisual.ucf101 import mirror_flow

NAMES = ("Archery", "HandstandPushups", "YoYo")
GROUPS = 7


def silent(text):
    pass


def clips(name):
    """Two of each group; the lists spell one class in two ways."""
    inside = name.replace("HandstandPushups", "HandStandPushups")
    return [f"v_{inside}_g{group:02d}_c{take:02d}" for group in range(1, GROUPS + 1) for take in (1, 2)]


def group_of(clip):
    return clip.rsplit("_", 1)[0]


def save(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, quality=95)


def write(root, lists="", frames="frames", flow=".", frame="frame_{:06d}.jpg", spelling=str):
    """Three frames with shades 0, 80, 160; flow u of 40, 60, 80 and v of 200, 180, 160."""
    (root / lists).mkdir(exist_ok=True)
    (root / lists / "classInd.txt").write_text("".join(f"{i} {n}\r\n" for i, n in enumerate(NAMES, start=1)))
    for split in (1, 2, 3):
        rows = {"train": [], "test": []}
        for number, name in enumerate(NAMES, start=1):
            for clip in clips(name):
                tested = f"_g{split:02d}_" in clip
                row = f"{name}/{clip}.avi" + ("" if tested else f" {number}")
                rows["test" if tested else "train"].append(row)
        for section, lines in rows.items():
            (root / lists / f"{section}list{split:02d}.txt").write_text("\n".join(lines) + "\n")
    for clip in (clip for name in NAMES for clip in clips(name)):
        for index in range(3):
            save(root / frames / spelling(clip) / frame.format(index + 1), np.full((30, 40, 3), 80 * index))
            for direction, value in (("u", 40 + 20 * index), ("v", 200 - 20 * index)):
                save(root / flow / direction / clip / f"frame{index + 1:06d}.jpg", np.full((30, 40), value))
    return root


def make(root, cache, *settings):
    words = [f"data.path={root}", f"data.cache={cache}", *settings]
    config = make_config("ucf101", [parse_overrides(words)], preset="tiny", strategy="joint")
    return load(TASKS, "ucf101")(config)


def found(root, cache, *settings):
    task = make(root, cache, *settings)
    task.find(silent)
    task.prepare(task.default_splits(), silent)
    return task


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def shades(clip, channel, mean, std):
    """The value of each normalised frame, 0 to 255."""
    return (clip[:, channel].mean(dim=(1, 2)) * std + mean) * 255


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_official_splits_are_kept(split, tmp_path, cache):
    task = found(write(tmp_path), cache, f"data.split={split}")
    every = {clip for name in NAMES for clip in clips(name)}
    tested = {clip for clip in every if f"_g{split:02d}_" in clip}
    assert set(task.splits.test) == tested
    assert set(task.splits.train) | set(task.splits.validation) == every - tested
    assert task.targets == task.config.task.classes == NAMES
    assert task.samples["v_YoYo_g03_c01"].target == 2


def test_validation_is_held_out_from_training_by_group(tmp_path, cache):
    """Of 18 groups for training, a third are 6; both clips of each go together."""
    task = found(write(tmp_path), cache, "data.validation=0.33")
    sides = [{group_of(clip) for clip in ids} for _, ids in task.splits.items()]
    assert [len(side) for side in sides] == [12, 6, 3]
    assert len(set.union(*sides)) == 21
    assert [len(ids) for _, ids in task.splits.items()] == [24, 12, 6]


@pytest.mark.parametrize(
    ("lists", "frames", "flow", "frame"),
    [
        ("", "frames", ".", "frame_{:06d}.jpg"),
        ("ucfTrainTestlist", "jpegs_256", "tvl1_flow", "frame{:06d}.jpg"),
        ("annotations", "rgb", "flow", "img_{:05d}.jpg"),
        ("", ".", ".", "{}.jpg"),
    ],
)
def test_every_layout(lists, frames, flow, frame, tmp_path, cache):
    """Of three frames the middles of two halves are 0 and 2."""
    task = found(write(tmp_path, lists, frames, flow, frame), cache, "data.frames=2", "data.size=32")
    inputs = task.load(task.samples["v_Archery_g01_c02"], None)
    assert inputs["rgb"].shape == (2, 3, 32, 32)
    assert inputs["flow"].shape == (2, 2, 32, 32)
    assert shades(inputs["rgb"], 0, 0.485, 0.229).tolist() == pytest.approx([0, 160], abs=2)
    assert shades(inputs["flow"], 0, 0.5, 0.226).tolist() == pytest.approx([40, 80], abs=2)
    assert shades(inputs["flow"], 1, 0.5, 0.226).tolist() == pytest.approx([200, 160], abs=2)


def test_letter_case_of_the_folders_does_not_matter(tmp_path, cache):
    root = write(tmp_path, spelling=lambda clip: clip.replace("HandStand", "Handstand"))
    assert len(found(root, cache).samples) == len(NAMES) * GROUPS * 2


def test_flow_beside_the_frames_is_not_taken_for_frames(tmp_path, cache):
    write(tmp_path, frame="img_{:05d}.jpg")
    folder = tmp_path / "frames" / "v_YoYo_g01_c01"
    save(folder / "flow_x_00001.jpg", np.full((30, 40), 255))
    task = found(tmp_path, cache, "data.frames=3")
    rgb = task.load(task.samples["v_YoYo_g01_c01"], None)["rgb"]
    assert shades(rgb, 0, 0.485, 0.229).tolist() == pytest.approx([0, 80, 160], abs=2)
    for file in folder.glob("img_*"):
        file.unlink()
    with pytest.raises(DataError, match="v_YoYo_g01_c01 has no frames of the usual names, such as frame_000001.jpg"):
        task.load(task.samples["v_YoYo_g01_c01"], None)


def test_mirrored_flow_by_hand():
    """At the left end something moves right by 100 and down by 20; in the mirror, at the right end, left and down."""
    clip = torch.full((1, 2, 1, 3), 127, dtype=torch.uint8)
    clip[0, :, 0, 0] = torch.tensor([227, 147])
    mirrored = mirror_flow(clip)
    assert mirrored[0, 0].tolist() == [[128, 128, 28]]
    assert mirrored[0, 1].tolist() == [[127, 127, 147]]
    assert torch.equal(mirror_flow(mirrored), clip)


def test_mirroring_the_scene_mirrors_its_flow():
    """The law behind it: flow that is made from a mirrored displacement field is the mirrored flow."""
    u, v = np.random.default_rng(0).normal(size=(2, 5, 8))

    def encode(u, v):
        return torch.tensor(np.stack([127.5 + 40 * u, 127.5 + 40 * v]).round().clip(0, 255).astype(np.uint8))[None]

    difference = mirror_flow(encode(u, v)).int() - encode(-u[:, ::-1], v[:, ::-1]).int()
    assert difference.abs().max() <= 1  # where rounding meets a half


def test_frames_and_flow_are_mirrored_and_cut_together(tmp_path, cache):
    """A ramp over the width in all: where frames fall from left to right, v does, and u changes its sign."""
    write(tmp_path)
    ramp = np.tile(np.linspace(60, 190, 40), (30, 1))
    clip = "v_YoYo_g02_c01"
    for index in range(3):
        save(tmp_path / "frames" / clip / f"frame_{index + 1:06d}.jpg", np.repeat(ramp[..., None], 3, axis=2))
        for direction in ("u", "v"):
            save(tmp_path / direction / clip / f"frame{index + 1:06d}.jpg", ramp)
    task = found(tmp_path, cache, "data.frames=1")
    mirrored = []
    for seed in range(30):
        inputs = task.load(task.samples[clip], seeded(seed))
        rgb, (u, v) = (inputs["rgb"][0, 0] * 0.229 + 0.485) * 255, (inputs["flow"][0] * 0.226 + 0.5) * 255
        torch.testing.assert_close(v, rgb, atol=3, rtol=0)  # the same part, the same way round
        mirrored.append(bool(rgb[:, 0].mean() > rgb[:, -1].mean()))
        torch.testing.assert_close(u, 255 - rgb if mirrored[-1] else rgb, atol=3, rtol=0)
    assert 5 < sum(mirrored) < 25
    alone = found(tmp_path, cache, "data.frames=1", "task.modalities=[flow]")
    both = task.load(task.samples[clip], seeded(1))["flow"]
    assert torch.equal(alone.load(alone.samples[clip], seeded(1))["flow"], both)


def test_frames_are_random_in_training_and_fixed_in_evaluation(tmp_path, cache):
    task = found(write(tmp_path), cache, "data.frames=1")
    sample = task.samples["v_YoYo_g01_c01"]
    drawn = set()
    for seed in range(20):
        inputs = task.load(sample, seeded(seed))
        moment = round(float(shades(inputs["rgb"], 0, 0.485, 0.229)) / 80)
        drawn.add(moment)
        assert float(shades(inputs["flow"], 1, 0.5, 0.226)) == pytest.approx(200 - 20 * moment, abs=2)
    assert drawn == {0, 1, 2}
    assert all(torch.equal(task.load(sample, None)["rgb"], task.load(sample, None)["rgb"]) for _ in range(3))


def test_a_clip_is_known_again(tmp_path, cache):
    write(tmp_path)
    digests = found(tmp_path, cache).contents()
    save(tmp_path / "v" / "v_YoYo_g01_c01" / "frame000002.jpg", np.full((30, 40), 1))
    (tmp_path / "frames" / "v_YoYo_g01_c02" / "frame_000003.jpg").unlink()
    changed = found(tmp_path, cache).contents()
    assert {clip for clip in digests if digests[clip] != changed[clip]} == {"v_YoYo_g01_c01", "v_YoYo_g01_c02"}


def rewrite(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def remove(folder):
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


LIST_ERRORS = {
    "no lists": (
        lambda r: (r / "classInd.txt").unlink(),
        r"has no list of classes \(tried classInd\.txt, ucfTrainTestlist/classInd\.txt, annotations/classInd\.txt\)",
    ),
    "no split": (lambda r: (r / "testlist01.txt").unlink(), r"testlist01\.txt is missing"),
    "numbers": (lambda r: rewrite(r / "classInd.txt", "2 Ha", "3 Ha"), r"classInd\.txt, row 2: number '3', expected 2"),
    "classes": (lambda r: rewrite(r / "classInd.txt", "YoYo", "Archery"), "row 3: class Archery is listed twice"),
    "columns": (lambda r: rewrite(r / "classInd.txt", "3 ", ""), r"row 3: 'YoYo', expected number, class"),
    "no number": (
        lambda r: rewrite(r / "trainlist01.txt", "_g02_c01.avi 1", "_g02_c01.avi"),
        r"trainlist01\.txt, row 1: .*expected clip, number of the class",
    ),
    "number": (
        lambda r: rewrite(r / "trainlist01.txt", "_g02_c01.avi 1", "_g02_c01.avi 2"),
        r"row 1: number '2', but Archery is 1 in classInd\.txt",
    ),
    "class": (
        lambda r: rewrite(r / "testlist01.txt", "Archery/", "Darts/"),
        r"testlist01\.txt, row 1: unknown class 'Darts'",
    ),
    "clip": (
        lambda r: rewrite(r / "testlist01.txt", "v_Archery_g01_c01.avi", "archery.avi"),
        r"row 1: 'Archery/archery\.avi', expected a clip such as",
    ),
    "twice": (
        lambda r: rewrite(r / "testlist01.txt", "g01_c01", "g01_c02"),
        "1 ids stand for more than one sample",
    ),
    "frames": (
        lambda r: remove(r / "frames" / "v_YoYo_g04_c01"),
        r"v_YoYo_g04_c01: no frames \(tried frames/v_YoYo_g04_c01/, rgb/.*jpegs_256/v_YoYo_g04_c01/, v_YoYo_g04_c01/\)",
    ),
    "flow": (
        lambda r: remove(r / "v" / "v_YoYo_g04_c01"),
        r"v_YoYo_g04_c01: no flow v \(tried v/v_YoYo_g04_c01/, flow/v/v_YoYo_g04_c01/, tvl1_flow/v/",
    ),
}


@pytest.mark.parametrize("name", LIST_ERRORS)
def test_bad_lists_and_missing_files(name, tmp_path, cache):
    spoil, message = LIST_ERRORS[name]
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        make(tmp_path, cache).find(silent)


def test_a_group_that_stands_on_two_sides_is_refused(tmp_path, cache):
    write(tmp_path)
    rewrite(tmp_path / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\n", "")
    with (tmp_path / "trainlist01.txt").open("a") as file:
        file.write("Archery/v_Archery_g01_c01.avi 1\n")
    task = make(tmp_path, cache)
    task.find(silent)
    with pytest.raises(DataError, match="group of clips v_Archery_g01 stands in"):
        task.default_splits()


FLOW_ERRORS = {
    "names": (
        lambda f: (f / "frame000003.jpg").unlink(),
        "hold different frames: frame000003.jpg is in one of them only",
        None,
    ),
    "size": (
        lambda f: save(f / "frame000002.jpg", np.zeros((9, 9))),
        r"is \(30, 40\), .* is \(9, 9\); expected one size",
        "has frames of several sizes, 9 x 9, 30 x 40",
    ),
    "damaged": (
        lambda f: (f / "frame000002.jpg").write_bytes(b"no"),
        r"frame000002\.jpg cannot be read as an image",
        None,
    ),
}


@pytest.mark.parametrize("name", FLOW_ERRORS)
def test_damaged_flow(name, tmp_path, cache):
    spoil, message, looked = FLOW_ERRORS[name]
    task = found(write(tmp_path), cache, "data.frames=3")
    spoil(tmp_path / "v" / "v_YoYo_g04_c01")
    with pytest.raises(DataError, match=message):
        task.load(task.samples["v_YoYo_g04_c01"], None)
    with pytest.raises(DataError, match=rf"^1 of 42 listed clips .*\n  v_YoYo_g04_c01: .*{looked or message}"):
        make(tmp_path, tmp_path / "other").find(silent)


@pytest.mark.parametrize("split", [0, 4])
def test_there_are_three_splits(split, tmp_path, cache):
    with pytest.raises(ConfigError, match=rf"data\.split is {split}, expected 1 to 3"):
        make(tmp_path, cache, f"data.split={split}")
