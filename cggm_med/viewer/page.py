"""The self-contained HTML page of a case: scans, true and predicted regions, in planes and in 3-D."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.overlap import dice
from cggm_med.viewer.errors import lesion_errors
from cggm_med.viewer.volumes import (
    PROBABILITY_STEPS,
    Layer,
    grey_window,
    image_text,
    layer_text,
    probability_text,
    rounding_step,
)

TEMPLATES = Path(__file__).with_name("templates")
NIIVUE = Path(__file__).parents[1] / "vendored" / "niivue"
FINE, COARSE = 4096, 255  # grey levels between black and white
MAX_LESIONS = 100  # that the page lists; a mask of noise has a hundred thousand
# Of what is true and predicted, only true, and only predicted; Okabe and Ito's colours that regions rarely have.
ERRORS = {"correct": "#009E73", "missed": "#CC79A7", "false": "#E69F00"}
MIN_PROBABILITY = 0.1  # that is coloured
LARGE_BYTES = 20_000_000  # of fine images; the coarse ones are written instead


@dataclass(frozen=True)
class ViewedCase:
    """A case as the page shows it.

    Attributes:
        name: of the case.
        facts: shown below its name, such as task and run.
        images: ``(x, y, z)`` by modality, all on one grid.
        affine: of that grid, voxels to mm in RAS+.
        regions: meaning of each region by name; the outermost of overlapping regions first.
        colours: of each region by name, such as ``#56B4E9``.
        truth: the true regions, if they are known.
        prediction: the predicted regions, if there are any.
        notes: warnings to the reader.
        oriented: whether the files state which side is left; if not, the page does not mark any.
        lesion_rules: by which lesions are missed or false.
        probabilities: ``(x, y, z)`` in [0, 1] by region, if they are to be shown.
    """

    name: str
    facts: Mapping[str, str]
    images: Mapping[str, NDArray[np.float32]]
    affine: NDArray[np.float64]
    regions: Mapping[str, str]
    colours: Mapping[str, str]
    truth: Layer | None
    prediction: Layer | None
    notes: tuple[str, ...] = ()
    oriented: bool = True
    lesion_rules: LesionRules = field(default_factory=LesionRules)
    probabilities: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def page_html(case: ViewedCase, *, before: str | None = None, following: str | None = None) -> str:
    """The HTML text of a page that needs no other file and no network.

    Args:
        case: what it shows.
        before: name of another case, whose page lies beside this one under its name, for a link.
        following: the same of the next case.
    """
    steps = {m: rounding_step(image, FINE) for m, image in case.images.items()}
    texts = {m: image_text(image, case.affine, steps[m]) for m, image in case.images.items()}
    if sum(map(len, texts.values())) > LARGE_BYTES:
        steps = {m: rounding_step(image, COARSE) for m, image in case.images.items()}
        texts = {m: image_text(image, case.affine, steps[m]) for m, image in case.images.items()}
    layers = {"truth": case.truth, "prediction": case.prediction}
    volumes = list(texts.values()) + [layer_text(x, case.affine) for x in layers.values() if x is not None]
    volumes += [probability_text(case.probabilities[region], case.affine) for region in case.probabilities]
    box = _box(case)
    lesions, count = _lesions(case)
    content = {
        "name": case.name,
        "before": _link(before),
        "following": _link(following),
        "facts": dict(case.facts),
        "grid": _grid(case),
        "images": [_image(m, image, steps[m]) for m, image in case.images.items()],
        "regions": _regions(case),
        "layers": [{"name": name, "members": layer.members} for name, layer in layers.items() if layer is not None],
        "probabilities": [list(case.regions).index(region) for region in case.probabilities],
        "probability_colours": _probability_colours(),
        "errors": ERRORS,
        "lesions": lesions,
        "lesions_found": count,
        "lesion_rules": case.lesion_rules.describe(),
        "start": _start(case),
        "box": box,
        "axes": _axes(case),
        "sides": case.oriented and _holds_origin(case, box),
        "notes": case.notes,
        "oriented": case.oriented,
        "rounded": _rounded(steps),
    }
    # The template escapes all text of the case, also in the JSON; only this package's own files are inserted verbatim.
    return _ENVIRONMENT.get_template("page.html").render(
        title=case.name,
        style=_verbatim(TEMPLATES / "page.css"),
        content=content,
        volumes=volumes,
        licences="\n\n".join(
            (NIIVUE / name).read_text(encoding="utf-8") for name in ("LICENSE", "THIRD_PARTY_NOTICES.md")
        ),
        niivue=_verbatim(NIIVUE / "niivue.umd.js"),
        script=_verbatim(TEMPLATES / "page.js"),
    )


def is_page(path: Path) -> bool:
    """Whether a file is such a page, by the comment at its beginning."""
    with path.open("rb") as file:
        return b"<!-- Scans of patients:" in file.read(512)


def temporary_file(name: str) -> Path:
    """A path named after a case, in a new folder that only this user can read."""
    stem = re.sub(r"[^\w.-]+", "_", name)[:80].strip(".") or "case"
    return Path(tempfile.mkdtemp(prefix="cggm-med-view-")) / f"{stem}.html"


def open_in_browser(path: Path) -> bool:
    """Show a file in the default browser; returns whether there is one."""
    graphical = sys.platform in ("win32", "darwin") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    # Without a screen, webbrowser would start a text browser in this terminal.
    return graphical and webbrowser.open(path.resolve().as_uri())


def _link(case: str | None) -> dict[str, str] | None:
    return None if case is None else {"name": case, "address": quote(f"{case}.html")}


def _probability_colours() -> list[str | None]:
    """By probability in steps; none for small ones, which would cover the scan."""
    shares = [k / PROBABILITY_STEPS for k in range(PROBABILITY_STEPS + 1)]
    return [to_hex(colormaps["viridis"](p)) if p >= MIN_PROBABILITY else None for p in shares]


def _grid(case: ViewedCase) -> str:
    shape = next(iter(case.images.values())).shape
    spacing = np.linalg.norm(case.affine[:3, :3], axis=0)
    axes = "".join(nib.aff2axcodes(case.affine))
    degrees = float(np.degrees(nib.affines.obliquity(case.affine).max()))
    turned = f"; its axes are turned by up to {degrees:.0f}°, and so are the planes" if degrees >= 1 else ""
    stored = f"stored as {axes}{turned}" if case.oriented else "their orientation is not stated: left may be right"
    return f"{_times(shape)} voxels of {_times(spacing)} mm, {stored}."


def _image(modality: str, image: NDArray[np.float32], step: float) -> dict[str, Any]:
    low, high = grey_window(image)
    return {"name": modality, "window": [low, high], "range": [float(image.min()), float(image.max())], "step": step}


def _regions(case: ViewedCase) -> list[dict[str, Any]]:
    """Name and colour of each region, and volumes and Dice as far as there is a truth or a prediction."""
    ml = _voxel_mm3(case) / 1000
    rows = []
    for index, (name, meaning) in enumerate(case.regions.items()):
        true, predicted = (None if x is None else x.mask(index) for x in (case.truth, case.prediction))
        row: dict[str, Any] = {
            "name": name,
            "meaning": meaning,
            "colour": case.colours[name],
            "truth": None if true is None else float(true.sum()) * ml,
            "prediction": None if predicted is None else float(predicted.sum()) * ml,
            "dice": None,
            "errors": None,
        }
        if true is not None and predicted is not None:
            row["dice"] = dice(torch.from_numpy(predicted), torch.from_numpy(true))
            kinds = {"correct": true & predicted, "missed": true & ~predicted, "false": predicted & ~true}
            row["errors"] = {kind: float(mask.sum()) * ml for kind, mask in kinds.items()}
        rows.append(row)
    return rows


def _lesions(case: ViewedCase) -> tuple[list[dict[str, Any]], int]:
    """The largest missed and false lesions of all regions, and how many there are."""
    if case.truth is None or case.prediction is None:
        return [], 0
    rows, count, mm3 = [], 0, _voxel_mm3(case)
    for region in range(len(case.regions)):
        masks = case.prediction.mask(region), case.truth.mask(region)
        errors, number = lesion_errors(*masks, mm3, case.lesion_rules, MAX_LESIONS)
        count += number
        rows += [
            {
                "kind": error.kind,
                "region": region,
                "ml": error.voxels * mm3 / 1000,
                "mm": nib.affines.apply_affine(case.affine, error.voxel).tolist(),
            }
            for error in errors
        ]
    return sorted(rows, key=lambda row: -row["ml"])[:MAX_LESIONS], count


def _voxel_mm3(case: ViewedCase) -> float:
    return float(abs(np.linalg.det(case.affine[:3, :3])))


def _start(case: ViewedCase) -> list[float]:
    """The initial position in mm: the slices with the most of all regions, else the middle."""
    shown = next((x.codes > 0 for x in (case.truth, case.prediction) if x is not None and x.codes.any()), None)
    if shown is None:
        voxel = [(n - 1) / 2 for n in next(iter(case.images.values())).shape]
    else:
        voxel = [int(shown.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]
    return [float(mm) for mm in nib.affines.apply_affine(case.affine, voxel)]


def _box(case: ViewedCase) -> list[list[float]]:
    """Bounding box of the foreground, as shares of the extent along right, anterior and superior."""
    image = next(iter(case.images.values()))
    shown = image != image[0, 0, 0]
    ends = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    for box in find_objects(shown.view(np.uint8)):
        turns = nib.orientations.io_orientation(case.affine).astype(int)
        for part, n, (to, direction) in zip(box, image.shape, turns, strict=True):
            share = np.array([part.start, part.stop]) / n
            ends[:, to] = share if direction > 0 else 1 - share[::-1]
    return ends.tolist()


def _axes(case: ViewedCase) -> list[dict[str, Any]]:
    """Along right, anterior and superior: the axis of the file, whether it counts that way, and its voxels."""
    shape = next(iter(case.images.values())).shape
    axes: list[dict[str, Any]] = [{}, {}, {}]
    for stored, (axis, direction) in enumerate(nib.orientations.io_orientation(case.affine).astype(int)):
        axes[axis] = {"stored": stored, "ascending": bool(direction > 0), "size": shape[stored]}
    return axes


def _holds_origin(case: ViewedCase, box: list[list[float]]) -> bool:
    """Whether 0 mm lies within the foreground.

    Only then is a distance to the right of 0 one to the patient's right: 0 may also be a corner of the volume, as in
    BraTS.
    """
    shape = next(iter(case.images.values())).shape
    origin = nib.affines.apply_affine(np.linalg.inv(case.affine), [0.0, 0.0, 0.0])
    shares = [0.0, 0.0, 0.0]
    for voxel, n, (axis, direction) in zip(origin, shape, nib.orientations.io_orientation(case.affine), strict=True):
        share = (voxel + 0.5) / n
        shares[int(axis)] = float(share if direction > 0 else 1 - share)
    return all(low <= share <= high for low, share, high in zip(box[0], shares, box[1], strict=True))


def _rounded(steps: Mapping[str, float]) -> str:
    rounded = [f"{m} to steps of {step:.3g}" for m, step in steps.items() if step]
    return f"Intensities were rounded for this page: {', '.join(rounded)}." if rounded else ""


def _times(numbers: Any) -> str:
    return " × ".join(f"{number:.4g}" for number in numbers)


def _verbatim(path: Path) -> Markup:
    return Markup(path.read_text(encoding="utf-8"))  # noqa: S704 - a file of this package


_ENVIRONMENT = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False}  # and the order of the facts is kept
