"""Which of the masks of a case is the label to learn, and which are drafts, single readers or something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cggm_med.data.cases import LabelFile, RegionFile, RegionFiles, natural_key
from cggm_med.data.folders.proposal import Labels
from cggm_med.data.folders.region_masks import names_region, nowhere_overlap, region_masks
from cggm_med.data.folders.segments import as_segments
from cggm_med.data.folders.vocabulary import names_modality, not_the_target, processing_of, spelled
from cggm_med.errors import first_of


@dataclass(frozen=True)
class Mask:
    """A volume that was drawn or computed.

    Attributes:
        path: of the file.
        text: what its name and folders say of it, without whose it is.
        stray: whether it bears another name than the case that it lies with.
    """

    path: Path
    text: str
    stray: bool = False


@dataclass(frozen=True)
class Targets:
    """The label of each case, and what else there is.

    Attributes:
        labels: file by case, or those of its regions.
        raters: single readers' files by case and reader.
        left_out: files by reason.
        questions: what the user must decide.
        notes: what a reader should know.
        declared: what the numbers mean, where the files or their names say it.
        not_drawn: regions that a case has no file of, by case.
    """

    labels: Mapping[str, LabelFile]
    raters: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    declared: Labels | None = None
    not_drawn: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose_targets(masks: Mapping[str, Sequence[Mask]]) -> Targets:
    """The label of each case among the masks that were found.

    A brain mask is none; of several readers, what they agreed on counts; a human's drawing before a machine's. Where
    more than one mask could be meant, one is proposed and the user is asked.

    Args:
        masks: by case.

    Example:
        >>> found = choose_targets({"a": [Mask(Path("gt.nii"), "gt"), Mask(Path("bm.nii"), "brain mask")]})
        >>> found.labels["a"].name, list(found.left_out), found.questions
        ('gt.nii', ['brain mask, not the target'], ())
    """
    left_out: dict[str, list[Path]] = {}
    kept: dict[str, list[Mask]] = {}
    for id, of in masks.items():
        for mask in of:
            reason = not_the_target(mask.text)
            others = [other for other in of if not not_the_target(other.text)]
            organ = len(others) >= MANY_ORGANS and not re.search(r"mas|bet", spelled(mask.text))
            if reason and (others or _brain(reason)) and not organ:
                left_out.setdefault(reason, []).append(mask.path)
            else:
                kept.setdefault(id, []).append(mask)
    candidates = _of_one_kind(kept)
    parts = region_masks({id: [(mask.text, mask.path) for mask in of] for id, of in candidates.items()})
    if parts is not None:
        used = {path for label in parts.labels.values() for path in label.paths}
        for mask in [mask for of in kept.values() for mask in of if mask.path not in used]:
            left_out.setdefault(_reason(mask), []).append(mask.path)
        others_left = {reason: tuple(paths) for reason, paths in left_out.items()}
        return Targets(
            parts.labels, {}, others_left, parts.questions, declared=parts.meanings, not_drawn=parts.not_drawn
        )
    texts = Counter(spelled(mask.text) for of in kept.values() for mask in of)
    readers = _readers(kept)
    if readers and (pieces := _pieces(kept, readers)) is not None:
        return replace(pieces, left_out={reason: tuple(paths) for reason, paths in left_out.items()})
    labels: dict[str, Path] = {}
    raters: dict[str, dict[str, Path]] = {}
    questions: list[str] = []
    notes: list[str] = []
    agreed: set[str] = set()
    alone: set[str] = set()
    rivals: Counter[tuple[str, str]] = Counter()
    drafts: list[str] = []
    machines = any(_by_machine(mask.text) for of in kept.values() for mask in of)
    humans = machines and any(not _by_machine(mask.text) for of in kept.values() for mask in of)
    for id, of in kept.items():
        single = [mask for mask in of if spelled(mask.text) in readers]
        whole = [mask for mask in of if mask not in single]
        if single:
            raters[id] = {_reader(mask.text): mask.path for mask in single}
        if not whole and single:
            labels[id] = min(single, key=lambda mask: natural_key(spelled(mask.text))).path
            alone.add(id)
            continue
        whole.sort(key=lambda mask: (mask.stray, *_rank(mask.text), -texts[spelled(mask.text)], natural_key(mask.text)))
        best = whole[0]
        if humans and _by_machine(best.text):
            drafts.append(id)
            left_out.setdefault(_MACHINE, []).extend(mask.path for mask in whole)
            continue
        labels[id] = best.path
        if single:
            agreed.add(best.text)
        for other in whole[1:]:
            reason = _reason(other)
            left_out.setdefault(reason, []).append(other.path)
            if (reason == _OTHER or _rank(best.text) == _rank(other.text)) and best.stray == other.stray:
                rivals[best.text, other.text] += 1
    if rivals:
        first = next(iter(rivals))[0]
        behind = sorted({other for _, other in rivals})
        questions.append(
            f"which mask is the target: {' or '.join([first, *behind])}; {first} is proposed (cases with both: "
            f"{max(rivals.values())})"
        )
    if alone:
        names = sorted({name for id in alone for name in raters[id]}, key=natural_key)
        questions.append(
            f"which reader's label counts: {', '.join(names)} drew the same cases, and nothing says what they "
            f"agreed on; {names[0]} is proposed, and all stay beside it as raters"
        )
    if agreed:
        count = max(len(of) for of in raters.values())
        notes.append(f"{', '.join(sorted(agreed))} is the label; the masks of {count} readers stay beside it as raters")
    if drafts:
        questions.append(
            f"whether cases with a machine's label only are left out: {first_of(drafts)}; they stay without a label"
        )
    text_of = {mask.path: spelled(mask.text) for of in kept.values() for mask in of}
    several = sorted({text_of[path] for path in labels.values()} - readers)
    if len({_kind(text) for text in several}) > 1 and not rivals:
        questions.append(
            f"whether the label, whose name differs from case to case, is of one kind: {', '.join(several)}"
        )
    told, declared, about = as_segments(labels)
    left = {reason: tuple(paths) for reason, paths in left_out.items()}
    return Targets(told, raters, left, (*questions, *about), tuple(notes), declared)


def _pieces(masks: Mapping[str, Sequence[Mask]], numbered: set[str]) -> Targets | None:
    """The label of each case, if all masks are numbered pieces of one region: ``lesion1`` beside ``lesion2``."""
    if any(spelled(mask.text) not in numbered for of in masks.values() for mask in of):
        return None
    several = [[mask.path for mask in of] for of in masks.values() if len(of) > 1]
    if not nowhere_overlap(several):
        return None
    first = next(iter(numbered))
    word = re.sub(r"[ _]*\d+$", "", first) or "lesion"
    ordered = {id: sorted(of, key=lambda mask: natural_key(mask.text)) for id, of in masks.items()}
    labels: dict[str, LabelFile] = {
        id: RegionFiles(tuple((word, RegionFile(mask.path)) for mask in of)) for id, of in ordered.items()
    }
    names = sorted({mask.text for of in masks.values() for mask in of}, key=natural_key)
    question = (
        f"whether {first_of(names, 5)} are together one region, {word}, as proposed, for they nowhere overlap; or "
        "regions of their own"
    )
    return Targets(labels, questions=(question,), declared=Labels({1: word}, source="the names of the files"))


def _of_one_kind(masks: Mapping[str, Sequence[Mask]]) -> dict[str, list[Mask]]:
    """The masks of each case that could be its regions.

    Not those of a machine beside people's, nor of anatomy beside lesions or what is named no organ, nor those that bear
    the name of something else than their case.
    """
    found: dict[str, list[Mask]] = {}
    for id, of in masks.items():
        own = [mask for mask in of if not mask.stray]
        human = [mask for mask in own if not _by_machine(mask.text)] or own
        drawn = [mask.text for mask in human if not _anatomy(mask.text)]
        lesions = any(re.search(rf"\b({_LESION})\b", spelled(text)) or not names_region(text) for text in drawn)
        zones = r"zon\w*|anatom\w*|prostat\w*|pz|tz|whole gland|parcell\w*"
        found[id] = [mask for mask in human if not (lesions and re.search(rf"\b({zones})\b", spelled(mask.text)))]
    return found


def _reason(mask: Mask) -> str:
    """Why a mask is left out beside another of its case."""
    return _MACHINE if _by_machine(mask.text) else _ANATOMY if _anatomy(mask.text) else _OTHER


MANY_ORGANS = 4  # masks of a case from which on a brain is one of its organs, not the mask of the head
_LESION = r"lesions?|lesion\w*|laesion\w*|lasion\w*|tumou?r\w*|tumeur|tumore|infarct\w*|wmh|gtv\w*|ot"
_MACHINE = "drawn by a machine"
_ANATOMY = "anatomy, not lesions"
_OTHER = "another mask of the same case"
_READER = (
    r"(.*?) ?\b(?:(?:manual segmentation|ground truth expert|rater|reader|expert|observer|annotator|obs|mask|label|seg"
    r"|segmentation|gt|roi|lesion) ?)?(?:(?<=[a-z])|\b)(\d{1,2}|[a-d]|r\d)$"
)


def _kind(text: str) -> str:
    """A mask's text without the image it was drawn on, and the abbreviations of one word made one."""
    words = (word for word in text.split() if not names_modality(word))
    return re.sub(r"\b(seg|segm|segmentation)\b", "seg", " ".join(words))


