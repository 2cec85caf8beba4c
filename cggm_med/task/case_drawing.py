"""Pictures of a scored case: its images with the contours of the true and the predicted regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.prepared import PreparedCase
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
        from cggm_med.plots.contours import Column, contour_figure

        shown = Upright.of(self.case)
        prediction = shown.masks(self.prediction)
        columns = [Column(modality, image, prediction) for modality, image in shown.images.items()]
        dice = {row["region"]: row["dice"] for row in self.scores}
        truth = shown.masks(self.truth)
        contour_figure(
            path, self.case.id, columns, truth, self.colours, shown.spacing, dice, oriented=self.case.oriented
        )


@dataclass(frozen=True)
class LeftOutDrawing:
    """Draws what a network makes of a case with all of its scans, and without each, over the scan that is left out.

    Attributes:
        colours: of the regions, in their order.
        case: whose images are shown.
        truth: ``(region, x, y, z)`` on the grid that the label was drawn on.
        predictions: the same, by the modalities that they are made from.
        scores: rows with the Dice of each region, by these modalities.
    """

    colours: Mapping[str, str]
    case: PreparedCase
    truth: NDArray[np.bool_]
    predictions: Mapping[tuple[str, ...], NDArray[np.bool_]]
    scores: Mapping[tuple[str, ...], Sequence[Record]]

    def __call__(self, path: Path) -> None:
        """Write the picture."""
        from cggm_med.plots.contours import Column, contour_figure

        shown, columns = Upright.of(self.case), []
        for subset, prediction in self.predictions.items():
            left_out = [modality for modality in self.case.modalities if modality not in subset]
            dice = "  ".join(f"{row['region']} {row['dice']:.2f}" for row in self.scores[subset])
            title = f"{f'without {left_out[0]}' if left_out else 'all'}\n{dice}"
            image = shown.images[left_out[0] if left_out else subset[0]]
            columns.append(Column(title, image, shown.masks(prediction)))
        title = f"{self.case.id}: Dice with all scans, and without each (over the one that is left out)"
        truth = shown.masks(self.truth)
        contour_figure(path, title, columns, truth, self.colours, shown.spacing, oriented=self.case.oriented)


@dataclass(frozen=True)
class Upright:
    """A case's images in RAS+ axes, on the grid that its label was drawn on.

    Attributes:
        images: ``(x, y, z)`` by modality.
        spacing: voxel size in mm along these axes.
        turn: from the axes of the grid, as nibabel writes orientations.
    """

    images: Mapping[str, NDArray[Any]]
    spacing: tuple[float, ...]
    turn: NDArray[Any]

    @classmethod
    def of(cls, case: PreparedCase) -> Upright:
        """From its files."""
        grid = case.label_grid or case.grid
        turn = nib.orientations.io_orientation(np.array(grid.affine))
        images = {m: nib.orientations.apply_orientation(v, turn) for m, v in case.scan(grid).volumes.items()}
        return cls(images, tuple(grid.spacing[int(axis)] for axis in np.argsort(turn[:, 0])), turn)

    def masks(self, regions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Masks ``(region, x, y, z)`` of the grid, in RAS+ axes."""
        return np.stack([nib.orientations.apply_orientation(mask, self.turn) for mask in regions])
