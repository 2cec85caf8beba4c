"""The files of a report: figures as PNG and numbers as CSV in a folder, and pictures embedded in the page."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from cggm_med.files import write_text
from cggm_med.plots.style import write_figure
from cggm_med.results.tables import csv_text

MAX_BYTES = 8_000_000  # of all pictures in the page, as text; the rest stays far below 2 MB, which makes 10 MB at most
PHOTO_PIXELS = 1500  # width of a picture of a scan in the page
LINE_PIXELS = 800  # width of a chart in the page
JPEG = {"quality": 88, "subsampling": 0}  # keeps thin coloured contours sharp


@dataclass(frozen=True)
class Link:
    """A link to a file in the folder."""

    label: str
    address: str


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Attributes:
        data: a data URI; None if the page had no room for it.
        width: in pixels.
        height: in pixels.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        links: to the full picture, and to its numbers.
    """

    data: str | None
    width: int
    height: int
    alt: str
    caption: str
    links: tuple[Link, ...]


class Assets:
    """Writes files to a folder and makes the pictures and links of the page.

    Args:
        folder: empty.
        link: the folder's address on the page.
    """

    def __init__(self, folder: Path, link: str) -> None:
        self.folder, self.link = folder, link
        self.room = MAX_BYTES
        self.names: set[str] = set()
        self.left_out: list[str] = []

    def chart(self, name: str, figure: Figure, alt: str, caption: str, csv: Link) -> Picture:
        """Write a figure as ``name.png``; the page shows it smaller, in fewer colours. For the rest see ``Picture``."""
        path = self._unused(name, ".png")
        write_figure(path, figure)
        with Image.open(path) as picture:
            small = _scaled(picture.convert("RGB"), LINE_PIXELS)
        return self._embed(path, small.quantize(128), "PNG", alt, caption, (csv,))

    def picture(
        self, name: str, source: Path, alt: str, caption: str, *csv: Link, photo: bool = False
    ) -> Picture | str:
        """Copy a run's PNG file to ``name.png`` and show it on the page; a note if it cannot be read.

        A ``photo`` shows scans, which the page holds as JPEG. For the rest see ``Picture``.
        """
        try:
            content = source.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                whole = opened.convert("RGB")
        except (OSError, ValueError):
            return f"{source.name} cannot be read."
        path = self._unused(name, ".png")
        path.write_bytes(content)
        if whole.width > PHOTO_PIXELS:
            whole = _scaled(whole, PHOTO_PIXELS)
        kind, shown = ("JPEG", whole) if photo else ("PNG", whole.quantize(256))
        return self._embed(path, shown, kind, alt, caption, csv)

    def csv(self, name: str, rows: Sequence[Mapping[str, Any]], label: str = "CSV") -> Link:
        """Write rows and return a link to them."""
        path = self._unused(name, ".csv")
        write_text(path, csv_text(rows))
        return self.file(path, label)

    def file(self, path: Path, label: str) -> Link:
        """A link to a file in the folder."""
        return Link(label, f"{quote(self.link)}/{quote(path.name)}")

    def _embed(
        self, path: Path, shown: Image.Image, kind: str, alt: str, caption: str, csv: tuple[Link, ...]
    ) -> Picture:
        buffer = io.BytesIO()
        shown.save(buffer, kind, **(JPEG if kind == "JPEG" else {"optimize": True}))
        text = base64.b64encode(buffer.getvalue()).decode()
        data = None
        if len(text) <= self.room:
            self.room -= len(text)
            data = f"data:image/{kind.lower()};base64,{text}"
        else:
            self.left_out.append(path.name)
        return Picture(data, shown.width, shown.height, alt, caption, (self.file(path, "PNG"), *csv))

    def _unused(self, name: str, suffix: str) -> Path:
        """An unused file name that is safe in file systems and addresses."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:80] or "file"
        number, candidate = 1, plain
        while candidate + suffix in self.names:
            number += 1
            candidate = f"{plain}-{number}"
        self.names.add(candidate + suffix)
        return self.folder / (candidate + suffix)


def _scaled(picture: Image.Image, width: int) -> Image.Image:
    height = round(picture.height * width / picture.width)
    return picture.resize((width, height), Image.Resampling.LANCZOS)
