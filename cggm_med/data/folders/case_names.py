"""Telling from paths which files belong to one case.

Nothing says beforehand where a case's name stands: in a folder's name, in the file's, in both, or in files of sibling
folders. So every way to read the paths is tried, and the one wins under which the fewest files stand alone, collide or
lack their counterpart.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cggm_med.data.folders.name_parts import (
    CHANNEL,
    Place,
    Reader,
    Words,
    corrects,
    section_in,
    section_of,
    whose,
)
from cggm_med.data.folders.patients import is_visit
from cggm_med.data.folders.scans import Scan, same_voxels
from cggm_med.data.folders.vocabulary import names_modality, spelled

_KEYS = ("name", "folders", "both")


@dataclass(frozen=True)
class _Reading:
    """One way to read paths: where they say whose a file is, by which words, and whether a section is part of it."""

    key: str
    words: Words
    sections: bool

    @property
    def order(self) -> tuple[bool, bool, int, Words, bool]:
        """Place among the ways."""
        return self.words.folders, self.words.modality, _KEYS.index(self.key), self.words, self.sections


def cases_of(scans: Sequence[Scan]) -> dict[str, list[Place]]:
    """The scans of each case, by a proposed id.

    Args:
        scans: images and labels alike.
    """
    reader = Reader(scans)
    best: tuple[float, _Reading, dict[str, list[Place]]] | None = None
    # Where only some files lie in folders of a section, the others have no such part of a name.
    sections = all(section_of(scan) for scan in scans)
    for words in reader.ways():
        places = reader.places(words)
        for key, by_section in itertools.product(_KEYS, (False, True) if sections else (False,)):
            reading = _Reading(key, words, by_section)
            groups: dict[str, list[Place]] = {}
            for place in places:
                groups.setdefault(_key(place, reading), []).append(place)
            cost = _cost(groups)
            # Of two that do as well, the one that asks less of the paths.
            if best is None or (cost, reading.order) < (best[0], best[1].order):
                best = (cost, reading, groups)
    return {} if best is None else _named(best[2], best[1])


def _cost(groups: Mapping[str, Sequence[Place]]) -> float:
    """How many files a way to read paths leaves alone, lets collide or tears from their counterparts."""
    cost = 0.0
    labelled = sum(any(place.is_mask for place in of) for of in groups.values())
    roles = {(spelled(place.text), place.visit) for of in groups.values() for place in of if not place.is_mask}
    several = any(sum(not place.is_mask for place in of) > 1 for of in groups.values())
    for key, of in groups.items():
        images = [place for place in of if not place.is_mask]
        section = section_of(of[0].scan)
        texts = Counter((spelled(place.text), place.visit, place.apart) for place in of)
        cost += sum(count - 1 for count in texts.values()) * 1.5
        if not images:
            cost += len(of)
        elif labelled and len(images) == len(of) and section in ("", "training"):
            cost += 0.6
        untold = bool(images) and not any(map(names_modality, spelled(images[0].text).split()))
        if (several or untold) and len(roles) > 1 and len(of) == 1:
            cost += 0.5
        cost += 0.3 * (len({place.folders for place in images}) - 1) if images else 0
        cost += 2.0 * (key == "" and len(groups) > 1)
        # What was to be trained on and what was to be tested are never one case.
        cost += 2.0 * max(0, len({section_of(place.scan) for place in of} - {""}) - 1)
        cost += 0.5 * _own_labels(of)
        # Two visits are one case if something was drawn from both, such as the lesions that are new in the second.
        visits = {place.visit for place in of} - {""}
        if not any(place.is_mask and not place.visit for place in of):
            cost += max(0, len(visits) - 1)
    cost += 0.3 * _recurring(groups)
    # Whose a file is differs between cases, what it shows does not: of two ways, the one with fewer roles is better.
    return cost + 1e-3 * (0 if _all_channels(groups) else len(roles))


def _own_labels(places: Sequence[Place]) -> int:
    """How many labels of one kind too many a case has, each of an image of its own: "ct label" and "mr label"."""
    masks = {(place.visit, spelled(place.role)) for place in places if place.is_mask}
    kinds = {(visit, *(word for word in text.split() if not names_modality(word))) for visit, text in masks}
    return len(masks) - len(kinds)


def _recurring(groups: Mapping[str, Sequence[Place]]) -> int:
    """How often words that would name a case recur in other folders of cases, as what files show does."""
    folders: dict[str, set[tuple[str, ...]]] = {}
    for of in groups.values():
        for place in of:
            if place.name and not re.search(r"\d", place.name):
                folders.setdefault(whose(place.name), set()).add(place.folders)
    return sum(len(of) - 1 for of in folders.values())


def _all_channels(groups: Mapping[str, Sequence[Place]]) -> bool:
    """Whether nothing but nnU-Net's numbers of channels tells the images of each of several cases apart."""
    texts = [{place.text for place in of if not place.is_mask} for of in groups.values()]
    numbers = all(CHANNEL.fullmatch(text) for of in texts for text in of)
    return len(groups) > 1 and numbers and all("0000" in of for of in texts)


