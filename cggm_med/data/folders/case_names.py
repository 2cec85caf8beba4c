"""Telling from paths which files belong to one case: the part of a path that says whose it is, and what it shows.

Nothing says beforehand where a case's name stands: in a folder's name, in the file's, in both, or in files of sibling
folders. So every way to read the paths is tried, and the one wins under which the fewest files stand alone, collide or
lack their counterpart.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cggm_med.data.folders.patients import is_visit
from cggm_med.data.folders.scans import Scan, common_folder
from cggm_med.data.folders.vocabulary import never_an_image, processing_of, shown_by, spelled, tells_label

_DATE = r"(?:19|20)\d\d[-_.][01]?\d[-_.][0-3]?\d|[0-3]?\d[-_.][0-3]?\d[-_.](?:19|20)\d\d"
_WORD = re.compile(rf"{_DATE}|[^\W_]+[*+]?")
# How an image was acquired or is stored; says neither whose it is nor what it shows.
_TECHNIQUE = (
    "tse fse se gre tra trans transversal ax axial sag sagittal cor coronal koronal iso mm fs fatsat fat sat dark "
    "fluid space vista cube tirm irfse spair spir dual inphase outphase in out phase mr mri mrt irm rm image "
    "images img scan scans vol volume volumes series serie data nifti nii nrrd mha hr lr highres lowres native "
    "rigid brain head final the of with without mit ohne sans avec senza con sin vor nach pre post avant apres na "
    "voor met zonder weighted w map maps standard std mask label seg tr ts frame 2d 3d 4d anat func perf dwi pet "
    "fmap xnat "
)
_CONTAINER = (
    "training train validation valid val testing test tr ts va sets set data dataset nifti nii images image imgs img "
    "labels label scans volumes mri mr ct pet anat func perf dwi fmap raw derivatives preproc original originals orig "
    "masks mask gt annotations annotation segmentations segmentation seg structural files results native"
)
# What a file is, which stands before its number in "volume-0" and says no more than that.
_FILE_WORDS = frozenset(
    {"image", "images", "img", "imgs", "vol", "volume", "volumes", "scan", "scans", "serie", "series", "file"}
    | {"mri", "mrt", "irm", "mr"}
)
_SECTIONS = {
    "training": r"\b(train\w*|(images?|labels?|imgs?|masks?) ?tr)\b",
    "validation": r"\b(val|valid|validation)\b|\bvalidationdata\b|validation data|\b(images?|labels?) ?va(l)?\b",
    "test": r"\b(test\w*|(images?|labels?|imgs?|masks?) ?ts)\b",
}
_KEYS = ("name", "folders", "both")
_TECHNIQUES = frozenset(_TECHNIQUE.split())
_CONTAINERS = frozenset(_CONTAINER.split())
# Words that number readers of an image or its time points, where they are not a part of the case's name.
_READER = re.compile(
    r"(mask|seg|segm|rater|reader|expert|observer|annotator|label|lesion|gt|roi|r|manual\w*|segmentation)"
)
_NUMBERED = re.compile(
    r"(mask|seg|rater|reader|expert|observer|annotator|obs|label|lesion|gt|roi|manual|segmentation|manualsegmentation|r)"
    r"\d{1,2}"
)
_TIME = re.compile(r"(time|tp|timepoint|visit|scan|session|study|t0|bl|fu|baseline|followup)\d{0,3}")
# Channels of nnU-Net, whose dataset.json would say what they show.
CHANNEL = re.compile(r"0{3}\d")


@dataclass(frozen=True)
class Place:
    """A scan under one way to read paths.

    Attributes:
        scan: the file.
        folders: those of its folders that say whose it is.
        name: the part of its own name that does.
        role: the part of its own name that says what it shows, and how it was made.
        role_folders: its folders that may say so, innermost first.
    """

    scan: Scan
    folders: tuple[str, ...]
    name: str
    role: str
    role_folders: tuple[str, ...]

    @functools.cached_property
    def text(self) -> str:
        """What the scan shows: its own name, and the folders around it if that does not tell."""
        told = self.role
        for folder in self.role_folders:
            if _tells(folder) and not _tells(told):
                told = f"{folder} {told}".strip()
        return told

    @functools.cached_property
    def visit(self) -> str:
        """The folder of a visit, where it does not tell cases apart but the images of one."""
        return next((folder for folder in self.role_folders if is_visit(folder, dated=False)), "")

    @functools.cached_property
    def is_mask(self) -> bool:
        """Whether it was drawn or computed: its name says so, or its name says nothing else and a folder does."""
        named = shown_by(self.role) is not None and not tells_label(self.role)
        return any(map(_holds_masks, self.role_folders)) or (tells_label(self.text) and not named)

    @functools.cached_property
    def apart(self) -> tuple[str, ...]:
        """The folders that tell copies of one image apart: not those of a section, nor those that number the files."""
        folders = (f for f in self.role_folders if not re.search(r"\d", f) and not _section_in(f))
        return tuple(folder for folder in folders if not corrects(folder))


@dataclass(frozen=True, order=True)
class _Words:
    """Which words of paths, beside numbers, say whose a file is."""

    times: bool  # those of visits
    readers: bool  # numbers of readers and of channels
    unknown: bool  # what says nothing else


@dataclass(frozen=True)
class _Reading:
    """One way to read paths: where they say whose a file is, by which words, and whether a section is part of it."""

    key: str
    words: _Words
    sections: bool

    @property
    def order(self) -> tuple[int, _Words, bool]:
        """Place among the ways."""
        return _KEYS.index(self.key), self.words, self.sections


def _tells(text: str) -> bool:
    """Whether a text says what a volume shows, or that it is a label or no image."""
    return bool(shown_by(text) or tells_label(text) or never_an_image(text))


def cases_of(scans: Sequence[Scan]) -> dict[str, list[Place]]:
    """The scans of each case, by a proposed id.

    Args:
        scans: images and labels alike.
    """
    shared = common_folder(scans)
    folder_roles = _role_folders(scans)
    constant = _constant_words(scans)
    best: tuple[float, _Reading, dict[str, list[Place]]] | None = None
    # Where only some files lie in folders of a section, the others have no such part of a name.
    sections = all(section_of(scan) for scan in scans)
    for times, readers, unknown in itertools.product((False, True), repeat=3):
        words = _Words(times, readers, unknown)
        places = [_place(scan, words, len(shared), folder_roles, constant) for scan in scans]
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
    for key, of in groups.items():
        images = [place for place in of if not place.is_mask]
        texts = Counter((spelled(place.text), place.visit, place.apart) for place in of)
        cost += sum(count - 1 for count in texts.values()) * 1.5
        if not images:
            cost += len(of)
        elif labelled and len(images) == len(of):
            cost += 0.6
        if len(roles) > 1 and len(of) == 1:
            cost += 0.5
        cost += 0.3 * (len({place.folders for place in images}) - 1) if images else 0
        cost += 2.0 * (key == "" and len(groups) > 1)
    # Whose a file is differs between cases, what it shows does not: of two ways, the one with fewer roles is better.
    return cost + 1e-3 * (0 if _all_channels(groups) else len(roles))


def _all_channels(groups: Mapping[str, Sequence[Place]]) -> bool:
    """Whether nothing but nnU-Net's numbers of channels tells the images of each of several cases apart."""
    texts = [{place.text for place in of if not place.is_mask} for of in groups.values()]
    numbers = all(CHANNEL.fullmatch(text) for of in texts for text in of)
    return len(groups) > 1 and numbers and all("0000" in of for of in texts)


@functools.lru_cache(maxsize=100_000)
def _holds_masks(folder: str) -> bool:
    words = r"labels?(tr|ts)?|masks?|masken?|segm?|segs|segment\w*|gt|ground truth|annotations?|delineations?"
    return bool(re.search(rf"\b({words})\b", spelled(folder)))


def _key(place: Place, reading: _Reading) -> str:
    folders = " ".join(spelled(folder) for folder in place.folders)
    name = spelled(place.name)
    if reading.sections:
        folders = f"{section_of(place.scan)} {folders}".strip()
    if reading.key == "folders":
        return folders
    if reading.key == "name":
        return (f"{section_of(place.scan)} {name}".strip() if reading.sections else name) if name else folders
    return folders if name in folders else folders + " " + name if folders not in name else name


def _place(
    scan: Scan, counted: _Words, shared: int, folder_roles: frozenset[tuple[str, ...]], constant: frozenset[str]
) -> Place:
    own: list[str] = []
    roles: list[str] = []
    for depth in range(shared, len(scan.folders)):
        folder = scan.folders[depth]
        role = scan.folders[: depth + 1] in folder_roles or (not counted.times and is_visit(folder, dated=False))
        (roles if role else own).append(folder)
    name, told = _split(scan.stem, counted, constant)
    return Place(scan, tuple(own), name, told, tuple(reversed(roles)))


