"""Hand the worst cases over to 3D Slicer or ITK-SNAP: images, masks to correct, and the names of the labels."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes.io import WRITTEN, open_image, write_volume
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import DataError
from cggm_med.files import digest_of, write_json, write_text
from cggm_med.plots.style import region_colours
from cggm_med.results.aggregate import grouped
from cggm_med.results.results import Record

MASK = "mask"  # the file of a case that is to be corrected
LABEL = "label"  # what the data have now
CASES = "cases"  # folder of a folder for each case
GIVEN = "before"  # folder of the masks as they were handed over, by which changes are seen
RECORD = "hand_over.json"
SNAP, SLICER, README = "labels_itksnap.txt", "labels_slicer.ctbl", "how_to_open.txt"
_HOW = """Correct {mask}.nii.gz in each folder of {cases}, and save it under that name. Leave alone what is right.
{label}.nii.gz, where there is one, is what the data have now. Do not change the folder {before}.

ITK-SNAP, from the folder of a case:
  itksnap -g {first} -o OTHER_IMAGES -s {mask}.nii.gz -l ../../{snap}
or: File > Open Main Image, Segmentation > Open Segmentation, Segmentation > Import Label Descriptions ({snap}).
Save with Segmentation > Save Segmentation Image.

3D Slicer:
  1. Add {slicer}, then the images of a case.
  2. Add {mask}.nii.gz with "Show Options": check LabelMap, and choose the color table {slicer_name}.
  3. Data module: right click on it, convert to a segmentation. Correct it in the Segment Editor; keep the names.
  4. Segmentations module: export as labelmap, with an image of the case on the mask's grid as reference volume and the
     color table, which gives each name its number. Save the labelmap as {mask}.nii.gz.

Then, where cggm-med runs:
  cggm-med correct THIS_FOLDER -o corrected
