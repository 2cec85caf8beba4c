"""The parts of a path: which of its folders and words say whose a file is, and which what it shows."""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cggm_med.data.folders.patients import is_visit
from cggm_med.data.folders.scans import Scan, common_folder
from cggm_med.data.folders.vocabulary import (
    TECHNIQUES,
    names_modality,
    never_an_image,
    processing_of,
    shown_by,
    spelled,
    tells_label,
)

_DATE = r"(?:19|20)\d\d[-_.][01]?\d[-_.][0-3]?\d|[0-3]?\d[-_.][0-3]?\d[-_.](?:19|20)\d\d"
# What a file is and whose, in one word: "img0001" beside "label0001".
_GLUED = r"(?:imgs?|images?|im|lb|lab|labels?|seg|segmentation|masks?|msk|gt|vol|volume)(?=\d+(?![^\W_]))"
_WORD = re.compile(rf"{_DATE}|{_GLUED}|[^\W_]+[*+]?", re.IGNORECASE)
_CONTAINER = (
    "training train validation valid val testing test tr ts va sets set data dataset nifti nii images image imgs img "
    "labels label scans volumes mri mr ct pet anat func perf dwi fmap raw derivatives preproc original originals orig "
    "masks mask gt annotations annotation segmentations segmentation seg structural files results native resources"
)
# What a file is, which stands before its number in "volume-0" and says no more than that.
_MRI = frozenset({"mri", "mrt", "irm", "mr"})
_FILE_WORDS = _MRI | {
    *("image", "images", "img", "imgs", "vol", "volume", "volumes", "scan", "scans", "serie", "series", "file"),
}
_SECTIONS = {
    "training": r"\b(train\w*|(images?|labels?|imgs?|masks?) ?tr)\b",
    "validation": r"\b(val|valid|validat\w*)\b|\bvalidationdata\b|validation data|\b(images?|labels?) ?va(l)?\b",
    "test": r"\b(test\w*|(images?|labels?|imgs?|masks?) ?ts)\b",
}
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


@dataclass(frozen=True, order=True)
class Words:
    """Which words of paths, beside numbers, say whose a file is.

    Attributes:
        folders: those with which a file's name repeats its folders, whatever they mean elsewhere: "P1/T1/P1_T1_FLAIR".
        modality: that of the image, where it stands before a number: "ct_1001" beside "mr_1001".
        times: those of visits.
        readers: numbers of readers and of channels.
        unknown: what says nothing else.
        images: whether, on the other hand, a number that ends a name of what is shown counts the images of a case:
            "dce_1" and "dce_2" beside "t2".
    """

    folders: bool = False
    modality: bool = False
    times: bool = False
    readers: bool = False
    unknown: bool = False
    images: bool = False


@dataclass(frozen=True)
class Place:
    """A scan under one way to read paths.

    Attributes:
        scan: the file.
        folders: those of its folders that say whose it is.
        name: the part of its own name that does.
        role: the part of its own name that says what it shows, and how it was made.
        role_folders: its folders that may say so, innermost first.
        among_masks: whether it lies in a folder of masks; of one that holds images beside them, as a mask.
    """

    scan: Scan
    folders: tuple[str, ...]
    name: str
    role: str
    role_folders: tuple[str, ...]
    among_masks: bool = False

    @functools.cached_property
    def text(self) -> str:
        """What the scan shows: its own name, and the folders around it if that does not tell."""
        told = self.role
        for folder in self.role_folders:
            if tells(folder) and not tells(told):
                told = f"{folder} {told}".strip()
        return told

    @functools.cached_property
    def visit(self) -> str:
        """The folder of a visit, where it does not tell cases apart but the images of one."""
        return next((folder for folder in self.role_folders if is_visit(folder, dated=False)), "")

    @functools.cached_property
    def is_mask(self) -> bool:
        """Whether it was drawn or computed: its name says so, or its name says nothing else and a folder does."""
        return self.among_masks or (tells_label(self.text) and not _tells_image(self.role))

    @functools.cached_property
    def apart(self) -> tuple[str, ...]:
        """The folders that tell copies of one image apart: not those of a section, nor those that number the files."""
        folders = (f for f in self.role_folders if not re.search(r"\d", f) and not section_in(f))
        return tuple(folder for folder in folders if not corrects(folder))


