"""Segmentation of whatever the data declare: any modalities, any regions, any anatomy.

The data are a declared list (``cggm-med init`` writes one), or a folder whose own files say the same, such as a raw
folder of nnU-Net or a task of the Medical Segmentation Decathlon. What they declare becomes part of the run's settings,
so that a run knows its modalities and regions wherever it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, TrainConfig, Tree, build_section, merge, require
from cggm_med.data.cases import LABEL, Case, CaseList
from cggm_med.data.declaration import Declaration, Kind, same_meaning
from cggm_med.data.folders.declared import NAME
from cggm_med.data.folders.propose import read_any
from cggm_med.data.volumes.geometry import geometries, target_spacing
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.normalise import Normalisation
from cggm_med.data.volumes.phantom import VERSION, write_phantom
from cggm_med.errors import ConfigError, DataError
from cggm_med.files import atomic_folder, write_json
from cggm_med.models.encoders import UNetEncoder
from cggm_med.task.footprint import Network
from cggm_med.task.plan import Given, budget_of, make_plan
from cggm_med.task.segmentation import SegmentationTask, SegmentationTaskConfig

PHANTOM: Tree = {
    "name": "phantom",
    "modalities": {"flair": {"kind": "mri"}, "t1": {"kind": "mri"}, "t1ce": {"kind": "mri"}, "t2": {"kind": "mri"}},
    "labels": {"1": "necrotic core", "2": "oedema", "4": "enhancing tumour"},
}
PHANTOM_FILES = {**{modality: modality for modality in PHANTOM["modalities"]}, LABEL: "seg"}
PHANTOM_CASES = 24


@dataclass(frozen=True)
class DeclaredTaskConfig(SegmentationTaskConfig):
    """Settings of the task.

    Attributes:
        declaration: what the training data declare, see ``data.declaration.Declaration``; taken from the data.
        memory_gb: of a GPU to plan for; default: what is free on the device of the run.
    """

    name: str = "segmentation"
    modalities: tuple[str, ...] = ()
    declaration: dict[str, Any] = field(default_factory=dict)
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        require(self.memory_gb is None or self.memory_gb > 0, "task.memory_gb", self.memory_gb, "more than 0 GB")


class DeclaredSegmentation(SegmentationTask):
    """Segmentation as the data declare it."""

    TaskConfig = DeclaredTaskConfig
    description = "any regions in any 3-D scans, as the data declare them; see 'cggm-med init'"
    url = "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md"
    known_modalities: tuple[str, ...] = ()
    conventions: Mapping[str, LabelConvention] = {}
    layouts = ()
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

    def __init__(self, config: RunConfig) -> None:
        self.declaration = Declaration.from_json(config.task.declaration, "task.declaration")
        self.known_modalities = tuple(self.declaration.modalities)
        self.targets = self.declaration.regions
        self.conventions = self.declaration.conventions
        self.lesion_rules = self.declaration.lesion_rules
        self.colours, self.codes = self.declaration.colours, self.declaration.codes
        super().__init__(config)

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """As declared."""
        return {name: modality.kind for name, modality in self.declaration.modalities.items()}

    @property
    def normalisations(self) -> Mapping[str, Normalisation]:
        """As declared."""
        return {name: modality.normalisation for name, modality in self.declaration.modalities.items()}

    @classmethod
    def settings_of_data(cls, path: Path | None, stated: Tree) -> Tree:
        """The declaration of the data, all of its modalities, and a plan for the device."""
        if path is None:
            return _declared(Declaration.from_json(PHANTOM, "the phantom"))
        reference = stated.get("data", {}).get("resample_to")
        declaration, found = read_any(path, need_labels=False, reference=() if reference is None else (str(reference),))
        return merge([_declared(declaration), cls._plan(declaration, found, stated)])

    @classmethod
    def _plan(cls, declaration: Declaration, found: CaseList, stated: Tree) -> Tree:
        """Settings that suit the sizes of the cases, the device, and what is stated."""
        sections = {"task": cls.TaskConfig, "data": cls.DataConfig, "model": cls.ModelConfig, "train": TrainConfig}
        task, data, model, train = (build_section(kind, stated.get(name, {}), name) for name, kind in sections.items())
        modalities = task.modalities or tuple(declaration.modalities)
        cases = [case for case in found.cases if case.labels and set(modalities) & set(case.images)]
        spacing = data.spacing or declaration.spacing
        scans = geometries(cases, data.resample_to or declaration.reference)
        if not scans:
            return {}  # what is wrong with the files is said when they are checked
        if not issubclass(registry.load(registry.ENCODERS, model.encoder), UNetEncoder):
            # The strides and the footprint of another encoder are not known.
            return {"data": {"spacing": list(spacing or target_spacing(scans))}}
        chosen = {key for name in ("data", "model", "train") for key in stated.get(name, {})}
        budget = budget_of(train.device, train.precision, task.memory_gb)
        network = Network(
            len(modalities),
            len(declaration.regions),
            declaration.exclusive,
            deep_supervision=model.deep_supervision if "deep_supervision" in chosen else budget.deep_supervision,
            fusion=model.fusion,
        )
        processes = distributed.started()
        given = Given(
            spacing,
            data.patch_size if "patch_size" in chosen else None,
            model.channels if "channels" in chosen else (),
            max(1, train.batch_size // processes) if "batch_size" in chosen else None,
        )
        return make_plan(scans, network, budget, given).settings(budget, processes)

    def embedded_data(self, cache: Path, say: Callable[[str], None]) -> Path:
        """A phantom with a declared list, written once to the cache."""
        folder = cache / "phantom" / f"segmentation-v{VERSION}-{PHANTOM_CASES}cases"
        say(f"no --data given: using {PHANTOM_CASES} synthetic phantom cases in {folder} (not real patients)")
        if not folder.exists():
            with atomic_folder(folder) as temporary:
                write_phantom(temporary, cases=PHANTOM_CASES, seed=0)
                entries = [
                    {"id": case, **{role: f"{case}/{case}_{end}.nii.gz" for role, end in PHANTOM_FILES.items()}}
                    for case in sorted(path.name for path in temporary.iterdir())
                ]
                write_json(temporary / NAME, {**PHANTOM, "training": entries})
        return folder

    def find(self, say: Callable[[str], None]) -> tuple[str, ...]:
        """Find the scans; label numbers are read as the data declare them, which may differ from case to case."""
        self.found = _labelled(self.find_scans(self.data_path(say), required=self.required), say)
        self.convention = next(iter(self.conventions.values()))
        if self.config.task.labels is not None:
            raise ConfigError(
                f"task.labels is {self.config.task.labels}; the data of task '{self.config.task.name}' declare their "
                "labels themselves, leave it out"
            )
        return tuple(case.id for case in self.found.cases)

    @property
    def required(self) -> tuple[str, ...]:
        """Modalities that every case must have: those that are set; what the data require is checked in any case."""
        required: tuple[str, ...] = self.config.data.required
        return required

    def find_scans(
        self,
        path: Path,
        modalities: Sequence[str] | None = None,
        *,
        required: Sequence[str] = (),
        need_labels: bool = True,
    ) -> CaseList:
        """Cases of declared data, with the run's modalities, which are recognised by name or by what they show.

        Raises:
            DataError: if the data do not declare enough, or a case has none of the modalities; names every such case.
        """
        own = () if self.reference is None else (self.reference, self.declaration.modalities[self.reference].shows)
        data, found = read_any(path, need_labels=need_labels, reference=own)
        self.data_conventions = same_meaning(self.declaration, data)
        name_of = {self._own_name(data, name): name for name in data.modalities}
        wanted = self.wanted(modalities, required)
        chosen = {own: name_of[own] for own in wanted if own in name_of}
        cases = [replace(case, images=_chosen(case, chosen)) for case in found.cases]
        empty = [f"{case.id}: none of {', '.join(wanted)}" for case in cases if not case.images]
        demanded = [m for m in dict.fromkeys((*self.declaration.required, *required)) if m in wanted]
        empty += [f"{case.id}: no {m}" for case in cases for m in demanded if m not in case.images]
        if empty:
            raise DataError(f"{path} ({found.layout}): add the images, or leave out these cases:", empty)
        return replace(found, cases=tuple(cases), label_convention=next(iter(self.data_conventions)))

    def convention_of(self, case: Case) -> LabelConvention:
        """The convention that the case names, else the only one of its data."""
        conventions = self.data_conventions
        return conventions[case.convention] if case.convention else next(iter(conventions.values()))

    def _own_name(self, data: Declaration, name: str) -> str:
        """The run's name of a modality of other data; the data's own where the run knows none."""
        if name in self.declaration.modalities:
            return name
        shown = data.modalities[name].shows
        alike = [own for own, modality in self.declaration.modalities.items() if modality.shows == shown]
        return alike[0] if shown and len(alike) == 1 else name


def _declared(declaration: Declaration) -> Tree:
    """What a declaration settles by itself."""
    spacing, reference = declaration.spacing, declaration.reference
    return {
        "task": {"modalities": list(declaration.modalities), "declaration": declaration.to_json()},
        "data": {
            **({} if spacing is None else {"spacing": list(spacing)}),
            **({} if reference is None else {"resample_to": reference}),
        },
    }


def _labelled(found: CaseList, say: Callable[[str], None]) -> CaseList:
    """The cases with a label: the others, which a data set keeps for testing, can neither be learned nor scored."""
    cases = tuple(case for case in found.cases if case.labels)
    if len(cases) == len(found.cases):
        return found
    say(f"{len(found.cases) - len(cases)} of {len(found.cases)} cases have no label and are left out; see 'predict'")
    ids = {case.id for case in cases}
    sections = {name: tuple(id for id in kept if id in ids) for name, kept in (found.sections or {}).items()}
    declared = {name for name, kept in sections.items() if kept} - {"training"}
    return replace(found, cases=cases, sections=sections if declared else None)


def _chosen(case: Case, wanted: Mapping[str, str]) -> dict[str, Any]:
    """A case's images under the run's names."""
    return {own: case.images[name] for own, name in wanted.items() if name in case.images}
