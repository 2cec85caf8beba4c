"""Metrics of masks a second time, by their definitions: searches over all pairs of voxels, corners and lesions."""

from itertools import product

import numpy as np
from monai.metrics.utils import ENCODING_KERNEL, get_code_to_measure_table
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from cggm_med.metrics.lesion_areas import LesionRules

LESION_RULES = (
    *(LesionRules(3, 50.0), LesionRules(1, 50.0), LesionRules(1, 2.0), LesionRules(2, 10.0)),
    *(LesionRules(), LesionRules(connectivity=6), LesionRules(connectivity=18, min_mm3=2.0, min_overlap=0.25)),
    *(LesionRules(1, 2.0, connectivity=6, min_overlap=0.5), LesionRules(2, connectivity=18)),
)


def surface_voxels(mask):
    """Indices of the voxels that touch the outside, or the end of the volume, with a face."""
    padded = np.pad(mask, 1)
    neighbours = [np.roll(padded, step, axis) for axis in range(3) for step in (-1, 1)]
    return np.argwhere((padded & ~np.logical_and.reduce(neighbours))[1:-1, 1:-1, 1:-1])


def hausdorff95(prediction, target, spacing):
    """HD95 of two masks that are not empty, from the distances between all surface voxels."""
    distances = cdist(*(surface_voxels(mask) * np.asarray(spacing) for mask in (prediction, target)))
    return max(percentile95(distances.min(axis)) for axis in (0, 1))


def percentile95(values):
    """The 95th percentile, interpolated linearly between the two values next to it."""
    ordered = sorted(values)
    below, part = divmod(0.95 * (len(ordered) - 1), 1)
    after = ordered[min(int(below) + 1, len(ordered) - 1)]
    return ordered[int(below)] * (1 - part) + after * part


def surface_dice(prediction, target, spacing, tolerance_mm):
    """Normalised surface Dice of two masks that are not empty, from the distances between all surface elements."""
    (here, here_mm2), (there, there_mm2) = (surface_elements(mask, spacing) for mask in (prediction, target))
    between = cdist(here, there)
    near = here_mm2[between.min(1) <= tolerance_mm].sum() + there_mm2[between.min(0) <= tolerance_mm].sum()
    return near / (here_mm2.sum() + there_mm2.sum())


def surface_elements(mask, spacing):
    """Position in mm and area in mm2 of each corner of voxels whose eight neighbours are not all alike."""
    table = get_code_to_measure_table([float(mm) for mm in spacing])[0].numpy()
    padded = np.pad(mask, 1)
    points, areas = [], []
    for corner in product(*(range(n + 1) for n in mask.shape)):
        neighbours = padded[tuple(slice(c, c + 2) for c in corner)]
        if neighbours.any() and not neighbours.all():
            points.append(np.multiply(corner, spacing))
            areas.append(table[int((neighbours * ENCODING_KERNEL[3]).sum())])
    return np.array(points), np.array(areas, dtype=float)


def random_masks(rng):
    """Predicted and true mask, voxel size and rules, with all that the rules distinguish."""
    shape = rng.integers(4, [34, 18, 12])

    def boxes(number):
        mask = np.zeros(shape, dtype=bool)
        for _ in range(number):
            start = rng.integers(0, shape)
            mask[tuple(slice(a, a + n) for a, n in zip(start, rng.integers(1, 6, size=3), strict=True))] = True
        return mask & (rng.random(shape) < rng.choice([1, 0.8]))

    target = boxes(rng.integers(0, 4))
    if rng.random() < 0.1:  # single voxels, many of which meet at edges and corners
        target[:6] = rng.random(target[:6].shape) < 0.25
    shifted = np.roll(target, rng.integers(-4, 5, size=3), (0, 1, 2))
    prediction = (shifted if rng.random() < 0.7 else np.zeros_like(target)) ^ boxes(rng.integers(0, 3))
    if rng.random() < 0.2 and target.any():  # a bar along x, which may join lesions
        _, y, z = np.argwhere(target)[0]
        prediction[:, y, z] = True
    spacing = (1.0, 1.0, 1.0) if rng.random() < 0.5 else tuple(rng.choice([0.5, 0.8, 1.0, 2.5], size=3).tolist())
    return prediction, target, spacing, LESION_RULES[rng.integers(len(LESION_RULES))]


