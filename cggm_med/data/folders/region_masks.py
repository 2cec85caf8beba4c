"""Masks of a case that are its regions, one file each: told by their names and by what the files hold."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import RegionFile, RegionFiles
from cggm_med.data.folders.proposal import Labels
from cggm_med.data.folders.vocabulary import TECHNIQUES, names_modality, processing_of, spelled
from cggm_med.data.volumes.label_files import masks_of
from cggm_med.data.volumes.labels import painting_order
from cggm_med.errors import DataError, first_of

MAX_CHECKED = 3  # cases of which all masks are read
_SAME = 0.8  # Dice from which on masks are drawings of one thing
_ALIKE = 0.5  # of masks that are named by initials, which may be those of readers
# Words that tell one drawing from another, and none of them what it is.
_NO_REGION = re.compile(
    r"v?\d+|final\w*|old|new|draft|edit\w*|corr\w*|copy|first|second|manual\w*|auto\w*|approx|bin(ary)?|filled|smooth\w*"
    r"|[a-d]|r\d+|(rater|reader|expert|observer|annotator|obs|mask|label|seg|segm|segmentation|gt|roi|lesion)s?\d*"
    r"|instance|annotation|finding\d*|image|brain|whole"
)
_ABBREVIATIONS = frozenset(
    {"wt", "tc", "et", "ed", "ncr", "net", "rc", "cc", "pz", "tz", "cz", "lv", "rv", "la", "ra", "myo", "gm", "wm"}
)


@dataclass(frozen=True)
class RegionMasks:
    """Labels that consist of a file for each region.

    Attributes:
        labels: by case.
        not_drawn: regions that a case has no file of, by case.
        meanings: what the numbers of the label maps stand for that are made of the files.
        questions: what the user must decide.
    """

    labels: Mapping[str, RegionFiles]
    not_drawn: Mapping[str, tuple[str, ...]]
    meanings: Labels
    questions: tuple[str, ...]


def region_masks(masks: Mapping[str, Sequence[tuple[str, Path]]]) -> RegionMasks | None:
    """The regions of cases whose masks hold one each; None where masks are drawings of the same, or one holds several.

    Args:
        masks: what is said of each mask and its file, by case.
    """
    several = {id: of for id, of in masks.items() if len(of) > 1}
    if not several or len(several) < len(masks) / 2:
        return None
    named = _named(masks, several)
    if named is None:
        return None
    held = Counter(name for id in several for name in named[id])
    recurring = [name for name, count in held.items() if count > len(several) / 2]
    if len(recurring) < 2 or sum(held.values()) < len(several) * len(held) / 2:
        return None
    checked = [read for id in list(several)[:MAX_CHECKED] if (read := _read(named[id]))]
    if len(checked) < min(len(several), MAX_CHECKED) or _one_thing(checked):
        return None
    order, meanings, overlaps = numbers_of(list(held), checked)
    labels = {
        id: RegionFiles(tuple((name, RegionFile(of[name])) for name in order if name in of))
        for id, of in named.items()
        if of
    }
    absent = {id: tuple(name for name in order if name not in named[id]) for id in labels}
    not_drawn = {id: names for id, names in absent.items() if names}
    questions = [
        f"whether {first_of(order, 8)}, each drawn in a file of its own, are the regions to learn, as proposed under "
        f"the names of their files{overlaps}"
    ]
    if not_drawn:
        some = sorted({name for names in not_drawn.values() for name in names})
        questions.append(
            f"whether {first_of(some)} is there in cases without a file of it ({first_of(list(not_drawn))}): proposed "
            'is that nobody drew it ("not_drawn"); write null in the place of its file where it is absent'
        )
    return RegionMasks(labels, not_drawn, meanings, tuple(questions))


def nowhere_overlap(files: Sequence[Sequence[Path]]) -> bool:
    """Whether the masks of each case have no voxel in common, as those of several lesions and none of several readers.

    Args:
        files: masks by case, of which a few are read.
    """
    for paths in files[:MAX_CHECKED]:
        masks = _read({str(path): path for path in paths})
        if masks is None or np.sum([*masks.values()], axis=0).max() > 1:
            return False
    return bool(files)


def _named(
    masks: Mapping[str, Sequence[tuple[str, Path]]], several: Mapping[str, Sequence[tuple[str, Path]]]
) -> dict[str, dict[str, Path]] | None:
    """The masks of each case by what alone tells them apart, if these are the names of regions."""
    words = {text: re.findall(r"[^\W_]+", text) for of in masks.values() for text, _ in of}
    told = [{word.lower() for word in words[text]} for of in several.values() for text, _ in of]
    common = set.intersection(*told)
    names = {
        text: ("_" if "_" in text else " ").join(word for word in of if word.lower() not in common)
        for text, of in words.items()
    }
    named: dict[str, dict[str, Path]] = {}
    for id, of in masks.items():
        named[id] = {names[text]: path for text, path in of if names_region(names[text])}
        if id in several and len(named[id]) < len(of):
            return None
    return named


def names_region(name: str) -> bool:
    """Whether a name has a word that could be what was drawn, not how, on which image or by whom.

    Example:
        >>> [names_region(name) for name in ("kidney_left", "FLAIR_lesion_2", "seg_final", "edema mask")]
        [True, False, False, True]
    """
    return any(
        not (_NO_REGION.fullmatch(word) or names_modality(word) or processing_of(word) or word in TECHNIQUES)
        for word in spelled(name).split()
    )


def _read(files: Mapping[str, Path]) -> dict[str, NDArray[np.bool_]] | None:
    """The masks of one case; None if a file holds more than one number, or they lie on different grids."""
    try:
        return masks_of(RegionFiles(tuple((name, RegionFile(path)) for name, path in files.items())))
    except DataError:
        return None


def _one_thing(checked: Sequence[Mapping[str, NDArray[np.bool_]]]) -> bool:
    """Whether the masks of a case are several drawings of the same; of these, none lies wholly inside another."""
    names = {name.lower() for of in checked for name in of}
    initials = all(len(name) <= 3 for name in names) and not names <= _ABBREVIATIONS
    least = _ALIKE if initials else _SAME
    return all(
        _dice(of[one], of[other]) >= least and not _inside(of[one], of[other])
        for of in checked
        for one, other in itertools.combinations(of, 2)
    )


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    drawn = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / drawn if drawn else 0.0


def _inside(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether one of two masks is a part of the other."""
    both = int((one & other).sum())
    return int(one.sum()) != int(other.sum()) and both == min(int(one.sum()), int(other.sum()))


