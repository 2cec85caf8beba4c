"""What goes wrong with cases: each kind of fault changes a sound case, drawn from a seed, and says who can notice.

A case is its voxels and affine by role: the modalities, and ``seg`` for the label map in the numbers of BraTS 2021.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Scan = tuple[np.ndarray, np.ndarray]
Scans = dict[str, Scan]
Draw = np.random.Generator
SEG = "seg"


class Fault(NamedTuple):
    """A kind of fault.

    ``change`` makes the faulty case from a sound one, another patient's and a random generator. ``train``, ``predict``
    and ``evaluate`` say what is expected of each command: ``stopped`` (refused or asked about), ``told``, or
    ``nothing``, where the files cannot tell. ``again`` marks faults that lie in a second case that repeats the first.
    """

    change: Callable[[Scans, Scans, Draw], Scans]
    train: str
    predict: str
    evaluate: str
    again: bool = False


def images(case: Scans) -> list[str]:
    return [role for role in case if role != SEG]


def one_image(change: Callable[[np.ndarray, Draw], np.ndarray]) -> Callable[[Scans, Scans, Draw], Scans]:
    """The same change of one modality, whichever the seed draws."""

    def of(case: Scans, other: Scans, draw: Draw) -> Scans:
        role = str(draw.choice(images(case)))
        return {**case, role: (change(case[role][0], draw), case[role][1])}

    return of


def every(change: Callable[[np.ndarray, Draw], np.ndarray], *, label: bool = True) -> Callable[..., Scans]:
    """The same change of all files."""

    def of(case: Scans, other: Scans, draw: Draw) -> Scans:
        state = draw.bit_generator.state
        changed = {}
        for role, (voxels, affine) in case.items():
            draw.bit_generator.state = state  # each file alike
            changed[role] = (change(voxels, draw) if label or role != SEG else voxels, affine)
        return changed

    return of


def label(change: Callable[[np.ndarray, Draw], np.ndarray]) -> Callable[[Scans, Scans, Draw], Scans]:
    return lambda case, other, draw: {**case, SEG: (change(case[SEG][0], draw), case[SEG][1])}


def exchanged(case: Scans, other: Scans, draw: Draw) -> Scans:
    a, b = (str(role) for role in draw.choice(images(case), 2, replace=False))
    return {**case, a: case[b], b: case[a]}


def rotated_names(case: Scans, other: Scans, draw: Draw) -> Scans:
    a, b, c = (str(role) for role in draw.choice(images(case), 3, replace=False))
    return {**case, a: case[b], b: case[c], c: case[a]}


def given_twice(case: Scans, other: Scans, draw: Draw) -> Scans:
    a, b = (str(role) for role in draw.choice(images(case), 2, replace=False))
    return {**case, a: case[b]}


def given_twice_as_float(case: Scans, other: Scans, draw: Draw) -> Scans:
    a, b = (str(role) for role in draw.choice(images(case), 2, replace=False))
    return {**case, a: (case[b][0].astype(np.float32), case[b][1])}


def image_of_another(case: Scans, other: Scans, draw: Draw) -> Scans:
    role = str(draw.choice(images(case)))
    return {**case, role: (fitted(other[role][0], case[role][0].shape), case[role][1])}


def label_of_another(case: Scans, other: Scans, draw: Draw) -> Scans:
    return {**case, SEG: (fitted(other[SEG][0], case[SEG][0].shape), case[SEG][1])}


def fitted(volume: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cut or padded to a shape at its ends."""
    out = np.zeros(shape, volume.dtype)
    window = tuple(slice(min(a, b)) for a, b in zip(shape, volume.shape, strict=True))
    out[window] = volume[window]
    return out


def mirrored(*axes: int) -> Callable[[np.ndarray, Draw], np.ndarray]:
    return lambda volume, draw: np.flip(volume, int(draw.choice(axes)))


