"""Loading what the viewer shows: a case of a finished run with its prediction, or image files with masks."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med import registry
from cggm_med.data.cases import LABEL, Case, CaseList, ImageFile
from cggm_med.data.checks.finding import lines
from cggm_med.data.folders.propose import read_any
from cggm_med.data.volumes.checks import Inspection, inspect
from cggm_med.data.volumes.labels import LabelConvention, in_lines, unknown_convention
from cggm_med.data.volumes.preprocess import digests
from cggm_med.data.volumes.resample import onto_grid
from cggm_med.errors import ConfigError, DataError, UnknownName
from cggm_med.inference.predictor import Predictor
from cggm_med.inference.side_car import case_of
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.plots.style import region_colours
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.viewer.page import ViewedCase
from cggm_med.viewer.volumes import Layer

MAX_NAMED = 5  # cases to name in the error about a missing or unknown one
NO_TRUTH = "No truth is known for this case: only the prediction is shown."
NOT_ANNOTATED = "Voxels that nobody annotated are shown without a prediction, as they are not scored."
LEARNED_FROM = {
    "train": "The network was trained on this case: what it predicts here says nothing of how well it does elsewhere.",
    "validation": "The checkpoint was chosen by this case among others, so its scores are optimistic.",
}


class RunCases:
    """The cases of a run's own data or of other data, which the run segments.

    Args:
        run: folder of a finished run.
        data: folder or datalist; default: what the run was trained on.
        split: only the cases of this split of the run; default: all.
        labels: name of the convention of the truth; default: what the layout implies.
        device: see ``Predictor``.
        trust_names: see ``Predictor``.
        accept: see ``Predictor``.
        probabilities: also show the probability of each region.
        say: called with a line of progress.

    Attributes:
        run: its files.
        ids: of the cases, held-out ones first.

    Raises:
        DataError: if the data cannot be listed.
        UnknownName: for an unknown split.
    """

    def __init__(
        self,
        run: Path,
        *,
        data: Path | None = None,
        split: str | None = None,
        labels: str | None = None,
        device: str = "auto",
        trust_names: bool = False,
        accept: Sequence[str] = (),
        probabilities: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self._predictor = Predictor(run, device, trust_names=trust_names, accept=accept)
        volumes, self.run = self._predictor.volumes, self._predictor.run
        self._listed = volumes.find_scans(data or volumes.data_path(say), need_labels=False)
        self._stated = labels or (volumes.stated_convention if data is None else None)
        self._probabilities, self._say = probabilities, say
        own = dict(self.run.splits.items())
        if split is not None and split not in (*own, "all"):
            raise UnknownName("split", split, [*own, "all"])
        listed = [case.id for case in self._listed.cases]
        chosen = set(own.get(split or "all", listed)) & set(listed)
        self.ids = [id for id in dict.fromkeys((*own["test"], *own["validation"], *listed)) if id in chosen]

    @functools.cached_property
    def _told(self) -> CaseList:
        """The cases with the convention of each, unless one was stated for all."""
        return self._listed if self._stated else self._predictor.volumes.with_conventions(self._listed)[0]

    def view(self, case_id: str | None) -> ViewedCase:
        """One of the cases, segmented.

        Raises:
            DataError: if there is no such case, or its files cannot be used.
            UnknownName: for an unknown label convention.
        """
        if case_id not in self.ids:
            raise DataError(_no_such_case(case_id, self.ids))
        source = next(case for case in self._told.cases if case.id == case_id)
        labels = self._stated or source.convention or self._told.label_convention
        return _segmented(self._predictor, source, labels, self._say, probabilities=self._probabilities)


def view_files_with_run(
    run: Path,
    images: Mapping[str, Path],
    truth: Path | None,
    *,
    labels: str | None = None,
    device: str = "auto",
    trust_names: bool = False,
    accept: Sequence[str] = (),
    probabilities: bool = False,
    say: Callable[[str], None] = print,
) -> ViewedCase:
    """Image files by modality, segmented by a run; for arguments and errors see ``RunCases``."""
    predictor = Predictor(run, device, trust_names=trust_names, accept=accept)
    return _segmented(predictor, _case(images, truth), labels, say, probabilities=probabilities)


def view_files(
    images: Mapping[str, Path],
    truth: Path | None,
    prediction: Path | None,
    *,
    task: str | None = None,
    labels: str | None = None,
) -> ViewedCase:
    """Image files with given masks.

    Args:
        images: NIfTI files by name.
        truth: label map.
        prediction: label map.
        task: whose label conventions ``labels`` belongs to.
        labels: name of the convention of both masks, or a data set that declares one; default: every label is a region.

    Raises:
        DataError: if a file cannot be read or has another grid; names it.
        ConfigError: if the task does not segment, or has the conventions of its data.
        UnknownName: if it has no such convention.
    """
    convention, colours, rules = (None, {}, LesionRules()) if labels is None else _meaning(labels, task)
    source = _case(images, truth)
    inspection = _inspected(source, convention)
    maps = {"truth": inspection.volumes[LABEL]} if truth is not None else {}
    findings, oriented = list(inspection.findings), inspection.oriented
    if prediction is not None:
        # With the first image, which has the grid, since a case has only one label map.
        first = dict(list(source.images.items())[:1])
        of_mask = _inspected(replace(source, images=first, label=prediction), convention)
        maps["prediction"] = of_mask.volumes[LABEL]
        findings += [replace(of, roles=("prediction",)) for of in of_mask.findings if of.roles == (LABEL,)]
        oriented &= of_mask.oriented
    regions, layers = _layers(maps, convention)
    return ViewedCase(
        name=source.id,
        facts={},
        images={m: inspection.volumes[m] for m in images},
        affine=next(iter(inspection.affines.values())),
        regions=regions,
        colours=region_colours(list(regions), colours),
        truth=layers.get("truth"),
        prediction=layers.get("prediction"),
        notes=tuple(lines(findings)),
        oriented=oriented,
        lesion_rules=rules,
    )


def _segmented(
    predictor: Predictor, source: Case, labels: str | None, say: Callable[[str], None], *, probabilities: bool
) -> ViewedCase:
    """A case with a run's prediction; ``labels`` names the convention of its truth, if it has one."""
    run = predictor.run
    convention = predictor.convention
    if source.label is not None:
        convention = _convention(labels, predictor.volumes.data_conventions)
    found = _inspected(source, convention, resampled=predictor.volumes.reference is not None)
    say(f"segmenting {source.id} on {predictor.device}")
    prediction = predictor.segment(predictor.read_case(source))
    grid = prediction.segmented.grid
    scan = onto_grid(source, found, "the prediction", grid.shape, np.array(grid.affine))
    order = tuple(convention.paint)
    predicted = dict(zip(prediction.regions, prediction.segmented.regions(prediction.convention), strict=True))
    truth = None
    if source.label is not None:
        true = dict(zip(convention.regions, convention.to_regions(scan.volumes[LABEL]), strict=True))
        truth = Layer.of_masks(np.stack([true[region] for region in order]))
        if convention.ignore is not None:  # as in tables, so that the page has their scores
            annotated = scan.volumes[LABEL] != convention.ignore
            predicted = {region: mask & annotated for region, mask in predicted.items()}
    split = _split_of(source, run)
    facts = {
        "task": run.task,
        "run": run.path.resolve().name,
        "strategy": run.strategy,
        "split": split or "none of this run",
        "absent": ", ".join(prediction.absent),
    }
    unknown = source.label is not None and convention.ignore is not None
    notes = [LEARNED_FROM.get(split or "", ""), "" if truth else NO_TRUTH, NOT_ANNOTATED if unknown else ""]
    return ViewedCase(
        name=source.id,
        facts={name: fact for name, fact in facts.items() if fact},
        images={m: scan.volumes[m] for m in prediction.modalities},
        affine=next(iter(scan.affines.values())),
        regions=_meanings(convention),
        colours=region_colours(list(convention.regions), predictor.volumes.colours),
        truth=truth,
        prediction=Layer.of_masks(np.stack([predicted[region] for region in order])),
        notes=(*(note for note in notes if note), *lines(dict.fromkeys((*found.findings, *prediction.findings)))),
        oriented=found.oriented,
        lesion_rules=predictor.volumes.lesion_rules,
        probabilities=dict(zip(prediction.regions, prediction.probability, strict=True)) if probabilities else {},
    )