def _brain(reason: str) -> bool:
    return reason.startswith(("brain", "body"))


def _readers(masks: Mapping[str, Sequence[Mask]]) -> set[str]:
    """Texts that differ in a reader's number or letter alone, of which some case has two."""
    found: dict[str, set[str]] = {}
    for of in masks.values():
        series: dict[str, set[str]] = {}
        for mask in of:
            text = spelled(mask.text)
            if match := re.fullmatch(_READER, text):
                series.setdefault(text[: match.start(2)].strip(), set()).add(text)
        for what, texts in series.items():
            if len(texts) > 1:
                found.setdefault(what, set()).update(texts)
    # Where several things were drawn by several readers, nothing says which of them the label is of.
    return next(iter(found.values())) if len(found) == 1 else set()


def _reader(text: str) -> str:
    """A reader's name."""
    match = re.fullmatch(_READER, spelled(text))
    return match[2] if match else text


def _by_machine(text: str) -> bool:
    return bool(re.search(r"\b(ai|auto\w*|machine|model|pred\w*|nn ?unet|silver|unet|network|cnn)\b", spelled(text)))


def _anatomy(text: str) -> bool:
    return bool(
        re.search(
            r"\b(zon\w*|anatom\w*|gland|prostat\w*|organ\w*|tissue\w*|vessel\w*|parcell\w*|pz|tz|whole gland)\b",
            spelled(text),
        )
    )


def _rank(text: str) -> tuple[int, ...]:
    """Order of masks by how likely each is the target: lower is likelier."""
    words = spelled(text)
    agreed = r"consens\w*|konsens\w*|staple|majority|final\w*|gold|ground truth|truth|gt|corrected"
    weak = r"mask\w*|maske|masque|roi"
    return (
        _by_machine(text),
        _anatomy(text),
        not re.search(rf"\b({agreed})\b", words),
        not re.search(rf"\b({_LESION})\b", words),
        processing_of(words) == "processed",
        bool(re.fullmatch(weak, words)),
    )
