"""The laws of images: what Pillow and NumPy make of the same files, and one clear line for every damaged one."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from cggm_med.errors import DataError
from cggm_med_tasks.readers.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    centre_crop,
    frame_files,
    normalise,
    pick_frames,
    random_crop,
    read_image,
    resize,
)


def some_pixels(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + c) * np.cos(y / (7 + c)) for c in range(3)], axis=-1)
    return (127.5 + 127 * waves).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def as_tensor(pixels):
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_lossless_files_give_the_pixels_that_were_written(tmp_path, kind):
    pixels = some_pixels()
    path = tmp_path / "image.any"
    path.write_bytes(encoded(Image.fromarray(pixels), kind))
    image = read_image(path)
    assert image.shape == (3, 6, 9)
    assert image.dtype == torch.uint8
    assert torch.equal(image, as_tensor(pixels))
    assert torch.equal(read_image(io.BytesIO(path.read_bytes())), image)


def test_jpeg_is_what_pillow_decodes():
    raw = encoded(Image.fromarray(smooth()), "JPEG", quality=90)
    image = read_image(io.BytesIO(raw)).permute(1, 2, 0).numpy()
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(raw))))
    assert np.abs(image.astype(int) - smooth()).mean() < 5


def test_other_modes_become_rgb():
    """Grey 200 is (200, 200, 200); a palette's entry is its colour; CMYK (0, 255, 255, 0) is red; alpha is dropped."""

    def colour(image, kind="PNG", **options):
        return read_image(io.BytesIO(encoded(image, kind, **options)))[:, 0, 0].tolist()

    assert colour(Image.new("L", (2, 2), 200)) == [200, 200, 200]
    assert colour(Image.new("1", (2, 2), 1)) == [255, 255, 255]
    assert colour(Image.new("RGBA", (2, 2), (10, 20, 30, 0))) == [10, 20, 30]
    assert colour(Image.new("LA", (2, 2), (40, 7))) == [40, 40, 40]
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 11, 22, 33])
    assert colour(palette) == [11, 22, 33]
    # As bytes, transparency makes Pillow warn; as the field's files have it, it must not matter.
    assert colour(palette, transparency=b"\x00\x80") == [11, 22, 33]
    assert colour(palette, "GIF") == [11, 22, 33]
    assert colour(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG") == pytest.approx([255, 0, 0], abs=4)


@pytest.mark.parametrize(
    ("orientation", "fix"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_the_exif_orientation_is_honoured(orientation, fix):
    pixels, exif = some_pixels(), Image.Exif()
    exif[0x0112] = orientation
    image = read_image(io.BytesIO(encoded(Image.fromarray(pixels), "PNG", exif=exif)))
    assert torch.equal(image, as_tensor(fix(pixels)))


def test_damaged_files_are_one_line_that_names_them(tmp_path, monkeypatch):
    def refused(raw, reason):
        path = tmp_path / "clip.jpg"
        path.write_bytes(raw)
        for source, options in ((path, {}), (io.BytesIO(raw), {"name": "archive: clip.jpg"})):
            with pytest.raises(DataError, match=reason) as caught:
                read_image(source, **options)
            assert "clip.jpg cannot be read as an image" in str(caught.value)
            assert "\n" not in str(caught.value)

    jpeg, png = (encoded(Image.fromarray(smooth()), kind) for kind in ("JPEG", "PNG"))
    refused(b"", "it is empty")
    refused(b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS; fetch its content with git lfs pull")
    refused(b"<!DOCTYPE html><html>", "it is a page of the web")
    refused(b"GET / HTTP/1.1", "of another format")
    refused(encoded(Image.new("L", (2, 2)), "TIFF"), "of another format")
    refused(jpeg[:-40], "[Tt]runcated")
    refused(png[: len(png) // 2], "truncated")
    refused(png[:100] + bytes(200) + png[300:], "data stream")
    refused(encoded(Image.new("I;16", (2, 2), 4000)), "its pixels are 'I;16', expected 8 bits")
    for limit in (2000, 4000):  # 4800 pixels: beyond twice the limit Pillow raises, before it warns
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused(png, "decompression bomb")
    with pytest.raises(DataError, match=r"nowhere.png cannot be read as an image: there is no such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_whatever_is_damaged_an_image_or_a_data_error_results(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(Image.fromarray(some_pixels(20, 30)), kind, **({"exif": exif} if kind != "BMP" else {}))
    chance, refused = np.random.default_rng(0), []
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8])):
            raw[chance.integers(len(raw))] = chance.integers(256)
        if chance.random() < 0.3:
            raw = raw[: chance.integers(len(raw))]
        try:
            assert read_image(io.BytesIO(raw), name="x").shape[0] == 3
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(line.startswith("x cannot be read") and "\n" not in line for line in refused)


@pytest.mark.parametrize("size", [(24, 32), (31, 17), (90, 200)])
def test_resizing_is_pillows(size):
    ours = resize(as_tensor(smooth()), size)
    theirs = Image.fromarray(smooth()).resize(size[::-1], Image.Resampling.BILINEAR)
    assert ours.dtype == torch.uint8
    assert (ours.int() - as_tensor(np.asarray(theirs)).int()).abs().max() <= 1


def test_a_single_size_is_the_shorter_sides():
    """60 x 80 to 30: 30 x 40; turned, 40 x 30."""
    assert resize(as_tensor(smooth(60, 80)), 30).shape == (3, 30, 40)
    assert resize(as_tensor(smooth(80, 60)), 30).shape == (3, 40, 30)


def test_centre_crop():
    image = torch.arange(5 * 6).view(1, 5, 6)
    assert centre_crop(image, 2).tolist() == [[[8, 9], [14, 15]]]
    assert torch.equal(centre_crop(image[..., :5], 5), image[..., :5])
    with pytest.raises(ValueError, match="5 x 6 has no square of 6"):
        centre_crop(image, 6)


def test_normalising():
    """By hand: 255 in red is (1 - 0.485) / 0.229 = 2.2489; and the mean itself is 0."""
    image = as_tensor(some_pixels())
    expected = (image.permute(1, 2, 0).double().numpy() / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(normalise(image).permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert normalise(torch.full((3, 1, 1), 255, dtype=torch.uint8))[0].item() == pytest.approx(2.2489, abs=1e-4)
    assert normalise(torch.full((1, 1, 1), 51, dtype=torch.uint8), [0.2], [0.5]).item() == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="expected torch.uint8"):
        normalise(image / 255)


def test_random_crops_are_parts_of_allowed_size_and_shape():
    """A ramp along each axis tells where a crop lies: its steps are the sides that were cut, over the square's."""
    height, width, size = 120, 200, 8
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    ramps, random_source = torch.stack([y, x]), generator()
    areas, shapes = [], []
    for _ in range(400):
        crop = random_crop(ramps, size, random_source)
        assert crop.shape == (2, size, size)
        middle = slice(size // 2 - 1, size // 2 + 1)  # away from the borders, where the filter is cut
        tall = size * crop[0, middle, 3].diff().item()
        wide = size * crop[1, 3, middle].diff().item()
        areas.append(tall * wide / (height * width))
        shapes.append(wide / tall)
        assert crop[0].min() >= -0.51
        assert crop[0].max() < height
    assert 0.07 < min(areas) < 0.12
    assert max(areas) <= 1.01
    assert 0.72 < min(shapes) < 0.8
    assert 1.25 < max(shapes) < 1.38
    assert abs(sum(map(math.log, shapes)) / 400) < 0.05  # wide as often as tall


def test_random_crops_lie_anywhere_up_to_every_border(monkeypatch):
    """Parts of a 6 x 6 image before they are resized: those of 4 x 4 have 3 x 3 places, and each is found."""
    monkeypatch.setattr("cggm_med_tasks.readers.images.resize", lambda part, size: part)
    image, random_source = torch.arange(36).view(1, 6, 6), generator()
    parts = [random_crop(image, 4, random_source) for _ in range(1000)]
    corners = [int(part[0, 0, 0]) for part in parts if part.shape == (1, 4, 4)]
    assert set(corners) == {row * 6 + column for row in range(3) for column in range(3)}
    assert min(corners.count(c) for c in set(corners)) > len(corners) / 9 / 3


def test_an_image_into_which_nothing_fits_is_cut_in_the_middle():
    """3 x 300: parts of 8 % have 72 pixels, at least 7 tall. The largest of shape 4:3 is 3 x 4, in the middle."""
    image = torch.arange(300.0).expand(1, 3, 300)
    crop = random_crop(image, 4, generator())
    torch.testing.assert_close(crop, torch.arange(148.0, 152.0).expand(1, 4, 4))
    turned = random_crop(image.transpose(1, 2), 4, generator())
    torch.testing.assert_close(turned, crop.transpose(1, 2))


def test_chance_is_the_generators_alone():
    image = as_tensor(smooth())
    first = random_crop(image, 16, generator(3))
    torch.rand(7)
    assert torch.equal(random_crop(image, 16, generator(3)), first)
    assert not torch.equal(random_crop(image, 16, generator(4)), first)
    state = torch.get_rng_state()
    random_crop(image, 16, generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_frames_are_in_natural_order(tmp_path):
    for name in ("f10.jpg", "f9.JPG", "f1.png", "f2.jpeg", "._f1.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert [f.name for f in frame_files(tmp_path)] == ["f1.png", "f2.jpeg", "f9.JPG", "f10.jpg"]
    empty = tmp_path / "empty"
    with pytest.raises(DataError, match="empty is not a folder"):
        frame_files(empty)
    empty.mkdir()
    with pytest.raises(DataError, match="empty holds no frames"):
        frame_files(empty)


@pytest.mark.parametrize(
    ("count", "wanted", "picked"),
    [
        (30, 3, [5, 15, 25]),
        (10, 1, [5]),
        (4, 4, [0, 1, 2, 3]),
        (7, 3, [1, 3, 5]),
        (2, 4, [0, 0, 1, 1]),
        (1, 3, [0] * 3),
    ],
)
def test_the_middles_of_equal_parts(count, wanted, picked):
    assert pick_frames(count, wanted) == picked


def test_random_frames_come_one_from_each_part_and_reach_all():
    random_source = generator()
    found = np.array([pick_frames(12, 3, random_source) for _ in range(300)])
    assert [sorted(set(column)) for column in found.T.tolist()] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert pick_frames(12, 3, generator(1)) == pick_frames(12, 3, generator(1))
    for count, wanted in ((1, 5), (3, 7), (11, 4)):
        frames = pick_frames(count, wanted, random_source)
        assert len(frames) == wanted
        assert frames == sorted(frames)
        assert frames[0] >= 0
        assert frames[-1] < count


@pytest.mark.parametrize(("count", "wanted"), [(0, 3), (3, 0)])
def test_nothing_to_pick_is_an_error(count, wanted):
    with pytest.raises(ValueError, match=f"{wanted} of {count} frames cannot be picked"):
        pick_frames(count, wanted)
