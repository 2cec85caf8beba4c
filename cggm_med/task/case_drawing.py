"""The picture of a scored case: its images with the contours of the true and the predicted regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.plots.contours import contour_figure
from cggm_med.results.results import Record


@dataclass(frozen=True)
class CaseDrawing:
    """Draws one case with true and predicted contours, in RAS+ axes, into a file.

    Attributes:
        colours: of the regions, in their order.
        case: whose images are shown.
        truth: ``(region, x, y, z)`` on the grid that the label was drawn on.
        prediction: the same.
        scores: a row with the Dice of each region.
    """

    colours: Mapping[str, str]
    case: PreparedCase
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    scores: Sequence[Record]

    def __call__(self, path: Path) -> None:
        """Write the picture."""
        grid = self.case.label_grid or self.case.grid
        affine = np.array(grid.affine)
        turn = nib.orientations.io_orientation(affine)
        axes = [int(a) for a in np.argsort(turn[:, 0])]

        def canonical(volume: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(nib.orientations.apply_orientation(volume, turn))

        images = {modality: canonical(volume) for modality, volume in self.case.scan(grid).volumes.items()}
        contour_figure(
            path,
            self.case.id,
            images,
            np.stack([canonical(mask) for mask in self.truth]),
            np.stack([canonical(mask) for mask in self.prediction]),
            self.colours,
            tuple(grid.spacing[a] for a in axes),
            {row["region"]: row["dice"] for row in self.scores},
            oriented=self.case.oriented,
        )
