"""Deterministic preprocessing with MONAI, done once a case and cached on disk."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import LABEL, Case, RegionFiles, label_paths
from cggm_med.data.checks.finding import Finding, decide, objections, standing
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.labelled import lies_of
from cggm_med.data.checks.measure import measure
from cggm_med.data.parallel import map_in_processes
from cggm_med.data.volumes.checks import header_findings
from cggm_med.data.volumes.io import DIGEST_BYTES, digest_of_image, open_image
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.data.volumes.prepared import MEASURED, PreparedCase, is_measured, read_facts
from cggm_med.data.volumes.raters import Raters, majority, shares
from cggm_med.data.volumes.resample import OneGrid, read_on_one_grid
from cggm_med.data.volumes.spacing import resampling
from cggm_med.errors import CggmMedError, DataError, in_one_line
from cggm_med.files import atomic_folder, caching, digest_of, write_json
from cggm_med.objectives.targets import UNKNOWN

VERSION = 2  # part of every cache key: raise it whenever the same files would give other numbers
ACCEPT = '--set "data.accept=[KIND]"'
CONVERTED = ("converted_units", "size_of_qform")  # kinds of findings that change where the voxels lie
CANDIDATES = 5000  # voxels kept a region as possible patch centres


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every case; see ``network_grid.to_network``.

    Attributes:
        modalities: channels of the image, in order; those that a case lacks are left out of its image, as if the run
            did not have them.
        convention: meaning of the label values.
        raters: whose label maps to learn where several readers drew: the ``consensus`` (the case's own label, else the
            majority), the ``majority``, or the share of them (``soft``).
        conventions: of cases that name one (``Case.convention``), by name.
        spacing: target voxel size in mm, or None to keep each case's own.
        rescalings: of the modalities that are not z-scored.
        reference: modality on whose grid the others are brought, see ``read_on_one_grid``; None: all have one grid.
        accepted: kinds of findings that do not speak against a case.
    """

    modalities: tuple[str, ...]
    convention: LabelConvention
    spacing: tuple[float, float, float] | None = None
    conventions: Mapping[str, LabelConvention] = field(default_factory=dict)
    raters: Raters = "consensus"
    rescalings: Mapping[str, Rescaling] = field(default_factory=dict)
    reference: str | None = None
    accepted: tuple[str, ...] = ()

    def convention_of(self, case: Case) -> LabelConvention:
        """The meaning of a case's label values."""
        return self.convention if case.convention is None else self.conventions[case.convention]

    def held(self, case: Case) -> tuple[str, ...]:
        """The modalities that a case has."""
        return tuple(m for m in self.modalities if m in case.images)

    def resampling(self, case: Case) -> tuple[float, float, float] | None:
        """The spacing to resample a case to; None if its voxels have that size already."""
        first = next(iter(case.images.values()))
        return None if self.spacing is None else resampling(open_image(first.path).affine, self.spacing)

    def key(self, case: Case, files: Mapping[str, str], findings: Sequence[Finding] = ()) -> str:
        """Digest of everything that the result depends on: file contents, settings and versions.

        Args:
            case: the case.
            files: what ``digests`` said of it.
            findings: what ``header_findings`` said of it.
        """
        converted = sorted({finding.kind.name for finding in findings} & set(CONVERTED))
        convention = self.convention_of(case)
        rescaled = {m: self.rescalings[m].settings for m in self.held(case) if m in self.rescalings}
        settings = {
            "version": VERSION,
            "monai": version("monai"),
            "modalities": self.held(case),
            "channels": [case.images[m].channel for m in self.held(case)],
            "regions": {name: list(values) for name, values in convention.regions.items()},
            "labels": sorted(convention.meanings),
            "spacing": self.resampling(case) if self.reference is None else self.spacing,
            "files": files,
            # Only where they occur, so that what was prepared before them is found again.
            **({} if convention.ignore is None else {"ignore": convention.ignore}),
            **({"not_drawn": list(case.not_drawn)} if case.not_drawn else {}),
            **({"raters": self.raters} if case.raters else {}),
            **({"rescalings": rescaled} if rescaled else {}),
            **({} if self.reference is None else {"reference": self.reference}),
            **({"converted": converted} if converted else {}),
        }
        return digest_of(json.dumps(settings).encode(), DIGEST_BYTES)