def _no_such_case(case_id: str | None, known: list[str]) -> str:
    nearest = known if case_id is None else difflib.get_close_matches(case_id, known, n=MAX_NAMED, cutoff=0)
    names = ", ".join(nearest[:MAX_NAMED]) or "none"
    if case_id is None:
        return f"no case is named; there are {len(known)}, such as {names}; name one, or show each with --all"
    return f"no case '{case_id}' among these {len(known)}; the nearest names are {names}"


def _case(images: Mapping[str, Path], truth: Path | None) -> Case:
    name = case_of(next(iter(images.values())))
    return Case(name, name, {m: ImageFile(path) for m, path in images.items()}, truth)


def _meaning(labels: str, task: str | None) -> tuple[LabelConvention, Mapping[str, str], LesionRules]:
    """A convention, colours and lesion rules: of a declared data set, or of a task that has one of that name."""
    if task is None and Path(labels).exists():
        declaration, _ = read_any(Path(labels), need_labels=False)
        if len(declaration.conventions) > 1:
            raise DataError(f"{labels} declares the conventions {', '.join(declaration.conventions)}; expected one")
        return next(iter(declaration.conventions.values())), declaration.colours, declaration.lesion_rules
    kind = registry.load(registry.TASKS, task or "brats2021")
    if not kind.conventions:
        raise ConfigError(
            f"task '{task}' does not segment, or its label conventions are those of its data; give the data set that "
            "declares one, with --labels PATH and without --task"
        )
    return _convention(labels, kind.conventions), kind.colours, kind.lesion_rules


def _convention(name: str | None, conventions: Mapping[str, LabelConvention]) -> LabelConvention:
    if name is None:
        raise DataError(
            "the truth does not tell what its label numbers mean; say it with --labels NAME:",
            in_lines(conventions.values()),
        )
    if name not in conventions:
        raise unknown_convention(name, conventions, "Choose one with --labels NAME")
    return conventions[name]


def _inspected(source: Case, convention: LabelConvention | None, *, resampled: bool = False) -> Inspection:
    """What the files of a case hold; on different grids only if everything will be resampled."""
    found = inspect(source, convention)
    if len(found.problems) > (len(found.differing) if resampled else 0):
        labels = ", and labels of the convention that --labels names" if found.undeclared else ""
        raise DataError(f"{source.id} cannot be shown; expected readable volumes on one grid{labels}:", found.problems)
    return found


def _layers(
    maps: Mapping[str, NDArray[Any]], convention: LabelConvention | None
) -> tuple[dict[str, str], dict[str, Layer]]:
    """The meaning of each region, and the layer of each label map."""
    if convention is not None:
        order = [list(convention.regions).index(region) for region in convention.paint]
        return _meanings(convention), {
            name: Layer.of_masks(convention.to_regions(labels)[order]) for name, labels in maps.items()
        }
    values: set[int] = set()
    for name, labels in maps.items():
        found = np.unique(labels)
        wrong = [value for value in found.tolist() if not (value >= 0 and float(value).is_integer())]
        if wrong:
            raise DataError(f"the {name} holds {wrong[0]:g}; expected a mask of whole numbers, 0 for background")
        values |= {int(value) for value in found if value}
    regions = {f"label {value}": "" for value in sorted(values)}
    return regions, {name: Layer.of_labels(labels, sorted(values)) for name, labels in maps.items()}


def _meanings(convention: LabelConvention) -> dict[str, str]:
    """The labels of each region in words, the outermost region first."""
    return {
        region: ", ".join(convention.meanings[label] for label in convention.regions[region])
        for region in convention.paint
    }


def _split_of(source: Case, run: FinishedRun) -> str | None:
    """The run's split that contains these very files, whatever their names."""
    files = set(digests(source).values())
    for split, ids in run.splits.items():
        if not files.isdisjoint(run.folder.digests(ids)):
            return split
    return None