def groups(points, together):
    """Sets of rows of ``points`` whose pairs, chained, satisfy ``together`` of the offsets."""
    if not len(points):
        return []
    number, of = connected_components(together(np.abs(points[:, None] - points[None])), directed=False)
    return [points[of == k] for k in range(number)]


def hd95_between(prediction, target, spacing):
    """HD95 by area, as (least, greatest) where rounding decides which side of the 95 % a surface element lies."""
    (here, here_mm2), (there, there_mm2) = (surface_elements(mask, spacing) for mask in (prediction, target))
    between = cdist(here, there)
    bounds = []
    for share in (0.95 - 1e-6, 0.95 + 1e-6):
        percentiles = []
        for distance, mm2 in ((between.min(1), here_mm2), (between.min(0), there_mm2)):
            enough = (d for d in np.unique(distance) if mm2[distance <= d].sum() >= share * mm2.sum())
            percentiles.append(next(enough))
        bounds.append(max(percentiles))
    return bounds


def lesion_reference(prediction, target, spacing, rules, penalty, seen):
    """Lesion-wise Dice and the bounds of HD95; and how many lesions there are, missed and false.

    It labels and dilates nothing. Dilating n times with the 18-neighbourhood reaches every offset with |d| <= n along
    each axis and <= 2n in sum; two such neighbourhoods touch when the offset, shortened by one voxel along each axis
    that neighbours may differ in, is within twice that. What belongs together follows from offsets alone.
    """

    def near(offset, steps):
        return (offset.max(-1) <= steps) & (offset.sum(-1) <= 2 * steps)

    def touch(offset, steps):
        axes = {6: 1, 18: 2, 26: 3}[rules.connectivity]
        unit_steps = (step for step in product((0, 1), repeat=3) if sum(step) <= axes)
        return np.logical_or.reduce([near(np.maximum(offset - step, 0), steps) for step in unit_steps])

    lesions = groups(np.argwhere(target), lambda d: touch(d, 2 * rules.dilations))
    parts = groups(np.argwhere(prediction), lambda d: touch(d, 0))
    owners = [
        [near(np.abs(part[:, None] - lesion[None]), rules.dilations).any() for lesion in lesions] for part in parts
    ]
    table, missed = [], 0
    for k, lesion in enumerate(lesions):
        own = [part for part, owner in zip(parts, owners, strict=True) if owner[k]]
        if len(lesion) * np.prod(spacing) <= rules.min_mm3:
            seen["negligible, touched" if own else "negligible, not touched"] += 1
            continue
        enough = prediction[tuple(lesion.T)].mean() >= rules.min_overlap
        if not (own and enough):
            seen["too little overlap"] += bool(own)
            missed += 1
            table.append((0, penalty, penalty))
            continue
        masks = [np.zeros_like(target) for _ in range(2)]
        for mask, points in zip(masks, (np.concatenate(own), lesion), strict=True):
            mask[tuple(points.T)] = True
        common = (masks[0] & masks[1]).sum()
        table.append((2 * common / (masks[0].sum() + masks[1].sum()), *hd95_between(*masks, spacing)))
        seen["several parts"] += len(own) > 1
        seen["rim only"] += not common
        seen["gathered"] += len(groups(lesion, lambda d: d.max(-1) <= 1)) > 1
        seen["met by another"] += (np.abs(lesion[:, None] - np.argwhere(target & ~masks[1])).max(-1) <= 1).any()
    lesion_count, false = len(table), sum(not any(owner) for owner in owners)
    seen["one part, several lesions"] += sum(owner.count(True) > 1 for owner in owners)
    seen["missed"] += missed
    seen["false"] += false
    table += [(0, penalty, penalty)] * false
    if not table:
        seen["nothing to score"] += 1
        table = [(1, 0, 0)]
    return np.mean(table, axis=0), (lesion_count, missed, false)
