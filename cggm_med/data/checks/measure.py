"""What checks need to know of the voxels of a case, measured once, when the case is prepared.

Everything is measured on few voxels: volumes are thinned to some ten thousand, labels to what surrounds them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.alignment import Bins, binned, gains, information, shifts
from cggm_med.data.checks.heads import body_of, depth_of, valley_of
from cggm_med.data.checks.looks import looks_of

VERSION = 3  # raise it whenever the same files would give other measurements

THINNED_MM = 2.0  # at least, and more where a volume has many voxels
MAX_VOXELS = 75_000  # of a thinned volume
MIN_INSIDE = 300  # voxels of a body; with fewer nothing can be said
TEMPLATE = 12  # voxels along each edge of a case's coarse picture
_SHIFTS_MM = (6.0, 14.0)
_MOVED_VOXELS = 12_000  # on which images are compared that were mirrored and shifted
_NEIGHBOURS = 4_000  # voxels that are compared with those beside them
_ACROSS = 12  # places along each of two axes at which slices are looked at

Volume = NDArray[np.float32]
Floats = dict[str, float]


@dataclass(frozen=True)
class Scale:
    """How bright the body is in an image.

    Attributes:
        middle: the median.
        spread: between the first and the last tenth.
        edges: between twelve bins of equally many voxels.
    """

    middle: float
    spread: float
    edges: NDArray[np.float32]

    @classmethod
    def of(cls, values: Volume) -> Scale:
        """From the values of the body's voxels."""
        low, middle, high, *edges = np.quantile(values, (0.1, 0.5, 0.9, *(np.arange(1, 12) / 12)))
        return cls(float(middle), max(float(high - low), 1e-12), np.array(edges, dtype=np.float32))


@dataclass(frozen=True)
class Lies:
    """How a label map lies.

    Attributes:
        whole: ``(x, y, z)`` in RAS+: what any region covers.
        digest: of what is drawn; empty if nothing is.
        numbers: by name.
    """

    whole: NDArray[np.bool_]
    digest: str
    numbers: Floats


def measure(
    images: Mapping[str, Volume],
    affine: NDArray[np.float64],
    backgrounds: Mapping[str, float | None],
    label: Callable[..., Lies] | None = None,
) -> dict[str, Any]:
    """Measure a case.

    Args:
        images: ``(x, y, z)`` by modality as their files have them, on one grid.
        affine: of the grid, voxels to mm in RAS+.
        backgrounds: the constant around the body in each, None where there is none.
        label: measures a label map on the same grid, if there is one: ``labelled.lies_of`` of that map.

    Returns:
        Plain values: ``version``; ``voxels``, a digest of each modality's voxels that neither the type of numbers nor
        the orientation of the file changes; ``numbers``, by name, where ``flair.x`` is of one modality, ``flair/t1.x``
        of a pair, and ``WT.x`` or ``WT/flair.x`` of a region; ``templates``, a coarse picture of each modality;
        ``drawn``, a digest of what is labelled, empty if nothing is; ``looks``, see ``looks.looks_of``.
    """
    to_ras = nib.orientations.io_orientation(affine)
    turned = {m: nib.orientations.apply_orientation(volume, to_ras) for m, volume in images.items()}
    shape = next(iter(turned.values())).shape
    spacing = np.empty(3)
    spacing[to_ras[:, 0].astype(int)] = np.linalg.norm(affine[:3, :3], axis=0)
    strides = _strides(shape, spacing)
    index = tuple(_centred(n, step) for n, step in zip(shape, strides, strict=True))
    coarse = spacing * strides
    thin = {m: np.ascontiguousarray(volume[index], dtype=np.float32) for m, volume in turned.items()}
    # Of two scans no two hundred voxels are alike, let alone the thousands of a thinned volume.
    found: dict[str, Any] = {"version": VERSION, "voxels": {m: voxel_digest(volume) for m, volume in thin.items()}}
    bodies = {m: body_of(volume, backgrounds.get(m)) for m, volume in thin.items()}
    union = functools.reduce(np.logical_or, bodies.values())
    numbers: Floats = _shape(union, coarse)
    extents = _extents(bodies, coarse)
    if any(value < (0.9 if name.endswith(".inside") else -0.1) for name, value in extents.items()):
        # What is missing is so however a body is told from the air; noise in the air misleads only one of the ways.
        otherwise = _extents({m: body_of(volume, None) for m, volume in thin.items()}, coarse)
        extents = {name: max(value, otherwise[name]) for name, value in extents.items()}
    numbers |= extents
    numbers["still"] = min(_still(volume, bodies[m], backgrounds.get(m)) for m, volume in thin.items())
    air = {m: float(np.median(volume[~bodies[m]])) if not bodies[m].all() else 0.0 for m, volume in thin.items()}
    if union.any():  # all that follows needs what lies around the body only
        window = _box(union)
        union, index = union[window], tuple(_part(of, at) for of, at in zip(index, window, strict=True))
        thin = {m: volume[window] for m, volume in thin.items()}
        bodies = {m: body[window] for m, body in bodies.items()}
    depth, valleys = depth_of(union, coarse[:2].tolist()), []
    found["templates"] = {}
    scales: dict[str, Scale] = {}
    for m, volume in thin.items():
        values = volume[bodies[m]]
        if len(values) < MIN_INSIDE:
            continue
        scales[m] = Scale.of(values)
        numbers |= _named(m, _intensities(values, backgrounds.get(m)))
        numbers |= _named(m, _texture(turned[m], bodies[m], index, backgrounds.get(m)))
        found["templates"][m] = _template(volume, bodies[m], scales[m])
        if depth is not None:
            valleys.append(valley_of(values, depth[bodies[m]], air[m], float(coarse[:2].min())))
    if valleys:
        numbers["rim"] = float(np.mean(valleys))
    numbers |= _between({m: binned(thin[m], bodies[m]) for m in scales}, bodies, coarse)
    if label is not None:
        lies = label(turned, to_ras, scales, backgrounds, spacing)
        covered = lies.whole[index] & union
        found["drawn"], numbers = lies.digest, numbers | lies.numbers
        numbers["label.share"] = float(covered.sum() / max(union.sum(), 1))
    found["numbers"] = {name: round(float(value), 5) for name, value in numbers.items() if np.isfinite(value)}
    looks = looks_of([*thin.values()], [*bodies.values()], depth)
    found["looks"] = looks if isinstance(looks, str) else looks.record()
    return found


