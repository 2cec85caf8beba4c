"""Which copy of an image is taken where several lie side by side: raw and processed ones, PET in counts and in SUV."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cggm_med.data.folders.findings import Findings
from cggm_med.data.folders.name_parts import Place
from cggm_med.data.folders.scans import on_one_grid
from cggm_med.data.folders.vocabulary import processing_of, shown_by, spelled, without_processing

MAX_COMPARED = 3  # cases in which copies of an image are compared with the label's grid


@dataclass(frozen=True)
class Image:
    """An image of a case.

    Attributes:
        place: its file.
        base: when it was taken and what it shows, spelled, without how it was made.
        made: ``raw``, ``processed`` or nothing, by the words of its name and its folders.
    """

    place: Place
    base: str
    made: str

    @classmethod
    def at(cls, place: Place) -> Image:
        """The image of a file."""
        made = processing_of(place.role) or next(filter(None, map(processing_of, place.role_folders)), "")
        return cls(place, f"{place.visit} {without_processing(place.text)}".strip(), made)


def one_copy_each(
    images: Mapping[str, Sequence[Image]], labels: Mapping[str, Path], findings: Findings
) -> dict[str, list[Image]]:
    """Of raw and processed copies of the images, one kind; of a PET in counts and one in SUV, the latter.

    Args:
        images: by case.
        labels: label files by case: of copies on different grids, the one on the label's grid is proposed.
        findings: told what is left out, and asked which copy is meant.
    """
    double: dict[str, set[str]] = {}
    for of in images.values():
        copies: dict[str, set[str]] = {}
        for image in of:
            copies.setdefault(image.base, set()).add(image.made)
        for base, made in copies.items():
            if len(made) > 1:
                double.setdefault(base, set()).update(made)
    chosen: dict[str, list[Image]] = {}
    dropped: list[Image] = []
    drop = {base: _dropped(base, made, images, labels) for base, made in double.items()}
    # Whoever calls one copy raw has another for use: then nothing raw is taken, what has no other copy included.
    raw = any("raw" in made for made in drop.values())
    for id, of in images.items():
        held = [(image.base, image.made) for image in of]
        for image in of:
            mine = drop.get(image.base, set())
            other = any(base == image.base and made not in mine for base, made in held)
            if (image.made in mine and other) or (raw and image.made == "raw"):
                reason = "raw" if image.made == "raw" else "processed" if image.made else "unprocessed"
                findings.leave_out(f"{reason} copy of an image", [image.place.scan.path])
                dropped.append(image)
            else:
                chosen.setdefault(id, []).append(image)
    if dropped:
        bases = {image.base for image in dropped} & set(double)
        kept = {_way(image) for of in chosen.values() for image in of if image.base in bases}
        ways = f"{', '.join(sorted(kept))} or {', '.join(sorted({_way(image) for image in dropped}))}"
        findings.questions.append(f"which copy of the images: {ways}; either, never both (the former is proposed)")
    return _calibrated(chosen, findings)


def _dropped(base: str, ways: set[str], images: Mapping[str, Sequence[Image]], labels: Mapping[str, Path]) -> set[str]:
    """Which kinds of copies of an image are left out: those that are not on the label's grid, if that tells."""
    fits: Counter[str] = Counter()
    for id in [id for id in images if id in labels][:MAX_COMPARED]:
        for image in images[id]:
            if image.base == base and on_one_grid(image.place.scan.path, labels[id]):
                fits[image.made] += 1
    best = {way for way in ways if fits[way] == max(fits.values(), default=0)}
    # A name without remark is the image itself.
    keep = next(way for way in ("", "processed", "raw") if way in best)
    return ways - {keep}


def _calibrated(images: Mapping[str, Sequence[Image]], findings: Findings) -> dict[str, list[Image]]:
    chosen: dict[str, list[Image]] = {}
    counts: list[Path] = []
    for id, of in images.items():
        pets = [image for image in of if (shown := shown_by(image.base)) is not None and shown.shows == "pet"]
        suv = [image for image in pets if re.search(r"\bsuv", image.base)]
        drop = [image for image in pets if suv and image not in suv]
        counts += [image.place.scan.path for image in drop]
        chosen[id] = [image for image in of if image not in drop]
    findings.leave_out("PET beside one in SUV", counts)
    if counts:
        findings.questions.append(
            f"which PET: the one in SUV, as proposed, or {counts[0].name}; the same image twice is of no use"
        )
    return chosen


def _way(image: Image) -> str:
    """How a copy is told from the others: its folder's name, or the words of its own."""
    folder = next((f for f in image.place.role_folders if processing_of(f)), "")
    plain = without_processing(image.place.role).split()
    words = [word for word in spelled(image.place.role).split() if word not in plain]
    return folder or " ".join(words) or next(iter(image.place.role_folders), "without such a word")