class Reader:
    """Takes paths apart; what folders and words mean is told by all paths together."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = scans
        self.shared = len(common_folder(scans))
        self.role_folders = _role_folders(scans, self.shared)
        self.constant = _constant_words(scans)
        self.with_masks = {scan.folders for scan in scans if tells_label(scan.stem)}

    def places(self, counted: Words) -> list[Place]:
        """Each scan, where these words say whose it is."""
        return [self._place(scan, counted) for scan in self.scans]

    def ways(self) -> list[Words]:
        """The words that could say whose a file is, as far as it makes a difference."""
        plain = Words()
        repeated = any(
            self._in_folders(scan, of) != self._place(scan, plain) for scan in self.scans if (of := _repeated(scan))
        )
        leading = any(_leading(scan.stem) for scan in self.scans)
        numbered = any(_counts_images(list(_WORD.finditer(scan.stem))) for scan in self.scans)
        # In the order of the attributes of ``Words``.
        matters = (repeated, leading, True, True, True, numbered)
        return [Words(*of) for of in itertools.product(*((False, True) if option else (False,) for option in matters))]

    def _place(self, scan: Scan, counted: Words) -> Place:
        if counted.folders and (repeated := _repeated(scan)):
            return self._in_folders(scan, repeated)
        own: list[str] = []
        roles: list[str] = []
        for depth in range(self.shared, len(scan.folders)):
            folder = scan.folders[depth]
            role = scan.folders[: depth + 1] in self.role_folders
            (roles if role or (not counted.times and is_visit(folder, dated=False)) else own).append(folder)
        # nnU-Net numbers the channels of an image; a label has none, and ends with whose it is.
        name, told = _split(scan.stem, counted, self.constant, channels=not any(map(_holds_masks, roles)))
        return Place(scan, tuple(own), name, told, tuple(reversed(roles)), self._among_masks(scan, told, roles))

    def _among_masks(self, scan: Scan, told: str, roles: Sequence[str]) -> bool:
        image = _tells_image(told) and scan.folders in self.with_masks
        return any(map(_holds_masks, roles)) and not image

    def _in_folders(self, scan: Scan, repeated: tuple[int, str, str]) -> Place:
        """A scan whose name begins with those of its folders."""
        count, name, rest = repeated
        outer = range(self.shared, len(scan.folders) - count)
        own = [scan.folders[depth] for depth in outer if scan.folders[: depth + 1] not in self.role_folders]
        roles = [scan.folders[depth] for depth in outer if scan.folders[: depth + 1] in self.role_folders]
        told = _trimmed(rest, self.constant)
        folders = (*own, *scan.folders[-count:])
        return Place(scan, folders, name, told, tuple(reversed(roles)), self._among_masks(scan, told, roles))


@functools.lru_cache(maxsize=100_000)
def whose(name: str) -> str:
    """A name as those that say whose a file is are compared: letter case and separators do not count, accents do.

    Example:
        >>> whose("Müller_Anna-01"), whose("MULLER anna 01"), whose("病人01")
        ('müller anna 01', 'muller anna 01', '病人01')
    """
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", name).lower()).strip()


def tells(text: str) -> bool:
    """Whether a text says what a volume shows, or that it is a label or no image."""
    return bool(shown_by(text) or tells_label(text) or never_an_image(text))


def _tells_image(text: str) -> bool:
    """Whether a text says what an image shows, and nothing of a label."""
    return shown_by(text) is not None and not tells_label(text)


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
    return next(filter(None, map(section_in, (*scan.folders, scan.stem))), "")


@functools.lru_cache(maxsize=100_000)
def section_in(text: str) -> str:
    """The section that a text names, numbers at its ends left out; else nothing.

    Example:
        >>> section_in("dataset-02validation"), section_in("train_2"), section_in("P01")
        ('validation', 'training', '')
    """
    words = re.sub(r"(?<=[a-z])\d+|\b\d+(?=[a-z])", "", spelled(text))
    return next((section for section, pattern in _SECTIONS.items() if re.search(pattern, words)), "")


@functools.lru_cache(maxsize=100_000)
def _holds_masks(folder: str) -> bool:
    words = r"labels?(tr|ts|va)?|masks?|masken?|segm?|segs|segment\w*|gt|ground truth|annotations?|delineations?"
    return bool(re.search(rf"\b({words})\b", spelled(folder)))


def _role_folders(scans: Sequence[Scan], shared: int) -> frozenset[tuple[str, ...]]:
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
    found: set[tuple[str, ...]] = set()
    for parent, names in below.items():
        of_role = {name: _without_numbers(name) for name in names}
        examinations = _examinations({name: inside[(*parent, name)] for name in names})
        if len(parent) > shared and _number_series({name: inside[(*parent, name)] for name in names}):
            found |= {(*parent, name) for name in names}
            continue
        for name in names:
            path = (*parent, name)
            words = spelled(name).split()
            told = bool(shown_by(name) or tells_label(name) or processing_of(name) or never_an_image(name))
            numbered = any(re.search(r"\d", word) and not _says_what(word) for word in words)
            single = held[path] == 1 and len(names) > 1
            distinct = len({of_role[other] for other in names if shown_by(other) or tells_label(other)}) > 1
            if name not in examinations and (
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


def _examinations(inside: dict[str, set[str]]) -> set[str]:
    """Sibling folders named by what was examined, such as "FDG" beside "PSMA", that hold the same images of their own.

    Args:
        inside: names of the files below each.
    """
    told = {name: files for name, files in inside.items() if shown_by(name) is not None and not processing_of(name)}
    found: set[str] = set()
    for one, other in itertools.combinations(told, 2):
        if len({shown.shows for file in told[one] & told[other] if (shown := shown_by(file)) is not None}) > 1:
            found |= {one, other}
    return found


def _number_series(inside: Mapping[str, set[str]]) -> bool:
    """Whether sibling folders are the series of an examination, named by their numbers: "3" with a T1, "5" with a T2.

    Args:
        inside: names of the files below each.
    """
    files = [file for held in inside.values() for file in held]
    shows = {shown.shows for file in files if (shown := shown_by(file)) is not None}
    return len(inside) > 1 and len(shows) == len(files) == len(inside) and all(map(str.isdigit, inside))


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
    return frozenset(word for word in every if not _says_what(word) or word in TECHNIQUES)


def _split(stem: str, counted: Words, constant: frozenset[str], *, channels: bool) -> tuple[str, str]:
    """The part of a file's name that says whose it is, and the rest without what every file has."""
    words = list(_WORD.finditer(stem))
    own = [_is_own(words, k, counted, channels) for k in range(len(words))]
    glued = [k + 1 < len(words) and words[k].end() == words[k + 1].start() for k in range(len(words))]
    content = [
        glued[k] or _says_content(word[0].lower()) or (_says_what(word[0].lower()) and any(own[:k]))
        for k, word in enumerate(words)
    ]
    for k in [k for k, mine in enumerate(own) if mine]:
        # Words that say nothing of the image belong to the name beside them: "Brats18_CBICA_AAB_1".
        before = k - 1
        while before >= 0 and not own[before] and not content[before]:
            before -= 1
        if before < 0 or own[before] or words[before][0].lower() in _FILE_WORDS - _MRI:
            own[before + 1 : k] = [True] * (k - before - 1)
    shown = []
    if counted.modality and any(own):
        last = max(k for k, mine in enumerate(own) if mine)
        shown = [words[k][0] for k in range(last) if not own[k] and names_modality(words[k][0])]
        own[:last] = [True] * last
    runs = [
        (mine, [word for _, word in of]) for mine, of in itertools.groupby(zip(own, words, strict=True), lambda p: p[0])
    ]
    texts = [(mine, stem[of[0].start() : of[-1].end()]) for mine, of in runs]
    name = "_".join(text for mine, text in texts if mine)
    rest = [trimmed for mine, text in texts if not mine and (trimmed := _trimmed(text, constant))]
    return name, " ".join([*shown, *rest])


