"""What the measurements of a case say by themselves, beside one another, and beside those of other cases.

Limits were set on the phantom and on gliomas of several hospitals (``benchmarks/faults.py`` measures both sides of
them on others). Where cases differ from cohort to cohort, the limit follows the cohort: a case must stand out from the
others by more than these do among themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.measure import TEMPLATE
from cggm_med.data.checks.typical import MIN_CASES, Typical

_SIDES = {"x": "left to right", "y": "front to back", "z": "upside down"}
# Gains are logarithms of information. The right place hardly ever has less than another: at most -0.15 for images, and
# 0.13 for labels, in 117 sound cases.
_MIN_MIRRORED, _MIN_DISPLACED, _MIN_LABEL_GAIN = 0.02, -0.05, 0.2
_MIN_FLAT, _MIN_TOP, _MIN_LEAPS, _MIN_EMPTY = 0.6, 0.03, 0.035, 0.3  # shares of voxels, or of slices
_MIN_LEVELS = 1.0  # powers of ten of different numbers
_MIN_OUTSIDE, _MIN_EVERYWHERE = 0.03, 0.9
# A brain without skull has a rim of at most 0.09 in 48 cases, one with it of more than 0.12 in 66 of 75; outside the
# former is nothing but background, while air is never quite still.
_MIN_RIM, _MIN_RIM_BESIDE_NOTHING, _MAX_STRIPPED_RIM, _MIN_STILL = 0.12, 0.3, 0.1, 0.9995
_MIN_SCALE = 1.3  # powers of ten
_NO_SCALE = -5.5  # or less: the middle of the body is the background's value
LABEL_GAIN = "label_gain"  # its name among the margins of a run
_FACTOR = 0.1  # of the usual information between two images
_BY_SKULL = {"odd_texture", "turned_case", "unlike_training", "unrelated_image", "unusual_size"}  # what it explains
_SLACK = 1.7  # how much more than nine of ten others a case must stand out


@dataclass(frozen=True)
class Score:
    """How far a case stands out in one respect: what is above the margin is a finding."""

    value: float
    roles: tuple[str, ...]
    seen: str


Scorer = Callable[["Measured", Typical], Score | None]


@dataclass(frozen=True)
class Measured:
    """What was measured of a case, see ``measure``.

    Attributes:
        case: id.
        numbers: by name.
        templates: coarse pictures by modality.
        voxels: digests of the modalities' voxels.
    """

    case: str
    numbers: Mapping[str, float]
    templates: Mapping[str, Sequence[int]]
    voxels: Mapping[str, str]

    @classmethod
    def of(cls, case: str, content: Mapping[str, Any]) -> Measured:
        """From what ``measure`` said."""
        return cls(case, content["numbers"], content["templates"], content["voxels"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the case has."""
        return tuple(self.voxels)

    def get(self, name: str) -> float:
        """A number; not a number where it was not measured."""
        return self.numbers.get(name, float("nan"))

    def named(self, ending: str) -> Iterator[tuple[str, float]]:
        """Names before an ending and the numbers, such as those of ``/t1.brightness``."""
        return ((name.removesuffix(ending), n) for name, n in self.numbers.items() if name.endswith(ending))


def alone(case: Measured, label_gain: float | None = None) -> list[Finding]:
    """What a case's measurements say without others.

    Args:
        case: measured.
        label_gain: how much better a label may fit the images elsewhere, where others tell that, see ``label_gains``.
    """
    least = _MIN_LABEL_GAIN if label_gain is None else label_gain
    found = [*_repeated(case), *_of_image(case), *_mirrored(case), *_of_label(case, least)]
    return [replace(finding, case=case.case) for finding in found]


def label_gains(cases: Sequence[Measured]) -> list[float | None]:
    """How much better the label of each case may fit the images elsewhere than where it lies, as the others tell.

    Images that hardly show what was drawn, such as T1 alone, fit it a little in many places.
    """
    if len(cases) < MIN_CASES + 1:
        return [None] * len(cases)
    values = _gains(cases)
    return [_label_gain(np.delete(values, i)) for i in range(len(cases))]


