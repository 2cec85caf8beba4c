"""A healthy head: brain with folded cortex, ventricles and nuclei, vessels, and what ages and diseases leave in it.

Each tissue is a share of each voxel. What is bright in one modality and no tumour has its look-alike in another tissue:
white-matter hyperintensities and old infarcts resemble oedema, vessels and dura an enhancing rim, and flowing CSF is
bright in FLAIR. The anatomy is plausible, not accurate.
"""

from __future__ import annotations

import numpy as np

from cggm_med.data.volumes.phantom.grid import Grid, Volume, ellipsoid


def hull_of(rng: np.random.Generator, grid: Grid) -> Volume:
    """Depth in mm below the outer surface of cerebrum, temporal lobes, cerebellum and brain stem; negative outside."""
    x, y, z = grid.position / rng.normal(1, 0.03, (3, 1, 1, 1)).astype(np.float32)
    vault = np.where(z < 2, (z - 2) * np.float32(64 / 46), z - 2)  # the base of the cerebrum is flatter than its vault
    parts = [
        ellipsoid([x, y, vault], (65, 81, 64)),
        ellipsoid([np.abs(x) - 38, y + 4, z + 28], (21, 38, 24)),
        ellipsoid([x, y - 46, z + 38], (50, 33, 26)),
        ellipsoid([x, y - 18, z + 50], (14, 15, 40)),
    ]
    return np.maximum.reduce(parts) + 1.5 * grid.field(rng, 45)


def healthy_tissue(rng: np.random.Generator, grid: Grid, hull: Volume, position: Volume) -> dict[str, Volume]:
    """Share of each voxel taken by each tissue on top of white matter, in painting order.

    Args:
        rng: random numbers.
        grid: of the phantom.
        hull: depth below the surface, see ``hull_of``.
        position: where the tissue at each voxel would be in a head without a tumour, ``(axis, x, y, z)``.
    """
    x, y, z = position
    x = x + grid.field(rng, 60)
    side = np.abs(x)

    # Sulci are the zero sheets of a random field. Reading it near the surface, above each voxel, makes them radial.
    height = 1 - ellipsoid(position, (65, 81, 62)) / 65
    fold = grid.sample(grid.field(rng, 23), position * np.maximum(height, 0.05) ** -0.6)
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(fold, grid.voxel))) + 0.02
    sulcus = np.abs(fold) / slope + np.maximum(0, hull - 22 - 7 * grid.field(rng, 50))
    # The hemispheres part down to the corpus callosum, and the tentorium lies over the cerebellum.
    callosum = ellipsoid([x, y - 4, z + 4], (200, 44, 30))
    fissure = side + np.maximum(0, 2 * callosum) + np.maximum(0, -18 - z)
    tentorium = np.abs(ellipsoid([x, y - 46, z + 38], (50, 33, 26))) + 0.3 * np.maximum(0, 20 - side)
    pial = np.minimum.reduce([hull + 0.5, sulcus, fissure, tentorium])

    width = rng.uniform(0.8, 1.6)  # of all spaces filled with CSF, which grow with age
    bend = 0.006 * np.clip(y + 10, -60, 60) ** 2
    lateral = ellipsoid([side - 6 - bend, y - 2, z - 12 + bend], (5.5 * width, 42, 8 * width))
    third = ellipsoid([x, y - 4, z + 6], (2.2 * width, 13, 9))
    nuclei = [
        ellipsoid([side - 11, y - 8, z + 1], (8, 14, 9)),
        ellipsoid([side - 25, y + 4, z], (6.5, 19, 11)),
        ellipsoid([side - 14, y + 20, z - 6], (5, 12, 10)),
    ]
    spots, strands = grid.field(rng, 14), grid.field(rng, 16)
    # White-matter hyperintensities cap the ventricles and are scattered, the more the older a patient is.
    age = rng.uniform(0, 1)
    caps = np.minimum(lateral + 4 * age + 2.5 * spots, 10 - callosum)
    scattered = np.minimum(4 * (spots - 2.8 + 1.1 * age), hull - 9)
    scar, cavity = _infarct(rng, grid, hull, spots)
    sinus = 3 - np.hypot(x, hull - 1) - np.maximum(0, -20 - z)
    dura = np.minimum(0.8 + 0.8 * strands - np.abs(hull - 0.5), 3 * (spots - 0.5))
    csf = grid.share(np.maximum(0.5 + 0.3 * width - pial, cavity))
    ventricle = grid.share(np.maximum(lateral, third))
    flow = grid.share(4 * (grid.field(rng, 45) - rng.uniform(0.8, 2)), 6)
    return {
        "nucleus": grid.share(np.maximum.reduce(nuclei), 3),
        "hyperintensity": rng.uniform(0.5, 1.0) * grid.share(np.maximum.reduce([caps, scattered, scar]), 3),
        "grey": grid.share(rng.uniform(3.0, 3.8) - pial),
        "csf": csf,
        "ventricle": ventricle,
        "flow": flow * np.maximum(csf, ventricle),
        "plexus": grid.share(np.minimum.reduce([lateral, 4 * spots - 2, y])),
        "vessel": grid.share(np.maximum.reduce([np.minimum(0.7 - pial, 2 * strands - 2.8), sinus, dura])),
        "calcification": grid.share(np.minimum(lateral + 12, 4 * (strands - 2.7))),
    }


def _infarct(rng: np.random.Generator, grid: Grid, hull: Volume, rough: Volume) -> tuple[Volume, Volume]:
    """Depth below the surfaces of an old infarct's scar, which resembles oedema, and of its cavity; in one of three."""
    places = np.flatnonzero((hull > 6) & (hull < 20) & (grid.position[2] > -20))
    centre = grid.position.reshape(3, -1)[:, rng.choice(places)].reshape(3, 1, 1, 1)
    size = rng.uniform(8, 17)
    depth = ellipsoid(grid.position - centre, size * np.exp(rng.normal(0, 0.25, 3))) + 0.15 * size * rough
    if rng.random() > 0.35:
        depth = np.full_like(depth, -99)
    return np.minimum(depth, hull), depth - rng.uniform(0.3, 0.9) * size
