"""What checks need to know of the voxels of a case, measured once, when the case is prepared.

Everything is measured on few voxels: volumes are thinned to about 4 mm, labels to what surrounds them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cggm_med.data.checks.alignment import Bins, binned, flip_of, gains, information, shifts
from cggm_med.data.checks.heads import body_of
from cggm_med.objectives.losses import UNKNOWN

VERSION = 1  # raise it whenever the same files would give other measurements

THINNED_MM = 4.0
MAX_VOXELS = 90_000  # of a thinned volume
WINDOW_VOXELS = 30_000  # around a label
MARGIN_MM = 12.0  # around a label
TEMPLATE = 12  # voxels along each edge of a case's coarse picture
_SHIFTS_MM = (6.0, 14.0)
_LABEL_SHIFTS_MM = (4.0, 8.0)
_MIN_INSIDE = 300  # voxels; with fewer nothing can be said

Volume = NDArray[np.float32]
Floats = dict[str, float]


def measure(
    images: Mapping[str, Volume],
    affine: NDArray[np.float64],
    backgrounds: Mapping[str, float | None],
    target: NDArray[Any] | None = None,
    regions: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a case.

    Args:
        images: ``(x, y, z)`` by modality as their files have them, on one grid.
        affine: of the grid, voxels to mm in RAS+.
        backgrounds: the constant around the body in each, None where there is none.
        target: ``(region, x, y, z)`` on the same grid, see ``preprocess.target_of``.
        regions: names of the regions.

    Returns:
        Plain values: ``version``; ``voxels``, a digest of each modality's voxels that neither the type of numbers nor
        the orientation of the file changes; ``numbers``, by name, where ``flair.x`` is of one modality, ``flair/t1.x``
        of a pair, and ``WT.x`` or ``WT/flair.x`` of a region; ``templates``, a coarse picture of each modality;
        ``drawn``, a digest of what is labelled, empty if nothing is.
    """
    to_ras = nib.orientations.io_orientation(affine)
    turned = {m: nib.orientations.apply_orientation(volume, to_ras) for m, volume in images.items()}
    axes = to_ras[:, 0].astype(int)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = np.empty(3)
    spacing[axes] = edges
    found: dict[str, Any] = {"version": VERSION, "voxels": {}, "numbers": {}, "templates": {}}
    numbers: Floats = found["numbers"]
    strides = _strides(next(iter(turned.values())).shape, spacing)
    index = tuple(_centred(n, step) for n, step in zip(next(iter(turned.values())).shape, strides, strict=True))
    coarse = spacing * strides
    thin = {m: np.ascontiguousarray(volume[index], dtype=np.float32) for m, volume in turned.items()}
    # Of two scans no two hundred voxels are alike, let alone the thousands of a thinned volume.
    found["voxels"] = {m: voxel_digest(volume) for m, volume in thin.items()}
    bodies = {m: body_of(volume, backgrounds.get(m)) for m, volume in thin.items()}
    union = functools.reduce(np.logical_or, bodies.values())
    numbers |= _shape(union, coarse)
    for m, volume in thin.items():
        values = volume[bodies[m]]
        own = _shape(bodies[m], coarse)
        reach = min((own[name] - numbers[name] for name in own if name != "volume"), default=0.0)
        inside = float(bodies[m].sum() / max(union.sum(), 1))
        numbers |= _named(m, {"inside": inside, "reach": reach})
        if len(values) < _MIN_INSIDE:
            continue
        numbers |= _named(m, _intensities(values, volume, backgrounds.get(m)))
        numbers |= _named(m, _texture(turned[m], bodies[m], index, backgrounds.get(m)))
        found["templates"][m] = _template(volume, bodies[m], union)
    usable = {m: binned(thin[m], bodies[m]) for m in thin if bodies[m].sum() >= _MIN_INSIDE}
    numbers |= _between(usable, bodies, union, coarse)
    if target is not None:
        masks = [nib.orientations.apply_orientation(region, to_ras) for region in target]
        found["drawn"], lies = _of_label(masks, regions, turned, thin, bodies, union, index, spacing, backgrounds)
        numbers |= lies
    found["numbers"] = {name: round(float(value), 5) for name, value in numbers.items() if np.isfinite(value)}
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
    return slice(((size - 1) % step) // 2, None, int(step))


def _shape(body: NDArray[np.bool_], spacing: NDArray[np.float64]) -> Floats:
    """Volume and extent of a body, as logarithms of mL and mm, since sizes differ by factors."""
    if not body.any():
        return {}
    found = {"volume": float(np.log(body.sum() * np.prod(spacing) / 1000))}
    for axis, name in enumerate("xyz"):
        shadow = body.sum(axis=tuple(other for other in range(3) if other != axis))
        # Between slices of which each has some of the body, so that a speck is no side.
        held = np.flatnonzero(shadow > 0.05 * shadow.max())
        found[f"extent_{name}"] = float(np.log((held[-1] - held[0] + 1) * spacing[axis]))
    return found


def _intensities(values: Volume, volume: Volume, background: float | None) -> Floats:
    low, quarter, middle, three, high = (float(q) for q in np.quantile(values, (0.01, 0.25, 0.5, 0.75, 0.99)))
    level, counts = np.unique(values, return_counts=True)
    top = float(np.mean(values >= level[-1]))
    below = 0.0 if background is None else float(np.mean(values < background - 1e-6 * abs(high - low)))
    return {
        "scale": float(np.log10(max(abs(middle - (background or 0.0)), 1e-6))),
        "spread": float((three - quarter) / max(high - low, 1e-12)),
        "commonest": float(counts.max() / len(values)),
        "top": top if len(level) > 2 else 1.0,
        "below": below,
        "levels": float(np.log10(len(level))),
    }


def _texture(
    volume: NDArray[Any], body: NDArray[np.bool_], index: tuple[slice, ...], background: float | None
) -> Floats:
    """How neighbours resemble each other along each axis, how often they leap, and which slices are empty."""
    found: Floats = {}
    places = np.argwhere(body)
    start = np.array([part.start for part in index])
    step = np.array([part.step for part in index])
    places = places * step + start
    own = volume[tuple(places.T)].astype(np.float64)
    spread = float(own.std())
    low, high = np.quantile(own, (0.002, 0.998)) if len(own) else (0.0, 0.0)
    full = float(high - low)
    leaps, alike = [], []
    for axis in range(3):
        beside = places.copy()
        beside[:, axis] += 1
        within = beside[:, axis] < volume.shape[axis]
        if within.sum() < _MIN_INSIDE or not spread > 0:
            continue
        other = volume[tuple(beside[within].T)].astype(np.float64)
        alike.append(1 - float(np.mean((own[within] - other) ** 2)) / (2 * spread**2))
        # Not from the body into the air.
        body_too = np.full(len(other), True) if background is None else other != background
        leaps.append(float(np.mean((np.abs(own[within] - other) > 0.7 * full) & body_too)))
    if alike:
        found["alike"] = max(alike)
        found["unlike"] = min(alike)
        found["leaps"] = max(leaps)
    empty = []
    for axis in range(3):
        across = tuple(slice(None) if other == axis else index[other] for other in range(3))
        slices = np.moveaxis(volume[across], axis, 0).reshape(volume.shape[axis], -1)
        constant = slices.min(axis=1) == slices.max(axis=1)
        held = np.flatnonzero(~constant)
        empty.append(float(constant[held[0] : held[-1] + 1].mean()) if len(held) else 1.0)
    return found | {"empty_slices": max(empty)}


def _template(volume: Volume, body: NDArray[np.bool_], union: NDArray[np.bool_]) -> list[int]:
    """Mean of standardised intensities in blocks of the box around the body, in tenths, at most 12.7."""
    held = np.argwhere(union)
    start, stop = held.min(0), held.max(0) + 1
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    values = volume[body]
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    standard = np.where(body, (volume - middle) / max(high - low, 1e-12), -1.0)[window]
    for axis in range(3):
        edges = np.linspace(0, standard.shape[axis], TEMPLATE + 1)
        # The same share of each voxel goes to the blocks that it touches, so that any size fits.
        total = np.concatenate([np.zeros_like(np.take(standard, [0], axis)), np.cumsum(standard, axis)], axis)
        below = np.minimum(edges.astype(int), standard.shape[axis] - 1)
        part = (edges - below).reshape([-1 if other == axis else 1 for other in range(3)])
        at = np.take(total, below, axis) * (1 - part) + np.take(total, below + 1, axis) * part
        standard = np.diff(at, axis=axis) / np.diff(edges)[0]
    return np.clip(np.round(standard.ravel() * 10), -127, 127).astype(int).tolist()


def _between(
    bins: Mapping[str, Bins], bodies: Mapping[str, NDArray[np.bool_]], union: NDArray[np.bool_], spacing: Any
) -> Floats:
    """How the images of a case lie on each other."""
    found: Floats = {}
    names = list(bins)
    if len(names) < 2:
        return found
    moves = shifts(spacing, _SHIFTS_MM, union.shape)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both, one = (bodies[a] & bodies[b]).sum(), bodies[a].sum() + bodies[b].sum()
            inside = bodies[a] & bodies[b]
            found[f"{a}/{b}.overlap"] = float(2 * both / max(one, 1))
            found[f"{a}/{b}.information"] = information(bins[a][inside], bins[b][inside])
        others = [bins[b] for b in names if b != a]
        found |= _named(a, {f"to_{name}": gain for name, gain in gains(others, bins[a], moves).items()})
    return found


def _of_label(
    masks: Sequence[NDArray[Any]],
    regions: Sequence[str],
    turned: Mapping[str, Volume],
    thin: Mapping[str, Volume],
    bodies: Mapping[str, NDArray[np.bool_]],
    union: NDArray[np.bool_],
    index: tuple[slice, ...],
    spacing: NDArray[np.float64],
    backgrounds: Mapping[str, float | None],
) -> tuple[str, Floats]:
    """A digest of what is drawn, empty if nothing is; and how it lies on the images."""
    found: Floats = {}
    drawn = [mask == 1 if mask.dtype == np.uint8 else (mask >= 0.5) & (mask != UNKNOWN) for mask in masks]
    known = np.array([np.count_nonzero(mask == UNKNOWN) < mask.size for mask in masks])
    cubic = float(np.prod(spacing)) / 1000
    for region, mask, is_known in zip(regions, drawn, known.tolist(), strict=True):
        count = np.count_nonzero(mask)
        if is_known:
            found[f"{region}.present"] = float(count > 0)
            if count:
                found[f"{region}.volume"] = float(np.log(count * cubic))
    whole = functools.reduce(np.logical_or, drawn)
    coarse = whole[index]
    found["label.share"] = float((coarse & union).sum() / max(union.sum(), 1))
    found["label.everywhere"] = np.count_nonzero(whole) / whole.size
    if not found["label.everywhere"]:
        return "", found
    held = [np.flatnonzero(whole.any(axis=tuple(o for o in range(3) if o != axis))) for axis in range(3)]
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    start = [max(0, int(places[0]) - m) for places, m in zip(held, margin, strict=True)]
    stop = [min(n, int(places[-1]) + 1 + m) for places, m, n in zip(held, margin, whole.shape, strict=True)]
    step = 1
    while np.prod([-(-(b - a) // step) for a, b in zip(start, stop, strict=True)]) > WINDOW_VOXELS:
        step += 1
    window = tuple(slice(a, b, step) for a, b in zip(start, stop, strict=True))
    marks = np.stack([mask[window] for mask in drawn], axis=-1)
    places = repr((whole.shape, start, stop)).encode()
    digest = hashlib.blake2b(places + np.packbits(marks).tobytes(), digest_size=10).hexdigest()
    codes = (marks * (1 << np.arange(min(marks.shape[-1], 7)))[None, None, None, :][..., : marks.shape[-1]]).sum(-1)
    codes = np.unique(codes, return_inverse=True)[1].reshape(marks.shape[:3]).astype(np.uint8)
    outside = np.ones(marks.shape[:3], dtype=bool)
    scales = {}
    for m, volume in turned.items():
        values = thin[m][bodies[m]]
        if len(values) < _MIN_INSIDE:
            continue
        low, middle, high = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
        scales[m] = (middle, max(high - low, 1e-12), np.quantile(values, np.arange(1, 12) / 12))
        if backgrounds.get(m) is not None:
            outside &= volume[window] == backgrounds[m]
    marked = marks.any(-1)
    if any(backgrounds.get(m) is not None for m in scales):
        found["label.outside"] = float(outside[marked].mean()) if marked.any() else 0.0
    if not marked.any() or not scales:
        return digest, found
    found["label.kinds"] = float(codes.max() + (codes.min() > 0))
    found |= _appearance(marks, regions, {m: turned[m][window] for m in scales}, scales, known)
    found |= _following(codes, {m: turned[m] for m in scales}, scales, start, stop, step, spacing)
    return digest, found


def _appearance(
    marks: NDArray[np.bool_],
    regions: Sequence[str],
    images: Mapping[str, Volume],
    scales: Mapping[str, tuple[float, float, Any]],
    known: NDArray[np.bool_],
) -> Floats:
    """How bright each region is in each modality, and what surrounds it."""
    found: Floats = {}
    for k, region in enumerate(regions):
        inside = marks[..., k]
        if not known[k] or inside.sum() < 5:
            continue
        around = ndimage.binary_dilation(inside, iterations=2) & ~inside
        for m, image in images.items():
            middle, spread, _ = scales[m]
            within = float(np.median(image[inside]))
            found[f"{region}/{m}.brightness"] = float(np.arcsinh((within - middle) / spread))
            if around.any():
                found[f"{region}/{m}.contrast"] = float(np.arcsinh((within - np.median(image[around])) / spread))
    return found


def _following(
    codes: Bins,
    volumes: Mapping[str, Volume],
    scales: Mapping[str, tuple[float, float, Any]],
    start: Sequence[int],
    stop: Sequence[int],
    step: int,
    spacing: NDArray[np.float64],
) -> Floats:
    """What the images say about the label as it lies, and how much more they would say where it is mirrored or moved.

    The label stays, and the window on the images moves, so that no volume is copied.
    """

    def told(view: Mapping[str, Volume], at: Sequence[int]) -> float:
        size = next(iter(view.values())).shape
        first = [a + n for a, n in zip(start, at, strict=True)]
        inner = [(max(0, -(a // step) if a < 0 else 0), a) for a in first]
        window, own = [], []
        for (_, a), b, n in zip(inner, [q + m for q, m in zip(stop, at, strict=True)], size, strict=True):
            skip = -(-max(0, -a) // step)
            last = min(b, n)
            window.append(slice(a + skip * step, last, step))
            own.append(slice(skip, skip + max(0, -(-(last - (a + skip * step)) // step))))
        mine = codes[tuple(own)]
        if mine.size < 50:
            return 0.0
        sums = []
        for m, volume in view.items():
            seen = volume[tuple(window)]
            sums.append(information(mine, np.searchsorted(scales[m][2], seen).astype(np.uint8)))
        return float(np.mean(sums))

    as_is = told(volumes, (0, 0, 0))
    found = {"label.information": as_is}
    for axis, name in enumerate("xyz"):
        mirrored = told({m: volume[flip_of(axis)] for m, volume in volumes.items()}, (0, 0, 0))
        found[f"label.flip_{name}"] = float(np.log((mirrored + 1e-3) / (as_is + 1e-3)))
    window = [-(-(b - a) // step) * step for a, b in zip(start, stop, strict=True)]
    tried = [told(volumes, move) for move in shifts(spacing.tolist(), _LABEL_SHIFTS_MM, window)]
    if tried:
        found["label.shift"] = float(np.log((max(tried) + 1e-3) / (as_is + 1e-3)))
    return found
