"""newsegmentation: lesions from FLAIR and T1, in scans that a table lists.

CHANGE: say what is segmented in what, whose data they are, under which licence, and what to cite.

Layout: a folder with ``scans.csv``, whose columns are ``case``, ``patient``, ``flair``, ``t1`` and ``lesion``: the last
three are paths below the folder, of files in NIfTI or any other format that cggm-med reads. A case may lack a modality,
and one that is only to be predicted has no lesion.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from cggm_med import DataError, DeclaredSegmentationTask

# CHANGE: what the cases have in common, with the keys of a declared list: regions, lesion_rules, reference, ...
DECLARED: dict[str, Any] = {
    "name": "newsegmentation",
    "modalities": {"flair": {"kind": "mri"}, "t1": {"kind": "mri"}},  # kinds: mri, ct, pet, map
    "labels": {"1": "lesion"},
}
COLUMNS = ("case", "patient", "flair", "t1", "lesion")
LAYOUT = f"scans.csv with the columns {', '.join(COLUMNS)}, whose last three are paths below the folder"


class NewsegmentationTask(DeclaredSegmentationTask):
    """The base class plans, prepares, makes patches, trains, predicts, scores and reports."""

    # CHANGE: the line of 'cggm-med tasks'.
    description = "lesions in FLAIR and T1, in scans that a table lists"
    known_modalities = tuple(DECLARED["modalities"])
    generated_declaration = DECLARED
    # Raise it whenever ``generate`` changes, or the old data are used again.
    generated_version = 1
    presets: ClassVar[dict[str, Any]] = {
        # Real data: patch, network and batch are planned from the scans and the device, see 'cggm-med plan'.
        "base": {},
        # What ``generate`` makes: a minute on two CPU cores.
        "tiny": {
            "data": {"patch_size": [16, 16, 8], "augmentation": "light", "validation": 0.2, "test": 0.2, "workers": 0},
            "model": {"channels": [8, 16]},
            "optim": {"lr": 3e-3},
            "train": {"batch_size": 4, "epochs": 4, "steps_per_epoch": 25},
        },
    }

    @classmethod
    def listing(cls, path: Path) -> dict[str, Any]:
        """CHANGE: list the cases of your data; their files are opened later."""
        cases = []
        for row in _rows(path / "scans.csv"):
            files = {"flair": row["flair"], "t1": row["t1"], "label": row["lesion"]}
            files = {role: file for role, file in files.items() if file}
            cases.append({"id": row["case"], "patient": row["patient"], **files})
        # Your own splits, if you have some: "validation" and "test" beside "training".
        return {**DECLARED, "training": cases}

    def generate(self, folder: Path) -> None:
        """CHANGE: made-up cases in the layout of your data; here the lesions are bright in FLAIR and dark in T1."""
        random = np.random.Generator(np.random.Philox(0))
        shape, affine = (24, 24, 12), np.diag([2.0, 2.0, 4.0, 1.0])
        table = []
        for number in range(12):
            row = {"case": f"case{number:02d}", "patient": f"patient{number // 2:02d}"}
            head = np.zeros(shape, bool)
            head[3:21, 3:21, 1:11] = True
            lesion = np.zeros(shape, bool)
            x, y, z = random.integers((4, 4, 2), (15, 15, 7))
            lesion[x : x + 5, y : y + 5, z : z + 3] = True
            volumes = {
                "flair": head * (100 + random.normal(0, 10, shape) + 30 * lesion),
                "t1": head * (100 + random.normal(0, 10, shape) - 15 * lesion),
                "lesion": lesion,
            }
            for column, volume in volumes.items():
                row[column] = f"{row['case']}_{column}.nii.gz"
                kind = np.uint8 if column == "lesion" else np.float32
                nib.save(nib.Nifti1Image(volume.astype(kind), affine), folder / row[column])
            table.append(row)
        with (folder / "scans.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(table)


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of ``scans.csv``."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if absent := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise DataError(f"{table} has no column {', '.join(absent)}; expected {LAYOUT}")
            return [{column: row[column] or "" for column in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {table}: {error}; expected {LAYOUT}") from error