def corrects(folder: str) -> bool:
    """Whether a folder's name says that what lies in it was corrected since."""
    return bool(re.search(r"\b(corrected|correction\w*|fix\w*|updat\w*|revis\w*)\b", spelled(folder)))


def section_of(scan: Scan) -> str:
    """``training``, ``validation`` or ``test`` where a folder, or else the file's name, says so; else nothing.

    Example:
        >>> from pathlib import Path
        >>> section_of(Scan(Path("a"), ("imagesTs",), "x_flair", 1)), section_of(Scan(Path("a"), ("P1",), "t1", 1))
        ('test', '')
    """
    return next(filter(None, map(_section_in, (*scan.folders, scan.stem))), "")


@functools.lru_cache(maxsize=100_000)
def _section_in(text: str) -> str:
    words = re.sub(r"(?<=[a-z])\d+", "", spelled(text))
    return next((section for section, pattern in _SECTIONS.items() if re.search(pattern, words)), "")


def _role_folders(scans: Sequence[Scan]) -> frozenset[tuple[str, ...]]:
    """Folders whose names say what lies in them, not whose it is."""
    below: dict[tuple[str, ...], set[str]] = {}
    held: Counter[tuple[str, ...]] = Counter()
    stems: dict[tuple[str, ...], str] = {}
    inside: dict[tuple[str, ...], set[str]] = {}
    for scan in scans:
        for depth in range(len(scan.folders)):
            inside.setdefault(scan.folders[: depth + 1], set()).add(scan.stem)
            below.setdefault(scan.folders[:depth], set()).add(scan.folders[depth])
            held[scan.folders[: depth + 1]] += 1
            stems[scan.folders[: depth + 1]] = scan.stem
    found = set()
    for parent, names in below.items():
        of_role = {name: _without_numbers(name) for name in names}
        for name in names:
            path = (*parent, name)
            words = spelled(name).split()
            told = bool(shown_by(name) or tells_label(name) or processing_of(name) or never_an_image(name))
            numbered = any(re.search(r"\d", word) and not _says_what(word) for word in words)
            single = held[path] == 1 and len(names) > 1
            distinct = len({of_role[other] for other in names if shown_by(other) or tells_label(other)}) > 1
            if (
                all(_is_container(word) for word in words)
                or (told and not numbered)
                or (tells_label(name) and all(not _says_content_anywhere(other) for other in inside[path]))
                # One folder for each file, such as "3_T1_MPRAGE" or one named as the file in it.
                or (single and told and distinct)
                or (single and stems[path] == name and parent and _all_single(names, parent, held))
            ):
                found.add(path)
    # "pre" beside "orig": where one of several ways to store a case is told, its siblings that recur are others.
    recurring = Counter(name for names in below.values() for name in names)
    for parent, names in below.items():
        if any((*parent, name) in found and processing_of(name) for name in names):
            found |= {(*parent, name) for name in names if recurring[name] > 1 and not re.search(r"\d", name)}
    return frozenset(found)


def _all_single(names: set[str], parent: tuple[str, ...], held: Counter[tuple[str, ...]]) -> bool:
    return all(held[(*parent, name)] == 1 for name in names)


def _says_content_anywhere(stem: str) -> bool:
    return any(_says_content(word.lower()) for word in _WORD.findall(stem))


def _without_numbers(name: str) -> str:
    return " ".join(word for word in spelled(name).split() if not word.isdigit())


@functools.lru_cache(maxsize=100_000)
def _is_container(word: str) -> bool:
    parts = r"(train|training|test|testing|val|validation|set|part|batch|data|fold)\d+"
    sections = r"(images?|labels?|imgs?|masks?)(tr|ts|va|val|train|test)"
    return word in _CONTAINERS or re.fullmatch(rf"{parts}|{sections}", word) is not None


def _constant_words(scans: Sequence[Scan]) -> frozenset[str]:
    """Words that stand in every file's name and say nothing."""
    if len(scans) < 2:
        return frozenset()
    every = frozenset.intersection(*(frozenset(_WORD.findall(scan.stem.lower())) for scan in scans))
    return frozenset(word for word in every if not _says_what(word) or word in _TECHNIQUES)


def _split(stem: str, counted: _Words, constant: frozenset[str]) -> tuple[str, str]:
    """The part of a file's name that says whose it is, and the rest without what every file has."""
    words = list(_WORD.finditer(stem))
    own = [_is_own(words, k, counted) for k in range(len(words))]
    content = [
        _says_content(word[0].lower()) or (_says_what(word[0].lower()) and any(own[:k])) for k, word in enumerate(words)
    ]
    for k in [k for k, mine in enumerate(own) if mine]:
        # Words that say nothing of the image belong to the name beside them: "Brats18_CBICA_AAB_1".
        before = k - 1
        while before >= 0 and not own[before] and not content[before]:
            before -= 1
        if before < 0 or own[before] or words[before][0].lower() in _FILE_WORDS:
            own[before + 1 : k] = [True] * (k - before - 1)
    runs = [
        (mine, [word for _, word in of]) for mine, of in itertools.groupby(zip(own, words, strict=True), lambda p: p[0])
    ]
    texts = [(mine, stem[of[0].start() : of[-1].end()]) for mine, of in runs]
    name = "_".join(text for mine, text in texts if mine)
    role = " ".join(trimmed for mine, text in texts if not mine and (trimmed := _trimmed(text, constant)))
    return name, role


def _trimmed(text: str, constant: frozenset[str]) -> str:
    """A text without separators at its ends and without leading words that all files have."""
    words = list(_WORD.finditer(text))
    while words and words[0][0].lower() in constant:
        words.pop(0)
    while words and words[-1][0].lower() in constant:
        words.pop()
    return text[words[0].start() : words[-1].end()] if words else ""


def _is_own(words: Sequence[re.Match[str]], k: int, counted: _Words) -> bool:
    word = words[k][0].lower()
    if _says_what(word):
        return False
    if _TIME.fullmatch(word):
        return counted.times
    if CHANNEL.fullmatch(word) and k and k == len(words) - 1:
        return counted.readers
    if _NUMBERED.fullmatch(word):
        return counted.readers
    if re.fullmatch(r"\d{1,2}", word) and k and not counted.readers and _READER.fullmatch(words[k - 1][0].lower()):
        return False
    if re.search(r"\d", word):
        return True
    return counted.unknown


@functools.lru_cache(maxsize=100_000)
def _says_content(word: str) -> bool:
    """Whether a word alone says what a file shows, that it is a label, or just a file."""
    return bool(shown_by(word) or tells_label(word) or word in _FILE_WORDS)


@functools.lru_cache(maxsize=100_000)
def _says_what(word: str) -> bool:
    """Whether a word of a file's name says what the file shows, how it was acquired or how it was made."""
    word = word.lower()
    if word in _TECHNIQUES or re.fullmatch(r"b\d{2,4}|\d(\.\d)?mm|mni\d*|\d+x\d+", word):
        return True
    if re.fullmatch(r"\d+", word):
        return False
    return bool(
        shown_by(word)
        or (tells_label(word) and not re.search(r"\d", word))
        or processing_of(word)
        or never_an_image(word)
    )


def _named(groups: Mapping[str, list[Place]], reading: _Reading) -> dict[str, list[Place]]:
    """The groups by the names as they are written; groups of one name in the files are copies of one case."""
    named: dict[str, list[Place]] = {}
    for places in groups.values():
        named.setdefault(_id(places, reading), []).extend(places)
    return named


def _id(places: Sequence[Place], reading: _Reading) -> str:
    first = next((place for place in places if not place.is_mask), places[0])
    folders = "/".join(first.folders)
    if first.name and (reading.key == "name" or _own_names(places)):
        id = first.name
    elif reading.key == "both" and first.name and spelled(first.name) not in spelled(folders):
        id = f"{folders}/{first.name}" if folders else first.name
    else:
        id = folders
    section = next((f for f in first.scan.folders if _section_in(f)), "") if reading.sections else ""
    return f"{section}/{id}" if section and id else id


def _own_names(places: Sequence[Place]) -> bool:
    """Whether the names of a case's files agree, so that its folders need not name it: no running numbers."""
    names = {spelled(place.name) for place in places}
    return len(names) == 1 and len(places) > 1
