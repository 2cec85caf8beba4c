"""The files of a report: figures as PNG and numbers as CSV in a folder, and pictures embedded in the page."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from cggm_med.files import write_text
from cggm_med.pages.pictures import Link, Picture, data_uri, embedded_chart, scaled
from cggm_med.plots.style import write_figure
from cggm_med.results.tables import csv_text

MAX_BYTES = 8_000_000  # of all pictures in the page, as text; the rest stays far below 2 MB, which makes 10 MB at most
PHOTO_PIXELS = 1500  # width of a picture of a scan in the page


class Assets:
    """Writes files to a folder and makes the pictures and links of the page.

    Args:
        folder: empty.
        page: the HTML file, beside which the folder will be.
    """

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder, self.link = folder, f"{page.stem}_files"
        self._place = page.resolve().parent
        self.room = MAX_BYTES
        self.names: set[str] = set()
        self.left_out: list[str] = []

    def chart(self, name: str, figure: Figure, alt: str, caption: str, csv: Link) -> Picture:
        """Write a figure as ``name.png``; the page shows it smaller, in fewer colours. For the rest see ``Picture``."""
        path = self._unused(name, ".png")
        write_figure(path, figure)
        return self._embed(path, embedded_chart(path, alt, caption), (csv,))

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
            whole = scaled(whole, PHOTO_PIXELS)
        kind, shown = ("JPEG", whole) if photo else ("PNG", whole.quantize(256))
        embedded = Picture(data_uri(shown, kind), shown.width, shown.height, alt, caption, photo=photo)
        return self._embed(path, embedded, csv)

    def csv(self, name: str, rows: Sequence[Mapping[str, Any]], label: str = "CSV") -> Link:
        """Write rows and return a link to them."""
        path = self._unused(name, ".csv")
        write_text(path, csv_text(rows))
        return self.file(path, label)

    def file(self, path: Path, label: str) -> Link:
        """A link to a file in the folder."""
        return Link(label, f"{quote(self.link)}/{quote(path.name)}")

    def address(self, path: Path) -> str:
        """The address on the page of a file that lies elsewhere."""
        return quote(Path(os.path.relpath(path.resolve(), self._place)).as_posix())

    def _embed(self, path: Path, picture: Picture, csv: tuple[Link, ...]) -> Picture:
        """The picture with its links, or only these where the page has no room for it."""
        size = len(str(picture.data))
        if size <= self.room:
            self.room -= size
        else:
            self.left_out.append(path.name)
            picture = replace(picture, data=None)
        return replace(picture, links=(self.file(path, "PNG"), *csv))

    def _unused(self, name: str, suffix: str) -> Path:
        """An unused file name that is safe in file systems and addresses."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:80] or "file"
        number, candidate = 1, plain
        while candidate + suffix in self.names:
            number += 1
            candidate = f"{plain}-{number}"
        self.names.add(candidate + suffix)
        return self.folder / (candidate + suffix)
