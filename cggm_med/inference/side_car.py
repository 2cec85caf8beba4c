"""What is said of a mask: one schema for the JSON file beside it, a cohort's table and the list of its lesions."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cggm_med.data.cases import stem
from cggm_med.errors import counted
from cggm_med.inference.mask_record import SCHEMA, mask_record, no_quality
from cggm_med.inference.predictor import Prediction, Predictor
from cggm_med.metrics import lesion_list
from cggm_med.metrics.lesion_list import MAX_LESIONS
from cggm_med.results.aggregate import MEAN
from cggm_med.results.results import Record
from cggm_med.runs.expectations import SubsetExpectation
from cggm_med.trees import parse_json

LESION_COLUMNS = ("case", "region", "lesion", *lesion_list.COLUMNS)


@dataclass(frozen=True)
class Field:
    """One entry of the JSON file.

    Attributes:
        name: its key.
        meaning: what stands there.
        columns: of the cohort's table that say it, in words; empty if none does.
        cells: those columns of a case, by name, made of the entry.
    """

    name: str
    meaning: str
    columns: str = ""
    cells: Callable[[Any], Mapping[str, Any]] = lambda value: {}


def _same(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {name: value}


def _by(name: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda value: {f"{name} {of}": each for of, each in value.items()}


FIELDS = (
    Field("schema", f"number of this schema, {SCHEMA}"),
    Field("software", "`cggm-med` and its version"),
    Field("date", "when it was made, in UTC"),
    Field("case", "id", "`case`", _same("case")),
    Field("task", "of the run"),
    Field(
        "weights",
        "digest of the run's weights: `b2sum -l 96 RUN/checkpoints/best.pt`, or of `last.pt` if there is none; of an "
        "ensemble, of its `ensemble.json`",
        "`weights`",
        _same("weights"),
    ),
    Field("ensemble", "of an ensemble, its runs: name, digest, strategy, seed and checkpoint; else null"),
    Field("device", "that segmented", "`device`", _same("device")),
    Field(
        "seconds",
        "that `reading` (with checks and preprocessing) and `segmenting` (with the way back to the own grid) took",
        "`seconds reading`, `seconds segmenting`",
        _by("seconds"),
    ),
    Field("modalities", "those that were given", "`present`", lambda value: {"present": "+".join(value)}),
    Field("absent", "the run's other modalities", "`absent`", lambda value: {"absent": "+".join(value)}),
    Field(
        "inputs",
        "digest of each modality's file: `b2sum -l 160 FILE`; of DICOM, of all files of its series, one after the "
        "other in the order of their paths",
        "`input MODALITY`",
        _by("input"),
    ),
    Field("labels", "what the numbers in the mask mean"),
    Field("convention", "name of what they mean"),
    Field("regions", "the labels that make up each region"),
    Field("threshold", "probability from which on a voxel belongs to a region"),
    Field(
        "components", "which components of a region stay: `largest`, or from how many mm3 on; of the others all stay"
    ),
    Field("flips", "whether predictions of mirrored scans were averaged"),
    Field("trust_names", "whether exchanged modalities were let pass"),
    Field("resampled", "modalities that were resampled to another one's grid"),
    Field("resampled_to", "that other one, or null"),
    Field("volume_ml", "volume of each region in the mask", "`volume_ml REGION`", _by("volume_ml")),
    Field(
        "lesion_rules",
        "of the task: voxels that are connected (by `connectivity` neighbours) in the mask dilated `dilations` times "
        "are one lesion, which counts if it is larger than `min_mm3`",
    ),
    Field("lesion_count", "lesions of each region that count", "`lesions REGION`", _by("lesions")),
    Field("small_lesion_count", "lesions of each region that are too small to count; they are part of its volume"),
    Field("lesions", f"those that count, the largest first, {MAX_LESIONS} of each region at most: see below"),
    Field(
        "findings",
        "what is [odd about the files](findings.md): kind, severity, whether it was accepted, what was seen",
        "`findings`: their kinds",
        lambda value: {"findings": "+".join(dict.fromkeys(finding["kind"] for finding in value))},
    ),
    Field("expected_dice", "mean, standard deviation and cases, by region, after `calibrate`; else null"),
    Field("temperature", "of each region, after `calibrate`; else null"),
    Field("measured_on", "which cases these two were measured on, or why nothing was"),
    Field("quality", "predicted quality by region and mean, with `--review-below`; else null", "`quality`: the mean"),
    Field("quality_of", "what that is, or why it is not there"),
    Field("quality_rank_correlation", "how well it told Dice in validation; else null"),
)


def side_car_of(mask: Path) -> Path:
    """The file that says how a mask was made.

    Example:
        >>> side_car_of(Path("masks/a.nii.gz")).as_posix()
        'masks/a.json'
    """
    return mask.with_name(f"{case_of(mask)}.json")


def case_of(path: Path) -> str:
    """The case of an output file: the file's name without its ending.

    Example:
        >>> [case_of(Path(name)) for name in ("a.nii.gz", "b.v2.nii", "c.dcm")]
        ['a', 'b.v2', 'c']
    """
    return stem(path.name) or path.name.removesuffix(".dcm")


def side_car(prediction: Prediction, predictor: Predictor, seconds: Mapping[str, float]) -> dict[str, Any]:
    """All ``FIELDS`` of a mask, as plain values.

    Args:
        prediction: the mask.
        predictor: what made it.
        seconds: how long each part of the work took.
    """
    return mask_record(
        prediction.labels,
        prediction.affine,
        prediction.convention,
        run=run_record(predictor),
        scan={
            "case": prediction.case,
            "modalities": prediction.modalities,
            "inputs": prediction.inputs,
            "resampled": prediction.resampled,
            "resampled_to": prediction.resampled_to,
            "findings": [finding.record(predictor.accepted) for finding in prediction.findings],
            "trust_names": predictor.trust_names,
        },
        device=predictor.device,
        seconds=seconds,
        components=prediction.segmented.components.kept,
        expected=expected_record(prediction.expectation, prediction.measured_on),
        flips=predictor.flips,
        quality=_quality(prediction, asked=predictor.quality),
    )


def run_record(predictor: Predictor) -> dict[str, Any]:
    """What is said of a mask that every mask of a run has in common; see ``mask_record``."""
    rules = predictor.volumes.lesion_rules
    return {
        "software": f"cggm-med {importlib.metadata.version('cggm-med')}",
        "task": predictor.task.config.task.name,
        "weights": predictor.digest,
        "ensemble": list(predictor.run.described_members) or None,
        "modalities": list(predictor.task.modalities),
        "lesion_rules": {name: getattr(rules, name) for name in ("dilations", "connectivity", "min_mm3")},
    }


def expected_record(expectation: SubsetExpectation | None, measured_on: str) -> dict[str, Any]:
    """The Dice that was measured for exactly some modalities, and the temperatures, or that nothing was.

    Args:
        expectation: what was measured.
        measured_on: on which cases, or why it was not.
    """
    of = {} if expectation is None else {**expectation.regions, MEAN: expectation.mean}
    dice = {name: {"mean": each.dice_mean, "sd": each.dice_sd, "cases": each.cases} for name, each in of.items()}
    known = None if expectation is None else expectation.regions
    return {
        "expected_dice": dice or None,
        "temperature": None if known is None else {name: each.temperature for name, each in known.items()},
        "measured_on": measured_on if known is not None else f"nothing: {measured_on}",
    }


def read_side_car(mask: Path) -> Record | None:
    """What is said of a mask; None if nothing is."""
    try:
        said = parse_json(side_car_of(mask).read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and str(said.get("software", "")).startswith("cggm-med") else None


def cohort_cells(said: Record) -> dict[str, Any]:
    """The columns of a cohort's table for one mask.

    Args:
        said: of the mask.
    """
    cells: dict[str, Any] = {}
    for field in FIELDS:
        if field.name in said:
            cells |= field.cells(said[field.name])
    return cells


def lesion_rows(said: Record) -> Iterator[Record]:
    """A row for each lesion of a mask.

    Args:
        said: of the mask.
    """
    for lesion in said["lesions"]:
        yield {"case": said["case"], **lesion}


def volumes_in_words(said: Record) -> str:
    """The volume of each region in one line, with the number of its lesions.

    Example:
        >>> volumes_in_words({"volume_ml": {"WT": 12.34, "ET": 0.0}, "lesion_count": {"WT": 2, "ET": 0}})
        'WT 12.3 mL in 2 lesions, ET 0.0 mL'
    """
    counts: Mapping[str, int] = said["lesion_count"]
    return ", ".join(
        f"{region} {ml:.1f} mL" + (f" in {counted(counts[region], 'lesion')}" if counts[region] else "")
        for region, ml in said["volume_ml"].items()
    )


def _quality(prediction: Prediction, *, asked: bool) -> dict[str, Any] | None:
    """The predicted quality, with how far it can be trusted."""
    if prediction.quality is None:
        return no_quality("a single modality has no proper subset to agree with") if asked else None
    found = prediction.expectation
    of = {} if found is None else {**found.regions, MEAN: found.mean}
    trust = {name: asdict(each.rank_correlation) for name, each in of.items()}
    return {
        "quality": dict(prediction.quality),
        "quality_of": "mean Dice between the mask and those from each proper subset of its modalities",
        "quality_rank_correlation": trust or None,
    }
