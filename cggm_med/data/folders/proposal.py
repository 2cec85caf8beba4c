"""What was found in a folder of scans: a declaration and cases to check and edit, and what the folder does not say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cggm_med.data.cases import LABEL, Case, ImageFile, natural_key
from cggm_med.data.declaration import Modality
from cggm_med.data.folders import label_entries
from cggm_med.data.volumes.labels import LabelConvention, painting_order
from cggm_med.metrics.lesion_areas import LesionRules


@dataclass(frozen=True)
class Labels:
    """What is known of label numbers.

    Attributes:
        meanings: of each number but 0 and the ignored one; ``?`` where nothing says it. Never a guess.
        regions: numbers by name, where they are known; default: one region for each number.
        exclusive: whether a voxel belongs to one region at most.
        paint: number that stands for each region, in the order in which regions are painted; default: derived.
        ignore: number of voxels that nobody annotated.
        source: who says so: a file of the folder, or a publication by name and year.
        lesion_rules: by which the publication counts lesions, if it does.
    """

    meanings: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    exclusive: bool = True
    paint: Mapping[str, int] = field(default_factory=dict)
    ignore: int | None = None
    source: str = ""
    lesion_rules: LesionRules | None = None

    def convention(self) -> LabelConvention | None:
        """The convention that a list with these labels declares; None while nothing is known of them."""
        if not self.meanings:
            return None
        regions = dict(self.regions) or {meaning: (label,) for label, meaning in self.meanings.items()}
        paint = dict(self.paint) or painting_order(regions)
        return LabelConvention("proposed", dict(self.meanings), regions, paint, self.exclusive, self.ignore)

    def to_json(self) -> dict[str, Any]:
        """The part of a declaration that says this."""
        regions = self.regions or {meaning: (label,) for label, meaning in self.meanings.items()}
        paint = self.paint
        if not paint and not self.exclusive:
            paint = painting_order(dict(regions))
        return {
            "labels": {str(label): meaning for label, meaning in sorted(self.meanings.items())},
            **({"regions": {name: list(labels) for name, labels in self.regions.items()}} if self.regions else {}),
            "exclusive": self.exclusive,
            **({"paint": dict(paint)} if paint else {}),
            **({"ignore": self.ignore} if self.ignore is not None else {}),
        }


@dataclass(frozen=True)
class Proposal:
    """What a reader made of a folder or list.

    Attributes:
        kind: family of the layout, such as ``nnunet_v2``, ``decathlon``, ``bids`` or ``any_names``.
        path: the folder or file that was read.
        name: proposed for the data set.
        modalities: by the names that the layout has.
        labels: by name of the convention; one under ``""`` unless the cases follow several.
        cases: with the images and labels that each has; a case may lack modalities.
        sections: ids of ``training``, ``validation`` and ``test``, where something declares them.
        reference: modality on whose grid the labels lie, where grids differ within a case.
        questions: what the user must decide, one line each; a proposal with questions is written, never trained on.
        refusals: why the folder cannot be read as it is, one line each with what would help.
        left_out: volumes that are neither image nor label of a case, by reason; shown, never taken in silence.
        notes: what a reader of the proposal should know.
    """

    kind: str
    path: Path
    name: str
    modalities: Mapping[str, Modality]
    labels: Mapping[str, Labels]
    cases: tuple[Case, ...]
    sections: Mapping[str, tuple[str, ...]] | None = None
    reference: str | None = None
    questions: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    left_out: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def lesion_rules(self) -> LesionRules | None:
        """Those of the publications that the labels' meanings are from, if they agree."""
        rules = {labels.lesion_rules for labels in self.labels.values() if labels.lesion_rules is not None}
        return rules.pop() if len(rules) == 1 else None

    def lacking(self) -> dict[str, tuple[str, ...]]:
        """Modalities that each case lacks; cases that lack none are left out."""
        found = {case.id: tuple(m for m in self.modalities if m not in case.images) for case in self.cases}
        return {case: absent for case, absent in found.items() if absent}

    def to_json(self, folder: Path) -> dict[str, Any]:
        """The content of a declared list (see ``declared.read_declared``), with paths relative to ``folder``."""
        modalities = {name: modality.to_json(name) for name, modality in self.modalities.items()}
        content: dict[str, Any] = {"name": self.name, "modalities": modalities}
        # Without them, it is a list of scans to predict.
        labelled = any(case.labels for case in self.cases) or any(of.meanings for of in self.labels.values())
        if labelled and set(self.labels) == {""}:
            content |= self.labels[""].to_json()
        elif labelled and self.labels:
            content["conventions"] = {name: labels.to_json() for name, labels in self.labels.items()}
        if self.reference is not None:
            content["reference"] = self.reference
        if self.lesion_rules is not None:
            content["lesion_rules"] = vars(self.lesion_rules).copy()
        content["questions"] = list(self.questions)
        section_of = {id: section for section, ids in (self.sections or {}).items() for id in ids}
        entries: dict[str, list[dict[str, Any]]] = {"training": []}
        for case in sorted(self.cases, key=lambda case: natural_key(case.id)):
            entries.setdefault(section_of.get(case.id, "training"), []).append(entry_of(case, folder))
        return content | {section: listed for section, listed in entries.items() if listed}


def entry_of(case: Case, folder: Path) -> dict[str, Any]:
    """One case of a declared list, with paths relative to ``folder``."""
    entry: dict[str, Any] = {"id": case.id, "patient": case.patient}
    entry |= {modality: _file(image, folder) for modality, image in case.images.items()}
    if case.label is not None:
        entry[LABEL] = label_entries.to_json(case.label, folder)
    if case.raters:
        entry["raters"] = {name: label_entries.to_json(label, folder) for name, label in case.raters.items()}
    if case.convention is not None:
        entry["convention"] = case.convention
    if case.not_drawn:
        entry["not_drawn"] = list(case.not_drawn)
    if case.fold is not None:
        entry["fold"] = case.fold
    return entry


def _file(image: ImageFile, folder: Path) -> Any:
    path = _relative(image.path, folder)
    return path if image.channel is None else {"file": path, "channel": image.channel}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
