"""Segmentation of whatever the data declare: any modalities, any regions, any anatomy.

The data are a declared list (``cggm-med init`` writes one), or a folder whose own files say the same, such as a raw
folder of nnU-Net or a task of the Medical Segmentation Decathlon.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from cggm_med.config import Tree, merge
from cggm_med.data.cases import LABEL
from cggm_med.data.folders.declared import NAME
from cggm_med.files import write_json
from cggm_med.task.declared_segmentation import DeclaredSegmentationTask
from cggm_med.task.phantom_data import (
    PhantomDataConfig,
    fresh_patients,
    phantom_folder,
    phantom_settings,
    write_phantom_of,
)

PHANTOM: Tree = {
    "name": "phantom",
    "modalities": {"flair": {"kind": "mri"}, "t1": {"kind": "mri"}, "t1ce": {"kind": "mri"}, "t2": {"kind": "mri"}},
    "labels": {"1": "necrotic core", "2": "oedema", "4": "enhancing tumour"},
}
PHANTOM_FILES = {**{modality: modality for modality in PHANTOM["modalities"]}, LABEL: "seg"}


class DeclaredSegmentation(DeclaredSegmentationTask):
    """Segmentation as the data declare it."""

    description = "any regions in any 3-D scans, as the data declare them; see 'cggm-med init'"
    url = "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md"
    DataConfig = PhantomDataConfig
    generated_declaration = PHANTOM
    presets: ClassVar[dict[str, Tree]] = {
        "base": {},
        # Minutes on two CPU cores; the embedded phantom has 2 mm voxels.
        "tiny": {
            "data": {"patch_size": [32, 32, 32], "augmentation": "light", "validation": 0.17, "test": 0.25},
            "model": {"channels": [8, 16, 32, 64], "strides": [], "kernels": []},
            "optim": {"lr": 3e-3},
            "train": {"epochs": 10, "steps_per_epoch": 50, "batch_size": 4, "checkpoint_every": 50},
        },
    }

    def generate(self, folder: Path) -> None:
        """A phantom with a declared list."""
        write_phantom_of(self.config.data, folder)
        entries = [
            {"id": case, **{role: f"{case}/{case}_{end}.nii.gz" for role, end in PHANTOM_FILES.items()}}
            for case in sorted(path.name for path in folder.iterdir())
        ]
        write_json(folder / NAME, {**PHANTOM, "training": entries})

    def embedded_data(self, cache: Path, say: Callable[[str], None]) -> Path:
        """The phantom, written once to the cache."""
        return phantom_folder(self.config.task.name, self.config.data, self.generate, cache, say)

    @classmethod
    def settings_of_data(cls, path: Path | None, stated: Tree) -> Tree:
        """The declaration of the data and a plan, or of the phantom, whose version is stored."""
        return merge([super().settings_of_data(path, stated), phantom_settings(path)])

    @classmethod
    def compared_on(cls, seed: int) -> Tree:
        """Patients of the seed's own."""
        return fresh_patients(seed)
