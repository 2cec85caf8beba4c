"""The command ``evaluate --masks``: score masks that were made elsewhere, and test them against a run or others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console

from cggm_med import registry
from cggm_med.comparison.paired_cases import RULE, paired_rows, paired_table
from cggm_med.config import Tree
from cggm_med.data.cases import Case
from cggm_med.data.layouts import files_under
from cggm_med.errors import ConfigError, DataError, UnknownName, counted, first_of
from cggm_med.evaluation.corrections.hand_over import README, hand_over, worst_cases
from cggm_med.evaluation.external.question import write_validation
from cggm_med.evaluation.external.strata import read_strata
from cggm_med.evaluation.external.validation import RULES as EXTERNAL_RULES
from cggm_med.evaluation.external.validation import validate
from cggm_med.evaluation.masks import MASKS_RULE, convention_of_masks, masks_of, score_masks
from cggm_med.files import atomic_folder, require_unused, unused, write_json, write_text
from cggm_med.metrics.regions import METRICS
from cggm_med.results.results import Record, Report, print_results
from cggm_med.results.tables import csv_text
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.provenance import origin
from cggm_med.runs.settings import make_config
from cggm_med.trees import parse_json

WORST = "worst"  # folder of the cases to correct
COMPARED = tuple(metric for metric in METRICS if not metric.table)  # those of the first table


def evaluate_masks(
    masks: Path,
    task: str | None,
    overrides: Tree,
    console: Console,
    *,
    labels: str | None = None,
    mask_labels: str | None = None,
    against: Path | None = None,
    split: str | None = None,
    out: Path | None = None,
    external: bool = False,
    strata: Path | None = None,
    worst: int | None = None,
) -> Report:
    """Score masks under the rules of a run's table; write the results and what is odd about the files.

    Args:
        masks: folder of label files named by case.
        task: whose regions, metrics and layouts; default: of what ``against`` scored, else see ``default_task``.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        labels: name of the convention of the data's labels; default: what the layout implies.
        mask_labels: convention of the masks, by name or as a data set declares it; default: that of the labels.
        against: a run, a folder that ``evaluate`` wrote, or another folder of masks, for a paired test.
        split: of the data or of the run in ``against``; default: the cases that ``against`` scored, else all.
        out: new or empty folder; default: ``evaluations/NAME``.
        external: whether to add the tables of an external validation.
        strata: see ``ExternalQuestion``.
        worst: how many cases to hand over for correction, in folder ``worst``.

    Raises:
        ConfigError: if the task does not segment, or nothing names the data.
        DataError: if a mask is missing or cannot be compared with its label, or ``against`` scored something else.
        OutputError: if ``out`` holds files already.
    """
    if out is not None:
        require_unused(out)
    run = FinishedRun(against) if against is not None and RunFolder(against).config.exists() else None
    if run is None and "path" not in overrides.get("data", {}):
        raise ConfigError("nothing says where the labels are; name the data with --data PATH, or a run with --against")
    other = _results_of(against) if against is not None else None
    if labels is not None:
        overrides = {**overrides, "task": {**overrides.get("task", {}), "labels": labels}}
    if run is not None and task in (None, run.task):
        config = run.folder.settings_after_training(run.folder.on_other_data(overrides))
    else:
        if task is None:
            # A convention that is asked for by name is one of the task that has several.
            task = other.task if other else "brats2021" if labels else default_task(Path(overrides["data"]["path"]))
        # Nothing is computed by a network, and a plan for a GPU may ask for more memory than it has.
        config = make_config(task, [{"train": {"device": "cpu"}}, overrides])
    if hasattr(config.data, "allow_missing"):  # which images a case has is nothing to its mask
        config = replace(config, data=replace(config.data, allow_missing=True))
    made = registry.load(registry.TASKS, config.task.name)(config)
    volumes = made.volumes()
    if volumes is None:
        raise ConfigError(f"task '{config.task.name}' does not segment, so it has no masks; name another with --task")
    of_masks = convention_of_masks(mask_labels, volumes)
    if worst is not None and config.data.path is None:
        raise ConfigError("--worst hands over files of data, and these are generated; name data with --data PATH")
    say = console.print
    made.find(say)
    found = {case.id: case for case in volumes.found.cases}
    splits = run.splits if run is not None else made.own_splits
    cases = _chosen(found, dict(splits.items()) if splits else {}, split, other)
    columns = {} if strata is None else read_strata(strata, [case.id for case in cases])
    say(f"{counted(len(cases), 'mask')}, labels numbered as in {volumes.labels_in_words(cases)}")
    scores, findings = score_masks(made, volumes, masks, cases, of_masks, say)
    rules = {**made.rules(), "threshold": MASKS_RULE}
    compared: list[Record] = []
    if against is not None:
        if other is None:
            say(f"now the masks in {against}")
            of_others, _ = score_masks(made, volumes, against, cases, of_masks, say)
            others: Sequence[Record] = of_others.cases
        else:
            _require_same_rules(against, other, made.rules())
            others = other.scores.cases
        rows = paired_rows(scores.cases, others, COMPARED, {case.id: case.patient for case in cases})
        scores = replace(scores, tables=(*scores.tables, paired_table(rows, against.name)))
        rules["against"] = RULE
        compared = [asdict(row) for row in rows]
    validation = None
    if external:
        validation = validate(scores.cases, {case.id: case.patient for case in cases}, columns)
        scores = replace(scores, tables=(*scores.tables, *validation.tables))
        rules |= EXTERNAL_RULES
    made_by = origin()
    report = Report(
        task=config.task.name,
        strategy=f"masks of {masks.name}",
        split=split or ("all" if other is None else other.split),
        scores=scores,
        rules=rules,
        provenance={
            "command": made_by["command"],
            "data": "generated (not real data)" if config.data.path is None else Path(config.data.path).name,
            "masks": str(masks),
            **({"against": str(against)} if against is not None else {}),
            **{name: made_by[name] for name in ("versions", "date")},
        },
    )
    target = out or unused(Path("evaluations") / (masks.resolve().name or "masks"))
    with atomic_folder(target) as temporary:
        write_json(temporary / "results.json", report.to_json())
        write_text(temporary / "results.csv", csv_text(report.scores.cases))
        write_text(temporary / "results.md", report.to_markdown())
        accepted = getattr(config.data, "accept", ())
        found_odd = [finding.record(accepted) for finding in findings]
        write_json(temporary / "findings.json", {"accepted": list(accepted), "findings": found_odd})
        if compared:
            write_text(temporary / "against.csv", csv_text(compared))
        if validation is not None:
            write_validation(temporary, report, validation)
        if worst is not None:
            dice, by_id = worst_cases(report.scores.cases, worst), {case.id: case for case in cases}
            files = masks_of(masks, list(dice))
            chosen = [(by_id[id], files[id], volumes.convention_of(by_id[id])) for id in dice]
            hand_over(
                temporary / WORST,
                chosen,
                dice,
                data=Path(config.data.path),
                colours=volumes.colours,
                of_masks=of_masks,
            )
    print_results(report, console)
    console.print(f"written: {target / 'results.md'}, results.json and tables as CSV")
    if worst is not None:
        console.print(
            f"to correct: {target / WORST}, see {README} there; then: cggm-med correct {target / WORST} -o NEW"
        )
    return report


def default_task(data: Path) -> str:
    """The task that masks of these data are scored by: ``brats2021`` for a folder of that challenge's cases.

    All others say themselves what their labels mean, which task ``segmentation`` reads. A list is among these: what it
    declares counts, whatever its cases are called.
    """
    layouts = registry.load(registry.TASKS, "brats2021").layouts
    if data.is_dir() and not (data / "dataset.json").is_file():
        told = (layout.tell(file.name) for file in files_under(data) for layout in layouts)
        if any(of is not None and of[0].lower().startswith("brats") for of in told):
            return "brats2021"
    return "segmentation"


def _results_of(folder: Path) -> Report | None:
    """What ``evaluate`` or training wrote to a folder; None if it is no such folder.

    Raises:
        CheckpointError: if it is a run that is not finished.
        DataError: if it holds results of something other than whole cases.
    """
    if RunFolder(folder).config.exists():
        report = FinishedRun(folder).report
    elif (file := folder / "results.json").exists():
        try:
            report = Report.from_json(parse_json(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} cannot be read ({type(error).__name__}: {error}); name another folder") from error
    else:
        return None
    rows = report.scores.cases
    keys = [metric.key for metric in COMPARED]
    if len({(row["case"], row.get("region")) for row in rows}) < len(rows) or any(
        k not in r for r in rows for k in keys
    ):
        raise DataError(
            f"{folder} holds no plain scores of regions, but {report.title}; name a run or what 'cggm-med evaluate' "
            "wrote without --subsets, --corrupt or --calibration"
        )
    return report


def _chosen(
    found: Mapping[str, Case], splits: Mapping[str, Sequence[str]], split: str | None, other: Report | None
) -> list[Case]:
    """The cases to score, in the order of the data."""
    if split is None and other is not None:
        wanted = {row["case"] for row in other.scores.cases}
        if lacking := sorted(wanted - set(found)):
            raise DataError(f"{first_of(lacking)} of the other evaluation are not in these data; name its --data")
    elif split in (None, "all"):
        wanted = set(found)
    elif split in splits:
        wanted = set(splits[split])
    else:
        raise UnknownName("split of these data", str(split), [*splits, "all"])
    cases = [case for id, case in found.items() if id in wanted and case.label is not None]
    if not cases:
        raise DataError("these data hold no case with a label to score; choose others with --split or --data")
    return cases


def _require_same_rules(folder: Path, report: Report, rules: Mapping[str, str]) -> None:
    """Refuse results that other rules, such as those of an older version, gave."""
    # Regions may be said in other numbers; that the labels are the same is seen from their volumes.
    known = {name: {rule} for name, rule in rules.items() if name != "regions"}
    known["threshold"].add(MASKS_RULE)
    differing = [name for name, allowed in known.items() if report.rules.get(name, "") not in allowed]
    if differing:
        raise DataError(
            f"{folder} was scored by other rules ({', '.join(differing)}); score it again with 'cggm-med evaluate', "
            "with the same settings, and name the folder that it writes:",
            [f"{name}: {report.rules.get(name, 'none')!r} there, {rules[name]!r} here" for name in differing],
        )