def _gains(cases: Sequence[Measured]) -> NDArray[np.float64]:
    moves = [[case.get(f"label.{move}") for move in ("flip_x", "flip_y", "flip_z", "shift")] for case in cases]
    return np.array([max([0.0, *(gain for gain in gains if np.isfinite(gain))]) for gains in moves])


def _label_gain(values: NDArray[np.float64]) -> float:
    return round(max(_MIN_LABEL_GAIN, _SLACK * float(np.quantile(values, 0.9))), 4)


def _finding(kind: str, roles: Sequence[str], seen: str, sure: str = "") -> Finding:
    return Finding(KINDS[kind], "", tuple(roles), seen, sure)


def _repeated(case: Measured) -> Iterator[Finding]:
    by_voxels: dict[str, list[str]] = {}
    for modality, digest in case.voxels.items():
        by_voxels.setdefault(digest, []).append(modality)
    for modalities in by_voxels.values():
        if len(modalities) > 1:
            yield _finding("repeated_image", modalities, "hold the same voxels")


def _of_image(case: Measured) -> Iterator[Finding]:
    for m in case.modalities:
        top, levels = case.get(f"{m}.top"), case.get(f"{m}.levels")
        is_top = (
            top >= case.get(f"{m}.commonest") and levels > _MIN_LEVELS
        )  # of a mask the only value is the largest too
        if (share := case.get(f"{m}.commonest")) > _MIN_FLAT and not is_top:
            yield _finding("flat_image", [m], f"has one value in {share:.0%} of the body")
        elif (share := top) > _MIN_TOP:
            yield _finding("cut_off_values", [m], f"has its largest value in {share:.0%} of the body's voxels")
        elif (share := case.get(f"{m}.leaps")) > _MIN_LEAPS:
            yield _finding("leaping_values", [m], f"leaps from end to end of its range at {share:.1%} of the voxels")
        if (share := case.get(f"{m}.empty_slices")) > _MIN_EMPTY:
            yield _finding("empty_slices", [m], f"is constant in {share:.0%} of the slices between others")


def _mirrored(case: Measured) -> Iterator[Finding]:
    """The image that gains most is the one that is wrong, unless there are only two."""
    for move, kind in (*((f"flip_{axis}", "mirrored_image") for axis in "xyz"), ("shift", "displaced_image")):
        least = _MIN_DISPLACED if move == "shift" else _MIN_MIRRORED
        gains = {m: gain for m in case.modalities if (gain := case.get(f"{m}.to_{move}")) > least}
        if not gains:
            continue
        best = max(gains.values())
        roles = [m for m, gain in gains.items() if gain > best - 0.3 * abs(best)]
        times = f"tells {np.exp(best):.1f} times as much about the other images"
        way = f"mirrored {_SIDES[move[-1]]}" if kind == "mirrored_image" else "shifted by some mm"
        yield _finding(kind, roles, f"{times} when {way}")
        return


def _of_label(case: Measured, least: float) -> Iterator[Finding]:
    if "label.share" not in case.numbers:
        return
    if case.get("label.everywhere") == 0:
        yield _finding("empty_label", ["label"], "holds no voxel of any region")
        return
    if (share := case.get("label.outside")) > _MIN_OUTSIDE:
        yield _finding("label_outside", ["label"], f"has {share:.0%} of its voxels where every image is empty")
    if (share := case.get("label.everywhere")) > _MIN_EVERYWHERE:
        yield _finding("full_label", ["label"], f"covers {share:.0%} of the image, also what lies outside the body")
        return
    gains = {axis: case.get(f"label.flip_{axis}") for axis in "xyz"}
    axis = max(gains, key=lambda axis: gains[axis] if np.isfinite(gains[axis]) else -np.inf)
    if gains[axis] > max(least, case.get("label.shift") if "label.shift" in case.numbers else 0):
        times = f"follows the images {np.exp(gains[axis]):.1f} times as well when mirrored {_SIDES[axis]}"
        yield _finding("mirrored_label", ["label"], times)
    elif (gain := case.get("label.shift")) > least:
        times = f"follows the images {np.exp(gain):.1f} times as well when shifted by some mm"
        yield _finding("displaced_label", ["label"], times)