def _leading(stem: str) -> bool:
    """Whether the modality stands before a number in a file's name."""
    words = [word[0] for word in _WORD.finditer(stem)]
    numbers = [k for k, word in enumerate(words) if re.fullmatch(r"\d+", word) and not CHANNEL.fullmatch(word)]
    return bool(numbers) and any(map(names_modality, words[: numbers[-1]]))


@functools.lru_cache(maxsize=100_000)
def _repeated(scan: Scan) -> tuple[int, str, str] | None:
    """How many of its folders a file's name begins with, this beginning, and the rest if it tells what is shown."""
    words = list(re.finditer(r"[^\W_]+", scan.stem))
    plain = [whose(word[0]) for word in words]
    for count in (3, 2):
        folders = whose(" ".join(scan.folders[-count:])).split()
        if len(scan.folders) >= count and len(folders) < len(words) and plain[: len(folders)] == folders:
            end = words[len(folders) - 1].end()
            return (count, scan.stem[:end], scan.stem[end:].strip("-_. ")) if tells(scan.stem[end:]) else None
    return None


def _trimmed(text: str, constant: frozenset[str]) -> str:
    """A text without separators at its ends and without leading words that all files have."""
    words = list(_WORD.finditer(text))
    while words and words[0][0].lower() in constant:
        words.pop(0)
    while words and words[-1][0].lower() in constant:
        words.pop()
    return text[words[0].start() : words[-1].end()] if words else ""


