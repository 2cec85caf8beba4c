"""Read photographs and video frames, and crop, resize and normalise them for an encoder."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import tarfile
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Generator, Tensor
from torch.nn import functional as F

from cggm_med.data.cases import natural_key
from cggm_med.errors import DataError
from cggm_med.files import what_it_is

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")  # photographs of the web; every further format would be attack surface
EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")  # Pillow's modes
FRAMES = (".jpg", ".jpeg", ".png")
MAX_SIZES = 16  # frames of a clip whose sizes are compared before it is used
# With what whole files begin and end, but for zeros after it: JPEG (SOI, EOI) and PNG (signature, IEND).
WHOLE = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))

# Of the ImageNet photographs in [0, 1], by channel; what encoders trained on them expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# What Pillow raises for damaged files.
BUILT_IN = (OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError)
BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
UNREADABLE = (*BUILT_IN, *BOMB, struct.error, zlib.error, tarfile.TarError)


def read_image(source: Path | IO[bytes], *, name: str = "") -> Tensor:
    """An 8-bit image as RGB, the way up that its EXIF tag says.

    Grey values are repeated, palettes looked up, CMYK converted; transparency is dropped and of an animation the first
    frame is taken, as the field's loaders do.

    Args:
        source: a path, or an open binary file.
        name: what errors call it; the path, unless given.

    Returns:
        ``(3, height, width)``, uint8.

    Raises:
        DataError: if it is missing, cut short, no image, absurdly large or of more than 8 bits a channel.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 200).save(file, "PNG")
        >>> read_image(file).shape
        torch.Size([3, 2, 4])
    """
    name = name or str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as odd EXIF tags, on which nothing depends
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                if image.mode not in EIGHT_BITS:
                    raise ValueError(f"its pixels are '{image.mode}', expected 8 bits a channel")
                pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        reason = _reason(error, source)
        raise DataError(f"{name} cannot be read as an image: {reason}; expected one of {', '.join(FORMATS)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def look_at_image(file: Path) -> None:
    """Find out whether an image can be read: from its beginning and end, and where these leave a doubt by reading it.

    Raises:
        DataError: as ``read_image`` does.
    """
    try:
        with file.open("rb") as opened:
            beginning = opened.read(8)
            opened.seek(-min(64, opened.seek(0, os.SEEK_END)), os.SEEK_END)
            end = opened.read().rstrip(b"\0")
    except OSError:
        beginning = end = b""
    if not any(beginning.startswith(begins) and end.endswith(ends) for begins, ends in WHOLE):
        read_image(file)


def look_at_frames(files: Sequence[Path], where: Path) -> None:
    """Find out whether the frames of a clip can be read, and whether they are of one size: at most 16 of them, spread.

    Raises:
        DataError: if not.
    """
    for file in files:
        look_at_image(file)
    require_one_size([image_size(files[index]) for index in pick_frames(len(files), min(len(files), MAX_SIZES))], where)


def look_at_frames_in(folder: Path) -> None:
    """The same for all frames in a folder.

    Raises:
        DataError: if one cannot be read, or there is none.
    """
    look_at_frames(frame_files(folder), folder)


def image_size(file: Path) -> tuple[int, int]:
    """Height and width of an image, the way up that its EXIF tag says, from its header.

    Raises:
        DataError: if that says nothing, and the image cannot be read.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            if image.mode in EIGHT_BITS:
                return (width, height) if image.getexif().get(ExifTags.Base.Orientation, 1) > 4 else (height, width)
    except UNREADABLE:
        pass  # reading it says what is wrong
    _, height, width = read_image(file).shape
    return height, width


def require_one_size(sizes: Sequence[tuple[int, int]], where: Path) -> None:
    """Refuse frames of several sizes.

    Args:
        sizes: height and width of each.
        where: what errors call the clip.

    Raises:
        DataError: with the sizes.
    """
    if len(set(sizes)) > 1:
        shown = ", ".join(f"{height} x {width}" for height, width in sorted(set(sizes)))
        raise DataError(f"{where} has frames of several sizes, {shown}; expected one size, extract them again")