def beside(case: Measured, usual: Typical) -> list[Finding]:
    """What a case's measurements say beside those of others.

    Args:
        case: measured.
        usual: of the others, with margins.
    """
    if usual.cases < MIN_CASES:
        return []
    scores = {kind: scorer(case, usual) for kind, (scorer, _) in CRITERIA.items()}
    return _above(case.case, scores, usual.margins, usual.cases)


def with_margins(usual: Typical, cases: Sequence[Measured]) -> Typical:
    """The same, with how far nine of ten of these cases stand out, and more."""
    if usual.cases < MIN_CASES:
        return usual
    margins = _margins({kind: _values(of) for kind, of in _scores(cases, usual).items()})
    return replace(usual, margins={**margins, LABEL_GAIN: _label_gain(_gains(cases))})


def among(cases: Sequence[Measured], usual: Typical) -> list[Finding]:
    """What each case's measurements say beside those of all others.

    Args:
        cases: measured.
        usual: of them all; medians and their like hardly depend on one of them.
    """
    if len(cases) < MIN_CASES + 1:
        return []
    scores = _scores(cases, usual)
    values = {kind: _values(of) for kind, of in scores.items()}
    found = []
    for i, case in enumerate(cases):
        margins = _margins({kind: np.delete(of, i) for kind, of in values.items()})
        found += _above(case.case, {kind: of[i] for kind, of in scores.items()}, margins, usual.cases - 1)
    return found


def _scores(cases: Sequence[Measured], usual: Typical) -> dict[str, list[Score | None]]:
    return {kind: [scorer(case, usual) for case in cases] for kind, (scorer, _) in CRITERIA.items()}


def _values(scores: Sequence[Score | None]) -> NDArray[np.float64]:
    return np.array([0.0 if score is None else score.value for score in scores])


