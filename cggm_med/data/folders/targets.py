"""Which of the masks of a case is the label to learn, and which are drafts, single readers or something else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.cases import natural_key
from cggm_med.data.folders.vocabulary import names_modality, not_the_target, spelled
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
        labels: file by case.
        raters: single readers' files by case and reader.
        left_out: files by reason.
        questions: what the user must decide.
        notes: what a reader should know.
    """

    labels: Mapping[str, Path]
    raters: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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
            if reason and (others or _brain(reason)):
                left_out.setdefault(reason, []).append(mask.path)
            else:
                kept.setdefault(id, []).append(mask)
    texts = Counter(spelled(mask.text) for of in kept.values() for mask in of)
    readers = _readers(kept)
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
            reason = _MACHINE if _by_machine(other.text) else _ANATOMY if _anatomy(other.text) else _OTHER
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
    return Targets(
        labels, raters, {reason: tuple(paths) for reason, paths in left_out.items()}, tuple(questions), tuple(notes)
    )


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
    found: set[str] = set()
    for of in masks.values():
        series: dict[str, set[str]] = {}
        for mask in of:
            text = spelled(mask.text)
            if match := re.fullmatch(_READER, text):
                series.setdefault(text[: match.start(2)].strip(), set()).add(text)
        for texts in series.values():
            found |= texts if len(texts) > 1 else set()
    return found


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
    lesion = r"lesions?|lesion\w*|laesion\w*|lasion\w*|tumou?r\w*|tumeur|tumore|infarct\w*|wmh|gtv\w*|ot"
    agreed = r"consens\w*|konsens\w*|staple|majority|final\w*|gold|ground truth|truth|gt|corrected"
    weak = r"mask\w*|maske|masque|roi"
    return (
        _by_machine(text),
        _anatomy(text),
        not re.search(rf"\b({agreed})\b", words),
        not re.search(rf"\b({lesion})\b", words),
        bool(re.fullmatch(weak, words)),
    )