def resize(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The image at another size, bilinear with antialiasing, as Pillow resizes.

    Args:
        image: ``(channel, height, width)``.
        size: of the shorter side, which keeps the shape; or height and width.
    """
    if isinstance(size, int):
        height, width = image.shape[-2:]
        shorter = min(height, width)
        size = (size * height // shorter, size * width // shorter)
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def centre_crop(image: Tensor, size: int) -> Tensor:
    """The square in the middle.

    Args:
        image: ``(channel, height, width)``.
        size: side of the square.

    Raises:
        ValueError: if the image is smaller.
    """
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"an image of {height} x {width} has no square of {size}; resize it first")
    top, left = (height - size) // 2, (width - size) // 2
    return image[..., top : top + size, left : left + size]


def random_crop(image: Tensor, size: int, generator: Generator) -> Tensor:
    """A random part of the image, brought to a square: the usual augmentation for ImageNet.

    8 to 100 % of the area, sides from 3:4 to 4:3; ten tries to fit it in, after which the largest part of an allowed
    shape is taken from the middle.

    Args:
        image: ``(channel, height, width)``.
        size: side of the square.
        generator: on the CPU; the only source of randomness.
    """
    height, width = image.shape[-2:]
    for _ in range(10):
        area, shape, down, right = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (0.08 + 0.92 * area)
        shape = (3 / 4) ** (1 - 2 * shape)  # uniform in the logarithm
        tall, wide = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < tall <= height and 0 < wide <= width:
            top, left = int(down * (height - tall + 1)), int(right * (width - wide + 1))
            break
    else:
        tall, wide = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
        top, left = (height - tall) // 2, (width - wide) // 2
    return resize(image[..., top : top + tall, left : left + wide], (size, size))


def normalise(image: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """``(image / 255 - mean) / std``, in float32.

    Args:
        image: ``(channel, height, width)``, uint8.
        mean: by channel, in [0, 1].
        std: by channel, in [0, 1].

    Raises:
        ValueError: if the image is not uint8, so that its scale is unknown.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"the image is {image.dtype}; expected torch.uint8, from 0 to 255")
    centre, spread = (torch.tensor(x, dtype=torch.float32, device=image.device)[:, None, None] for x in (mean, std))
    return (image / 255 - centre) / spread


def frame_files(folder: Path) -> list[Path]:
    """The frames of a video: JPEG and PNG files in natural order, hidden ones left out.

    Raises:
        DataError: if there is no such folder, or no frame in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; expected one with a video's frames as .jpg or .png")
    files = [file for file in folder.iterdir() if _is_frame(file)]
    if not files:
        raise DataError(f"{folder} holds no frames; expected .jpg or .png files, extract them from the video")
    return sorted(files, key=lambda file: natural_key(file.name))


def holds_frames(folder: Path) -> bool:
    """Whether a folder has at least one frame."""
    return any(_is_frame(file) for file in folder.iterdir())


def _is_frame(file: Path) -> bool:
    return file.suffix.lower() in FRAMES and not file.name.startswith(".")


def pick_frames(count: int, wanted: int, generator: Generator | None = None) -> list[int]:
    """One frame from each of ``wanted`` equal parts of a video, in order; repeated if there are fewer frames.

    Args:
        count: number of frames.
        wanted: number to pick.
        generator: picks at random within each part, for training; without it the middles are picked.

    Raises:
        ValueError: if there is no frame, or none is wanted.

    Example:
        >>> pick_frames(30, wanted=3)
        [5, 15, 25]
    """
    if count < 1 or wanted < 1:
        raise ValueError(f"{wanted} of {count} frames cannot be picked; both must be at least 1")
    middle = torch.full((wanted,), 0.5, dtype=torch.float64)
    within = middle if generator is None else torch.rand(wanted, generator=generator, dtype=torch.float64)
    return [int((part + offset) * count / wanted) for part, offset in enumerate(within.tolist())]


def _reason(error: BaseException, source: Path | IO[bytes]) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        return what_it_is(_beginning(source)) or "it is none, or of another format"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return next(iter(said.splitlines()), "") or type(error).__name__


def _beginning(source: Path | IO[bytes]) -> bytes:
    """The first bytes of a file that was found to be no image."""
    with contextlib.suppress(OSError, ValueError):
        if isinstance(source, Path):
            with source.open("rb") as file:
                return file.read(64)
        source.seek(0)
        return source.read(64)
    return b"?"
