"""How a label map lies on its case: what it covers, how its regions look, and whether it would fit elsewhere."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cggm_med.data.checks.alignment import Bins, flip_of, information, shifts
from cggm_med.data.checks.measure import Floats, Lies, Scale, Volume
from cggm_med.objectives.targets import UNKNOWN

WINDOW_VOXELS = 16_000  # around a label
MARGIN_MM = 12.0  # around a label
_SHIFTS_MM = (4.0, 8.0)


def lies_of(
    target: NDArray[Any],
    regions: Sequence[str],
    images: Mapping[str, Volume],
    to_ras: NDArray[np.float64],
    scales: Mapping[str, Scale],
    backgrounds: Mapping[str, float | None],
    spacing: NDArray[np.float64],
) -> Lies:
    """Measure a label map.

    Args:
        target: ``(region, x, y, z)`` as the files have it, see ``preprocess.target_of``.
        regions: their names.
        images: ``(x, y, z)`` by modality in RAS+.
        to_ras: how the target is turned to that.
        scales: of the images that can be judged.
        backgrounds: the constant around the body in each image, None where there is none.
        spacing: edges of the voxels in RAS+, in mm.
    """
    masks = [nib.orientations.apply_orientation(region, to_ras) for region in target]
    known = np.array([bool(mask[0, 0, 0] != UNKNOWN or (mask != UNKNOWN).any()) for mask in masks])
    of_known = [(region, k) for k, region in enumerate(regions) if known[k]]
    whole = _anything(target)
    places = np.flatnonzero(whole)
    lies = Lies(nib.orientations.apply_orientation(whole, to_ras), "", {"label.everywhere": len(places) / whole.size})
    found = lies.numbers
    if not len(places):
        return replace(lies, numbers={**found, **{f"{region}.present": 0.0 for region, _ in of_known}})
    # Few of millions of voxels are labelled: all that follows looks at the box around them.
    held = _turned_box(np.unravel_index(places, whole.shape), whole.shape, to_ras)
    cubic = float(np.prod(spacing)) / 1000
    for region, k in of_known:
        count = np.count_nonzero(_drawn(masks[k][tuple(slice(*of) for of in held)]))
        found[f"{region}.present"] = float(count > 0)
        if count:
            found[f"{region}.volume"] = float(np.log(count * cubic))
    margin = np.ceil(MARGIN_MM / spacing).astype(int)
    start = [max(0, low - m) for (low, _), m in zip(held, margin.tolist(), strict=True)]
    stop = [min(n, high + m) for (_, high), m, n in zip(held, margin.tolist(), masks[0].shape, strict=True)]
    step = 1
    while np.prod([-(-(b - a) // step) for a, b in zip(start, stop, strict=True)]) > WINDOW_VOXELS:
        step += 1
    window = tuple(slice(a, b, step) for a, b in zip(start, stop, strict=True))
    marks = np.stack([_drawn(mask[window]) for mask in masks], axis=-1)
    where = repr((masks[0].shape, start, stop)).encode()
    digest = hashlib.blake2b(where + np.packbits(marks).tobytes(), digest_size=10).hexdigest()
    lies = replace(lies, digest=digest)
    marked = marks.any(-1)
    with_air = [m for m in scales if backgrounds.get(m) is not None]
    if with_air and marked.any():
        outside = np.logical_and.reduce([images[m][window] == backgrounds[m] for m in with_air])
        found["label.outside"] = float(outside[marked].mean())
    if not marked.any() or not scales:
        return lies
    codes = (marks[..., :7] * (1 << np.arange(min(len(masks), 7)))).sum(-1)
    codes = np.unique(codes, return_inverse=True)[1].reshape(marked.shape).astype(np.uint8)
    found["label.kinds"] = float(codes.max() + marked.all())
    of_scale = {m: images[m] for m in scales}
    found |= _appearance(marks, regions, {m: image[window] for m, image in of_scale.items()}, scales, known)
    found |= _following(codes, of_scale, scales, start, step, spacing)
    return lies


def _anything(target: NDArray[Any]) -> NDArray[np.bool_]:
    """``(x, y, z)``: what any region covers."""
    if target.dtype == np.uint8:
        bits = np.bitwise_or.reduce(target, axis=0)
        if bits.max() <= 1:  # all is annotated, so that this is it
            return bits.view(np.bool_)
    return functools.reduce(np.logical_or, (_drawn(region) for region in target))


def _drawn(region: NDArray[Any]) -> NDArray[np.bool_]:
    """Where most readers see a region; nobody knows of what is not annotated."""
    return region == 1 if region.dtype == np.uint8 else (region >= 0.5) & (region != UNKNOWN)


def _turned_box(
    places: Sequence[NDArray[np.int_]], shape: Sequence[int], to_ras: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """The box around places, first to one after the last along each axis of the turned volume."""
    box = [(0, 0)] * len(shape)
    for of, size, (axis, sign) in zip(places, shape, to_ras.tolist(), strict=True):
        low, high = int(of.min()), int(of.max()) + 1
        box[int(axis)] = (low, high) if sign > 0 else (size - high, size - low)
    return box


def _appearance(
    marks: NDArray[np.bool_],
    regions: Sequence[str],
    images: Mapping[str, Volume],
    scales: Mapping[str, Scale],
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
            middle, spread = scales[m].middle, scales[m].spread
            within = float(np.median(image[inside]))
            found[f"{region}/{m}.brightness"] = float(np.arcsinh((within - middle) / spread))
            if around.any():
                found[f"{region}/{m}.contrast"] = float(np.arcsinh((within - np.median(image[around])) / spread))
    return found


def _following(
    codes: Bins,
    volumes: Mapping[str, Volume],
    scales: Mapping[str, Scale],
    start: Sequence[int],
    step: int,
    spacing: NDArray[np.float64],
) -> Floats:
    """What the images say about the label as it lies, and how much more they would say where it is mirrored or moved.

    The label stays, and a window on the images moves, so that no volume is copied.
    """
    moves = shifts((spacing * step).tolist(), _SHIFTS_MM, codes.shape)
    most = [max([abs(move[axis]) for move in moves], default=0) for axis in range(3)]
    still = tuple(slice(m, m + n) for m, n in zip(most, codes.shape, strict=True))

    def seen(flip: int | None) -> list[tuple[Bins, NDArray[np.bool_]]]:
        """Of each image the bins around the label, and which of these places lie in the image."""
        found = []
        for m, volume in volumes.items():
            view = volume if flip is None else volume[flip_of(flip)]
            places = [a + step * np.arange(-k, n + k) for a, k, n in zip(start, most, codes.shape, strict=True)]
            x, y, z = ((of >= 0) & (of < n) for of, n in zip(places, view.shape, strict=True))
            values = view[np.ix_(*(np.clip(of, 0, n - 1) for of, n in zip(places, view.shape, strict=True)))]
            bins = np.searchsorted(scales[m].edges, values).astype(np.uint8)
            found.append((bins, x[:, None, None] & y[:, None] & z))
        return found

    def told(images: Sequence[tuple[Bins, NDArray[np.bool_]]], window: tuple[slice, ...]) -> float:
        within = images[0][1][window]
        if np.count_nonzero(within) < 50:
            return 0.0
        if within.all():
            return float(np.mean([information(codes, bins[window]) for bins, _ in images]))
        return float(np.mean([information(codes[within], bins[window][within]) for bins, _ in images]))

    around = seen(None)
    as_is = told(around, still)
    found = {"label.information": as_is}
    for axis, name in enumerate("xyz"):
        found[f"label.flip_{name}"] = float(np.log((told(seen(axis), still) + 1e-3) / (as_is + 1e-3)))
    moved = [tuple(slice(s.start + n, s.stop + n) for s, n in zip(still, move, strict=True)) for move in moves]
    if moved:
        best = max(told(around, window) for window in moved)
        found["label.shift"] = float(np.log((best + 1e-3) / (as_is + 1e-3)))
    return found