def _key(place: Place, reading: _Reading) -> str:
    folders = " ".join(whose(folder) for folder in place.folders)
    name = whose(place.name)
    if reading.sections:
        folders = f"{section_of(place.scan)} {folders}".strip()
    if reading.key == "folders":
        return folders
    if reading.key == "name":
        return (f"{section_of(place.scan)} {name}".strip() if reading.sections else name) if name else folders
    return folders if name in folders else folders + " " + name if folders not in name else name


def _named(groups: Mapping[str, list[Place]], reading: _Reading) -> dict[str, list[Place]]:
    """The groups by the names as they are written.

    Groups of one name are copies of one case if the images are the same, if one place holds nothing but labels, or if
    no two patients are likely to bear that name; else they are cases of different places, such as sites that number
    their patients alike.
    """
    by_id: dict[str, list[list[Place]]] = {}
    for places in groups.values():
        by_id.setdefault(_id(places, reading), []).append(places)
    named: dict[str, list[Place]] = {}
    for id, of in by_id.items():
        cases = [[*places] for places in of if not all(place.is_mask for place in places)]
        kept: list[list[Place]] = []
        for places in cases:
            same = next((known for known in kept if _delivered_again(known, places)), None)
            if same is None:
                kept.append(places)
            else:
                same += places
        labels = [place for places in of if all(place.is_mask for place in places) for place in places]
        if len(kept) <= 1:
            named[id] = [*(kept[0] if kept else []), *labels]
            continue
        for places in kept:
            named[_long_id(places, id)] = places
        for place in labels:
            named.setdefault(_long_id([place], id), []).append(place)
    return named


def _delivered_again(one: Sequence[Place], other: Sequence[Place]) -> bool:
    """Whether two groups of one name are copies of a case: one was corrected, or they hold the same image."""
    if any(corrects(folder) for place in (*one, *other) for folder in place.scan.folders):
        return True
    folders = {folder for place in (*one, *other) for folder in place.folders}
    distinctive = re.search(r"[^\W\d_]", _first(one).name) and re.search(r"\d{4}", _first(one).name)
    if distinctive and not any(map(is_visit, folders)):
        return True
    images = {(spelled(place.text), place.visit): place for place in one if not place.is_mask}
    for place in other:
        known = images.get((spelled(place.text), place.visit))
        if not place.is_mask and known is not None:
            return same_voxels(known.scan.path, place.scan.path)
    return True  # what the one lacks lies with the other


def _long_id(places: Sequence[Place], id: str) -> str:
    """The id of a case with the folders that tell it from others of the same name."""
    folders = [folder for folder in _first(places).folders if whose(folder) != whose(id)]
    return "/".join([*folders, id])


def _id(places: Sequence[Place], reading: _Reading) -> str:
    first = _first(places)
    folders = "/".join(first.folders)
    if first.name and (reading.key == "name" or _own_names(places)):
        id = first.name
    elif reading.key == "both" and first.name and whose(first.name) not in whose(folders):
        id = f"{folders}/{first.name}" if folders else first.name
    else:
        id = folders
    section = next((f for f in first.scan.folders if section_in(f)), "") if reading.sections else ""
    return f"{section}/{id}" if section and id else id


def _first(places: Sequence[Place]) -> Place:
    return next((place for place in places if not place.is_mask), places[0])


def _own_names(places: Sequence[Place]) -> bool:
    """Whether the names of a case's files agree, so that its folders need not name it: no running numbers."""
    names = {whose(place.name) for place in places}
    return len(names) == 1 and len(places) > 1
