"""What a data set declares of itself: modalities, the meaning of labels, regions, and how lesions are counted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from cggm_med.data.dicom.codes import UNDECLARED, SegmentCodes
from cggm_med.data.volumes.labels import LabelConvention, painting_order
from cggm_med.data.volumes.normalise import Normalisation
from cggm_med.errors import DataError, UnknownName
from cggm_med.metrics.lesion_areas import LesionRules

Kind = Literal["mri", "ct", "pet", "map"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NORMALISATIONS: Mapping[Kind, Normalisation] = {
    "mri": "z_score",
    "ct": "training_statistics",
    "pet": "keep_scale",
    "map": "keep_scale",
}
UNKNOWN = "?"  # the meaning of a label that a proposal leaves to the user
KEYS = (
    "name",
    "modalities",
    "required",
    "reference",
    "spacing",
    "labels",
    "regions",
    "exclusive",
    "paint",
    "ignore",
    "conventions",
    "colours",
    "codes",
    "lesion_rules",
)
_NAME = r"[^\W\d_][\w.+-]*(?: [\w.+-]+)*"


@dataclass(frozen=True)
class Modality:
    """One kind of image that a case may have.

    Attributes:
        kind: ``mri`` (any unit), ``ct`` (Hounsfield units), ``pet`` (such as SUV) or ``map`` (a quantity, such as ADC).
        normalisation: ``z_score`` inside the body of each image; ``training_statistics``: clipped to percentiles of the
            training cases and z-scored by their mean and deviation; or ``keep_scale``: divided by one number for all
            cases, so that the quantity is kept. Default: what the kind needs.
        shows: what the images show, in the field's terms, such as ``t1ce``; by this, modalities of different data sets
            are recognised. Default: the name.
    """

    kind: Kind = "mri"
    normalisation: Normalisation = "z_score"
    shows: str = ""

    def to_json(self, name: str) -> dict[str, str]:
        """What a declared list says of the modality of this name."""
        shows = {} if self.shows in ("", name) else {"shows": self.shows}
        return {"kind": self.kind, "normalisation": self.normalisation, **shows}


@dataclass(frozen=True)
class Declaration:
    """What the cases of a data set have in common.

    Attributes:
        name: of the data set.
        modalities: by name, in the order of the network's encoders.
        conventions: meanings of label numbers, by name; all have the same regions in the same order.
        required: modalities that every case must have.
        reference: modality to whose grid the others are resampled; None: the images of a case share one grid.
        spacing: voxel size in mm along right, anterior, superior to train at; None: planned from the cases.
        colours: of regions, such as ``#56B4E9``.
        codes: of regions, for DICOM segmentations.
        lesion_rules: what a lesion is, and when it is found.
    """

    name: str
    modalities: Mapping[str, Modality]
    conventions: Mapping[str, LabelConvention]
    required: tuple[str, ...] = ()
    reference: str | None = None
    spacing: tuple[float, float, float] | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, SegmentCodes] = field(default_factory=dict)
    lesion_rules: LesionRules = field(default_factory=LesionRules)

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions, in order."""
        return tuple(next(iter(self.conventions.values())).regions)

    @property
    def exclusive(self) -> bool:
        """Whether a voxel belongs to one region at most."""
        return next(iter(self.conventions.values())).exclusive

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain values, which ``from_json`` reads."""
        modalities = {name: modality.to_json(name) for name, modality in self.modalities.items()}
        content: dict[str, Any] = {"name": self.name, "modalities": modalities, **self.labels_json()}
        content |= {"required": list(self.required)} if self.required else {}
        content |= {"reference": self.reference} if self.reference is not None else {}
        content |= {"spacing": list(self.spacing)} if self.spacing is not None else {}
        content |= {"colours": dict(self.colours)} if self.colours else {}
        content |= {"codes": {region: code.to_json() for region, code in self.codes.items()}} if self.codes else {}
        content |= {"lesion_rules": vars(self.lesion_rules).copy()}
        return content

    def labels_json(self) -> dict[str, Any]:
        """The part of ``to_json`` that says what label numbers mean."""
        named = {name: _convention_json(convention) for name, convention in self.conventions.items()}
        return next(iter(named.values())) if set(named) == {self.name} else {"conventions": named}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Declaration:
        """The declaration in a JSON object; keys of other purposes, such as the lists of cases, are left alone.

        Args:
            content: with the keys ``KEYS``.
            where: what messages call it, such as the file's path.

        Raises:
            UnknownName: for a kind, normalisation or modality that does not exist.
            DataError: for what is missing, contradictory or left open; names all of it.

        Example:
            >>> made = Declaration.from_json(
            ...     {"name": "ms", "modalities": {"flair": {"kind": "mri"}}, "labels": {"1": "lesion"}}, "dataset.json"
            ... )
            >>> made.regions, made.exclusive, made.modalities["flair"].normalisation
            (('lesion',), True, 'z_score')
        """
        return _Reader(where).declaration(content)


def _convention_json(convention: LabelConvention) -> dict[str, Any]:
    return {
        "labels": {str(label): meaning for label, meaning in convention.meanings.items()},
        "regions": {region: list(labels) for region, labels in convention.regions.items()},
        "exclusive": convention.exclusive,
        "paint": dict(convention.paint),
        **({} if convention.ignore is None else {"ignore": convention.ignore}),
    }


class _Reader:
    """Reads the parts of a declaration and collects what is wrong with them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def declaration(self, content: Mapping[str, Any]) -> Declaration:
        name = content.get("name", "data")
        if not (isinstance(name, str) and name):
            self.problems.append(f'"name" is {name!r}; expected a text')
            name = "data"
        modalities = self._modalities(content.get("modalities"))
        conventions = self._conventions(name, content)
        regions = tuple(next(iter(conventions.values())).regions) if conventions else ()
        made = Declaration(
            name,
            modalities,
            conventions,
            required=self._names(content, "required", modalities),
            reference=self._reference(content.get("reference"), modalities),
            spacing=self._spacing(content.get("spacing")),
            colours=self._by_region(content, "colours", regions, self._colour),
            codes=self._by_region(content, "codes", regions, self._code),
            lesion_rules=self._lesion_rules(content.get("lesion_rules")),
        )
        if self.problems:
            raise DataError(f"{self.where} cannot be used; what it declares is incomplete or wrong:", self.problems)
        return made

    def _modalities(self, given: Any) -> dict[str, Modality]:
        if isinstance(given, list):
            given = dict.fromkeys(given, "mri") if all(isinstance(name, str) for name in given) else None
        if not (isinstance(given, dict) and given):
            self.problems.append(f'"modalities" is {given!r}; expected such as {{"flair": {{"kind": "mri"}}}}')
            return {}
        modalities = {}
        for name, of in given.items():
            of = {"kind": of} if isinstance(of, str) else of
            if not re.fullmatch(_NAME, name):
                self.problems.append(f"modality {name!r}; expected a name that begins with a letter")
            if not isinstance(of, dict):
                self.problems.append(f'modality {name} is {of!r}; expected such as {{"kind": "mri"}}')
                continue
            self._known(f"key of modality {name}", of, ("kind", "normalisation", "shows"))
            kind = of.get("kind", UNKNOWN)
            if kind == UNKNOWN:
                self.problems.append(f"modality {name} has no kind; write one of {', '.join(KINDS)}")
                continue
            self._known(f"kind of modality {name}", [kind], KINDS)
            normalisation = of.get("normalisation", NORMALISATIONS[kind])
            self._known(f"normalisation of modality {name}", [normalisation], get_args(Normalisation))
            modalities[name] = Modality(kind, normalisation, str(of.get("shows", name)))
        return modalities

    def _conventions(self, name: str, content: Mapping[str, Any]) -> dict[str, LabelConvention]:
        several = content.get("conventions")
        if several is None:
            convention = self._convention(name, content)
            return {} if convention is None else {name: convention}
        if not (isinstance(several, dict) and several):
            self.problems.append(f'"conventions" is {several!r}; expected such as {{"2023": {{"labels": ...}}}}')
            return {}
        found = {key: self._convention(key, of) for key, of in several.items()}
        conventions = {key: convention for key, convention in found.items() if convention is not None}
        shapes = {key: (tuple(c.regions), c.exclusive) for key, c in conventions.items()}
        if len(set(shapes.values())) > 1:
            shown = "; ".join(f"{key}: {', '.join(regions)}" for key, (regions, _) in shapes.items())
            self.problems.append(f"conventions must have the same regions in one order, exclusive or not: {shown}")
        return conventions

    def _convention(self, name: str, content: Any) -> LabelConvention | None:
        labels = content.get("labels") if isinstance(content, dict) else None
        numbers = isinstance(labels, dict) and all(re.fullmatch(r"\d{1,5}", str(key)) for key in labels)
        if not (numbers and labels and all(isinstance(meaning, str) and meaning for meaning in labels.values())):
            self.problems.append(
                f'"labels" of {name} is {labels!r}; expected the meaning of each number, such as {{"1": "lesion"}}'
            )
            return None
        meanings = {int(key): meaning for key, meaning in labels.items() if int(key)}
        for label, meaning in meanings.items():
            if meaning == UNKNOWN:
                self.problems.append(f'label {label} has the meaning "?"; write what it means')
        regions = content.get("regions", {meaning: [label] for label, meaning in meanings.items()})
        if not isinstance(regions, dict):
            self.problems.append(f'"regions" is {regions!r}; expected numbers by name, such as {{"WT": [1, 2, 4]}}')
            return None
        numbers_of = {region: tuple(held if isinstance(held, list) else [held]) for region, held in regions.items()}
        for region, held in numbers_of.items():
            if strange := [label for label in held if type(label) is not int or label not in meanings]:
                self.problems.append(f"region {region} holds {strange}; expected numbers among {list(meanings)}")
                return None
        overlap = len({label for held in numbers_of.values() for label in held}) < sum(map(len, numbers_of.values()))
        exclusive, ignore, paint = content.get("exclusive", not overlap), content.get("ignore"), content.get("paint")
        wrong = [
            f'"{key}" is {given!r}; expected {expected}'
            for key, given, fits, expected in (
                ("exclusive", exclusive, type(exclusive) is bool, "true or false"),
                ("ignore", ignore, ignore is None or type(ignore) is int, "a number of the labels' files, such as 255"),
                ("paint", paint, paint is None or isinstance(paint, dict), 'a number by region, such as {"WT": 2}'),
            )
            if not fits
        ]
        if wrong:
            self.problems += wrong
            return None
        try:
            return LabelConvention(
                name, meanings, numbers_of, dict(paint) if paint else painting_order(numbers_of), exclusive, ignore
            )
        except (ValueError, TypeError) as error:
            self.problems.append(str(error))
            return None

    def _names(self, content: Mapping[str, Any], key: str, modalities: Mapping[str, Modality]) -> tuple[str, ...]:
        given = content.get(key, [])
        if not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
            self.problems.append(f'"{key}" is {given!r}; expected a list of modalities')
            return ()
        self._known("modality", given, modalities)
        return tuple(given)

    def _reference(self, given: Any, modalities: Mapping[str, Modality]) -> str | None:
        if given is not None:
            self._known('modality that "reference" names', [given], modalities)
        return given

    def _spacing(self, given: Any) -> tuple[float, float, float] | None:
        if given is None:
            return None
        sizes = [n for n in given if type(n) in (int, float) and 0 < n < 1e4] if isinstance(given, list) else []
        if len(sizes) != 3 or len(given) != 3:
            self.problems.append(f'"spacing" is {given!r}; expected three sizes in mm, such as [1, 1, 3]')
            return None
        x, y, z = map(float, sizes)
        return x, y, z

    def _by_region(self, content: Mapping[str, Any], key: str, regions: tuple[str, ...], read: Any) -> dict[str, Any]:
        given = content.get(key, {})
        if not isinstance(given, dict):
            self.problems.append(f'"{key}" is {given!r}; expected one for each region, by name')
            return {}
        self._known(f'region that "{key}" names', given, regions)
        return {region: read(region, value) for region, value in given.items()}

    def _colour(self, region: str, given: Any) -> str:
        if not (isinstance(given, str) and re.fullmatch(r"#[0-9A-Fa-f]{6}", given)):
            self.problems.append(f'colour of {region} is {given!r}; expected such as "#D55E00"')
        return str(given)

    def _code(self, region: str, given: Any) -> SegmentCodes:
        try:
            return SegmentCodes.from_json(given, region)
        except ValueError as error:
            self.problems.append(str(error))
            return UNDECLARED

    def _lesion_rules(self, given: Any) -> LesionRules:
        if given is None:
            return LesionRules()
        if not isinstance(given, dict):
            self.problems.append(f'"lesion_rules" is {given!r}; expected such as {{"dilations": 1, "min_mm3": 2}}')
            return LesionRules()
        self._known("lesion rule", given, vars(LesionRules()))
        try:
            return LesionRules(**given)
        except ValueError as error:
            self.problems.append(f'"lesion_rules": {error}')
            return LesionRules()

    def _known(self, kind: str, given: Iterable[Any], known: Iterable[str]) -> None:
        known = list(known)
        for name in given if known else ():  # without any, it was said already what is wrong with them
            if name not in known:
                raise UnknownName(kind, str(name), known, f"It stands in {self.where}")