def _margins(values: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    margins = {}
    for kind, of in values.items():
        _, least = CRITERIA[kind]
        margins[kind] = round(max(least, _SLACK * float(np.quantile(of, 0.9))), 4) if len(of) else least
    return margins


def _above(case: str, scores: Mapping[str, Score | None], margins: Mapping[str, float], others: int) -> list[Finding]:
    """The findings of a case whose scores are above the margins."""
    sure = f"beside {others} cases"
    found = {
        kind: replace(_finding(kind, score.roles, score.seen, sure), case=case)
        for kind, score in scores.items()
        if score is not None and score.value > margins.get(kind, CRITERIA[kind][1])
    }
    return [finding for kind, finding in found.items() if not ("skull" in found and kind in _BY_SKULL)]


def _unusual_size(case: Measured, usual: Typical) -> Score | None:
    best = None
    for name, what in (("volume", "volume"), *((f"extent_{a}", f"extent {_SIDES[a]}") for a in "xyz")):
        value = case.get(name)
        away, median = usual.away(name, value, 0.1), usual.middle(name, value)
        if abs(value - median) > 0.42 and (best is None or abs(away) > best.value):
            best = Score(abs(away), (), f"shows a body whose {what} is {np.exp(value - median):.2g} times the usual")
    return best


def _partly_missing(case: Measured, usual: Typical) -> Score | None:
    best = None
    for m in case.modalities:
        for name, least in (("inside", 0.15), ("reach", 0.2)):
            value = case.get(f"{m}.{name}")
            away, median = usual.away(f"{m}.{name}", value, 0.03), usual.middle(f"{m}.{name}", value)
            if median - value > least and (best is None or -away > best.value):
                what = (
                    f"shows {value:.0%} of what the other images show"
                    if name == "inside"
                    else "ends before the other images"
                )
                best = Score(-away, (m,), f"{what}, unlike elsewhere")
    return best


def _unrelated_image(case: Measured, usual: Typical) -> Score | None:
    of: dict[str, list[float]] = {m: [] for m in case.modalities}
    for pair, value in case.named(".information"):
        if "/" in pair:
            for m in pair.split("/"):
                of[m].append(_less(value, usual, f"{pair}.information"))
    means = {m: float(np.mean(away)) for m, away in of.items() if away}
    if not means:
        return None
    worst = max(means.values())
    roles = tuple(m for m, mean in means.items() if mean > 0.85 * worst)
    return Score(worst, roles, "shares less with the other images than usual")


def _less(value: float, usual: Typical, name: str) -> float:
    """By how many spreads a share is less than usual, as a factor: halves count alike, of much and of little."""
    median, spread, _ = usual.numbers.get(name, (value, 0.0, 0))
    floor = max(_FACTOR * median, 0.004)
    return -usual.away(name, value, floor) if spread or median else 0.0


def _odd_texture(case: Measured, usual: Typical) -> Score | None:
    best = None
    for m in case.modalities:
        for name in ("alike", "unlike"):
            value = case.get(f"{m}.{name}")
            away = usual.away(f"{m}.{name}", value, 0.05)
            if abs(away) > (best.value if best else 0):
                best = Score(abs(away), (m,), f"is much {'smoother' if away > 0 else 'noisier'} than usual")
    return best


def _odd_scale(case: Measured, usual: Typical) -> Score | None:
    best = None
    for m in case.modalities:
        value = case.get(f"{m}.scale")
        median, _, count = usual.numbers.get(f"{m}.scale", (value, 0, 0))
        away = abs(usual.away(f"{m}.scale", value, 0.25))
        known = count >= MIN_CASES and min(value, median) > _NO_SCALE
        if known and abs(value - median) > _MIN_SCALE and away > (best.value if best else 0):
            best = Score(away, (m,), f"has numbers {10 ** (value - median):.2g} times as large as usual")
    return best


def _displaced_label(case: Measured, usual: Typical) -> Score | None:
    """A label that would follow the images nearly as well elsewhere, where those of others would not."""
    names = [f"label.{move}" for move in ("flip_x", "flip_y", "flip_z", "shift")]
    best = max(names, key=lambda name: np.nan_to_num(case.get(name), nan=-np.inf))
    more = case.get(best) - max(usual.middle(name, -np.inf) for name in names)
    if not np.isfinite(more) or case.get(best) > _MIN_LABEL_GAIN:  # which says it by itself
        return None
    way = "shifted by some mm" if best.endswith("shift") else f"mirrored {_SIDES[best[-1]]}"
    return Score(float(more), ("label",), f"follows the images nearly as well when {way}, unlike elsewhere")


def _full_label(case: Measured, usual: Typical) -> Score | None:
    share, median = case.get("label.share"), usual.middle("label.share", np.nan)
    if not np.isfinite(share - median) or case.get("label.everywhere") > _MIN_EVERYWHERE:
        return None  # which is said of the case alone
    return Score(share - median, ("label",), f"covers {share:.0%} of the body, {median:.0%} elsewhere")


def _odd_label(case: Measured, usual: Typical) -> Score | None:
    kinds, (least, spread, count) = case.get("label.kinds"), usual.numbers.get("label.kinds", (0.0, 0.0, 0))
    if count >= MIN_CASES and spread == 0 and kinds == 1 and least >= 3:
        return Score(10.0, ("label",), f"tells one kind of tissue, where others tell {least:.0f}")
    by_region: dict[str, list[tuple[float, str]]] = {}
    for ending in (".brightness", ".contrast"):
        for name, value in case.named(ending):
            region, _, m = name.partition("/")
            away = min(abs(usual.away(name + ending, value, 0.12)), 8.0)
            by_region.setdefault(region, []).append((away, m))
    if not by_region:
        return None
    means = {region: float(np.sqrt(np.mean([away**2 for away, _ in of]))) for region, of in by_region.items()}
    region = max(means, key=lambda region: means[region])
    seen = f"marks as {region} what is unusually bright or dark in {max(by_region[region])[1]}"
    return Score(means[region], ("label",), seen)


def _skull(case: Measured, usual: Typical) -> Score | None:
    """A head with a dark layer around the brain where the others have none, or without, and nothing around it.

    Of one image alone the latter cannot be told: 3 of 150 such scans of heads with skull hardly show the layer.
    """
    rim, others = case.get("rim"), usual.middle("rim", np.nan)
    stripped, others_stripped = case.get("still") > _MIN_STILL, usual.middle("still", np.nan) > _MIN_STILL
    with_skull = rim > (_MIN_RIM_BESIDE_NOTHING if stripped else _MIN_RIM)
    if with_skull and others < _MAX_STRIPPED_RIM and others_stripped:
        seen = (
            f"show a dark layer around the brain, as a skull is ({rim:.0%} darker than around it, {others:.0%} usually)"
        )
        return Score(rim - others, (), seen)
    several = len(case.modalities) > 1
    if several and rim < _MAX_STRIPPED_RIM and stripped and others > _MIN_RIM and not others_stripped:
        seen = f"show no dark layer around the brain ({rim:.0%} darker than around it, {others:.0%} usually)"
        return Score(others - rim, (), f"{seen} and nothing outside, as without skull")
    return None


def has_other_air(case: Measured, usual: Typical) -> bool:
    """Whether there is something around the body, as around a head that was not stripped, where others have nothing."""
    return case.get("still") < _MIN_STILL < usual.middle("still", 0.0)


def _unlike_training(case: Measured, usual: Typical) -> Score | None:
    for m in case.modalities:
        if case.get(f"{m}.scale") <= _NO_SCALE < usual.middle(f"{m}.scale", _NO_SCALE):
            return Score(1.0, (m,), "is as bright around the body as in its middle, unlike elsewhere")
    values = {
        m: 1 - _correlation(np.array(case.templates[m], dtype=float), usual.templates[m])
        for m in case.modalities
        if m in case.templates and m in usual.templates
    }
    if not values:
        return None
    worst = max(values, key=lambda m: values[m])
    return Score(values[worst], (worst,), "looks unlike the mean of the others")


def _turned_case(case: Measured, usual: Typical) -> Score | None:
    held = [m for m in case.modalities if m in case.templates and m in usual.templates]
    if not held:
        return None
    gains = {}
    for axis, name in ((1, "y"), (2, "z")):
        of = []
        for m in held:
            mine = np.array(case.templates[m], dtype=float).reshape(TEMPLATE, TEMPLATE, TEMPLATE)
            as_is = _correlation(mine.ravel(), usual.templates[m])
            of.append(_correlation(np.flip(mine, axis).ravel(), usual.templates[m]) - as_is)
        gains[name] = float(np.mean(of))
    best = max(gains, key=lambda name: gains[name])
    return Score(gains[best], (), f"looks more like the others when it is mirrored {_SIDES[best]}")


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12)


# By kind of finding: how far a case stands out, and the least score that is one, however alike the others are.
CRITERIA: Mapping[str, tuple[Scorer, float]] = {
    "bright_beyond_training": (_odd_scale, 2.0),
    "displaced_label": (_displaced_label, 0.3),
    "full_label": (_full_label, 0.45),
    "odd_label": (_odd_label, 2.2),
    "odd_texture": (_odd_texture, 6.0),
    "partly_missing": (_partly_missing, 5.0),
    "skull": (_skull, 0.04),
    "turned_case": (_turned_case, 0.05),
    "unlike_training": (_unlike_training, 0.5),
    "unrelated_image": (_unrelated_image, 2.2),
    "unusual_size": (_unusual_size, 3.0),
}
