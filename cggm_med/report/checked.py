"""A page of what checks saw in a data set, with pictures of the cases that are concerned."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cggm_med.data.checks.finding import merged
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.data.volumes.spacing import Spacing, spacing_along_axes
from cggm_med.files import write_text
from cggm_med.report.render import PAGES
from cggm_med.runs.checked import CheckedData

TITLE = "What checks found"
MAX_PICTURES = 40  # cases that are drawn
_PIXELS, _WIDTH = 110, 2.0  # an inch, and inches a modality


def write_page(path: Path, checked: CheckedData) -> None:
    """Write a page that needs no other file.

    Raises:
        OutputError: if it cannot be written.
    """
    write_text(path, PAGES.page("check.html", title=TITLE, summary=checked.summary(), kinds=_sections(checked)))


def is_page(path: Path) -> bool:
    """Whether a file is such a page."""
    return f"<title>{TITLE}</title>" in path.read_text(encoding="utf-8", errors="replace")[:100_000]


def _sections(checked: CheckedData) -> list[dict[str, Any]]:
    """Of each kind what was found, the gravest first; each case is drawn where it is named first."""
    sections, drawn = [], set[str]()
    for kind in dict.fromkeys(finding.kind for finding in checked.findings):
        of = merged(finding for finding in checked.findings if finding.kind == kind)
        ids = dict.fromkeys(id for finding in of for id in finding.case.split(", ") if id)
        new = [id for id in ids if id in checked.cases and id not in drawn][: max(MAX_PICTURES - len(drawn), 0)]
        sections.append(
            {
                "severity": kind.severity,
                "accepted": kind.name in checked.accepted,
                "name": kind.name,
                "meaning": kind.meaning,
                "lines": [finding.describe() for finding in of],
                "pictures": [{"id": id, "picture": _picture(checked.cases[id], checked.spacing)} for id in new],
                "above": [id for id in ids if id in drawn],
                "left_out": [id for id in ids if id not in drawn and id not in new],
            }
        )
        drawn |= set(new)
    return sections


def _picture(case: PreparedCase, spacing: Spacing | None) -> str:
    """Middle slices of each modality, or those with most of the label, which is outlined; as a data address."""
    image, target = case.image(), np.asarray(case.target()).max(axis=0)
    labelled = (target >= 0.5) & (target <= 1)
    spacing = spacing or spacing_along_axes(np.array(case.facts["affine"]))
    planes = ((0, 1), (1, 2))  # axes of a slice from left to right and from bottom to top
    size = [image.shape[1 + axis] * spacing[axis] for axis in range(3)]
    heights = [_WIDTH * size[up] / size[across] for across, up in planes]
    figure = Figure(figsize=(_WIDTH * len(image), sum(heights) + 0.3), layout="constrained")
    axes = figure.subplots(2, len(image), squeeze=False, height_ratios=heights)
    for row, (across, up) in enumerate(planes):
        through = 3 - across - up
        counts = labelled.sum(axis=(across, up))
        place = int(counts.argmax()) if counts.any() else labelled.shape[through] // 2
        outline = np.take(labelled, place, through).T
        for k, modality in enumerate(case.modalities):
            ax = axes[row, k]
            shown = np.take(image[k], place, through).T
            low, high = np.quantile(shown, (0.01, 0.99))
            aspect = spacing[up] / spacing[across]
            ax.imshow(shown, cmap="gray", origin="lower", vmin=low, vmax=high, aspect=aspect)
            if outline.any() and not outline.all():
                ax.contour(outline, [0.5], colors="#E69F00", linewidths=0.8)
            ax.set_axis_off()
            if row == 0:
                ax.set_title(modality, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PIXELS)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
