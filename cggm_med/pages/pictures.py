"""Pictures and links of a page; pictures are embedded, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LINE_PIXELS = 800  # width of a chart in the page
JPEG = {"quality": 88, "subsampling": 0}  # keeps thin coloured contours sharp


@dataclass(frozen=True)
class Link:
    """A link to a file beside the page."""

    label: str
    address: str


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Attributes:
        data: a data URI; None if the page had no room for it.
        width: on the page, in pixels.
        height: on the page, in pixels.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        links: to the full picture, and to its numbers.
        photo: whether it shows scans, which no dark page may turn round.
    """

    data: str | None
    width: int
    height: int
    alt: str
    caption: str
    links: tuple[Link, ...] = ()
    photo: bool = False


def embedded_chart(path: Path, alt: str, caption: str, width: int | None = LINE_PIXELS) -> Picture:
    """A chart of few colours from a PNG file, ``width`` pixels wide; see ``Picture``.

    Without a width it keeps its own pixels, two for one of the page, which dense screens show sharply.
    """
    with Image.open(path) as opened:
        chart = opened.convert("RGB")
    if width is None:
        size = (chart.width // 2, chart.height // 2)
    else:
        chart = scaled(chart, width)
        size = chart.size
    return Picture(data_uri(chart.quantize(128), "PNG"), *size, alt, caption)


def data_uri(picture: Image.Image, kind: str) -> str:
    """A picture as an address, in the format ``PNG`` or ``JPEG``."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **(JPEG if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def scaled(picture: Image.Image, width: int) -> Image.Image:
    """A picture of another width, in its proportions."""
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
