"""BraTS: glioma segmentation from FLAIR, T1, T1ce and T2.

Targets are the overlapping regions whole tumour (WT), tumour core (TC) and enhancing tumour (ET).

Paper: Baid et al. 2021, https://arxiv.org/abs/2107.02314. Data: Synapse syn27046444, after registration; licence
CC BY 4.0 for the 2023 and later releases, see the challenge for earlier ones. Also read: BraTS 2018-2020 (same names),
BraTS 2023 and later, Task01 of the Medical Segmentation Decathlon, and lists of any other files by modality.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cggm_med.config import Tree
from cggm_med.data.cases import CaseList
from cggm_med.data.dicom.codes import Code, SegmentCodes
from cggm_med.data.folders.conventions import RELEASES, LabelledCase, Published, releases_of, repeated_patients
from cggm_med.data.folders.scans import label_values
from cggm_med.data.layouts import NamedFiles
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import first_of
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.task.phantom_data import (
    PhantomDataConfig,
    fresh_patients,
    phantom_folder,
    phantom_settings,
    write_phantom_of,
)
from cggm_med.task.segmentation import SegmentationTask

MODALITIES = ("flair", "t1", "t1ce", "t2")

# Whole tumour: every label. Tumour core: all but oedema. Enhancing tumour: one label.
CONVENTIONS = {
    "brats2021": LabelConvention(
        name="brats2021",
        meanings={1: "necrotic core", 2: "oedema", 4: "enhancing tumour"},
        regions={"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
        paint={"WT": 2, "TC": 1, "ET": 4},
    ),
    "brats2023": LabelConvention(
        name="brats2023",
        meanings={1: "necrotic core", 2: "oedema", 3: "enhancing tumour"},
        regions={"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
        paint={"WT": 2, "TC": 1, "ET": 3},
    ),
    "brats2024": LabelConvention(
        name="brats2024",
        meanings={1: "necrotic core", 2: "oedema", 3: "enhancing tumour", 4: "resection cavity"},
        regions={"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
        paint={"WT": 2, "TC": 1, "ET": 3},
    ),
    "brats2024ped": LabelConvention(
        name="brats2024ped",
        meanings={1: "enhancing tumour", 2: "non-enhancing tumour", 3: "cystic component", 4: "oedema"},
        regions={"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,)},
        paint={"WT": 4, "TC": 2, "ET": 1},
    ),
    "brats2013": LabelConvention(
        name="brats2013",
        meanings={1: "necrosis", 2: "oedema", 3: "non-enhancing tumour", 4: "enhancing tumour"},
        regions={"WT": (1, 2, 3, 4), "TC": (1, 3, 4), "ET": (4,)},
        paint={"WT": 2, "TC": 1, "ET": 4},
    ),
    "msd": LabelConvention(
        name="msd",
        meanings={1: "oedema", 2: "non-enhancing tumour", 3: "enhancing tumour"},
        regions={"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)},
        paint={"WT": 1, "TC": 2, "ET": 3},
    ),
}

# The standard's list of lesions (DICOM PS3.16, CID 7159) has codes for single tissues; whole tumour and tumour core are
# unions of tissues for which it has none.
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
CODES = {
    "WT": SegmentCodes(ABNORMAL, Code("99CGGM", "WT", "Whole tumour: core and oedema")),
    "TC": SegmentCodes(ABNORMAL, Code("99CGGM", "TC", "Tumour core: necrosis and enhancing tumour")),
    "ET": SegmentCodes(ABNORMAL, Code("NCIt", "C113842", "Enhancing Lesion")),
}


class BraTS2021(SegmentationTask):
    """Glioma segmentation: WT, TC and ET from up to four MRI modalities."""

    DataConfig = PhantomDataConfig
    description = "glioma in MRI: whole tumour, tumour core and enhancing tumour from FLAIR, T1, T1ce, T2"
    url = "https://arxiv.org/abs/2107.02314"
    known_modalities = MODALITIES
    targets = ("WT", "TC", "ET")
    conventions = CONVENTIONS
    # Of the challenge for adult glioma, see metrics.lesions.lesion_metrics.
    lesion_rules = RELEASES["BraTS 2023 GLI"].labels.lesion_rules or LesionRules()
    codes = CODES
    layouts = (
        NamedFiles(
            name="BraTS 2021",
            suffixes={"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2"},
            label_suffix="_seg",
            label_convention="brats2021",
        ),
        NamedFiles(
            name="BraTS 2023",
            suffixes={"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w"},
            label_suffix="-seg",
            label_convention="brats2023",
        ),
    )
    decathlon_modalities: ClassVar = {"flair": "flair", "t1w": "t1", "t1gd": "t1ce", "t2w": "t2"}
    decathlon_convention = "msd"
    presets: ClassVar[dict[str, Tree]] = {
        # Minutes on two CPU cores; the embedded phantom has 2 mm voxels. Windows larger than the patches see more
        # context, which costs little on volumes this small.
        "tiny": {
            "task": {"component_filter": "validation"},
            "data": {
                "patch_size": [32, 32, 32],
                "window_size": [48, 48, 48],
                "augmentation": "light",
                "validation": 0.17,
                "test": 0.25,
            },
            "model": {"channels": [8, 16, 32, 64]},
            "optim": {"lr": 3e-3},
            "train": {"epochs": 10, "steps_per_epoch": 50, "batch_size": 4, "checkpoint_every": 50},
        },
        # A few hours on one mid-range GPU.
        "base": {
            "data": {"patch_size": [96, 96, 96], "workers": 8},
            "model": {"channels": [16, 32, 64, 128, 256]},
            "train": {"epochs": 100, "steps_per_epoch": 250, "checkpoint_every": 250, "log_every": 25},
        },
        # CGGM (Guo et al., NeurIPS 2024): how its release trains on BraTS 2021. The network is another, there a 2-D
        # DeepLab with a ResNet-101 for each modality on axial slices of 160 x 160, here the 3-D U-Net of preset base. A
        # batch of two patches has as many voxels as its 64 slices have pixels (1.8 and 1.6 million), and an epoch shows
        # each case once, as there. The loss is Dice plus cross-entropy without class weights, and the warm-up starts
        # from 0, there from 4e-4.
        "paper": {
            "data": {"patch_size": [96, 96, 96], "workers": 8},
            "model": {"channels": [16, 32, 64, 128, 256]},
            "optim": {
                "name": "sgd",
                "lr": 1e-2,
                "momentum": 0.9,
                "nesterov": False,
                "weight_decay": 3e-4,
                "warmup_fraction": 10 / 75,
                "final_lr_fraction": 0.1,
                "heads_lr": 6e-3,
                "clip_norm": float("inf"),
            },
            "train": {"epochs": 75, "steps_per_epoch": 0, "checkpoint_every": 250, "log_every": 25},
        },
        # The width and depth of nnU-Net, in every encoder.
        "full": {
            "data": {"patch_size": [128, 128, 128], "workers": 12},
            "model": {"channels": [32, 64, 128, 256, 320, 320], "deep_supervision": True},
            "train": {"epochs": 300, "steps_per_epoch": 250, "checkpoint_every": 250, "log_every": 25},
        },
    }

    def find_scans(
        self,
        path: Path,
        modalities: Sequence[str] | None = None,
        *,
        required: Sequence[str] = (),
        need_labels: bool = True,
    ) -> CaseList:
        """As for every task; a patient of two releases is one."""
        found = super().find_scans(path, modalities, required=required, need_labels=need_labels)
        again = repeated_patients({case.id: case.patient for case in found.cases})
        return replace(found, cases=tuple(replace(c, patient=again.get(c.id, c.patient)) for c in found.cases))

    def with_conventions(self, found: CaseList) -> tuple[CaseList, Sequence[str]]:
        """The release tells the numbers: by the case's name and, between releases named alike, by all cases' numbers.

        Cases with other names follow their layout.
        """
        if self.data_conventions is not self.conventions or found.label_convention == self.decathlon_convention:
            return found, ()
        named = [
            LabelledCase(case.id, case.label.name, functools.partial(label_values, case.label))
            for case in found.cases
            if isinstance(case.label, Path)
        ]
        releases, undecided = releases_of(named)
        told = {id: None if release is None else _convention_of(release) for id, release in releases.items()}
        if other := [id for id, release in releases.items() if release is not None and told[id] is None]:
            undecided.append(f"what the labels of {first_of(other)} mean here: they are of another kind than glioma")
        names = {case.id: told.get(case.id, case.convention or found.label_convention) for case in found.cases}
        if len(set(names.values())) == 1:
            cases = tuple(replace(case, convention=None) for case in found.cases)
            return replace(found, cases=cases, label_convention=names[cases[0].id]), undecided
        cases = tuple(replace(case, convention=names[case.id]) for case in found.cases)
        return replace(found, cases=cases, label_convention=None), undecided

    def embedded_data(self, cache: Path, say: Callable[[str], None]) -> Path:
        """A phantom of BraTS-like cases, written once to the cache."""
        data = self.config.data
        return phantom_folder(self.config.task.name, data, functools.partial(write_phantom_of, data), cache, say)

    @classmethod
    def settings_of_data(cls, path: Path | None, stated: Tree) -> Tree:
        """The version of the phantom, for runs that have it."""
        return phantom_settings(path)

    @classmethod
    def compared_on(cls, seed: int) -> Tree:
        """Patients of the seed's own."""
        return fresh_patients(seed)


def _convention_of(release: Published) -> str | None:
    """The convention that numbers the regions as a release does; None if there is none."""
    for name, convention in CONVENTIONS.items():
        numbers = {region: release.labels.regions.get(region) for region in convention.regions}
        if numbers == convention.regions and set(convention.meanings) == set(release.labels.meanings):
            return name
    return None