def numbers_of(
    names: Sequence[str], checked: Sequence[Mapping[str, NDArray[np.bool_]]]
) -> tuple[list[str], Labels, str]:
    """Regions by size, a number for each and for each set of them that overlaps somewhere, and what is said of that.

    Args:
        names: of all regions.
        checked: masks ``(x, y, z)`` by region, of some cases.

    Example:
        >>> liver, tumour = np.array([[[1, 1]]], bool), np.array([[[0, 1]]], bool)
        >>> order, labels, said = numbers_of(["tumour", "liver"], [{"liver": liver, "tumour": tumour}])
        >>> order, labels.meanings, labels.regions
        (['liver', 'tumour'], {1: 'liver', 2: 'liver and tumour'}, {'liver': (1, 2), 'tumour': (2,)})
    """
    size: Counter[str] = Counter()
    for of in checked:
        size.update({name: int(mask.sum()) for name, mask in of.items()})
    order = sorted(names, key=lambda name: (-size[name], name))
    together: set[frozenset[str]] = set()
    for of in checked:
        names = [name for name in order if name in of]
        stack = np.stack([of[name] for name in names])
        drawn = stack[:, stack.any(0)]
        together |= {
            frozenset(itertools.compress(names, column)) for column in np.unique(drawn, axis=1).T if column.any()
        }
    source = "the names of the files"
    both = sorted((of for of in together if len(of) > 1), key=lambda of: (len(of), sorted(map(order.index, of))))
    if not both:
        return order, Labels(dict(enumerate(order, start=1)), source=source), ""
    alone = [frozenset({name}) for name in order]
    for sets in ([of for of in alone if of in together], alone):
        numbers = dict(enumerate([*sets, *both], start=1))
        regions = {name: tuple(k for k, of in numbers.items() if name in of) for name in order}
        try:
            painting_order(regions)
            break
        except ValueError:  # a region that never occurs alone is told from another by a number of its own
            continue
    meanings = {k: " and ".join(name for name in order if name in of) for k, of in numbers.items()}
    shown = first_of([" with ".join(name for name in order if name in of) for of in both], 3)
    said = f"; some overlap ({shown}), and have a number for both"
    return order, Labels(meanings, regions, exclusive=False, source=source), said
