"""Reading a Brain Imaging Data Structure: subjects, sessions and what the entities of file names say.

The names are those of the specification, https://bids-specification.readthedocs.io, and of laboratories that lean on
it: masks in ``derivatives`` with or without a pipeline's folder or a datatype's, and suffixes of their own.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cggm_med.data.cases import Case, ImageFile, label_paths, natural_key
from cggm_med.data.declaration import Modality
from cggm_med.data.folders.channels import name_of
from cggm_med.data.folders.findings import LONELY, SERIES, UNTOLD, Findings
from cggm_med.data.folders.name_parts import section_in
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.data.folders.scans import Scan, Scans, scans_under
from cggm_med.data.folders.targets import Mask, choose_targets
from cggm_med.data.folders.vocabulary import never_an_image, shown_by, tells_label
from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError, first_of

_NO_IMAGE = {
    "fmap": "field map, no image of the tissue",
    "func": "functional series, no image of one modality",
    "sourcedata": "source data, before it was put in order",
}
_PARTICIPANTS = "participants.tsv"


@dataclass(frozen=True)
class Named:
    """A file by the parts of its name.

    Attributes:
        scan: the file.
        entities: values by key, without ``sub`` and ``ses``; those behind the suffix too.
        suffix: such as ``T1w``.
        subject: with ``sub-``.
        session: with ``ses-``; empty if there is none.
        pipeline: folder below ``derivatives``; None for raw data; empty where the subjects lie in it directly.
    """

    scan: Scan
    entities: Mapping[str, str]
    suffix: str
    subject: str
    session: str
    pipeline: str | None

    @property
    def case(self) -> str:
        """Id of the examination."""
        return f"{self.subject}_{self.session}" if self.session else self.subject

    @property
    def is_mask(self) -> bool:
        """Whether it was drawn or computed, by its suffix, by an entity behind it or by ``label-``."""
        words = [self.suffix, *self.entities.keys()]
        return (
            "label" in self.entities
            or any(tells_label(word) for word in words if word not in ("seg", "label"))
            or ("seg" in self.entities and shown_by(self.suffix) is not None and self.pipeline is not None)
        )

    @property
    def mask_text(self) -> str:
        """What a mask's name says of it, without the image it was drawn on."""
        told = [f"{key}-{value}" for key, value in self.entities.items() if tells_label(key) and key != "label"]
        values = [self.entities[key] for key in ("label", "desc") if key in self.entities]
        suffix = [] if shown_by(self.suffix) else [self.suffix]
        reader = [value for value in values if re.search(r"\d$", value)]
        return " ".join([*(value for value in values if value not in reader), *suffix, *told, *reader])


def read_bids(path: Path) -> Proposal | None:
    """Cases, modalities and labels of a folder in which subjects have folders ``sub-*``.

    Args:
        path: the data set, or a folder that holds its ``rawdata`` and ``derivatives``.

    Returns:
        What was found; None if no folder of a subject holds a volume.
    """
    if not path.is_dir():
        return None
    subjects = [*path.glob("sub-*"), *path.glob("*/sub-*"), *path.glob("*/*/sub-*")]
    if not any(folder.is_dir() for folder in subjects):
        return None
    scans = scans_under(path)
    files = [named for scan in scans.volumes if (named := parse(scan)) is not None]
    if not files:
        return None
    return _Bids(path, files, scans).proposal()


def parse(scan: Scan) -> Named | None:
    """The parts of a file's name; None if it is no subject's.

    Example:
        >>> name = "sub-01_ses-pre_acq-ax_T2w_lesion-manual"
        >>> found = parse(Scan(Path(name), ("derivatives", "labels", "sub-01", "ses-pre", "anat"), name, 1))
        >>> found.case, found.suffix, dict(found.entities), found.pipeline
        ('sub-01_ses-pre', 'T2w', {'acq': 'ax', 'lesion': 'manual'}, 'labels')
    """
    parts = scan.stem.split("_")
    pairs = [part.split("-", 1) for part in parts if "-" in part]
    entities = dict(pairs)
    words = [part for part in parts if "-" not in part]
    folders = {folder.split("-", 1)[0]: folder for folder in scan.folders if re.match(r"(sub|ses)-", folder)}
    subject = f"sub-{entities.pop('sub')}" if "sub" in entities else folders.get("sub")
    session = f"ses-{entities.pop('ses')}" if "ses" in entities else folders.get("ses", "")
    if subject is None or not (words or entities):
        return None
    pipeline = None
    if "derivatives" in scan.folders:
        below = scan.folders[scan.folders.index("derivatives") + 1 :]
        pipeline = below[0] if below and not below[0].startswith("sub-") else ""
    # Words behind the suffix, as in "T1w_seg", say more of what was made of the image.
    suffix = words[0] if words else ""
    for word in words[1:]:
        entities[word] = ""
    return Named(scan, entities, suffix, subject, session, pipeline)