def _is_own(words: Sequence[re.Match[str]], k: int, counted: Words, channels: bool) -> bool:
    word = words[k][0].lower()
    if _says_what(word):
        return False
    if _TIME.fullmatch(word):
        return counted.times
    if channels and CHANNEL.fullmatch(word) and k and k == len(words) - 1:
        return counted.readers
    if _NUMBERED.fullmatch(word):
        return counted.readers
    if re.fullmatch(r"\d{1,2}", word) and k and not counted.readers and _READER.fullmatch(words[k - 1][0].lower()):
        return False
    if counted.images and k == len(words) - 1 and _counts_images(words):
        return False
    if re.search(r"\d", word):
        return True
    return counted.unknown


def _counts_images(words: Sequence[re.Match[str]]) -> bool:
    """Whether a name is that of an image and, but for a number that ends it, says whose it is in no way."""
    *before, last = [word[0].lower() for word in words] or [""]
    if not before or shown_by(before[-1]) is None or not re.fullmatch(r"\d{1,2}", last):
        return False
    return all(_says_what(word) or not re.search(r"\d", word) for word in before)


@functools.lru_cache(maxsize=100_000)
def _says_content(word: str) -> bool:
    """Whether a word alone says what a file shows, that it is a label, or just a file."""
    return bool(shown_by(word) or tells_label(word) or word in _FILE_WORDS)


@functools.lru_cache(maxsize=100_000)
def _says_what(word: str) -> bool:
    """Whether a word of a file's name says what the file shows, how it was acquired or how it was made."""
    word = word.lower()
    if word in TECHNIQUES or re.fullmatch(r"b\d{2,4}|\d(\.\d)?mm|mni\d*|\d+x\d+", word):
        return True
    if re.fullmatch(r"\d+", word):
        return False
    return bool(
        shown_by(word)
        or (tells_label(word) and not re.search(r"\d", word))
        or processing_of(word)
        or never_an_image(word)
    )
