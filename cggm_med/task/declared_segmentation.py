"""Base class of segmentation tasks whose modalities, labels and regions are declared by the data.

What the data declare becomes part of a run's settings, so that it knows its modalities and regions wherever it is used.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cggm_med import distributed, registry
from cggm_med.config import RunConfig, TrainConfig, Tree, build_section, merge, require
from cggm_med.data.cases import CaseList
from cggm_med.data.declaration import Declaration, Kind
from cggm_med.data.folders.declared import declared_in
from cggm_med.data.folders.other_data import for_run
from cggm_med.data.folders.propose import read_any
from cggm_med.data.volumes.geometry import geometries, target_spacing
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.normalise import Normalisation
from cggm_med.models.encoders import UNetEncoder
from cggm_med.task.footprint import Network
from cggm_med.task.generated import generated_data
from cggm_med.task.plan import Given, budget_of, make_plan
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.task.segmentation_settings import SegmentationTaskConfig


@dataclass(frozen=True)
class DeclaredSegmentationTaskConfig(SegmentationTaskConfig):
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


class DeclaredSegmentationTask(SegmentationTask):
    """Base of tasks that segment what their data declare.

    The built-in task ``segmentation`` takes any folder or list that declares enough. A subclass whose data only a
    program can list overrides ``listing``; all else is the same: plan, normalisation, training, prediction, scores.

    Attributes:
        generated_declaration: what the generated data declare, as in a declared list, without cases.
        generated_version: part of the generated data's folder name; raise it when ``generate`` changes.
    """

    TaskConfig = DeclaredSegmentationTaskConfig
    known_modalities: tuple[str, ...] = ()
    conventions: Mapping[str, LabelConvention] = {}
    layouts = ()
    generated_declaration: ClassVar[Tree]
    generated_version: ClassVar[int] = 1

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
    def listing(cls, path: Path) -> Tree | None:
        """What a declared list of these data would say; None if a folder or list of a known layout says it itself.

        Args:
            path: ``--data`` of training, or the scans of a prediction, which need no labels.

        Returns:
            The content of a ``dataset.json``, as ``docs/how-to/your-own-data.md`` describes it: modalities, labels and
            a list of cases, with paths that are absolute or relative to ``path``. It is checked as such a file is.

        Raises:
            DataError: for what cannot be read.
        """
        return None

    @abstractmethod
    def generate(self, folder: Path) -> None:
        """Write a few made-up cases, for runs without ``data.path`` and for tests."""

    @classmethod
    def read(
        cls, path: Path, *, need_labels: bool, reference: Sequence[str], run: Declaration | None = None
    ) -> tuple[Declaration, CaseList]:
        """What the data declare, and their cases.

        Args:
            path: folder or list.
            need_labels: whether a case without label is an error.
            reference: see ``read_any``; a listing leaves nothing open.
            run: see ``declared_in``.

        Raises:
            UnknownName: for a modality, region or key that does not exist.
            DataError: if the data do not declare enough; names every case that lacks something.
        """
        content = cls.listing(path)
        if content is None:
            return read_any(path, need_labels=need_labels, reference=reference, run=run)
        folder = path if path.is_dir() else path.parent
        return declared_in(content, folder, str(path), need_labels=need_labels, run=run)

    @classmethod
    def settings_of_data(cls, path: Path | None, stated: Tree) -> Tree:
        """The declaration of the data, all of its modalities, and a plan for the device.

        Raises:
            DataError: if the data do not declare enough.
        """
        if path is None:
            return _declared(Declaration.from_json(cls.generated_declaration, "what the generated data declare"))
        reference = stated.get("data", {}).get("resample_to")
        declaration, found = cls.read(path, need_labels=False, reference=() if reference is None else (str(reference),))
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
        """Generated data, written once to the cache."""
        return generated_data(self.config.task.name, self.generated_version, self.generate, cache, say)

    @property
    def required(self) -> tuple[str, ...]:
        """Modalities that every case must have: those that are set; what the data require is checked in any case."""
        required: tuple[str, ...] = self.config.data.required
        return required

    def scans_in(
        self, path: Path, modalities: Sequence[str], required: Sequence[str], *, need_labels: bool
    ) -> CaseList:
        """Cases of declared data, with the run's modalities, which are recognised by name or by what they show.

        Raises:
            DataError: if the data do not declare enough, or a case has none of the modalities; names every such case.
        """
        own = () if self.reference is None else (self.reference, self.declaration.modalities[self.reference].shows)
        known = None if need_labels else self.declaration
        declared = self.read(path, need_labels=need_labels, reference=own, run=known)
        shown = {name: modality.shows for name, modality in self.declaration.modalities.items()}
        demanded = (*self.declaration.required, *required)
        self.data_conventions, found = for_run(path, *declared, self.conventions.values(), shown, modalities, demanded)
        return found


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
