"""What one lesion of a mask is, and which lesions count: rules that a task states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, generate_binary_structure, label

# By the number of neighbours of a voxel: those across faces, across edges as well, across corners as well.
NEIGHBOURHOODS = {6: generate_binary_structure(3, 1), 18: generate_binary_structure(3, 2), 26: np.ones((3, 3, 3), bool)}


@dataclass(frozen=True)
class LesionRules:
    """When voxels are one lesion, when a lesion counts, and when it is found; see ``lesions.lesion_metrics``.

    By default nothing is merged or left out: each connected part of a mask is a lesion.

    Attributes:
        dilations: how often the true mask is dilated before its connected parts become lesions.
        min_mm3: volume up to which a true lesion does not count.
        connectivity: neighbours of a voxel: 6, 18 or 26.
        min_overlap: share of a true lesion's voxels that must be predicted for it to be found; 0: a predicted component
            touches it, or its dilated mask if it was dilated.

    Raises:
        ValueError: for a number that is none of these.

    Example:
        >>> LesionRules(connectivity=6, min_overlap=0.1).describe()
        'each 6-connected part of the true mask is a lesion, which is found if at least 10 % of it is predicted'
    """

    dilations: int = 0
    min_mm3: float = 0.0
    connectivity: int = 26
    min_overlap: float = 0.0

    def __post_init__(self) -> None:
        if not (
            all(type(value) in (int, float) for value in vars(self).values())
            and type(self.dilations) is int
            and self.dilations >= 0
            and 0 <= self.min_mm3 < float("inf")
            and self.connectivity in NEIGHBOURHOODS
            and 0 <= self.min_overlap <= 1
        ):
            raise ValueError(
                f"lesion rules are {vars(self)}; expected dilations at least 0, min_mm3 at least 0, connectivity 6, 18 "
                "or 26, min_overlap from 0 to 1"
            )

    def counts(self, mm3: float) -> bool:
        """Whether a lesion of this volume counts."""
        return mm3 > self.min_mm3

    def describe(self) -> str:
        """The rules in words."""
        parts = f"{self.connectivity}-connected part of the"
        times = "once" if self.dilations == 1 else f"{self.dilations} times"
        one = (
            f"true voxels in one {parts} mask dilated {times} are a"
            if self.dilations
            else f"each {parts} true mask is a"
        )
        size = f" does not count up to {self.min_mm3:g} mm3 and" if self.min_mm3 else ""
        touched = f"a predicted part touches {'its dilated mask' if self.dilations else 'it'}"
        found = f"at least {100 * self.min_overlap:g} % of it is predicted" if self.min_overlap else touched
        return f"{one} lesion, which{size} is found if {found}"


def lesion_areas(mask: NDArray[np.bool_], rules: LesionRules) -> tuple[NDArray[np.integer], int]:
    """The lesions of a mask, numbered.

    Args:
        mask: ``(x, y, z)``.
        rules: which voxels are one lesion.

    Returns:
        ``(x, y, z)``: the number of the lesion in whose mask, dilated if the rules say so, a voxel lies, 0 outside all;
        and the number of lesions, whatever their size.

    Example:
        >>> apart = np.array([True, False, False, True]).reshape(4, 1, 1)
        >>> [lesion_areas(apart, LesionRules(dilations=n))[1] for n in (0, 1)]
        [2, 1]
    """
    # To SciPy no iterations mean as many as change anything.
    dilated = binary_dilation(mask, NEIGHBOURHOODS[18], iterations=rules.dilations) if rules.dilations else mask
    areas, number = label(dilated, NEIGHBOURHOODS[rules.connectivity])
    return areas, int(number)
