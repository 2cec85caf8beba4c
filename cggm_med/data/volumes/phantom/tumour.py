"""A glioma: foci of necrosis, solid tumour and blood in an enhancing rim in oedema; some tumours lack parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from cggm_med.data.volumes.phantom.grid import Grid, Volume, ellipsoid


@dataclass(frozen=True)
class Focus:
    """Centres ``(axis, 1, 1, 1)`` and radii of a core and of the oedema around it, in mm."""

    core_centre: Volume
    core_radius: float
    oedema_centre: Volume
    oedema_radius: float


@dataclass(frozen=True)
class TumourPlan:
    """What a tumour is made of, before it is drawn.

    Attributes:
        foci: the first is the largest.
        enhancing: whether any of it takes up contrast agent.
        oedema: whether it has any.
        solid: share of the core that is solid tumour without enhancement.
        blood: share of the core that has bled.
    """

    foci: tuple[Focus, ...]
    enhancing: bool
    oedema: bool
    solid: float
    blood: float


def plan_tumour(rng: np.random.Generator, grid: Grid, hull: Volume) -> TumourPlan:
    """Places in the white matter of either hemisphere, and sizes as in adult glioma."""
    kind, foci = rng.random(), []
    x, _, z = grid.position
    places = np.flatnonzero((hull > 14) & (hull < 45) & (np.abs(x) > 15) & (z > -22))
    for number in range(1 + int(rng.choice(3, p=[0.75, 0.15, 0.1]))):
        centre = grid.position.reshape(3, -1)[:, rng.choice(places)]
        radius = rng.uniform(18, 36) if number == 0 else rng.uniform(9, 17)
        core_radius = radius * rng.uniform(0.5, 0.8)
        shift = rng.standard_normal(3, dtype=np.float32)
        shift *= rng.uniform(0, radius - core_radius) / np.sqrt((shift**2).sum())
        foci.append(Focus(centre.reshape(3, 1, 1, 1), core_radius, (centre + shift).reshape(3, 1, 1, 1), radius))
    enhancing, oedema = kind > 0.1, kind < 0.92
    return TumourPlan(
        tuple(foci),
        enhancing=enhancing,
        oedema=oedema,
        solid=rng.uniform(0.05, 0.4) if enhancing else rng.uniform(0.75, 1),
        blood=rng.uniform(0.05, 0.2) if rng.random() < 0.4 else 0.0,
    )


def displaced(grid: Grid, hull: Volume, plan: TumourPlan) -> Volume:
    """Where the tissue at each voxel was before the cores pushed it aside; the skull holds the surface in place."""
    position = grid.position
    for focus in plan.foci:
        away = grid.position - focus.core_centre
        distance = np.sqrt((away**2).sum(0)) + 1
        push = 0.25 * focus.core_radius * np.exp(-((distance / (2 * focus.core_radius)) ** 2))
        position = position - push * np.clip(hull / 20, 0, 1) / distance * away
    return position


def tumour_tissue(
    rng: np.random.Generator, grid: Grid, hull: Volume, healthy: dict[str, Volume], plan: TumourPlan
) -> dict[str, Volume]:
    """Share of each voxel taken by each part of the tumour, in painting order."""
    fluid = np.maximum(healthy["csf"], healthy["ventricle"])
    wide, fine = grid.field(rng, 32), grid.field(rng, 15)
    cores, oedemas = [], []
    for focus in plan.foci:
        beyond_midline = np.maximum(0, 2 - grid.position[0] * np.sign(focus.core_centre[0]))
        core = ellipsoid(grid.position - focus.core_centre, focus.core_radius * np.exp(rng.normal(0, 0.2, 3)))
        core = core + focus.core_radius * (0.22 * grid.field(rng, 1.6 * focus.core_radius) + 0.1 * fine)
        cores.append(np.minimum(core - beyond_midline - 6 * healthy["ventricle"], hull - 2))
        oedema = ellipsoid(grid.position - focus.oedema_centre, focus.oedema_radius * np.exp(rng.normal(0, 0.25, 3)))
        oedemas.append(oedema + focus.oedema_radius * (0.28 * wide + 0.1 * fine) - 2 * beyond_midline)
    core = np.maximum.reduce(cores)
    kind = grid.field(rng, 26)  # low where the core is solid, high where it has bled
    solid_below, blood_above = ndtri(plan.solid), ndtri(1 - plan.blood)
    # Where the rim's thickness falls to zero the rim is open and necrosis or solid tumour meets oedema.
    radius = plan.foci[0].core_radius
    rim = radius * rng.uniform(0.25, 0.48) * (1 + rng.uniform(0.3, 0.8) * grid.field(rng, 20))
    rim = np.maximum(0, rim) * np.clip(2 * (kind - solid_below) + 0.5, 0, 1)
    inside = core - (rim if plan.enhancing else 0)
    blood = np.minimum(core, 6 * (kind - blood_above))
    inside = np.maximum(inside, blood)
    # Oedema spreads through white matter, stops at CSF and hardly enters the cortex.
    oedema = np.minimum(np.maximum.reduce(oedemas) - 3 * healthy["grey"], 20 * (0.5 - fluid))
    oedema = _around(core, np.maximum(oedema, core + 2)) if plan.oedema else core
    oedema_share = grid.share(oedema, 4) * (1 - fluid)
    # Some of the oedema is so wet that FLAIR suppresses it as fluid, some so faint that T2 does not show it.
    wet = grid.share(8 * (grid.field(rng, 30) - rng.uniform(-0.9, 0.9)), 8)
    return {
        "oedema": oedema_share,
        "wet oedema": oedema_share * wet,
        "enhancing": grid.share(core) if plan.enhancing else np.zeros_like(core),
        "necrosis": grid.share(inside),
        "solid": grid.share(np.minimum(inside, 6 * (solid_below - kind))),
        "blood": grid.share(blood),
    }


def _around(core: Volume, depth: Volume) -> Volume:
    """The depth without pieces of what lies below the surface that hold no core."""
    pieces, count = ndimage.label(depth > 0)
    alone = np.ones(count + 1, dtype=bool)
    alone[np.unique(pieces[core > 0])] = alone[0] = False
    return np.where(alone[pieces], np.float32(-4), depth)
