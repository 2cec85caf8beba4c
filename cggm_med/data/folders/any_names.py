"""Reading a folder of scans in which nothing but names says what is what."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cggm_med.data.cases import Case, ImageFile, label_paths, natural_key
from cggm_med.data.folders.case_names import cases_of
from cggm_med.data.folders.conventions import Told
from cggm_med.data.folders.findings import LONELY, MASK_SERIES, SERIES, Findings
from cggm_med.data.folders.image_copies import Image, one_copy_each
from cggm_med.data.folders.modality_names import name_modalities
from cggm_med.data.folders.name_parts import CHANNEL, Place, corrects, section_of, whose
from cggm_med.data.folders.patients import patients_of
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.data.folders.scans import APPLE_DOUBLE, Scans, common_folder, looks_like_label, scans_under
from cggm_med.data.folders.segments import table_of_labels
from cggm_med.data.folders.targets import Mask, Targets, choose_targets
from cggm_med.data.folders.vocabulary import (
    names_modality,
    never_an_image,
    shown_by,
    spelled,
    tells_label,
    tells_mri,
    tells_plane,
    tells_two,
)
from cggm_med.data.layouts import files_under
from cggm_med.errors import first_of

MAX_LOOKED_AT = 100  # files that are read because their names do not tell what they are
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
        return _series(path, scans) if scans.series else None
    return _Names(path, scans).proposal()


class _Names:
    """Turns the scans of a folder into a proposal, and collects what is asked and left out."""

    def __init__(self, path: Path, scans: Scans) -> None:
        self.path = path
        self.scans = scans
        self.strays: set[Path] = set()  # labels that lie with a case and bear another name
        self.findings = Findings(path)
        masks = [scan for scan in scans.series if tells_label(scan.stem)]
        self.findings.leave_out(MASK_SERIES, (scan.path for scan in masks))
        self.findings.leave_out(SERIES, (scan.path for scan in scans.series if scan not in masks))
        if masks:
            self.findings.questions.append(
                f"what the {masks[0].volumes} volumes of {masks[0].below} are, and of {len(masks) - 1} more labels: "
                'write {"label": {"NAME": {"file": path, "channel": number}}} for each region, and NAME into "labels"'
            )
        self.findings.leave_out(APPLE_DOUBLE, scans.twins)
        self.findings.leave_out_copies(scans.copies)
        for kind, files in scans.slices.items():
            self.findings.notes.append(f"{len(files)} {kind} files lie beside the volumes; only volumes are read")

    def proposal(self) -> Proposal:
        groups = self._without_copies(self._joined(cases_of(self.scans.volumes)))
        masks, images = self._parted(groups)
        targets = choose_targets(masks)
        self.findings.take(targets.questions, targets.notes, targets.left_out)
        self._about_strays(targets)
        files = {id: label_paths(label)[0] for id, label in targets.labels.items()}
        chosen = one_copy_each(images, files, self.findings)
        named, modalities, untold = name_modalities(chosen, self.findings)
        ids = [id for id in groups if named.get(id) or id in targets.labels]
        others = [id for id in ids if id not in targets.labels]
        told = self._told(targets, files, modalities, others)
        if untold and told.shows and len(modalities) == 1:
            ((name, by_values),) = modalities.items()
            modalities = {told.shows: shown_by(told.shows) or by_values}
            named = {id: {told.shows: of[name]} for id, of in named.items() if name in of}
            self.findings.notes.append(f"that the images show {told.shows} is published with the numbers of the labels")
        elif untold:
            self.findings.questions.append(untold)
        own = {id: next((place.folders for place in of if not place.is_mask), ()) for id, of in groups.items()}
        patients = {**self._across_modalities(patients_of(ids, own)), **told.patients}
        cases = tuple(
            Case(
                id,
                patients[id],
                {name: ImageFile(named[id][name]) for name in modalities if name in named.get(id, {})},
                targets.labels.get(id),
                convention=told.convention.get(id),
                not_drawn=targets.not_drawn.get(id, ()),
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
            questions=self.findings.all_questions(),
            left_out=self.findings.all_left_out(),
            notes=tuple(dict.fromkeys(self.findings.notes)),
        )

    def _told(
        self, targets: Targets, files: Mapping[str, Path], modalities: Iterable[str], others: Sequence[str]
    ) -> Told:
        """What the numbers of labels mean: as the files say, or a table beside them, else by a publication."""
        if targets.declared is not None:
            return Told({"": targets.declared})
        table = table_of_labels(files_under(self.path, skip_unreadable=True))
        if table is not None and files:
            meanings, file = table
            self.findings.notes.append(f"what numbers mean is read from {self.findings.below(file)}")
            return Told({"": Labels(meanings, source=self.findings.below(file))})
        return self.findings.meanings(files, modalities, others)

    def _joined(self, groups: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
        """The cases; a label that no image shares a name with belongs to the case in whose folder it lies, or whose
        name its own begins with, if it is one."""
        shared = common_folder(self.scans.volumes)
        whole = shared[-1] if shared else self.path.resolve().name
        joined = {id or whole: list(of) for id, of in groups.items()}
        has_images = {id: not all(place.is_mask for place in of) for id, of in joined.items()}
        below: dict[tuple[str, ...], set[str]] = {}
        for id, of in joined.items():
            for place in of if has_images[id] else ():
                for depth in range(len(place.scan.folders) + 1):
                    below.setdefault(place.scan.folders[:depth], set()).add(id)
        for id in [id for id in joined if not has_images[id]]:
            near = {case for place in joined[id] for case in _nearest(place, below)}
            named = max((case for case in near if _all_begin(joined[id], case)), key=len, default="")
            if len(near) == 1 or named:
                own = named or near.pop()
                self.strays |= {place.scan.path for place in joined[id] if place.name and not named}
                joined[own] += joined.pop(id)
        for id, of in joined.items():
            names = Counter(whose(place.name) for place in of if place.name)
            usual, count = names.most_common(1)[0] if names else ("", 0)
            if count > len(of) / 2:
                others = [p for p in of if p.is_mask and not f"{whose(p.name)} ".startswith((f"{usual} ", " "))]
                self.strays |= {place.scan.path for place in others}
            texts = Counter(spelled(place.text) for place in of if place.is_mask)
            same = [k for k, place in enumerate(of) if place.is_mask and texts[spelled(place.text)] > 1]
            if len({whose(of[k].name) for k in same}) > 1:  # names of several labels that the case itself does not bear
                for k in same:
                    of[k] = _with_whole_name(of[k], id)
        return joined

    def _without_copies(self, groups: Mapping[str, list[Place]]) -> dict[str, list[Place]]:
        """Each case once: where it lies in two places under one name, one is proposed."""
        filled: Counter[tuple[str, ...]] = Counter()
        for of in groups.values():
            for folders in {_around(place) for place in of}:
                filled[folders] += 1
        single: dict[str, list[Place]] = {}
        double: list[str] = []
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
                places.sort(
                    key=lambda place: (
                        not any(map(corrects, place.scan.folders)),
                        filled[_around(place)],
                        place.scan.below,
                    )
                )
                kept.append(places[0])
                again += places[1:]
            single[id] = kept
            if again:
                double.append(id)
                self.findings.leave_out(_COPY, (place.scan.path for place in again))
        if double:
            files = [self.findings.below(file) for file in self.findings.left_out[_COPY]]
            self.findings.questions.append(
                f"which copy of {first_of(double)} holds, for it is there twice: left out is {first_of(files, 2)}, as "
                "the other lies apart from most cases or says that it was corrected"
            )
        return single

    def _parted(self, groups: Mapping[str, Sequence[Place]]) -> tuple[dict[str, list[Mask]], dict[str, list[Image]]]:
        """Masks and images of each case; what is neither is left out."""
        drawn = self._drawn(groups)
        masks: dict[str, list[Mask]] = {}
        images: dict[str, list[Image]] = {}
        for id, of in groups.items():
            for place in of:
                text = place.text
                if place.is_mask or spelled(text) in drawn:
                    masks.setdefault(id, []).append(
                        Mask(place.scan.path, _source(place, of), place.scan.path in self.strays)
                    )
                elif reason := never_an_image(text):
                    self.findings.leave_out(reason, [place.scan.path])
                else:
                    images.setdefault(id, []).append(Image.at(place))
        return masks, images

    def _drawn(self, groups: Mapping[str, Sequence[Place]]) -> set[str]:
        """Texts that name no modality for certain, of which a file holds a label map."""
        if len({spelled(place.text) for of in groups.values() for place in of}) == 1:
            return set()
        unsure: dict[str, Path] = {}
        for of in groups.values():
            has_mask = any(place.is_mask for place in of)
            told = {spelled(place.text) for place in of if not place.is_mask and shown_by(place.text) is not None}
            for place in [place for place in of if not place.is_mask]:
                text = spelled(place.text)
                shown = shown_by(place.text)
                if (
                    tells_label(place.text)
                    or tells_plane(text)
                    or never_an_image(place.text)
                    or CHANNEL.fullmatch(text)
                ):
                    continue
                # "gd" is gadolinium for one and the gold standard for another.
                doubtful = shown is not None and not has_mask and shown.shows == "t1ce" and "t1" not in text
                if has_mask and not told - {text}:
                    continue  # the only image of its case
                if (shown is None and not tells_mri(text)) or doubtful or tells_two(text):
                    unsure.setdefault(text, place.scan.path)
        return {text for text, file in itertools.islice(unsure.items(), MAX_LOOKED_AT) if looks_like_label(file)}

    def _about_strays(self, targets: Targets) -> None:
        """A question about labels that lie with the images of a case and are named unlike it."""
        strays = {id: file for id, file in targets.labels.items() if isinstance(file, Path) and file in self.strays}
        if strays:
            files, cases = [file.name for file in strays.values()], list(strays)
            self.findings.questions.append(
                f"whether {first_of(files)}, which lies beside the images of {first_of(cases)} and is named unlike "
                "them, is its label, as proposed"
            )

    def _about_lonely_labels(self, ids: Sequence[str], targets: Targets) -> None:
        if ids:
            self.findings.leave_out(LONELY, (path for id in ids for path in label_paths(targets.labels[id])))
            self.findings.questions.append(f"which images belong to labels without any of their name: {first_of(ids)}")

    def _sections(
        self, groups: Mapping[str, Sequence[Place]], cases: Sequence[Case]
    ) -> dict[str, tuple[str, ...]] | None:
        """Sections that folders' names declare."""
        of_case = {
            case.id: next(filter(None, (section_of(place.scan) for place in groups[case.id])), "") for case in cases
        }
        if len(set(of_case.values())) == 1:
            return None
        sections: dict[str, list[str]] = {}
        for case in cases:
            sections.setdefault(of_case[case.id] or "training", []).append(case.id)
        return {name: tuple(ids) for name, ids in sections.items()}

    def _across_modalities(self, patients: Mapping[str, str]) -> dict[str, str]:
        """The patients; those whose names differ in the modality alone are one, and the user is asked."""
        alike: dict[str, set[str]] = {}
        for patient in patients.values():
            words = whose(patient).split()
            plain = " ".join(word for word in words if not names_modality(word))
            if re.search(r"\d", plain):
                alike.setdefault(plain, set()).add(patient)
        first = {patient: min(of) for of in alike.values() for patient in of if len(of) > 1}
        if first:
            pair = sorted(first, key=natural_key)
            listed = first_of([name for name in pair if first[name] == first[pair[0]]])
            self.findings.questions.append(
                f"whether {listed} are one patient, as proposed, for their names differ in the modality alone"
            )
        return {id: first.get(patient, patient) for id, patient in patients.items()}

    def _about_visits(self, cases: Sequence[Case]) -> None:
        """A question where patients are named in several ways, so that what is a visit is told by likeness alone."""
        cut = {case.patient for case in cases if case.patient != case.id}
        shapes = {re.sub(r"[^\W_]+", "x", patient) for patient in cut}
        if len(shapes) > 1:
            listed = first_of(sorted({case.patient for case in cases}, key=natural_key))
            self.findings.questions.append(f"whether {listed} are patients, and the rest of the names their visits")
        years = [case for case in cases if re.fullmatch(r"(19|20)\d\d/[^/]+", case.id)]
        if len({case.patient for case in years}) < len(years):
            listed = first_of([case.id for case in years if case.patient == years[0].patient])
            self.findings.questions.append(
                f"whether {listed} are one patient, as proposed: so they are never divided between training and test"
            )