def prepare(
    cases: Sequence[Case],
    preprocessing: Preprocessing,
    cache: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    meanings: Sequence[str] = (),
) -> list[PreparedCase]:
    """Check and preprocess all cases; what the cache already holds is not touched again.

    Args:
        cases: with labels.
        preprocessing: what to do.
        cache: folder for the results, one subfolder a key.
        workers: processes that share the work.
        progress: called with the number of finished cases and of all.
        meanings: lines that say what label numbers may mean, shown where a label map holds others.

    Raises:
        DataError: lists every problem of every case.
        OutputError: if the cache cannot be written.
    """
    work = functools.partial(prepare_case, preprocessing=preprocessing, cache=cache)
    folders: list[Path] = []
    problems: list[str] = []
    findings: list[Finding] = []
    differing = undeclared = False
    with caching():
        results = map_in_processes(work, cases, min(workers, len(cases)))
        for done, of in enumerate(results, start=1):
            folders.append(of.folder)
            problems += of.problems
            findings += of.findings
            differing |= of.differing
            undeclared |= of.undeclared
            if progress is not None:
                progress(done, len(cases))
    if problems:
        problems += objections(findings, preprocessing.accepted, accept=ACCEPT)
        followed = {of.name: of for of in map(preprocessing.convention_of, cases)}
        known = " or ".join(f"{sorted(of.meanings)} ({name})" for name, of in followed.items())
        choose = " (of several, choose one with --set data.resample_to=MODALITY)" if differing else ""
        raise DataError(
            f"{len(problems)} problem{'s' * (len(problems) > 1)} in {len(cases)} cases; expected finite voxels, "
            f"one grid for each case{choose} and labels {known}. Fix or leave out these files:",
            [*problems, *(["what label numbers mean:", *meanings] if undeclared and meanings else [])],
        )
    decide(findings, preprocessing.accepted, lambda line: None, accept=ACCEPT)
    by_case: dict[str, list[Finding]] = {case.id: [] for case in cases}
    for finding in findings:
        by_case[finding.case].append(finding)
    return [
        PreparedCase(c.id, c.patient, folder, c, preprocessing.convention_of(c), tuple(by_case[c.id]))
        for c, folder in zip(cases, folders, strict=True)
    ]


class Outcome(NamedTuple):
    """The folder of a preprocessed case; what is wrong with it, and what of that; and findings."""

    folder: Path
    problems: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    differing: bool = False
    undeclared: bool = False


def prepare_case(case: Case, preprocessing: Preprocessing, cache: Path) -> Outcome:
    """Preprocess a case, unless that was done or something speaks against it; an odd one never stops the others."""
    try:
        return _prepared(case, preprocessing, cache)
    except CggmMedError:
        raise
    except Exception as error:
        return Outcome(Path(), (f"{case.id}: {in_one_line(error)}",))


def _prepared(case: Case, preprocessing: Preprocessing, cache: Path) -> Outcome:
    folder, headers = Path(), []
    with contextlib.suppress(OSError, DataError):  # the check below says in words what is wrong
        files, headers = digests(case), header_findings(case)
        folder = cache / preprocessing.key(case, files, headers)
    if folder.name and (folder / "case.json").exists():
        of_voxels = [Finding.of_record({**of, "case": case.id}, KINDS) for of in read_facts(folder).get("findings", ())]
        with contextlib.suppress(OSError, DataError):
            if not is_measured(folder):
                _measure_again(folder, case, preprocessing)
            return Outcome(folder, findings=(*headers, *of_voxels))
    convention = preprocessing.convention_of(case)
    try:
        found, scan = read_on_one_grid(case, convention, preprocessing.reference)
    except DataError as error:
        return Outcome(folder, (str(error),))
    if scan is not None and not standing(found.findings, preprocessing.accepted):
        target = target_of(case, convention, scan.volumes, preprocessing.raters)
        # What headers say is said anew each time.
        of_voxels = [finding for finding in (*found.findings, *scan.findings) if finding not in headers]
        content = _preprocess(scan, preprocessing.held(case), target, preprocessing, files, of_voxels)
        backgrounds = content["facts"]["background"]
        _write(folder, content, _measurements(scan, backgrounds, target, convention))
    if scan is not None:
        return Outcome(folder, findings=(*found.findings, *scan.findings))
    return Outcome(folder, found.problems, found.findings, bool(found.differing), bool(found.undeclared))


