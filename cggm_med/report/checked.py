"""A page of what checks saw in a data set, with pictures of the cases that are concerned."""

from __future__ import annotations

import base64
import datetime
import importlib.metadata
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cggm_med.data.checks.finding import Finding
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.files import write_text
from cggm_med.report.render import render, verbatim
from cggm_med.runs.checked import CheckedData

MAX_PICTURES = 40  # cases that are drawn
_PIXELS = 110  # an inch


def write_page(path: Path, checked: CheckedData) -> None:
    """Write a page that needs no other file.

    Raises:
        OutputError: if it cannot be written.
    """
    drawn: dict[str, str] = {}
    for finding in checked.findings:
        for id in finding.case.split(", "):
            if id in checked.cases and id not in drawn and len(drawn) < MAX_PICTURES:
                drawn[id] = _picture(checked.cases[id])
    page = render(
        "check.html",
        title="What checks found",
        version=importlib.metadata.version("cggm-med"),
        date=datetime.date.today().isoformat(),
        style=verbatim("style.css"),
        summary=checked.summary(),
        findings=[_entry(finding, checked, drawn) for finding in checked.findings],
    )
    write_text(path, str(page))


def _entry(finding: Finding, checked: CheckedData, drawn: dict[str, str]) -> dict[str, Any]:
    return {
        "severity": finding.kind.severity,
        "accepted": finding.kind.name in checked.accepted,
        "kind": finding.kind.name,
        "meaning": finding.kind.meaning,
        "said": finding.describe(),
        "pictures": [(id, drawn[id]) for id in finding.case.split(", ") if id in drawn],
    }


def _picture(case: PreparedCase) -> str:
    """Middle slices of each modality, or those with most of the label, which is outlined; as a data address."""
    image, target = case.image(), np.asarray(case.target()).max(axis=0)
    labelled = (target >= 0.5) & (target <= 1)
    figure = Figure(figsize=(2 * len(image), 4.2), layout="constrained")
    axes = figure.subplots(2, len(image), squeeze=False)
    for row, axis in enumerate((2, 0)):
        counts = labelled.sum(axis=tuple(other for other in range(3) if other != axis))
        place = int(counts.argmax()) if counts.any() else labelled.shape[axis] // 2
        outline = np.take(labelled, place, axis).T
        for k, modality in enumerate(case.modalities):
            ax = axes[row, k]
            shown = np.take(image[k], place, axis).T
            ax.imshow(shown, cmap="gray", origin="lower", vmin=np.quantile(shown, 0.01), vmax=np.quantile(shown, 0.99))
            if outline.any() and not outline.all():
                ax.contour(outline, [0.5], colors="#E69F00", linewidths=0.8)
            ax.set_axis_off()
            if row == 0:
                ax.set_title(modality, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PIXELS)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