def voxel_digest(volume: NDArray[Any]) -> str:
    """Digest of the numbers in a volume, as float32 in the order x, y, z.

    Example:
        >>> voxel_digest(np.arange(8).reshape(2, 2, 2)) == voxel_digest(np.arange(8.0).reshape(2, 2, 2))
        True
    """
    # Negative zero equals zero.
    numbers = np.ascontiguousarray(volume, dtype="<f4") + np.float32(0)
    return hashlib.blake2b(repr(volume.shape).encode() + numbers.tobytes(), digest_size=10).hexdigest()


def _named(prefix: str, values: Floats) -> Floats:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _strides(shape: Sequence[int], spacing: NDArray[np.float64]) -> NDArray[np.int64]:
    wanted = THINNED_MM
    while True:
        strides = np.maximum(1, np.round(wanted / spacing)).astype(np.int64)
        strides = np.minimum(strides, np.maximum(1, np.array(shape) // 16))
        if np.prod(np.ceil(np.array(shape) / strides)) <= MAX_VOXELS or wanted > 100:
            return strides
        wanted *= 1.15


def _centred(size: int, step: int) -> slice:
    """Every so many voxels, as far from one end as from the other, so that a mirrored volume is thinned alike."""
    return slice(((size - 1) % step) // 2, size, int(step))


def _box(body: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Around a body."""
    held = [np.flatnonzero(body.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    return tuple(slice(int(of[0]), int(of[-1]) + 1) for of in held)


def _part(of: slice, at: slice) -> slice:
    """The places at ``at`` among those of a slice."""
    return slice(of.start + at.start * of.step, of.start + (at.stop - 1) * of.step + 1, of.step)


def _shape(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Floats:
    """Volume and extent of a body, as logarithms of mL and mm, since sizes differ by factors."""
    if not body.any():
        return {}
    found = {"volume": float(np.log(np.count_nonzero(body) * np.prod(spacing) / 1000))}
    for axis, name in enumerate("xyz"):
        shadow = body.sum(axis=tuple(other for other in range(3) if other != axis))
        # Between slices of which each has some of the body, so that a speck is no side.
        held = np.flatnonzero(shadow > 0.05 * shadow.max())
        found[f"extent_{name}"] = float(np.log((held[-1] - held[0] + 1) * spacing[axis]))
    return found


def _extents(bodies: Mapping[str, NDArray[np.bool_]], spacing: NDArray[np.float64]) -> Floats:
    """How much less of the body each image shows than any other: as a share, and by the side that is shortest there.

    Compared with the least of the others, since one image with noise in its air makes no other one short.
    """
    found: Floats = {}
    counts = {m: int(body.sum()) for m, body in bodies.items()}
    shapes = {m: _shape(body, spacing) for m, body in bodies.items()}
    sides = {m: [size for name, size in shape.items() if name != "volume"] for m, shape in shapes.items()}
    for m in bodies:
        others = [other for other in bodies if other != m]
        least = min((counts[other] for other in others), default=counts[m])
        found[f"{m}.inside"] = min(1.0, counts[m] / max(least, 1))
        ends = zip(*(sides[other] for other in others if sides[other]), strict=True)
        found[f"{m}.reach"] = min([0.0, *(own - min(other) for own, other in zip(sides[m], ends, strict=False))])
    return found


def _still(volume: Volume, body: NDArray[np.bool_], background: float | None) -> float:
    """The share of what is outside the body that is exactly background, which around a stripped brain is all of it."""
    outside = volume[~body]
    return 0.0 if background is None or not len(outside) else float(np.mean(outside == background))


def _intensities(values: Volume, background: float | None) -> Floats:
    low, quarter, middle, three, high = (float(q) for q in np.quantile(values, (0.01, 0.25, 0.5, 0.75, 0.99)))
    level, counts = np.unique(values, return_counts=True)
    below = 0.0 if background is None else float(np.mean(values < background - 1e-6 * abs(high - low)))
    return {
        "scale": float(np.log10(max(abs(middle - (background or 0.0)), 1e-6))),
        "spread": float((three - quarter) / max(high - low, 1e-12)),
        "commonest": float(counts.max() / len(values)),
        "top": float(counts[-1] / len(values)) if len(level) > 2 else 1.0,
        "below": below,
        "levels": float(np.log10(len(level))),
    }


def _texture(
    volume: NDArray[Any], body: NDArray[np.bool_], index: tuple[slice, ...], background: float | None
) -> Floats:
    """How neighbours resemble each other along each axis, how often they leap, and which slices are empty."""
    found: Floats = {}
    places = np.argwhere(body)
    places = places[:: max(1, len(places) // _NEIGHBOURS)]
    places = places * [part.step for part in index] + [part.start for part in index]
    own = volume[tuple(places.T)].astype(np.float32)
    spread = float(own.std())
    low, high = np.quantile(own, (0.002, 0.998))
    leaps, alike = [], []
    for axis in range(3):
        beside = places.copy()
        beside[:, axis] += 1
        within = beside[:, axis] < volume.shape[axis]
        if np.count_nonzero(within) < MIN_INSIDE or not spread > 0:
            continue
        other = volume[tuple(beside[within].T)].astype(np.float32)
        away = np.abs(own[within] - other)
        alike.append(1 - float(np.mean(away * away)) / (2 * spread**2))
        # Not from the body into the air.
        body_too = np.full(len(other), True) if background is None else other != background
        leaps.append(float(np.mean((away > 0.7 * (high - low)) & body_too)))
    if alike:
        found["alike"] = max(alike)
        found["unlike"] = min(alike)
        found["leaps"] = max(leaps)
    return found | {"empty_slices": max(_empty_slices(volume, axis, index) for axis in range(3))}


def _empty_slices(volume: NDArray[Any], axis: int, index: tuple[slice, ...]) -> float:
    """The share of slices across an axis, between the first and the last that show something, which are constant."""
    across = [slice(part.start, part.stop, max(1, (part.stop - part.start) // _ACROSS)) for part in index]
    across[axis] = slice(index[axis].start, index[axis].stop)
    slices = np.moveaxis(volume[tuple(across)], axis, 0)
    slices = slices.reshape(len(slices), -1)
    constant = (slices == slices[:, :1]).all(axis=1)
    held = np.flatnonzero(~constant)
    return float(constant[held[0] : held[-1] + 1].mean()) if len(held) else 1.0


def _template(volume: Volume, body: NDArray[np.bool_], scale: Scale) -> list[int]:
    """Mean of standardised intensities in blocks of the volume, in tenths, at most 12.7."""
    standard = np.where(body, (volume - scale.middle) / scale.spread, -1.0)
    for axis in range(3):
        edges = np.linspace(0, standard.shape[axis], TEMPLATE + 1)
        # The same share of each voxel goes to the blocks that it touches, so that any size fits.
        total = np.concatenate([np.zeros_like(np.take(standard, [0], axis)), np.cumsum(standard, axis)], axis)
        below = np.minimum(edges.astype(int), standard.shape[axis] - 1)
        part = (edges - below).reshape([-1 if other == axis else 1 for other in range(3)])
        at = np.take(total, below, axis) * (1 - part) + np.take(total, below + 1, axis) * part
        standard = np.diff(at, axis=axis) / np.diff(edges)[0]
    return np.clip(np.round(standard.ravel() * 10), -127, 127).astype(int).tolist()


def _between(bins: Mapping[str, Bins], bodies: Mapping[str, NDArray[np.bool_]], spacing: NDArray[np.float64]) -> Floats:
    """How the images of a case lie on each other."""
    found: Floats = {}
    names = list(bins)
    if len(names) < 2:
        return found
    moves = shifts(spacing.tolist(), _SHIFTS_MM, bodies[names[0]].shape)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            inside = bodies[a] & bodies[b]
            one = int(bodies[a].sum()) + int(bodies[b].sum())
            found[f"{a}/{b}.overlap"] = 2 * int(inside.sum()) / max(one, 1)
            found[f"{a}/{b}.information"] = information(bins[a][inside], bins[b][inside])
        others = [bins[b] for b in names if b != a]
        found |= _named(a, {f"to_{name}": gain for name, gain in gains(others, bins[a], moves, _MOVED_VOXELS).items()})
    return found