def same_meaning(known: Iterable[LabelConvention], data: Declaration) -> dict[str, LabelConvention]:
    """The conventions of other data with the regions of a run, so that the run can be scored on them.

    A region is found by its name or, where the data have none of that name, by the meanings of its labels. Of the
    meanings that both declare, those inside the region must be the same.

    Args:
        known: conventions of the run, which say in different numbers what its regions are; one of them must fit.
        data: what the other data declare.

    Raises:
        DataError: if a region of the run has no counterpart, or its counterpart means something else.

    Example:
        >>> def declares(labels):
        ...     return Declaration.from_json({"modalities": ["t1"], "labels": labels}, "here")
        >>> run = declares({"1": "core", "2": "rim"}).conventions.values()
        >>> same_meaning(run, declares({"4": "core", "7": "rim"}))["data"].regions
        {'core': (4,), 'rim': (7,)}
    """
    return {name: _fitting(known, convention, data.name) for name, convention in data.conventions.items()}


def _fitting(known: Iterable[LabelConvention], data: LabelConvention, where: str) -> LabelConvention:
    """The data's convention with the regions of the first of the run's that fits it."""
    refused: DataError | None = None
    for trained in known:
        try:
            return _translated(trained, data, where)
        except DataError as error:
            refused = refused or error
    raise refused or ValueError("a run has at least one convention")


