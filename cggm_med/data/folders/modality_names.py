"""Which images are one modality, what it shows and what it is called, by the words of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cggm_med.data.cases import natural_key
from cggm_med.data.declaration import NORMALISATIONS, Modality
from cggm_med.data.folders.channels import name_of
from cggm_med.data.folders.findings import UNTOLD, Findings
from cggm_med.data.folders.image_copies import Image
from cggm_med.data.folders.name_parts import Place
from cggm_med.data.folders.scans import lowest_value
from cggm_med.data.folders.vocabulary import (
    shown_by,
    spelled,
    tells_mri,
    tells_plane,
    told_by_rare_word,
    without_processing,
)

MAX_AIR_HU = -500  # air is at -1000 HU; of MRI and PET nothing lies so low
_PLANE = "image of which only the plane is told"


def name_modalities(
    images: Mapping[str, Sequence[Image]], findings: Findings
) -> tuple[dict[str, dict[str, Path]], dict[str, Modality], str]:
    """The files of each case by modality, the modalities by name, and a question where no name tells what they show.

    Files whose words differ from case to case are one modality if they show the same and no case has two of them.

    Args:
        images: by case; one copy of each.
        findings: told what is left out, and what must be asked.
    """
    texts: dict[str, str] = {}
    shown: dict[str, Modality | None] = {}
    for of in images.values():
        for image in of:
            texts.setdefault(image.base, f"{image.place.visit} {_written(image.place)}".strip())
            shown.setdefault(image.base, _shown(image.place.text))
    told = [base for base in texts if shown[base] is not None]
    if told:
        for base in [base for base in texts if shown[base] is None]:
            reason = _PLANE if tells_plane(base) else UNTOLD
            files = [image.place.scan.path for of in images.values() for image in of if image.base == base]
            findings.leave_out(reason, files)
            if reason == UNTOLD:
                findings.questions.append(
                    f"what {texts[base] or 'files without a word for it'} shows, such as {findings.below(files[0])}: "
                    "its name does not tell; it is left out"
                )
            del texts[base]
    mri = sorted({texts[base] for base in told if shown[base] == Modality()})
    if mri:
        findings.notes.append(f"nothing tells which sequence {', '.join(mri)} is, but that it is MRI")
    names = _names(images, texts, shown, findings)
    modalities: dict[str, Modality] = {}
    untold = ""
    for base, name in names.items():
        modalities.setdefault(name, shown[base] or Modality())
    if not told:
        by_name = {names[image.base]: image.place.scan.path for of in images.values() for image in of}
        modalities = {name: _kind_by_values(by_name[name]) for name in modalities}
        proposed = ", ".join(f"{name} {of.kind}" for name, of in modalities.items())
        untold = (
            f"what {', '.join(modalities)} shows, and of which kind it is: no name tells; by values, proposed is "
            f"{proposed}"
        )
    named: dict[str, dict[str, Path]] = {}
    double: dict[str, list[tuple[Path, Path]]] = {}
    for id, of in images.items():
        for image in of:
            if image.base not in names:
                continue
            name = names[image.base]
            held = named.setdefault(id, {})
            if name in held:
                double.setdefault(name, []).append((held[name], image.place.scan.path))
            else:
                held[name] = image.place.scan.path
    findings.ask_which(double)
    used = [name for name in modalities if any(name in of for of in named.values())]
    ordered = sorted(used, key=lambda name: _order(name, modalities[name]))
    return named, {name: modalities[name] for name in ordered}, untold


def _shown(text: str) -> Modality | None:
    """What images of a text show, if only that they are MRI; None where nothing is told."""
    return shown_by(text) or (Modality() if tells_mri(text) and not tells_plane(text) else None)


def _names(
    images: Mapping[str, Sequence[Image]],
    texts: Mapping[str, str],
    shown: Mapping[str, Modality | None],
    findings: Findings,
) -> dict[str, str]:
    """A modality's name for each text: texts that show one thing, and of which no case has two, share it."""
    together = {frozenset((a.base, b.base)) for of in images.values() for a in of for b in of if a.base != b.base}
    same: dict[str, list[str]] = {}
    for base in texts:
        of = shown[base]
        same.setdefault(of.shows if of is not None and of.shows else base, []).append(base)
    names: dict[str, str] = {}
    unalike: list[str] = []
    short = _short(texts)
    for shows, bases in same.items():
        clash = any(frozenset((a, b)) in together for a in bases for b in bases if a != b)
        if clash or len(bases) == 1:
            for base in bases:
                name = short[base]
                while name in names.values():  # such as "3D T1" and "2D T1", whose names begin with a letter
                    name += " again"
                names[base] = name
        else:
            names |= dict.fromkeys(bases, shows)
            listed = ", ".join(sorted({texts[base] for base in bases}, key=natural_key))
            if len({texts[base].lower() for base in bases}) > 2 or not _plain(texts[base] for base in bases):
                unalike.append(f"{shows}: {listed}")
            else:
                findings.notes.append(f"{listed}: taken for one modality, {shows}")
        if clash:
            listed = " and ".join(short[base] for base in bases)
            findings.questions.append(
                f"whether {listed}, which both show {shows}, are images of one case, as proposed, or two cases"
            )
    rare = sorted({short[base] for base in names if told_by_rare_word(texts[base])})
    if rare:
        findings.questions.append(f"what {', '.join(rare)} shows: its abbreviation may mean a contrast agent")
    if unalike:
        findings.questions.append(
            "which file is which modality, where names differ from case to case; as they tell it: " + "; ".join(unalike)
        )
    return names


def _written(place: Place) -> str:
    """What a place shows, as it is written, without words about how it was made."""
    plain = without_processing(place.text).split()
    if spelled(place.text).split() == plain:
        return place.text
    words = [
        word for word in re.findall(r"[^\s_]+", place.text) if any(part in plain for part in spelled(word).split())
    ]
    return " ".join(words)


def _order(name: str, modality: Modality) -> tuple[int, list[str | int]]:
    """Place of a modality among others: first what most examinations have."""
    first = ("t1", "t1ce", "t2", "flair", "pd", "dwi", "adc", "ct", "pet")
    shows = modality.shows or name
    return first.index(shows) if shows in first else len(first), natural_key(name.lower())[0]


def _plain(texts: Iterable[str]) -> bool:
    """Whether each of the texts is one word, as a challenge names its files."""
    return all(re.fullmatch(r"\w+", text) for text in texts)


def _short(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts without the words that all of them have, where something is left of each."""
    if len(texts) < 2:
        return {base: name_of(text) or "image" for base, text in texts.items()}
    words = {base: re.findall(r"[^\W_]+", text) for base, text in texts.items()}
    common = set.intersection(*({word.lower() for word in of} for of in words.values()))
    short = {base: "_".join(word for word in of if word.lower() not in common) for base, of in words.items()}
    same = len({shown_by(text) for text in texts.values()}) == 1
    told = same or all(shown_by(short[base]) == shown_by(texts[base]) for base in texts)
    if not (common and told and all(short.values())):
        short = dict(texts)
    return {base: name_of(text) or name_of(f"channel {text}") for base, text in short.items()}


def _kind_by_values(file: Path) -> Modality:
    """CT where values lie as low as those of air in Hounsfield units, else MRI."""
    return Modality("ct", NORMALISATIONS["ct"]) if (lowest_value(file) or 0) <= MAX_AIR_HU else Modality()