def target_of(
    case: Case, convention: LabelConvention, volumes: Mapping[str, NDArray[Any]], raters: Raters
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """What is to be learned of a case's label maps.

    Args:
        case: which label maps it has.
        convention: of them.
        volumes: ``(x, y, z)`` by role, see ``Case.labels``.
        raters: whose label maps to learn.

    Returns:
        ``(region, x, y, z)``: 0 and 1, or shares of the readers; ``UNKNOWN`` where nobody annotated.
    """
    target: NDArray[Any]
    if case.raters and (case.label is None or raters != "consensus"):
        share = shares([volumes[role] for role in case.labels if role != LABEL], convention)
        target = share if raters == "soft" else majority(share, exclusive=convention.exclusive)
    else:
        target = convention.to_regions(volumes[LABEL]).astype(np.uint8)
        if convention.ignore is not None:
            target[:, volumes[LABEL] == convention.ignore] = UNKNOWN
    for region in case.not_drawn:
        target[list(convention.regions).index(region)] = UNKNOWN
    return target


def _preprocess(
    scan: OneGrid,
    modalities: Sequence[str],
    regions: NDArray[np.uint8] | NDArray[np.float32],
    preprocessing: Preprocessing,
    files: Mapping[str, str],
    findings: Sequence[Finding],
) -> dict[str, Any]:
    """Arrays and facts of one case with these modalities, a label and without problems."""
    channels = [scan.volumes[m] for m in modalities]
    rescalings = [preprocessing.rescalings.get(m) for m in modalities]
    affine = scan.affines[modalities[0]]
    moved, grid, backgrounds = to_network(channels, affine, preprocessing.spacing, regions, rescalings=rescalings)
    image, target = (moved[key].as_tensor().numpy() for key in ("image", "target"))
    facts = {
        **grid.facts,
        "background": dict(zip(modalities, backgrounds, strict=True)),
        "files": {m: files[m] for m in modalities},
        # Only where they occur, so that what was prepared before them is as good as ever.
        **({"grid_of": scan.role, "resampled": scan.resampled} if scan.resampled else {}),
        **({"label_grid": scan.label_grid} if scan.label_grid is not None else {}),
        **({"findings": [finding.record(()) for finding in findings]} if findings else {}),
    }
    return {
        "image": image.astype(np.float32, copy=False),
        "target": target,
        "centres": _centres(target),
        "foreground": np.packbits(grid.foreground),
        "facts": facts,
    }


def _centres(target: NDArray[Any]) -> NDArray[np.int32]:
    """Up to ``CANDIDATES`` voxels a region, evenly spread over its list of voxels."""
    found = []
    for region, mask in enumerate(target):
        voxels = np.argwhere((mask >= 0.5) & (mask != UNKNOWN))
        if len(voxels) > CANDIDATES:
            voxels = voxels[np.linspace(0, len(voxels) - 1, CANDIDATES).astype(np.int64)]
        found.append(np.column_stack([np.full(len(voxels), region), voxels]))
    return np.concatenate(found).astype(np.int32)


def _measurements(
    scan: OneGrid, backgrounds: Mapping[str, float | None], target: NDArray[Any], convention: LabelConvention
) -> dict[str, Any]:
    """What checks need to know of a case, see ``checks.measure``."""
    volumes = {m: scan.volumes[m] for m in backgrounds}
    label = functools.partial(lies_of, target, list(convention.regions))
    return measure(volumes, scan.affines[next(iter(backgrounds))], backgrounds, label)


def _measure_again(folder: Path, case: Case, preprocessing: Preprocessing) -> None:
    """Measure a case that an earlier version prepared; the prepared numbers stay as they are."""
    convention = preprocessing.convention_of(case)
    _, scan = read_on_one_grid(case, convention, preprocessing.reference)
    if scan is None:
        raise RuntimeError(f"{folder} holds it prepared, but its files cannot be read any more")
    target = target_of(case, convention, scan.volumes, preprocessing.raters)
    backgrounds = PreparedCase(case.id, case.patient, folder, case, convention).facts["background"]
    write_json(folder / MEASURED, _measurements(scan, backgrounds, target, convention))


def _write(folder: Path, content: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    """Write one case, whole or not at all."""
    with atomic_folder(folder) as temporary:
        for name in ("image", "target", "centres", "foreground"):
            np.save(temporary / f"{name}.npy", content[name], allow_pickle=False)
        (temporary / MEASURED).write_text(json.dumps(measured, allow_nan=False))
        (temporary / "case.json").write_text(json.dumps(content["facts"]))


def digests(case: Case) -> dict[str, str]:
    """Digest of the file behind each modality and label map."""
    images = {m: file.path for m, file in case.images.items()}
    paths = [*images.values(), *(path for label in case.labels.values() for path in label_paths(label))]
    of = {path: digest_of_image(path) for path in dict.fromkeys(paths)}
    found = {m: of[path] for m, path in images.items()}
    for role, label in case.labels.items():
        found[role] = of[label] if isinstance(label, Path) else _digest_of_regions(label, of)
    return found


def _digest_of_regions(label: RegionFiles, of: Mapping[Path, str]) -> str:
    """Digest of the files of regions, and of what stands for which region in them."""
    said = [(name, None if file is None else (of[file.path], file.channel, file.value)) for name, file in label.files]
    return digest_of(json.dumps(said).encode(), DIGEST_BYTES)