class _Bids:
    """Turns the files of a data set into a proposal, and collects what is asked and left out."""

    def __init__(self, path: Path, files: Sequence[Named], scans: Scans) -> None:
        self.path = path
        self.files = files
        self.findings = Findings(path)
        self.findings.leave_out(SERIES, (scan.path for scan in scans.series))
        self.findings.leave_out_copies(scans.copies)

    def proposal(self) -> Proposal:
        masks, images = self._parted()
        targets = choose_targets(self._texts(self._of_imaged_sessions(masks, images)))
        self.findings.take(targets.questions, targets.notes, targets.left_out)
        chosen = self._raw(images)
        named, modalities = self._modalities(chosen)
        ids = sorted(named, key=natural_key)
        lonely = sorted(set(targets.labels) - set(ids), key=natural_key)
        if lonely:
            self.findings.questions.append(f"which images belong to the labels of {first_of(lonely)}: these have none")
            self.findings.leave_out(LONELY, (path for id in lonely for path in label_paths(targets.labels[id])))
        files = {id: label_paths(targets.labels[id])[0] for id in ids if id in targets.labels}
        labels = targets.declared or self._labels(files, modalities)
        subject = {file.case: file.subject for file in self.files}
        cases = tuple(
            Case(
                id,
                subject[id],
                {name: ImageFile(named[id][name]) for name in modalities if name in named[id]},
                targets.labels.get(id),
                not_drawn=targets.not_drawn.get(id, ()),
                raters=targets.raters.get(id, {}),
            )
            for id in ids
        )
        self._about_participants(cases)
        self._about_sessions(cases)
        return Proposal(
            "bids",
            self.path,
            self._name(),
            modalities,
            {"": labels},
            cases,
            sections=self._sections(ids),
            questions=self.findings.all_questions(),
            left_out=self.findings.all_left_out(),
            notes=tuple(self.findings.notes),
        )

    def _sections(self, ids: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
        """Sections that folders above the subjects declare, such as "dataset-02validation"."""
        above: dict[str, str] = {}
        for file in self.files:
            folders = itertools.takewhile(lambda folder: not folder.startswith("sub-"), file.scan.folders)
            above.setdefault(file.case, next(filter(None, map(section_in, folders)), ""))
        if len({above[id] for id in ids}) < 2:
            return None
        sections: dict[str, list[str]] = {}
        for id in ids:
            sections.setdefault(above[id] or "training", []).append(id)
        return {name: tuple(of) for name, of in sections.items()}

    def _name(self) -> str:
        try:
            content = read_json(self.path / "dataset_description.json")
        except DataError:
            content = None
        told = content.get("Name") if isinstance(content, dict) else None
        return told if isinstance(told, str) and told.strip() else self.path.resolve().name

    def _parted(self) -> tuple[dict[str, list[Named]], dict[str, list[Named]]]:
        """Masks and images by case; what is neither is left out."""
        masks: dict[str, list[Named]] = {}
        images: dict[str, list[Named]] = {}
        for file in self.files:
            folder = next((f for f in file.scan.folders if f in _NO_IMAGE), None)
            if folder is not None:
                self.findings.leave_out(_NO_IMAGE[folder], [file.scan.path])
            elif file.is_mask:
                masks.setdefault(file.case, []).append(file)
            elif reason := never_an_image(file.suffix):
                self.findings.leave_out(reason, [file.scan.path])
            elif _shown(file) is None:
                self.findings.leave_out(UNTOLD, [file.scan.path])
            else:
                images.setdefault(file.case, []).append(file)
        return masks, images

    def _of_imaged_sessions(
        self, masks: Mapping[str, list[Named]], images: Mapping[str, Sequence[Named]]
    ) -> dict[str, list[Named]]:
        """The masks by case; those of a session without images go to the one session of the subject that has some."""
        sessions: dict[str, set[str]] = {}
        for id, of in images.items():
            sessions.setdefault(of[0].subject, set()).add(id)
        found: dict[str, list[Named]] = {}
        moved: list[str] = []
        for id, files in masks.items():
            imaged = sessions.get(files[0].subject, set())
            if id not in images and len(imaged) == 1:
                moved.append(id)
                found.setdefault(next(iter(imaged)), []).extend(files)
            else:
                found.setdefault(id, []).extend(files)
        if moved:
            self.findings.questions.append(
                f"whether the label of a session without images belongs to the subject's other session, as proposed: "
                f"{first_of(moved)}"
            )
        return found

    def _texts(self, masks: Mapping[str, Sequence[Named]]) -> dict[str, list[Mask]]:
        """What is said of each mask; by the pipelines too, where they alone tell the masks of a case apart."""
        made: dict[str, list[Mask]] = {}
        for id, of in masks.items():
            again = {text for text, count in Counter(file.mask_text for file in of).items() if count > 1}
            made[id] = [
                Mask(
                    file.scan.path,
                    f"{file.mask_text} {file.pipeline or 'raw'}" if file.mask_text in again else file.mask_text,
                )
                for file in of
            ]
        return made

    def _raw(self, images: Mapping[str, Sequence[Named]]) -> dict[str, list[Named]]:
        """The images of the raw data; those of derivatives where a case has no raw ones of their modality."""
        chosen: dict[str, list[Named]] = {}
        copies: list[Named] = []
        for id, of in images.items():
            raw = [file for file in of if file.pipeline is None]
            have = {_shown(file) for file in raw}
            for file in of:
                if file.pipeline is None or _shown(file) not in have:
                    chosen.setdefault(id, []).append(file)
                else:
                    copies.append(file)
        self.findings.leave_out("preprocessed copy of an image", (file.scan.path for file in copies))
        if copies:
            pipelines = sorted({f"derivatives/{file.pipeline}".rstrip("/") for file in copies})
            self.findings.questions.append(
                f"which copy of the images: the raw ones, as proposed, or those of {', '.join(pipelines)}; either, "
                "never both"
            )
        return chosen

    def _modalities(
        self, images: Mapping[str, Sequence[Named]]
    ) -> tuple[dict[str, dict[str, Path]], dict[str, Modality]]:
        """The files of each case by modality, and the modalities by name."""
        telling = _telling_entities(images)
        double: dict[str, list[tuple[Path, Path]]] = {}
        modalities: dict[str, Modality] = {}
        named: dict[str, dict[str, Path]] = {}
        for id, of in images.items():
            held = named.setdefault(id, {})
            for file in sorted(of, key=lambda file: natural_key(file.scan.stem)):
                name = name_of(" ".join([*_kept(file, telling[file.suffix]), file.suffix]))
                shown = _shown(file)
                if shown is not None:
                    modalities.setdefault(name, shown)
                if name in held:
                    double.setdefault(name, []).append((held[name], file.scan.path))
                else:
                    held[name] = file.scan.path
        self.findings.ask_which(double)
        first = ("T1w", "ce", "T2w", "FLAIR")
        order = sorted(
            modalities, key=lambda name: (next((k for k, f in enumerate(first) if name.startswith(f)), 9), name)
        )
        return named, {name: modalities[name] for name in order}

    def _labels(self, files: Mapping[str, Path], modalities: Iterable[str]) -> Labels:
        """The meanings of the numbers: from a table of the data set, else from a publication."""
        tables = {table for file in files.values() for table in self._tables(file)}
        found = {
            table: labels for table in sorted(tables) if (labels := _read_table(table, self.findings.below(table)))
        }
        if found:
            meanings = {tuple(sorted(labels.meanings.items())) for labels in found.values()}
            if len(meanings) > 1:
                named = ", ".join(map(self.findings.below, found))
                self.findings.questions.append(f"what the numbers in the labels mean: {named} say different things")
                return Labels({})
            return next(iter(found.values()))
        return self.findings.meanings(files, modalities).labels.get("", Labels({}))

    def _tables(self, mask: Path) -> list[Path]:
        """Tables of label numbers that hold for a mask: beside it or above, with no entity that it has not."""
        own = set(mask.name.split(".")[0].split("_"))
        folder = mask.parent
        while True:
            tables = [
                table
                for table in sorted(folder.glob("*dseg.tsv"))
                if set(table.name.removesuffix(".tsv").split("_")) <= own
            ]
            if tables or folder == self.path or self.path not in folder.parents:
                return tables
            folder = folder.parent

    def _about_sessions(self, cases: Sequence[Case]) -> None:
        """A question where the sessions of a subject show different things, so that they may be one case."""
        sessions: dict[str, list[Case]] = {}
        for case in cases:
            sessions.setdefault(case.patient, []).append(case)
        several = [of for of in sessions.values() if len(of) > 1]
        if several and all(
            not set(one.images) & set(two.images) for of in several for one, two in itertools.pairwise(of)
        ):
            shown = "; ".join(f"{case.id}: {', '.join(case.images)}" for case in several[0])
            self.findings.questions.append(
                f"whether the sessions of a subject are cases, as proposed, or one case, for they have no modality in "
                f"common ({shown}): for one case, write its images and its label into one entry"
            )

    def _about_participants(self, cases: Sequence[Case]) -> None:
        """What the table of participants may say of splits, and whom it lists without a scan."""
        file = self.path / _PARTICIPANTS
        if not file.is_file():
            return
        rows = _rows(file)
        known = {case.patient for case in cases}
        listed = {row.get("participant_id", "") for row in rows} - {""}
        if absent := sorted(listed - known, key=natural_key):
            self.findings.notes.append(f"{_PARTICIPANTS} lists {first_of(absent)} without an image here")
        for column in rows[0] if rows else ():
            values = {(row.get(column) or "").lower() for row in rows}
            words = r"train\w*|val\w*|test\w*|dev|held ?out"
            named_so = column.lower() in ("group", "split", "set", "fold", "partition", "cohort")
            told = all(re.fullmatch(words, value) for value in values) or named_so
            if column != "participant_id" and told and 1 < len(values) < max(len(rows), 3):
                self.findings.questions.append(
                    f"whether the column {column} of {_PARTICIPANTS} is the split: {', '.join(sorted(values))}; it is "
                    "not taken for one"
                )


def _shown(file: Named) -> Modality | None:
    """What an image shows: by its suffix, and a contrast agent where an entity names one."""
    agent = file.entities.get("ce", "")
    if agent.lower() in ("none", "no", "without", "pre"):
        agent = ""
    texts = [f"ce-{agent} {file.suffix}"] if agent else [f"{file.entities.get('acq', '')} {file.suffix}", file.suffix]
    return next((shown for text in texts if (shown := shown_by(text)) is not None), None)


def _telling_entities(images: Mapping[str, Sequence[Named]]) -> dict[str, set[str]]:
    """For each suffix, the entities that tell its images of one case apart."""
    found: dict[str, set[str]] = {}
    for of in images.values():
        by_suffix: dict[str, list[Named]] = {}
        for file in of:
            by_suffix.setdefault(file.suffix, []).append(file)
        for suffix, files in by_suffix.items():
            keys = found.setdefault(suffix, set())
            for key in {key for file in files for key in file.entities} - {"run", "space", "desc"}:
                if len({file.entities.get(key) for file in files}) > 1:
                    keys.add(key)
    return found


def _kept(file: Named, telling: Iterable[str]) -> list[str]:
    """The entities of a file that its modality's name has: a contrast agent always, others where they tell apart."""
    keys = {"ce", *telling}
    return [f"{key}-{value}" if value else key for key, value in file.entities.items() if key in keys]


def _read_table(file: Path, source: str) -> Labels | None:
    """Meanings by number of a table with the columns ``index`` and ``name``."""
    meanings = {
        int(row["index"]): row["name"].strip()
        for row in _rows(file)
        if (row.get("index") or "").strip().isdecimal() and (row.get("name") or "").strip()
    }
    meanings.pop(0, None)
    return Labels(meanings, source=source) if meanings else None


def _rows(file: Path) -> list[dict[str, str]]:
    """Rows of a table with tabs; none where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            return [dict(row) for row in csv.DictReader(opened, delimiter="\t")]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
