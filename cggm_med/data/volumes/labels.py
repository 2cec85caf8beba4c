"""Label conventions: what the numbers of a segmentation mean, and which regions are made of them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.errors import DataError, UnknownName

THRESHOLD = 0.5  # a voxel whose probability is at least this belongs to a region


@dataclass(frozen=True)
class LabelConvention:
    """Meaning of the label numbers of a data set; 0 is background in all of them.

    The same tumour tissue bears different numbers in different releases (enhancing tumour is 4 in BraTS 2021 and 3 in
    BraTS 2023), so numbers never travel through the package without their convention.

    Attributes:
        name: the convention's name.
        meanings: what each label but 0 stands for.
        regions: the labels that make up each region; a label may belong to several regions.
        paint: the label that stands for each region when regions are turned into labels. The order counts: every
            region is painted over those before it, so the outermost comes first.
        exclusive: whether a voxel belongs to one region at most, the most probable of them and the background.
        ignore: the label of voxels that nobody annotated; they are neither learned nor scored.

    Raises:
        ValueError: if the parts contradict one another.

    Example:
        >>> brats = LabelConvention(
        ...     name="brats2021",
        ...     meanings={1: "necrotic core", 2: "oedema", 4: "enhancing tumour"},
        ...     regions={"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
        ...     paint={"WT": 2, "TC": 1, "ET": 4},
        ... )
        >>> brats.to_regions(np.array([[[0, 1, 2, 4]]])).astype(int)[:, 0, 0]
        array([[0, 1, 1, 1],
               [0, 1, 0, 1],
               [0, 0, 0, 1]])
    """

    name: str
    meanings: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    paint: Mapping[str, int]
    exclusive: bool = False
    ignore: int | None = None

    def __post_init__(self) -> None:
        def demand(holds: bool, what: str) -> None:
            if not holds:
                raise ValueError(f"label convention {self.name}: {what}")

        demand(bool(self.regions), "it has no regions")
        demand(all(0 < label < 65536 for label in self.meanings), "labels must lie between 1 and 65535")
        demand(set(self.paint) == set(self.regions), f"paint names {set(self.paint)}, regions {set(self.regions)}")
        for region, labels in self.regions.items():
            demand(bool(labels) and set(labels) <= set(self.meanings), f"{region} is {labels}; expected known labels")
            demand(self.paint[region] in labels, f"{region} is painted {self.paint[region]}, which lies outside it")
        ignored = self.ignore is None or (0 < self.ignore < 65536 and self.ignore not in self.meanings)
        demand(ignored, f"ignore is {self.ignore}; expected a label of its own, which is no region's")
        if self.exclusive:
            shared = [label for label, n in Counter(x for r in self.regions.values() for x in r).items() if n > 1]
            demand(not shared, f"its regions exclude one another, and several hold the label {shared}")
        order = list(self.paint)
        for k, region in enumerate(order):
            for later in order[k + 1 :]:
                # Else every voxel of `region` would come back as a voxel of `later` too.
                both = self.paint[region] in self.regions[later]
                demand(not both, f"{region} is painted {self.paint[region]}, which makes it {later} as well")

    def to_regions(self, labels: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Masks ``(region, x, y, z)`` of a label map ``(x, y, z)``, regions in declared order."""
        return np.stack([np.isin(labels, values) for values in self.regions.values()])

    def to_labels(self, regions: NDArray[np.bool_]) -> NDArray[np.unsignedinteger[Any]]:
        """Label map ``(x, y, z)`` of region masks ``(region, x, y, z)``, painted from the outermost region inwards.

        Where two regions overlap of which neither lies inside the other, a voxel of both has the number of both, if the
        convention has one: painting alone would take it from one of them.

        Example:
            >>> regions = {"a": (1, 3), "b": (2, 3)}
            >>> both = LabelConvention("x", {1: "a", 2: "b", 3: "a and b"}, regions, {"a": 1, "b": 2})
            >>> both.to_labels(np.array([[[[1, 1, 0]]], [[[0, 1, 1]]]], bool)).tolist()
            [[[1, 3, 2]]]

        Raises:
            ValueError: if the masks are not boolean or their number is wrong.
        """
        if regions.dtype != np.bool_ or len(regions) != len(self.regions):
            raise ValueError(
                f"got {regions.dtype} masks of shape {regions.shape}; expected bool (region, x, y, z), "
                f"one mask for each of {', '.join(self.regions)}"
            )
        masks = dict(zip(self.regions, regions, strict=True))
        labels = np.zeros(regions.shape[1:], np.uint8 if max(self.meanings) < 256 else np.uint16)
        for region, label in self.paint.items():
            labels[masks[region]] = label
        for of, label in self._never_painted.items():
            exactly = np.logical_and.reduce([masks[region] == (region in of) for region in self.regions])
            labels[exactly] = label
        return labels

    @functools.cached_property
    def _never_painted(self) -> dict[frozenset[str], int]:
        """Labels by their regions, where painting these regions one over the other gives a label of other regions."""
        found: dict[frozenset[str], int] = {}
        if self.exclusive:
            return found
        of_label = {n: frozenset(r for r, held in self.regions.items() if n in held) for n in self.meanings}
        for label, of in of_label.items():
            last = next((paint for region, paint in reversed(list(self.paint.items())) if region in of), None)
            if last is not None and of_label[last] != of:
                found.setdefault(of, label)
        return found

    def painted(self, regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The masks that a reader of the label map finds in it, which are what is scored (ADR 0032).

        They differ from the given ones where one region lies outside another that its label belongs to.

        Example:
            >>> nested = LabelConvention("x", {1: "core", 2: "oedema"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})
            >>> nested.painted(np.array([[[[1, 0]]], [[[0, 1]]]], bool)).astype(int).tolist()
            [[[[1, 1]]], [[[0, 1]]]]
        """
        return self.to_regions(self.to_labels(regions))

    def chosen(
        self, probability: NDArray[np.floating], thresholds: float | NDArray[np.floating] = THRESHOLD
    ) -> NDArray[np.bool_]:
        """Masks ``(region, x, y, z)`` of the regions that a voxel's probabilities ``(region, x, y, z)`` speak for.

        Regions that may overlap: each that reaches its threshold. Regions that exclude one another: the most probable
        one, unless the background, which has the rest to 1, is as probable; a threshold other than the usual one must
        be reached besides.

        Args:
            probability: of each region, in [0, 1].
            thresholds: one for all regions, or one each, ``(region,)``.

        Example:
            >>> two = LabelConvention("x", {1: "a", 2: "b"}, {"a": (1,), "b": (2,)}, {"a": 1, "b": 2}, exclusive=True)
            >>> p = np.array([[0.4, 0.3, 0.0], [0.35, 0.2, 0.6]]).reshape(2, 3, 1, 1)
            >>> two.chosen(p).astype(int)[:, :, 0, 0].tolist()
            [[1, 0, 0], [0, 0, 1]]
        """
        if not self.exclusive:
            return probability >= np.reshape(thresholds, (-1, 1, 1, 1))
        best = probability.argmax(0)
        background = 1 - probability.sum(0, dtype=np.float64)
        wins = np.take_along_axis(probability, best[None], 0)[0] > background
        masks = (best == np.arange(len(probability))[:, None, None, None]) & wins
        if np.ndim(thresholds):
            masks &= probability >= np.reshape(thresholds, (-1, 1, 1, 1))
        return masks

    def undeclared(self, labels: NDArray[np.generic]) -> list[int | float]:
        """Values of a label map that the convention does not declare, sorted; fractions and NaN are such values.

        Example:
            >>> one = LabelConvention("lesion", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1})
            >>> one.undeclared(np.array([0.0, 0.5, 1.0, 7.0]))
            [0.5, 7]
        """
        # Filtering first keeps the sort inside np.unique away from the millions of voxels that are in order.
        declared = [0, *self.meanings] if self.ignore is None else [0, *self.meanings, self.ignore]
        strange = np.unique(labels[~np.isin(labels, declared)])
        return [int(value) if float(value).is_integer() else float(value) for value in strange]

    def describe(self) -> str:
        """The labels and their meanings in one line, such as ``0 background, 1 lesion``."""
        all_labels = {0: "background", **self.meanings} | ({} if self.ignore is None else {self.ignore: "ignored"})
        return ", ".join(f"{label} {meaning}" for label, meaning in all_labels.items())


def in_lines(conventions: Iterable[LabelConvention]) -> list[str]:
    """The meanings of each convention, since nobody can choose one by its name."""
    return [f"{convention.name}: {convention.describe()}" for convention in conventions]


def painting_order(regions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The label to paint each region with, the outermost region first: one that no region inside it holds.

    Raises:
        ValueError: if a region has no label of its own, so that it cannot be told from those inside it.

    Example:
        >>> painting_order({"ET": (4,), "WT": (1, 2, 4), "TC": (1, 4)})
        {'WT': 2, 'TC': 1, 'ET': 4}
    """
    order = sorted(regions, key=lambda region: -len(regions[region]))
    paint = {}
    for place, region in enumerate(order):
        inside = {label for later in order[place + 1 :] for label in regions[later]}
        own = [label for label in regions[region] if label not in inside]
        if not own:
            raise ValueError(f"region {region} {list(regions[region])} has no label that smaller regions lack")
        paint[region] = own[0]
    return paint


def conventions_in_words(names: Iterable[str]) -> str:
    """The conventions that cases follow: one name, or each with the number of its cases.

    Example:
        >>> conventions_in_words(["brats2021"] * 3), conventions_in_words(["brats2021", "brats2023", "brats2021"])
        ('brats2021', 'brats2021 (2 cases) and brats2023 (1 case)')
    """
    counts = Counter(names)
    if len(counts) == 1:
        return next(iter(counts))
    return " and ".join(f"{name} ({n} case{'s' * (n > 1)})" for name, n in counts.items())


def regions_in_words(conventions: Sequence[LabelConvention]) -> str:
    """The labels of each region by the convention of each case, with the number of cases where there are several.

    Example:
        >>> regions_in_words([LabelConvention("x", {1: "a"}, {"A": (1,)}, {"A": 1})])
        'A = [1] (labels of x)'
    """
    said = []
    for of in {convention.name: convention for convention in conventions}.values():
        count = sum(convention.name == of.name for convention in conventions)
        cases = "" if count == len(conventions) else f", {count} of {len(conventions)} cases"
        regions = "; ".join(f"{region} = {list(labels)}" for region, labels in of.regions.items())
        said.append(f"{regions} (labels of {of.name}{cases})")
    return "; ".join(said)


def usual_convention(names: Iterable[str | None]) -> str | None:
    """The convention that most cases follow, in which masks are written; None if that of some is not known.

    Example:
        >>> usual_convention(["brats2021", "brats2023", "brats2023"]), usual_convention(["brats2021", None])
        ('brats2023', None)
    """
    counts = Counter(names)
    return None if None in counts else counts.most_common(1)[0][0]


def unknown_convention(name: str, conventions: Mapping[str, LabelConvention], fix: str) -> UnknownName:
    """The error about a name that no convention has, with the meanings of those that there are."""
    return UnknownName("label convention", name, conventions, "\n  ".join([f"{fix}:", *in_lines(conventions.values())]))


def detect_convention(
    name_from_layout: str | None, asked: str | None, conventions: Mapping[str, LabelConvention]
) -> LabelConvention:
    """The convention that was asked for, else the one that the layout on disk implies.

    It is never told from the values that occur: 1, 2, 3 mean different tissue in different releases.

    Args:
        name_from_layout: ``CaseList.label_convention``.
        asked: the user's choice; it wins.
        conventions: the task's conventions by name.

    Raises:
        UnknownName: if there is no convention of that name.
        DataError: if neither says which.
    """
    name = asked if asked is not None else name_from_layout
    if name is None:
        raise DataError(
            "the files do not tell what their label numbers mean; say it with --set task.labels=NAME:",
            in_lines(conventions.values()),
        )
    if name not in conventions:
        raise unknown_convention(name, conventions, "Choose one with --set task.labels=NAME")
    return conventions[name]