def _translated(trained: LabelConvention, data: LabelConvention, where: str) -> LabelConvention:
    known = {meaning.casefold() for meaning in trained.meanings.values()}
    number_of = {meaning.casefold(): label for label, meaning in data.meanings.items()}
    regions: dict[str, tuple[int, ...]] = {}
    for region, labels in trained.regions.items():
        wanted = {trained.meanings[label].casefold() for label in labels}
        if region in data.regions:
            found = {data.meanings[label].casefold() for label in data.regions[region]}
            if not wanted & found or wanted & set(number_of) != found & known:
                raise DataError(
                    f"region {region} means {', '.join(sorted(wanted))} in the run and {', '.join(sorted(found))} in "
                    f"{where}; give it another name there, or its numbers the meaning of the run"
                )
            regions[region] = data.regions[region]
        elif wanted <= set(number_of):
            regions[region] = tuple(sorted(number_of[meaning] for meaning in wanted))
        else:
            raise DataError(
                f"{where} declares neither a region {region} nor labels that mean {', '.join(sorted(wanted))}; it has "
                f"{data.describe()}. Declare the region there, by the numbers that make it up"
            )
    try:
        paint = painting_order(regions)
        return LabelConvention(data.name, data.meanings, regions, paint, trained.exclusive, data.ignore)
    except ValueError as error:
        raise DataError(f"{where} cannot be read with the regions of the run: {error}") from error