"""


def worst_cases(rows: Sequence[Record], count: int) -> dict[str, float]:
    """The cases with the lowest mean Dice over regions, worst first.

    Example:
        >>> rows = [{"case": c, "dice": d} for c, d in (("a", 0.9), ("a", 0.7), ("b", 0.5), ("c", 0.6))]
        >>> worst_cases(rows, 2)
        {'b': 0.5, 'c': 0.6}
    """
    means = {case: statistics.fmean(row["dice"] for row in of) for (case,), of in grouped(rows, ["case"]).items()}
    return {case: means[case] for case in sorted(means, key=lambda case: (means[case], case))[:count]}


def hand_over(
    folder: Path,
    cases: Sequence[tuple[Case, Path, LabelConvention]],
    dice: Mapping[str, float],
    *,
    data: Path,
    colours: Mapping[str, str],
    of_masks: LabelConvention | None = None,
) -> None:
    """Write a folder for each case, and the names and colours of the labels for both programs.

    Args:
        folder: new; it and its cases are written.
        cases: each with its mask, and the convention of its label, which the corrected mask has too.
        dice: of each case.
        data: where corrections will go back to.
        colours: of regions, see ``plots.style.region_colours``.
        of_masks: convention of the masks, if it is another.

    Raises:
        DataError: if the cases follow several conventions, which one table of labels cannot name.
    """
    conventions = {convention.name: convention for _, _, convention in cases}
    if len(conventions) > 1:
        raise DataError(
            f"the worst cases follow the conventions {', '.join(conventions)}, and one table cannot name the labels of "
            "all; choose cases of one with --split, or score them in parts"
        )
    (convention,) = conventions.values()
    handed = []
    for case, mask, _ in cases:
        digest = _hand_over_case(folder, case, mask, convention, of_masks)
        handed.append({"id": case.id, "dice": dice[case.id], "digest": digest})
    table = label_colours(convention, colours)
    write_text(folder / SNAP, snap_labels(convention, table))
    write_text(folder / SLICER, slicer_colours(convention, table))
    first = next(iter(cases[0][0].images), "IMAGE")
    words = {"cases": CASES, "mask": MASK, "label": LABEL, "before": GIVEN, "snap": SNAP, "slicer": SLICER}
    how = _HOW.format(**words, first=f"{first}.nii.gz", slicer_name=Path(SLICER).stem)
    write_text(folder / README, how)
    write_json(
        folder / RECORD,
        {
            "data": str(data.resolve()),
            "convention": asdict(convention),
            "cases": handed,
        },
    )


def _hand_over_case(
    folder: Path, case: Case, mask: Path, convention: LabelConvention, of_masks: LabelConvention | None
) -> str:
    """Write the files of a case; the digest of its mask."""
    own = folder / CASES / case.id
    own.mkdir(parents=True)
    for modality, image in case.images.items():
        _copy(image, own, f"{modality}_image" if modality in (MASK, LABEL) else modality)
    stored = open_image(mask)
    voxels = stored.voxels()
    if of_masks is not None:
        voxels = convention.to_labels(of_masks.to_regions(voxels))
    voxels = np.rint(voxels).astype(np.uint16)
    if case.label is not None:
        label = open_label(case.label, convention)
        drawn = np.rint(label.voxels()).astype(np.uint16)
        write_volume(own / f"{LABEL}.nii.gz", drawn, label.affine)
        if convention.ignore is not None:  # which no network predicts, and which would be lost
            voxels[drawn == convention.ignore] = convention.ignore
    given = folder / GIVEN / f"{case.id}.nii.gz"
    write_volume(given, voxels, mask)
    shutil.copyfile(given, own / f"{MASK}.nii.gz")
    return digest_of(given.read_bytes())


def _copy(image: ImageFile, folder: Path, name: str) -> None:
    """The image as it is, or as NIfTI where it is a channel, or of a format that not both programs open."""
    ending = next((ending for ending in WRITTEN if image.path.name.lower().endswith(ending)), None)
    if ending is not None and image.channel is None:
        shutil.copyfile(image.path, folder / f"{name}{ending}")
        return
    stored = open_image(image.path)
    write_volume(folder / f"{name}.nii.gz", stored.voxels(image.channel), stored.affine)


def label_colours(convention: LabelConvention, colours: Mapping[str, str]) -> dict[int, tuple[int, int, int]]:
    """Red, green and blue from 0 to 255 of each label: those of the region that it paints, else one of its own."""
    painted = {label: region for region, label in convention.paint.items()}
    names = {label: painted.get(label, meaning) for label, meaning in convention.meanings.items()}
    chosen = region_colours(
        list(dict.fromkeys(names.values())), {n: c for n, c in colours.items() if n in names.values()}
    )
    found = {label: _rgb(chosen[name]) for label, name in names.items()}
    return found | ({} if convention.ignore is None else {convention.ignore: (128, 128, 128)})


def snap_labels(convention: LabelConvention, colours: Mapping[int, tuple[int, int, int]]) -> str:
    """The label descriptions of ITK-SNAP: number, colour, opacity, visible in slices and in 3-D, name.

    Example:
        >>> one = LabelConvention("x", {1: "the lesion"}, {"lesion": (1,)}, {"lesion": 1})
        >>> print(snap_labels(one, {1: (255, 0, 0)}).splitlines()[-1])
            1   255    0    0        1  1  1    "the lesion"
    """
    lines = ["# IDX  -R-  -G-  -B-  -A--  VIS MSH  LABEL", '    0     0    0    0        0  0  0    "Clear Label"']
    lines += [
        f'{label:5d} {r:5d} {g:4d} {b:4d}        1  1  1    "{name}"'
        for label, name, (r, g, b) in _named(convention, colours)
    ]
    return "\n".join(lines) + "\n"


def slicer_colours(convention: LabelConvention, colours: Mapping[int, tuple[int, int, int]]) -> str:
    """A color table of 3D Slicer: number, name without spaces, colour, opacity.

    Example:
        >>> one = LabelConvention("x", {1: "the lesion"}, {"lesion": (1,)}, {"lesion": 1})
        >>> print(slicer_colours(one, {1: (255, 0, 0)}).splitlines()[-1])
        1 the_lesion 255 0 0 255
    """
    rows = [
        f"{label} {'_'.join(name.split())} {r} {g} {b} 255" for label, name, (r, g, b) in _named(convention, colours)
    ]
    return (
        "\n".join([f"# Color table file {SLICER}", f"# {len(rows) + 1} values", "0 background 0 0 0 0", *rows]) + "\n"
    )


def _named(
    convention: LabelConvention, colours: Mapping[int, tuple[int, int, int]]
) -> list[tuple[int, str, tuple[int, int, int]]]:
    names = {**convention.meanings, **({} if convention.ignore is None else {convention.ignore: "not annotated"})}
    return [(label, names[label].replace('"', "'"), colours[label]) for label in sorted(names)]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue
