"""The folder beside a report, with figures as PNG and numbers as CSV, and the pictures that the page itself holds."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from cggm_med.files import write_text
from cggm_med.plots.segmentation import write_figure
from cggm_med.report.markup import Content, Markup, element, text
from cggm_med.report.tables import as_csv

MOST_BYTES = 8_000_000  # of all pictures in the page, as text; the rest of it is far smaller than the 2 MB to the limit
PHOTO_PIXELS = 1500  # width of a picture of a scan in the page
LINE_PIXELS = 800  # width of a chart in the page
SHARP = {"quality": 88, "subsampling": 0}  # of thin coloured contours


class Assets:
    """Writes files to the folder and hands out what the page shows of them.

    Args:
        folder: exists and is empty.
        link: how the page calls the folder.
    """

    def __init__(self, folder: Path, link: str) -> None:
        self.folder, self.link = folder, link
        self.room = MOST_BYTES
        self.names: set[str] = set()
        self.left_out: list[str] = []

    def chart(self, name: str, figure: Figure, alt: str, caption: Content = None, csv: Content = None) -> Markup:
        """A figure, written as PNG, in the page with fewer colours.

        Args:
            name: of the file, without suffix.
            figure: to draw.
            alt: what it shows, for those who cannot see it.
            caption: below it.
            csv: links to its numbers.
        """
        path = self._unused(name, ".png")
        write_figure(path, figure)
        with Image.open(path) as picture:
            height = round(picture.height * LINE_PIXELS / picture.width)
            small = picture.convert("RGB").resize((LINE_PIXELS, height), Image.Resampling.LANCZOS)
        return self._figure(path, small.quantize(128), "PNG", alt, caption, csv)

    def picture(
        self, name: str, source: Path, alt: str, caption: Content = None, csv: Content = None, *, photo: bool = False
    ) -> Markup:
        """A picture that a run holds, copied and in the page.

        Args:
            name: of the file, without suffix.
            source: PNG file.
            alt: what it shows, for those who cannot see it.
            caption: below it.
            csv: links to its numbers.
            photo: it shows scans, which the page holds as JPEG.
        """
        try:
            content = source.read_bytes()
            with Image.open(io.BytesIO(content)) as opened:
                whole = opened.convert("RGB")
        except (OSError, ValueError):
            return element("p", f"{source.name} cannot be read.", class_="note")
        path = self._unused(name, ".png")
        path.write_bytes(content)
        if whole.width > PHOTO_PIXELS:
            height = round(whole.height * PHOTO_PIXELS / whole.width)
            whole = whole.resize((PHOTO_PIXELS, height), Image.Resampling.LANCZOS)
        kind, shown = ("JPEG", whole) if photo else ("PNG", whole.quantize(256))
        return self._figure(path, shown, kind, alt, caption, csv)

    def csv(self, name: str, rows: Iterable[Mapping[str, Any]], label: str = "CSV") -> Markup:
        """Write rows and return a link to them."""
        path = self._unused(name, ".csv")
        write_text(path, as_csv(rows))
        return self.file(path, label)

    def file(self, path: Path, label: str) -> Markup:
        """A link to a file in the folder."""
        return element("a", label, href=f"{quote(self.link)}/{quote(path.name)}")

    def _figure(self, path: Path, shown: Image.Image, kind: str, alt: str, caption: Content, csv: Content) -> Markup:
        buffer = io.BytesIO()
        shown.save(buffer, kind, **(SHARP if kind == "JPEG" else {"optimize": True}))
        data = base64.b64encode(buffer.getvalue()).decode()
        links: Sequence[Content] = [self.file(path, "PNG"), *([" ", csv] if csv else [])]
        if len(data) > self.room:
            self.left_out.append(path.name)
            inside = element("p", "Left out of the page, which would be too large: ", links[0], class_="note")
        else:
            self.room -= len(data)
            inside = element(
                "img",
                src=f"data:image/{kind.lower()};base64,{data}",
                alt=alt,
                width=shown.width,
                height=shown.height,
            )
        words = element("figcaption", text(caption), " " if caption else None, element("span", links, class_="links"))
        return element("figure", inside, words)

    def _unused(self, name: str, suffix: str) -> Path:
        """A file name without anything that a file system or an address could misread, and not used before."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:80] or "file"
        number, candidate = 1, plain
        while candidate + suffix in self.names:
            number += 1
            candidate = f"{plain}-{number}"
        self.names.add(candidate + suffix)
        return self.folder / (candidate + suffix)
