"""Whether images carry the right names: what each modality looked like in training, and which names fit best now.

A network takes a T1 image that is given as FLAIR without complaint and returns plausible nonsense. Each case is
therefore described by a few dozen numbers, see ``checks.looks``. The names that were given are compared with every
other way to name the same images; the check objects only if another one fits clearly better.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.looks import PAIR, SINGLE, Floats, ScanFeatures
from cggm_med.data.checks.together import Order, Together, together
from cggm_med.data.checks.together import judge_each as judge_together
from cggm_med.errors import DataError, UnknownName

_FIX = "copy the run folder anew, or use the cggm-med that it was trained with"

VERSION = 2  # raise it whenever the same image would give other features

MARGIN = 2.0  # nats, and 1 more for a single training case; see ``judge`` for how it was chosen
MAX_MODALITIES = 6  # all 720 orders of six names are compared in milliseconds
MIN_OTHERS = 3  # cases by which one of training is judged
MAX_CASES = 100  # more training cases sharpen the numbers no further

# How much each feature varies among patients of one modality, roughly: pooled over gliomas of several collections and
# multiple sclerosis. It stands in for the spread that few training cases cannot show.
_USUAL_SINGLE = (0.25, 0.25, 0.27, 0.06, 0.06, 0.18, 0.25, 0.32, 0.2, 0.12, 0.08, 0.18, 0.43)
_USUAL_PAIR = (0.33, 0.54, 0.12, 0.14, 0.39, 0.76, 0.25, 0.38, 0.13)
_USUAL = (np.array(_USUAL_SINGLE), np.array(_USUAL_PAIR))
_USUAL_WEIGHT = 4  # training cases that it counts for
_MIN_SPREAD = 0.5  # of it, however alike the training cases are: the next patient may come from another scanner
_FREEDOM = 4  # degrees of freedom of Student's t: a feature that no name explains must not decide alone

# Features of one kind say much the same, so that each kind counts as one observation.
_WEIGHT_SINGLE = np.repeat([1 / 8, 1 / 5], [8, 5])
_WEIGHT_PAIR = np.repeat([1 / 6, 1 / 3], [6, 3])


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of features over cases, flat, and in how many cases each feature was defined."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Signatures:
    """What the modalities of a run look like.

    Attributes:
        modalities: names, in the order of ``single`` and ``pair``.
        cases: how many training cases were measured.
        single: of the features of each modality.
        pair: of the features of each ordered pair of modalities.
        slack: by how much training cases, each compared with the others, seemed to be named wrongly: for the names in
            hand the 95th percentile of ``SwapFinding.advantage``, at least 0. Modalities that are alike have a lot.
        together: how the features of the cases with all modalities vary together; None if these are few.
        version: of the features.
    """

    modalities: tuple[str, ...]
    cases: int
    single: Moments
    pair: Moments
    slack: tuple[tuple[tuple[str, ...], float], ...]
    together: Together | None = None
    version: int = VERSION

    def to_json(self) -> str:
        """As one JSON object; ``from_json`` gives an equal one back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Signatures | None:
        """Read what ``to_json`` wrote; None if an earlier version measured it, in another way.

        Raises:
            DataError: if it is damaged or of a later version.
        """
        try:
            content = json.loads(text)
            version = int(content["version"])
            if version < VERSION:
                return None
            if version > VERSION:
                raise DataError(f"signatures of version {version}, expected version {VERSION}; {_FIX}")
            read = cls(
                modalities=tuple(str(name) for name in content["modalities"]),
                cases=int(content["cases"]),
                single=_moments_from(content["single"]),
                pair=_moments_from(content["pair"]),
                slack=tuple((tuple(str(n) for n in names), float(value)) for names, value in content["slack"]),
                together=None if content["together"] is None else Together.of_record(content["together"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"signatures cannot be read ({type(error).__name__}: {error}); {_FIX}") from None
        n = len(read.modalities)
        for moments, size in ((read.single, n * SINGLE), (read.pair, n * n * PAIR)):
            if {len(moments.mean), len(moments.deviation), len(moments.count)} != {size}:
                raise DataError(f"signatures of {n} modalities with {len(moments.mean)} values, not {size}; {_FIX}")
        return read


@dataclass(frozen=True)
class SwapFinding:
    """What the check says.

    Attributes:
        verdict: ``"fits"``, ``"swapped"`` if other names fit clearly better, or ``"unknown"`` if it cannot tell.
        given: the names that the images were given under.
        best: the other names, in the same order, that fit best; empty if unknown.
        advantage: by how much ``best`` fits better than ``given``, in nats; negative if it fits worse.
        margin: the advantage that is needed to say ``"swapped"``.
        reason: why it cannot tell; empty otherwise.
    """

    verdict: Literal["fits", "swapped", "unknown"]
    given: tuple[str, ...]
    best: tuple[str, ...] = ()
    advantage: float = 0.0
    margin: float = 0.0
    reason: str = ""

    def describe(self) -> str:
        """One line for the user.

        Example:
            >>> SwapFinding("swapped", ("t2",), ("t1",), 7.25, 3.0).describe()
            'the image given as t2 looks like t1 (better by 7.2, 3.0 would do)'
        """
        if self.verdict == "unknown":
            return f"whether the images carry the right names cannot be told: {self.reason}"
        if self.verdict == "fits":
            return f"the images look like {', '.join(self.given)}"
        pairs = [(name, looks) for name, looks in zip(self.given, self.best, strict=True) if name != looks]
        parts = [f"the image given as {name} looks like {looks}" for name, looks in pairs]
        return f"{', '.join(parts)} (better by {self.advantage:.1f}, {self.margin:.1f} would do)"


def summarise(measured: Sequence[ScanFeatures], modalities: Sequence[str]) -> Signatures:
    """Signatures of cases that were measured; features of a modality that a case lacks are NaN."""
    names, n = tuple(modalities), len(modalities)
    single = np.array([f.single for f in measured]).reshape(len(measured), n * SINGLE)
    pair = np.array([f.pair for f in measured]).reshape(len(measured), n * n * PAIR)
    whole = Signatures(names, len(measured), _moments(single), _moments(pair), slack=())
    if not 2 <= n <= MAX_MODALITIES or len(measured) < 2:
        return whole
    advantages: dict[tuple[int, ...], list[float]] = {}
    for i, costs in _leave_one_out(measured, n, range(len(measured))):
        features = measured[i]
        held = np.flatnonzero(np.isfinite(features.single).any(axis=1)).tolist()
        for size in range(1, len(held) + 1):
            for subset in itertools.combinations(held, size):
                advantages.setdefault(subset, []).append(_best_other(costs, subset, subset, n)[1])
    slack = tuple((tuple(names[i] for i in subset), round(_slack(found), 3)) for subset, found in advantages.items())
    return replace(whole, slack=slack, together=together([f for f in measured if _is_whole(f)], _USUAL))


def judge_each(measured: Sequence[ScanFeatures], modalities: Sequence[str]) -> list[SwapFinding]:
    """The check of each case by the others, as ``judge`` does it by those of a run.

    Args:
        measured: features of each case; of a modality that it lacks they are NaN.
        modalities: in their order.
    """
    names, n = tuple(modalities), len(modalities)
    of_case = [tuple(np.flatnonzero(np.isfinite(f.single).any(axis=1)).tolist()) for f in measured]
    given = [tuple(names[i] for i in held) for held in of_case]
    if not 2 <= n <= MAX_MODALITIES or len(measured) < MIN_OTHERS + 1:
        few = f"there are {len(measured)} cases with {n} modalities"
        return [SwapFinding("unknown", held, reason=few) for held in given]
    whole = [i for i, f in enumerate(measured) if _is_whole(f)]
    judged = judge_together([measured[i] for i in whole], _USUAL)
    by_place = {} if judged is None else dict(zip(whole, judged, strict=True))
    best = {
        i: _best_other(costs, of_case[i], of_case[i], n) if of_case[i] else ((), 0.0)
        for i, costs in _leave_one_out(measured, n, [i for i in range(len(measured)) if i not in by_place])
    }
    found = []
    for i, held in enumerate(of_case):
        if i in by_place:
            found.append(_of_order(by_place[i], names, names))
            continue
        other, advantage = best[i]
        others = [gain for k, (_, gain) in best.items() if k != i and of_case[k] == held]
        margin = MARGIN + 1 / (len(measured) - 1) + _slack(others)
        verdict: Literal["fits", "swapped"] = "swapped" if held and advantage > margin else "fits"
        looks = tuple(names[k] for k in other)
        found.append(SwapFinding(verdict, given[i], looks, round(advantage, 3), round(margin, 3)))
    return found


def _is_whole(features: ScanFeatures) -> bool:
    """Whether a case has all modalities."""
    return bool(np.isfinite(features.single).any(axis=1).all())


def _of_order(found: Order, given: Sequence[str], known: Sequence[str]) -> SwapFinding:
    """What is said of the best other order of a case's images, in which one stands under each of the known names."""
    looks = tuple(known[found.order.index(image)] for image in range(len(known)))
    advantage, margin = round(found.advantage, 3), round(found.margin, 3)
    if found.advantage > found.margin and not found.alike:
        return SwapFinding("unknown", tuple(given), looks, advantage, margin, "they look unlike those of training")
    verdict: Literal["fits", "swapped"] = "swapped" if found.advantage > found.margin else "fits"
    return SwapFinding(verdict, tuple(given), looks, advantage, margin)


def _slack(advantages: Sequence[float]) -> float:
    return max(0.0, float(np.percentile(advantages, 95))) if advantages else 0.0


def _leave_one_out(
    measured: Sequence[ScanFeatures], n: int, places: Sequence[int]
) -> Iterator[tuple[int, tuple[Floats, Floats]]]:
    """How badly the images of cases at these places fit names, by what at most ``MAX_CASES`` others look like."""
    chosen = spread_over(len(measured))
    single = np.array([measured[k].single for k in chosen]).reshape(len(chosen), n * SINGLE)
    pair = np.array([measured[k].pair for k in chosen]).reshape(len(chosen), n * n * PAIR)
    for i in places:
        others = chosen != i
        yield i, _costs(n, _moments(single[others]), _moments(pair[others]), measured[i])


def spread_over(cases: int) -> NDArray[np.int_]:
    """At most ``MAX_CASES`` places in a list, evenly spread over it."""
    return np.unique(np.linspace(0, cases - 1, min(cases, MAX_CASES)).round().astype(int))


def judge(signatures: Signatures, features: ScanFeatures | str, given: Sequence[str]) -> SwapFinding:
    """The check, for images that ``measure`` has seen.

    Of a case with all modalities, beside ``together.MIN_CASES`` training cases that have them, all orders are compared
    by how features vary together, see ``checks.together``.

    Else the fit of a naming is the logarithm of the probability of the features under it, each feature by Student's t
    around its mean over training cases, averaged within each kind of feature and summed over images and pairs. Compared
    are all ways to give the images different names that training knew, also names of images that were not given. A
    false alarm stops a user who did nothing wrong, so the margin lies where these are rare: ``MARGIN``, plus one
    divided by the number of training cases, plus the ``slack`` of the given names. It was chosen on scans of 7 patients
    with glioma or multiple sclerosis, clean and distorted in 20 ways (noise, bias field, cuts, ...). T2 stands out, but
    FLAIR, T1 or T1ce alone, or FLAIR with T1ce, are often too much alike, and then the check is silent.

    Raises:
        UnknownName: for a name that training did not know.
        ValueError: if a name occurs twice.
    """
    names = tuple(given)
    for name in names:
        if name not in signatures.modalities:
            raise UnknownName("modality", name, signatures.modalities)
    if len(set(names)) != len(names):
        raise ValueError(f"images with the names {', '.join(names)}; expected each name once")
    known = len(signatures.modalities)
    if not 2 <= known <= MAX_MODALITIES:
        return SwapFinding("unknown", names, reason=f"training knew {known} modalities, not 2 to {MAX_MODALITIES}")
    if signatures.cases == 0:
        return SwapFinding("unknown", names, reason="no training case could be measured")
    if isinstance(features, str):
        return SwapFinding("unknown", names, reason=features)
    if signatures.together is not None and len(names) == known and _is_whole(features):
        order = [names.index(name) for name in signatures.modalities]
        return _of_order(signatures.together.judge(features, order), names, signatures.modalities)
    assignment = tuple(signatures.modalities.index(name) for name in names)
    costs = _costs(known, signatures.single, signatures.pair, features)
    best, advantage = _best_other(costs, tuple(range(len(names))), assignment, known)
    ordered = tuple(name for name in signatures.modalities if name in names)
    margin = MARGIN + 1 / signatures.cases + dict(signatures.slack).get(ordered, 0.0)
    return SwapFinding(
        "swapped" if advantage > margin else "fits",
        names,
        tuple(signatures.modalities[i] for i in best),
        round(advantage, 3),
        round(margin, 3),
    )


def _moments(values: Floats) -> Moments:
    """Of ``(case, feature)``; of a feature that no case defines, mean and deviation are 0."""
    defined = np.isfinite(values)
    count = defined.sum(axis=0)
    mean = np.where(defined, values, 0).sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(defined, values - mean, 0) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    return Moments(tuple(mean.round(4).tolist()), tuple(deviation.round(4).tolist()), tuple(count.tolist()))


def _moments_from(content: Any) -> Moments:
    return Moments(
        tuple(float(x) for x in content["mean"]),
        tuple(float(x) for x in content["deviation"]),
        tuple(int(x) for x in content["count"]),
    )


def _costs(names: int, single: Moments, pair: Moments, features: ScanFeatures) -> tuple[Floats, Floats]:
    """``(image, name)`` and ``(image, image, name, name)``: how badly images and pairs of them fit names."""
    return (
        _surprise(features.single[:, None], single, (names,), _USUAL_SINGLE, _WEIGHT_SINGLE),
        _surprise(features.pair[:, :, None, None], pair, (names, names), _USUAL_PAIR, _WEIGHT_PAIR),
    )


def _surprise(
    features: Floats, moments: Moments, names: tuple[int, ...], usual: Sequence[float], weight: Floats
) -> Floats:
    """Negative logarithm of Student's t density, up to a constant, as weighted sum over the last axis.

    The spread is that of the training cases, drawn towards the usual one, and as wide as the mean is uncertain.
    """
    shape = (*names, len(usual))
    mean, deviation, count = (np.reshape(values, shape) for values in (moments.mean, moments.deviation, moments.count))
    prior = np.array(usual) ** 2
    seen = np.maximum(count - 1, 0)
    variance = (_USUAL_WEIGHT * prior + seen * deviation**2) / (_USUAL_WEIGHT + seen)
    variance = np.maximum(variance, _MIN_SPREAD**2 * prior) * (1 + 1 / np.maximum(count, 1))
    cost = (_FREEDOM + 1) / 2 * np.log1p((features - mean) ** 2 / (_FREEDOM * variance)) + np.log(variance) / 2
    total: Floats = (np.where(np.isfinite(features) & (count > 0), cost, 0) * weight).sum(axis=-1)
    return total


def _best_other(
    costs: tuple[Floats, Floats], files: tuple[int, ...], given: tuple[int, ...], names: int
) -> tuple[tuple[int, ...], float]:
    """The best naming of some images other than the given one, and by how much it fits better."""
    single, pair = costs
    namings = np.array(list(itertools.permutations(range(names), len(files))))
    total = sum(single[file, namings[:, k]] for k, file in enumerate(files))
    for k, m in itertools.combinations(range(len(files)), 2):
        one_way = pair[files[k], files[m], namings[:, k], namings[:, m]]
        other_way = pair[files[m], files[k], namings[:, m], namings[:, k]]
        total = total + (one_way + other_way) / 2
    is_given = (namings == given).all(axis=1)
    other = int(np.where(is_given, np.inf, total).argmin())
    return tuple(namings[other].tolist()), float(total[is_given][0] - total[other])
