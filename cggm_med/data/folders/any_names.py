"""Reading a folder of scans in which nothing but names says what is what."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cggm_med.data.cases import Case, ImageFile, natural_key
from cggm_med.data.declaration import NORMALISATIONS, Modality
from cggm_med.data.folders.case_names import Place, cases_of, section_of
from cggm_med.data.folders.channels import name_of
from cggm_med.data.folders.conventions import LabelledCase, conventions_of
from cggm_med.data.folders.patients import patients_of
from cggm_med.data.folders.proposal import Proposal
from cggm_med.data.folders.scans import (
    Scans,
    common_folder,
    label_values,
    looks_like_label,
    lowest_value,
    same_grid,
    scans_under,
)
from cggm_med.data.folders.targets import Mask, Targets, choose_targets
from cggm_med.data.folders.vocabulary import (
    never_an_image,
    processing_of,
    shown_by,
    spelled,
    tells_label,
    told_by_rare_word,
    without_processing,
)
from cggm_med.errors import first_of

SERIES = "series of several volumes, not an image of one modality"
TWIN = "AppleDouble twin, no image"
MAX_AIR_HU = -500  # air is at -1000 HU; of MRI and PET nothing lies so low
MAX_COMPARED = 3  # cases in which copies of an image are compared with the label's grid
_UNKNOWN_IMAGE = "its name does not tell what it shows"
_PLANE = "image of which only the plane is told"
_COPY = "another copy of the same case"


def read_names(path: Path) -> Proposal | None:
    """Cases, modalities and labels of a folder, as far as the names of its folders and files tell them.

    Args:
        path: a folder.

    Raises:
        DataError: if a folder cannot be read.

    Returns:
        What was found; None if there is neither a volume nor a slice of one.
    """
    if not path.is_dir():
        return None
    scans = scans_under(path)
    if scans.slices and not scans.volumes:
        return _slices(path, scans)
    if not scans.volumes:
        return None
    return _Names(path, scans).proposal()


@dataclass(frozen=True)
class _Image:
    """An image of a case: what it shows, and how this copy of it was made."""

    place: Place
    base: str  # when it was taken and what it shows, spelled, without how it was made
    made: str  # "raw", "processed" or nothing


class _Names:
    """Turns the scans of a folder into a proposal, and collects what is asked and left out."""

    def __init__(self, path: Path, scans: Scans) -> None:
        self.path = path
        self.scans = scans
        self.questions: list[str] = []
        self.notes: list[str] = []
        self.left_out: dict[str, list[Path]] = {}
        if scans.series:
            self.left_out[SERIES] = [scan.path for scan in scans.series]
        if scans.twins:
            self.left_out[TWIN] = list(scans.twins)
        if scans.slices:
            for kind, files in scans.slices.items():
                self.notes.append(f"{len(files)} {kind} files lie beside the volumes; only volumes are read")

    def proposal(self) -> Proposal:
        groups = self._without_copies(self._joined(cases_of(self.scans.volumes)))
        masks, images = self._parted(groups)
        targets = choose_targets(masks)
        self._take(targets)
        chosen = self._without_other_copies(images, targets.labels)
        named, modalities = self._modalities(chosen)
        ids = [id for id in groups if named.get(id) or id in targets.labels]
        labelled = [
            LabelledCase(id, self._below(file), functools.partial(label_values, file))
            for id, file in targets.labels.items()
        ]
        others = [id for id in ids if id not in targets.labels]
        told = conventions_of(labelled, modalities, others)
        self.questions += told.questions
        self.notes += told.notes
        patients = {**patients_of(ids), **told.patients}
        cases = tuple(
            Case(
                id,
                patients[id],
                {name: ImageFile(named[id][name]) for name in modalities if name in named.get(id, {})},
                targets.labels.get(id),
                convention=told.convention.get(id),
                raters=targets.raters.get(id, {}),
            )
            for id in sorted(ids, key=natural_key)
            if named.get(id)
        )
        self._about_lonely_labels([id for id in ids if not named.get(id)], targets)
        self._about_visits([case for case in cases if case.id not in told.patients])
        sections = self._sections(groups, cases)
        return Proposal(
            "named_files" if told.recognised and _all_named(groups) else "any_names",
            self.path,
            self.path.resolve().name,
            modalities,
            told.labels,
            cases,
            sections=sections,
            questions=tuple(dict.fromkeys(self.questions)),
            left_out={reason: tuple(files) for reason, files in self.left_out.items()},
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _below(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def _leave_out(self, reason: str, file: Path) -> None:
        self.left_out.setdefault(reason, []).append(file)

    def _joined(self, groups: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
        """The cases; a label that no image shares a name with belongs to the one case whose images lie beside it."""
        shared = common_folder(self.scans.volumes)
        whole = shared[-1] if shared else self.path.resolve().name
        joined = {id or whole: list(of) for id, of in groups.items()}
        has_images = {id: not all(place.is_mask for place in of) for id, of in joined.items()}
        beside: dict[Path, set[str]] = {}
        for id, of in joined.items():
            for place in of if has_images[id] else ():
                beside.setdefault(place.scan.path.parent, set()).add(id)
        for id in [id for id in joined if not has_images[id]]:
            near = set.union(*(beside.get(place.scan.path.parent, set()) for place in joined[id]))
            if len(near) == 1:
                joined[near.pop()] += joined.pop(id)
        for id, of in joined.items():
            names = Counter(spelled(place.name) for place in of if place.name)
            usual, count = names.most_common(1)[0] if names else ("", 0)
            unlike = [place for place in of if place.is_mask and spelled(place.name) not in ("", usual)]
            if count > len(of) / 2 and unlike:
                files = " and ".join(place.scan.path.name for place in unlike)
                self.questions.append(
                    f"whether {files}, which lies beside the images of {id} and is named unlike them, is its label, as "
                    "proposed"
                )
        return joined

    def _without_copies(self, groups: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
        """Each case once: where it lies in two places under one name, one is proposed."""
        filled: Counter[tuple[str, ...]] = Counter()
        for of in groups.values():
            for folders in {_around(place) for place in of}:
                filled[folders] += 1
        single: dict[str, list[Place]] = {}
        for id, of in groups.items():
            by_text: dict[tuple[str, ...], list[Place]] = {}
            for place in of:
                by_text.setdefault((spelled(place.text), place.visit, *place.apart), []).append(place)
            kept: list[Place] = []
            again: list[Place] = []
            for places in by_text.values():
                if len(places) == 1:
                    kept += places
                    continue
                # What was delivered again lies apart from the bulk, or says that it was corrected.
                places.sort(key=lambda place: (not _corrected(place), filled[_around(place)], place.scan.below))
                kept.append(places[0])
                again += places[1:]
            single[id] = kept
            for place in again:
                self._leave_out(_COPY, place.scan.path)
            if again:
                files = ", ".join(self._below(place.scan.path) for place in again)
                self.questions.append(
                    f"which copy of {id} holds, for it is there twice: left out is {files}, as the other lies apart "
                    "from most cases or says that it was corrected"
                )
        return single

    def _parted(self, groups: Mapping[str, Sequence[Place]]) -> tuple[dict[str, list[Mask]], dict[str, list[_Image]]]:
        """Masks and images of each case; what is neither is left out."""
        drawn = self._drawn(groups)
        masks: dict[str, list[Mask]] = {}
        images: dict[str, list[_Image]] = {}
        for id, of in groups.items():
            for place in of:
                text = place.text
                if place.is_mask or spelled(text) in drawn:
                    masks.setdefault(id, []).append(Mask(place.scan.path, _source(place)))
                elif reason := never_an_image(text):
                    self._leave_out(reason, place.scan.path)
                else:
                    made = processing_of(place.role) or next(filter(None, map(processing_of, place.role_folders)), "")
                    base = f"{place.visit} {without_processing(text)}".strip()
                    images.setdefault(id, []).append(_Image(place, base, made))
        return masks, images

    def _drawn(self, groups: Mapping[str, Sequence[Place]]) -> set[str]:
        """Texts that name no modality for certain, of which a file holds a label map."""
        unsure: dict[str, Path] = {}
        for of in groups.values():
            if any(place.is_mask for place in of):
                continue
            for place in of:
                text = spelled(place.text)
                shown = shown_by(place.text)
                # "gd" is gadolinium for one and the gold standard for another.
                if not tells_label(place.text) and (shown is None or (shown.shows == "t1ce" and "t1" not in text)):
                    unsure.setdefault(text, place.scan.path)
        if len({spelled(place.text) for of in groups.values() for place in of}) == 1:
            return set()
        return {text for text, file in unsure.items() if looks_like_label(file)}

    def _take(self, targets: Targets) -> None:
        self.questions += targets.questions
        self.notes += targets.notes
        for reason, files in targets.left_out.items():
            self.left_out.setdefault(reason, []).extend(files)

    def _without_other_copies(
        self, images: Mapping[str, Sequence[_Image]], labels: Mapping[str, Path]
    ) -> dict[str, list[_Image]]:
        """Of raw and processed copies of the images, one kind; of a PET in counts and one in SUV, the latter."""
        double: dict[str, set[str]] = {}
        for of in images.values():
            copies: dict[str, set[str]] = {}
            for image in of:
                copies.setdefault(image.base, set()).add(image.made)
            for base, made in copies.items():
                if len(made) > 1:
                    double.setdefault(base, set()).update(made)
        chosen: dict[str, list[_Image]] = {}
        dropped: list[_Image] = []
        drop = {base: self._dropped(base, made, images, labels) for base, made in double.items()}
        # Whoever calls one copy raw has another for use: then nothing raw is taken, what has no other copy included.
        raw = any("raw" in made for made in drop.values())
        for id, of in images.items():
            held = [(image.base, image.made) for image in of]
            for image in of:
                mine = drop.get(image.base, set())
                other = any(base == image.base and made not in mine for base, made in held)
                if (image.made in mine and other) or (raw and image.made == "raw"):
                    reason = "raw" if image.made == "raw" else "processed" if image.made else "unprocessed"
                    self._leave_out(f"{reason} copy of an image", image.place.scan.path)
                    dropped.append(image)
                else:
                    chosen.setdefault(id, []).append(image)
        if dropped:
            bases = {image.base for image in dropped} & set(double)
            kept = {self._way(image) for of in chosen.values() for image in of if image.base in bases}
            ways = f"{', '.join(sorted(kept))} or {', '.join(sorted({self._way(image) for image in dropped}))}"
            self.questions.append(f"which copy of the images: {ways}; either, never both (the former is proposed)")
        return self._calibrated(chosen)

    def _dropped(
        self, base: str, ways: set[str], images: Mapping[str, Sequence[_Image]], labels: Mapping[str, Path]
    ) -> set[str]:
        """Which kinds of copies of an image are left out: those that are not on the label's grid, if that tells."""
        fits: Counter[str] = Counter()
        for id in [id for id in images if id in labels][:MAX_COMPARED]:
            for image in images[id]:
                if image.base == base and same_grid(image.place.scan.path, labels[id]):
                    fits[image.made] += 1
        best = {way for way in ways if fits[way] == max(fits.values(), default=0)}
        # A name without remark is the image itself.
        keep = next(way for way in ("", "processed", "raw") if way in best)
        return ways - {keep}

    def _calibrated(self, images: Mapping[str, Sequence[_Image]]) -> dict[str, list[_Image]]:
        chosen: dict[str, list[_Image]] = {}
        counts: list[Path] = []
        for id, of in images.items():
            pets = [image for image in of if (shown := shown_by(image.base)) is not None and shown.shows == "pet"]
            suv = [image for image in pets if re.search(r"\bsuv", image.base)]
            drop = [image for image in pets if suv and image not in suv]
            counts += [image.place.scan.path for image in drop]
            chosen[id] = [image for image in of if image not in drop]
        for file in counts:
            self._leave_out("PET beside one in SUV", file)
        if counts:
            self.questions.append(
                f"which PET: the one in SUV, as proposed, or {counts[0].name}; the same image twice is of no use"
            )
        return chosen

    def _way(self, image: _Image) -> str:
        """How a copy is told from the others: its folder's name, or the words of its own."""
        folder = next((f for f in image.place.role_folders if processing_of(f)), "")
        plain = without_processing(image.place.role).split()
        words = [word for word in spelled(image.place.role).split() if word not in plain]
        return folder or " ".join(words) or next(iter(image.place.role_folders), "without such a word")

    def _modalities(
        self, images: Mapping[str, Sequence[_Image]]
    ) -> tuple[dict[str, dict[str, Path]], dict[str, Modality]]:
        """The files of each case by modality, and the modalities by name."""
        texts: dict[str, str] = {}
        shown: dict[str, Modality | None] = {}
        for of in images.values():
            for image in of:
                texts.setdefault(image.base, f"{image.place.visit} {_written(image.place)}".strip())
                shown.setdefault(image.base, shown_by(image.place.text))
        told = [base for base in texts if shown[base] is not None]
        if told:
            for base in [base for base in texts if shown[base] is None]:
                reason = _PLANE if re.fullmatch(r"(ax\w*|tra\w*|sag\w*|cor\w*|kor\w*)", base) else _UNKNOWN_IMAGE
                files = [image.place.scan.path for of in images.values() for image in of if image.base == base]
                for file in files:
                    self._leave_out(reason, file)
                if reason == _UNKNOWN_IMAGE:
                    self.questions.append(
                        f"what {texts[base] or 'files without a word for it'} shows, such as {self._below(files[0])}: "
                        "its name does not tell; it is left out"
                    )
                del texts[base]
        names = self._names(images, texts, shown)
        modalities: dict[str, Modality] = {}
        for base, name in names.items():
            modalities.setdefault(name, shown[base] or Modality())
        if not told:
            by_name = {names[image.base]: image.place.scan.path for of in images.values() for image in of}
            modalities = {name: _kind_by_values(by_name[name]) for name in modalities}
            proposed = ", ".join(f"{name} {of.kind}" for name, of in modalities.items())
            self.questions.append(
                f"what {', '.join(modalities)} shows, and of which kind it is: no name tells; by values, proposed is "
                f"{proposed}"
            )
        named: dict[str, dict[str, Path]] = {}
        for id, of in images.items():
            for image in of:
                if image.base not in names:
                    continue
                name = names[image.base]
                held = named.setdefault(id, {})
                if name in held:
                    self._leave_out("second image of a modality", image.place.scan.path)
                    self.questions.append(
                        f"which image of {id} is its {name}: {self._below(held[name])} or "
                        f"{self._below(image.place.scan.path)}; the first is proposed"
                    )
                else:
                    held[name] = image.place.scan.path
        used = [name for name in modalities if any(name in of for of in named.values())]
        return named, {name: modalities[name] for name in sorted(used, key=lambda name: _order(name, modalities[name]))}

    def _names(
        self, images: Mapping[str, Sequence[_Image]], texts: Mapping[str, str], shown: Mapping[str, Modality | None]
    ) -> dict[str, str]:
        """A modality's name for each text: texts that show one thing, and of which no case has two, share it."""
        together = {frozenset((a.base, b.base)) for of in images.values() for a in of for b in of if a.base != b.base}
        same: dict[str, list[str]] = {}
        for base in texts:
            of = shown[base]
            same.setdefault(base if of is None else of.shows, []).append(base)
        names: dict[str, str] = {}
        unalike: list[str] = []
        short = _short(texts)
        for shows, bases in same.items():
            clash = any(frozenset((a, b)) in together for a in bases for b in bases if a != b)
            if clash or len(bases) == 1:
                names |= {base: short[base] for base in bases}
            else:
                names |= dict.fromkeys(bases, shows)
                listed = ", ".join(sorted({texts[base] for base in bases}, key=natural_key))
                if len({texts[base].lower() for base in bases}) > 2 or not _plain(texts[base] for base in bases):
                    unalike.append(f"{shows}: {listed}")
                else:
                    self.notes.append(f"{listed}: taken for one modality, {shows}")
            if clash:
                listed = " and ".join(short[base] for base in bases)
                self.questions.append(
                    f"whether {listed}, which both show {shows}, are images of one case, as proposed, or two cases"
                )
        rare = sorted({short[base] for base in names if told_by_rare_word(texts[base])})
        if rare:
            self.questions.append(f"what {', '.join(rare)} shows: its abbreviation may mean a contrast agent")
        if unalike:
            self.questions.append(
                "which file is which modality, where names differ from case to case; as they tell it: "
                + "; ".join(unalike)
            )
        return names

    def _about_lonely_labels(self, ids: Sequence[str], targets: Targets) -> None:
        if ids:
            for id in ids:
                self._leave_out("label without an image of its case", targets.labels[id])
            self.questions.append(f"which images belong to labels without any of their name: {first_of(ids)}")

    def _sections(
        self, groups: Mapping[str, Sequence[Place]], cases: Sequence[Case]
    ) -> dict[str, tuple[str, ...]] | None:
        """Sections that folders' names declare; a case without label, in a cohort with labels, is for testing."""
        of_case = {
            case.id: next(filter(None, (section_of(place.scan) for place in groups[case.id])), "") for case in cases
        }
        labelled = any(case.label is not None for case in cases)
        without = [case.id for case in cases if labelled and case.label is None]
        if without:
            self.notes.append(f"cases without label, for prediction alone: {first_of(without)}")
        if len(set(of_case.values())) == 1:
            return None
        sections: dict[str, list[str]] = {}
        for case in cases:
            section = "test" if case.id in without else of_case[case.id] or "training"
            sections.setdefault(section, []).append(case.id)
        return {name: tuple(ids) for name, ids in sections.items()}

    def _about_visits(self, cases: Sequence[Case]) -> None:
        """A question where patients are named in several ways, so that what is a visit is told by likeness alone."""
        cut = {case.patient for case in cases if case.patient != case.id}
        shapes = {re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", patient)) for patient in cut}
        if len(shapes) > 1:
            listed = first_of(sorted({case.patient for case in cases}, key=natural_key))
            self.questions.append(f"whether {listed} are patients, and the rest of the names their visits")


def _all_named(groups: Mapping[str, Sequence[Place]]) -> bool:
    """Whether each file bears its case's id and one word more, as in the challenges of brain tumours."""
    for id, of in groups.items():
        common = Counter(place.scan.path.parent for place in of).most_common(1)[0][1]
        words = all(re.fullmatch(r"[^\W_]+", place.role) for place in of)
        own = sum(spelled(place.name) == spelled(id) for place in of)
        if not (words and min(common, own) > len(of) / 2):
            return False
    return True


def _around(place: Place) -> tuple[str, ...]:
    """The folder around the one that holds a case's files."""
    own = place.folders and place.scan.folders[-1:] == place.folders[-1:]
    return place.scan.folders[:-1] if own else place.scan.folders


def _corrected(place: Place) -> bool:
    return bool(re.search(r"\b(correct\w*|fix\w*|updat\w*|revis\w*|new)\b", spelled("/".join(place.scan.folders))))


def _source(place: Place) -> str:
    """What is said of a mask: its own name, or the folders that hold no one's name, where that says nothing."""
    if tells_label(place.role):
        return place.role
    folders = [folder for folder in place.scan.folders if spelled(place.name) not in spelled(folder)]
    shared = " ".join(folder for folder in folders)
    return f"{shared} {place.role}".strip()


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
    return Modality("ct", NORMALISATIONS["ct"]) if lowest_value(file) <= MAX_AIR_HU else Modality()


def _slices(path: Path, scans: Scans) -> Proposal:
    """What is said of a folder that holds slices and no volume."""
    refusals = []
    for kind, files in scans.slices.items():
        example = files[0].relative_to(path)
        if kind == "DICOM":
            refusals.append(
                f"{len(files)} DICOM files, such as {example}: one file a slice; convert each series to a volume first "
                "(dcm2niix does it), in a folder for each patient"
            )
        else:
            refusals.append(
                f"{len(files)} pictures, such as {example}: slices of a mask or an image as pictures hold no voxel "
                "size; stack them into one volume a case, on the grid of its image, in the order of the numbers in "
                "their names"
            )
    kind = "dicom_slices" if "DICOM" in scans.slices else "picture_slices"
    return Proposal(kind, path, path.resolve().name, {}, {}, (), refusals=tuple(refusals))