def _all_begin(places: Sequence[Place], id: str) -> bool:
    """Whether the names of all files begin with a case's id, and go on."""
    return all(whose(place.scan.stem).startswith(f"{whose(id)} ") for place in places)


def _with_whole_name(place: Place, id: str) -> Place:
    """A place whose whole name, but for the case's id, says what it shows."""
    words = list(re.finditer(r"[^\W_]+", place.scan.stem))
    own = whose(id).split()
    begins = [whose(word[0]) for word in words[: len(own)]] == own and len(words) > len(own)
    return replace(place, name="", role=place.scan.stem[words[len(own)].start() :] if begins else place.scan.stem)


def _nearest(place: Place, below: Mapping[tuple[str, ...], set[str]]) -> set[str]:
    """The cases with images below the innermost folder around a label that has any; none where that is all folders."""
    for depth in range(len(place.scan.folders), -1, -1):
        if found := below.get(place.scan.folders[:depth]):
            return found
    return set()


def _all_named(groups: Mapping[str, Sequence[Place]]) -> bool:
    """Whether each file bears its case's id and one word more, as in the challenges of brain tumours."""
    for id, of in groups.items():
        common = Counter(place.scan.path.parent for place in of).most_common(1)[0][1]
        words = all(re.fullmatch(r"[^\W_]+", place.role) for place in of)
        own = sum(whose(place.name) == whose(id) for place in of)
        if not (words and min(common, own) > len(of) / 2):
            return False
    return True


def _around(place: Place) -> tuple[str, ...]:
    """The folder around the one that holds a case's files."""
    own = place.folders and place.scan.folders[-1:] == place.folders[-1:]
    return place.scan.folders[:-1] if own else place.scan.folders


def _source(place: Place, beside: Sequence[Place]) -> str:
    """What is said of a mask: its own name; if that says nothing, the folders that its images do not share too."""
    if tells_label(place.role):
        return place.role
    of_case = {folder for other in beside if not other.is_mask for folder in other.scan.folders}
    folders = [f for f in place.scan.folders if f not in of_case and whose(place.name) not in whose(f)]
    return " ".join([*folders, place.role]).strip()


def _series(path: Path, scans: Scans) -> Proposal:
    """What is said of a folder in which each file holds several volumes."""
    example = scans.series[0]
    refusal = (
        f"{len(scans.series)} files hold several volumes each, such as {example.below} with {example.volumes}: if they "
        "are time points, write those that are labelled into files of their own; if they are modalities, list each "
        'case with {"file": path, "channel": number} for each modality'
    )
    left_out = {SERIES: tuple(scan.path for scan in scans.series)}
    return Proposal("volume_series", path, path.resolve().name, {}, {}, (), refusals=(refusal,), left_out=left_out)


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