def shifted(share: float) -> Callable[[np.ndarray, Draw], np.ndarray]:
    """By about this share of the field of view along x or y."""

    def of(volume: np.ndarray, draw: Draw) -> np.ndarray:
        axis, sign = int(draw.integers(2)), int(draw.choice((-1, 1)))
        steps = max(1, round(share * volume.shape[axis] * draw.uniform(0.9, 1.3)))
        return np.roll(volume, sign * steps, axis)

    return of


def turned(volume: np.ndarray, draw: Draw) -> np.ndarray:
    angle = float(draw.uniform(12, 25) * draw.choice((-1, 1)))
    return ndimage.rotate(volume, angle, (0, 1), reshape=False, order=1 if volume.max() > 10 else 0)


def transposed(volume: np.ndarray, draw: Draw) -> np.ndarray:
    return fitted(np.swapaxes(volume, 0, 1), volume.shape)


def constant(volume: np.ndarray, draw: Draw) -> np.ndarray:
    return (volume > np.quantile(volume, 0.5)).astype(volume.dtype) * volume.dtype.type(100)


def noise(volume: np.ndarray, draw: Draw) -> np.ndarray:
    return np.where(volume > 0, draw.integers(1, 250, volume.shape), 0).astype(volume.dtype)


def not_finite(volume: np.ndarray, draw: Draw) -> np.ndarray:
    out = volume.astype(np.float32)
    out[tuple(n // 2 for n in volume.shape)] = draw.choice((np.nan, np.inf))
    return out


def wrapped(volume: np.ndarray, draw: Draw) -> np.ndarray:
    """As if numbers up to 1.5 times the largest int16 had been written as int16."""
    factor = draw.uniform(1.3, 1.9) * 32767 / np.quantile(volume, 0.995)
    return (volume.astype(np.float64) * factor).astype(np.int64).astype(np.int16)


def saturated(volume: np.ndarray, draw: Draw) -> np.ndarray:
    top = np.quantile(volume[volume > 0], draw.uniform(0.6, 0.85))
    return np.minimum(volume, volume.dtype.type(top))


def inverted(volume: np.ndarray, draw: Draw) -> np.ndarray:
    return np.where(volume > 0, volume.max() + 1 - volume, 0).astype(volume.dtype)


def every_second_slice(volume: np.ndarray, draw: Draw) -> np.ndarray:
    out = volume.copy()
    out[:, :, int(draw.integers(2)) :: 2] = 0
    return out


def third_of_slices(volume: np.ndarray, draw: Draw) -> np.ndarray:
    held = np.flatnonzero(volume.any((0, 1)))
    out, count = volume.copy(), len(held) // 3
    first = int(held[0] if draw.integers(2) else held[-1] - count + 1)
    out[:, :, first : first + count] = 0
    return out


def half(axis: int) -> Callable[[np.ndarray, Draw], np.ndarray]:
    def of(volume: np.ndarray, draw: Draw) -> np.ndarray:
        out = volume.copy()
        middle = volume.shape[axis] // 2
        window = slice(None, middle) if draw.integers(2) else slice(middle, None)
        out[(slice(None),) * axis + (window,)] = 0
        return out

    return of


def blurred(volume: np.ndarray, draw: Draw) -> np.ndarray:
    """As from an image of a tenth of the resolution."""
    smooth = ndimage.gaussian_filter(volume.astype(np.float32), draw.uniform(3, 4))
    return np.where(volume > 0, smooth, 0).astype(volume.dtype)


def brighter(volume: np.ndarray, draw: Draw) -> np.ndarray:
    return volume.astype(np.float32) * np.float32(10 ** draw.uniform(3, 4))


def with_skull(case: Scans, other: Scans, draw: Draw) -> Scans:
    """Dark bone and a bright scalp around the head of every image, in the room that the field of view leaves."""
    inside = case[images(case)[0]][0] > 0
    thick = max(1, round(0.03 * min(inside.shape[:2])))
    bone = ndimage.binary_dilation(inside, iterations=2 * thick) & ~inside
    scalp = ndimage.binary_dilation(inside, iterations=4 * thick) & ~bone & ~inside
    changed = dict(case)
    for role in images(case):
        voxels, affine = case[role]
        typical = float(np.median(voxels[inside]))
        outer = draw.normal(typical * draw.uniform(0.9, 1.5), 0.1 * typical, voxels.shape)
        grey = draw.normal(typical * 0.12, 0.03 * typical, voxels.shape)
        air = np.abs(draw.normal(0, 0.02 * typical, voxels.shape))
        whole = np.select([inside, bone, scalp], [voxels, grey, outer], air)
        changed[role] = (np.maximum(whole, 0).astype(voxels.dtype), affine)
    return changed


def renumbered(table: dict[int, int]) -> Callable[[np.ndarray, Draw], np.ndarray]:
    numbers = np.arange(256, dtype=np.uint8)
    numbers[list(table)] = list(table.values())
    return lambda volume, draw: numbers[volume.astype(np.uint8)]


def whole_head(case: Scans, other: Scans, draw: Draw) -> Scans:
    """The mask of the brain in the place of the label."""
    first = case[images(case)[0]][0]
    value = int(draw.choice([int(v) for v in np.unique(case[SEG][0]) if v]))
    return {**case, SEG: ((first > 0).astype(np.uint8) * np.uint8(value), case[SEG][1])}


def resized(*factors: float, only: bool = False) -> Callable[[Scans, Scans, Draw], Scans]:
    """Another voxel size in the affine of all files, or of one image."""

    def of(case: Scans, other: Scans, draw: Draw) -> Scans:
        factor = float(draw.choice(factors))
        roles = [str(draw.choice(images(case)))] if only else list(case)
        scale = np.diag([factor, factor, factor, 1.0])
        return {role: (v, a @ scale if role in roles else a) for role, (v, a) in case.items()}

    return of


def same(case: Scans, other: Scans, draw: Draw) -> Scans:
    return dict(case)


def as_float(case: Scans, other: Scans, draw: Draw) -> Scans:
    return {r: (v if r == SEG else v.astype(np.float32), a) for r, (v, a) in case.items()}


def rescanned(case: Scans, other: Scans, draw: Draw) -> Scans:
    """Other noise and gain; nothing has moved."""
    changed = dict(case)
    for role in images(case):
        voxels, affine = case[role]
        noisy = voxels * draw.uniform(0.5, 2) + draw.normal(0, 0.08 * np.std(voxels), voxels.shape)
        changed[role] = (np.where(voxels > 0, np.maximum(noisy, 1), 0).astype(np.int16), affine)
    return changed


def registered_anew(case: Scans, other: Scans, draw: Draw) -> Scans:
    """Turned by a few degrees and moved by a voxel or two, as another registration leaves it."""
    angle, move = float(draw.uniform(2, 5)), draw.uniform(-2, 2, 3)
    changed = {}
    for role, (voxels, affine) in case.items():
        order = 0 if role == SEG else 1
        moved = ndimage.shift(voxels, move, order=order)
        changed[role] = (ndimage.rotate(moved, angle, (0, 1), reshape=False, order=order), affine)
    return changed


FAULTS: dict[str, Fault] = {
    "images exchanged": Fault(exchanged, "stopped", "stopped", "stopped"),
    "three images exchanged": Fault(rotated_names, "stopped", "stopped", "stopped"),
    "one image given twice": Fault(given_twice, "stopped", "stopped", "stopped"),
    "one image given twice, as float": Fault(given_twice_as_float, "stopped", "stopped", "stopped"),
    "image of another patient": Fault(image_of_another, "told", "told", "told"),
    "image mirrored": Fault(one_image(mirrored(0, 1, 2)), "stopped", "stopped", "stopped"),
    "image shifted": Fault(one_image(shifted(0.1)), "told", "told", "told"),
    "image turned": Fault(one_image(turned), "told", "told", "told"),
    "image transposed": Fault(one_image(transposed), "told", "told", "told"),
    "image constant": Fault(one_image(constant), "told", "told", "told"),
    "image zero": Fault(one_image(lambda v, draw: np.zeros_like(v)), "stopped", "stopped", "stopped"),
    "image of noise": Fault(one_image(noise), "told", "told", "told"),
    "image not finite": Fault(one_image(not_finite), "stopped", "stopped", "stopped"),
    "numbers wrapped": Fault(one_image(wrapped), "told", "told", "told"),
    "image saturated": Fault(one_image(saturated), "told", "told", "told"),
    "image inverted": Fault(one_image(inverted), "told", "told", "told"),
    "every second slice empty": Fault(one_image(every_second_slice), "told", "told", "told"),
    "third of an image missing": Fault(one_image(third_of_slices), "told", "told", "told"),
    "half of an image missing": Fault(one_image(half(0)), "told", "told", "told"),
    "half of the head missing": Fault(every(half(0)), "told", "told", "told"),
    "image blurred": Fault(one_image(blurred), "told", "told", "told"),
    "image on another scale": Fault(one_image(brighter), "told", "told", "told"),
    "everything upside down": Fault(every(mirrored(2)), "told", "told", "told"),
    "everything front to back": Fault(every(mirrored(1)), "told", "told", "told"),
    "everything left to right": Fault(every(mirrored(0)), "nothing", "nothing", "nothing"),
    "skull left on": Fault(with_skull, "stopped", "stopped", "stopped"),
    "size in centimetres": Fault(resized(0.1), "stopped", "stopped", "stopped"),
    "size in micrometres": Fault(resized(1000.0), "stopped", "stopped", "stopped"),
    "half or double voxel size": Fault(resized(0.5, 2.0), "stopped", "told", "told"),
    "size of one image": Fault(resized(0.1, 0.5, 2.0, only=True), "stopped", "stopped", "stopped"),
    "label mirrored": Fault(label(mirrored(0)), "told", "nothing", "told"),
    "label mirrored otherwise": Fault(label(mirrored(1, 2)), "told", "nothing", "told"),
    "label shifted": Fault(label(shifted(0.1)), "told", "nothing", "told"),
    "label transposed": Fault(label(transposed), "told", "nothing", "told"),
    "label of another patient": Fault(label_of_another, "told", "nothing", "told"),
    "label empty": Fault(label(lambda v, draw: np.zeros_like(v)), "told", "nothing", "told"),
    "label everywhere": Fault(label(lambda v, draw: np.full_like(v, v.max())), "stopped", "nothing", "told"),
    "head as label": Fault(whole_head, "told", "nothing", "told"),
    "label of one number": Fault(label(lambda v, draw: (v > 0).astype(np.uint8)), "told", "nothing", "told"),
    "labels 1 and 4 exchanged": Fault(label(renumbered({1: 4, 4: 1})), "told", "nothing", "told"),
    "labels 2 and 4 exchanged": Fault(label(renumbered({2: 4, 4: 2})), "told", "nothing", "told"),
    "label number unknown": Fault(label(renumbered({4: 3})), "stopped", "nothing", "stopped"),
    "label of fractions": Fault(label(lambda v, draw: v.astype(np.float32) / 4), "stopped", "nothing", "stopped"),
    "case twice": Fault(same, "stopped", "nothing", "nothing", again=True),
    "case twice, as float": Fault(as_float, "stopped", "nothing", "nothing", again=True),
    "case scanned anew": Fault(rescanned, "stopped", "nothing", "nothing", again=True),
    "case registered anew": Fault(registered_anew, "stopped", "nothing", "nothing", again=True),
}  # fmt: skip
