"""Commands about finished runs: ``evaluate``, ``calibrate``, ``probe``, ``report``, ``compare``, ``rank``, ``view``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.launching import DryRun, Launcher, Sbatch, goes_on_when_repeated, trainer
from cggm_med.cli.options import (
    Accept,
    ConfigFile,
    Data,
    Debug,
    Epochs,
    OtherData,
    Parallel,
    Settings,
    TaskName,
    TrainDevice,
    files_by_modality,
    html,
    kinds_of,
    make_console,
    overrides_of,
    with_short_options,
)

COMPARISON = "comparison.json"  # in the folder of a comparison: what its tables show


def evaluate(
    folder: Annotated[Path | None, typer.Argument(help="Folder of a finished run.", metavar="[RUN]")] = None,
    data: OtherData = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test of the run, or all.")] = None,
    settings: Settings = None,
    require: Annotated[
        str | None, typer.Option(help="Of --data, refuse cases that lack one of these modalities, such as flair,t1ce.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table and pictures. [RUN/evaluations/NAME]")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Score these masks, named by case, instead of a run. [evaluations/NAME]", metavar="FOLDER"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Paired test of the masks against a run, an evaluation or masks.", metavar="RUN_OR_FOLDER"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of the masks. [that of --against, else what suits the data]")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Convention of the data's labels where the layout does not imply it.")
    ] = None,
    mask_labels: Annotated[
        str | None,
        typer.Option(help="Convention of the masks, such as brats2023, or data that declare it. [that of the labels]"),
    ] = None,
    corrupt: Annotated[
        str | None,
        typer.Option(help="Dice under artefacts instead, such as motion,noise,missing:t1+t2. [RUN/robustness/NAME]"),
    ] = None,
    severity: Annotated[str | None, typer.Option(help="Of the artefacts, such as 3, 1,3 or 1..5. [1..5]")] = None,
    calibration: Annotated[
        bool,
        typer.Option("--calibration", help="Whether it is as sure as it should be instead. [RUN/calibration/NAME]"),
    ] = False,
    subsets: Annotated[
        str | None,
        typer.Option(help="Score subsets of the modalities instead: all, or such as flair+t1,t2. [RUN/subsets/NAME]"),
    ] = None,
    external: Annotated[
        bool,
        typer.Option(
            "--external", help="Also intervals over patients, agreement of volumes and strata. [RUN/external/NAME]"
        ),
    ] = False,
    strata: Annotated[
        Path | None, typer.Option(help="Of --external: CSV with a column case and others, such as site.", metavar="CSV")
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(help="Of --masks: hand so many of the worst cases over to 3D Slicer or ITK-SNAP.", min=1),
    ] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Score a finished run on its held-out cases or on other data: as they are, with artefacts, or in part.

    evaluate --masks FOLDER scores masks that another tool or a reader made.
    """
    overrides = overrides_of(settings, data)
    if (masks is None) == (folder is None):
        raise typer.BadParameter("give either a RUN, or --masks FOLDER and perhaps --against RUN")
    if masks is None and (against or task or labels or mask_labels):
        raise typer.BadParameter("--against, --task, --labels and --mask-labels go with --masks FOLDER")
    if strata is not None and not external:
        raise typer.BadParameter("--strata goes with --external")
    if masks is not None:
        if corrupt or severity or calibration or subsets or require:
            raise typer.BadParameter(
                "--corrupt, --severity, --calibration, --subsets and --require go with a RUN, not --masks"
            )
        from cggm_med.cli import early

        early.refuse_absent([masks], "a folder of masks")
        early.refuse_absent([against] if against else [], "a run, an evaluation or a folder of masks")
        early.refuse_settings([overrides])
        early.refuse_split(split)
        if task is not None:
            early.refuse_names(task)
        require_json(json, "evaluate", [masks])
        from cggm_med.comparison.masks import evaluate_masks

        scored = evaluate_masks(
            masks,
            task,
            overrides,
            make_console(),
            labels=labels,
            mask_labels=mask_labels,
            against=against,
            split=split,
            out=out,
            external=external,
            strata=strata,
            worst=worst,
        )
        write_shown(json, "evaluate", scored.to_json())
        return
    assert folder is not None  # noqa: S101 - one of the two was given
    if worst is not None:
        raise typer.BadParameter("--worst goes with --masks FOLDER; write the masks with 'cggm-med predict' first")
    if require is not None and data is None:
        raise typer.BadParameter("--require goes with --data PATH; cases of the run have what it was trained on")
    if require is not None:
        overrides["data"] = {**overrides["data"], "required": require.split(",")}
    if severity is not None and corrupt is None:
        raise typer.BadParameter("--severity goes with --corrupt ARTEFACTS")
    if sum((subsets is not None, corrupt is not None, calibration, external)) > 1:
        raise typer.BadParameter("--subsets, --corrupt, --calibration and --external are questions; ask one at a time")
    from cggm_med.cli import early

    named = "" if subsets is None or subsets.strip() == "all" else subsets
    subset = [name.strip() for name in re.split(r"[+,]", named) if name.strip()]
    early.refuse_modalities(folder, [*subset, *(require.split(",") if require else ())])
    early.refuse_settings([overrides])
    early.refuse_split(split)
    require_json(json, "evaluate")
    from cggm_med.evaluation import ask
    from cggm_med.evaluation.calibration.question import CalibrationQuestion
    from cggm_med.evaluation.external.question import ExternalQuestion
    from cggm_med.evaluation.robustness.question import RobustnessQuestion
    from cggm_med.evaluation.subsets.question import SubsetQuestion

    console = make_console()
    question: ask.Question | None = None
    if calibration:
        question = CalibrationQuestion()
    elif subsets is not None:
        question = SubsetQuestion(subsets)
    elif corrupt is not None:
        question = RobustnessQuestion(corrupt, severity or "1..5")
    elif external:
        question = ExternalQuestion(strata)
    if question is None:
        scored = ask.evaluate_run(folder, overrides, console, split=split, out=out)
    else:
        scored = ask.ask(question, folder, overrides, console, split=split, out=out)
    write_shown(json, "evaluate", scored.to_json())


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one task.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option("-o", "--out", callback=html, help="New HTML file. [report.html]")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow one run that is still training, until it ends. [RUN/progress.html]")
    ] = False,
    debug: Debug = False,
) -> None:
    """Write one HTML page about finished runs: scores, training, cases, cost; figures and numbers lie beside it.

    report RUN --watch shows the progress of a run that is still training, here and on a page that follows it.
    """
    from cggm_med.cli import early
    from cggm_med.runs.folder import RunFolder

    if watch and len(folders) > 1:
        raise typer.BadParameter("--watch follows one run; name one folder")
    if not (watch and RunFolder(folders[0]).held):  # a process prepares a run there
        early.refuse_without_run(folders)
    if watch:
        from cggm_med.report.watch import watch as follow

        follow(folders[0], out, make_console())
        return
    from cggm_med.report import write_report

    target = write_report(folders, out, lambda line: typer.echo(line, err=True))
    typer.echo(f"written: {target}, figures and numbers in {target.with_name(target.stem + '_files')}")


def compare(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Finished runs, instead of training some.", metavar="[RUN]...")
    ] = None,
    task: TaskName = "brats2021",
    data: Data = None,
    strategies: Annotated[
        str | None,
        typer.Option(help="To train, such as 'joint,uniform,cggm[strategy.rho=1.3],uniform[train.subset_view=0.5]'."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many, or which, such as 0,3,7. [3]")] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Train with each of these values; may be repeated.", metavar="KEY=VALUE,VALUE"),
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Cross-validation by patient; as many as patients leaves one out.", min=0)
    ] = 0,
    tune: Annotated[
        list[str] | None,
        typer.Option(help="Choose among these values by validation first; may be repeated.", metavar="KEY=VALUE,VALUE"),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Of --tune, for each strategy. [all combinations]", min=1)] = None,
    subsets: Annotated[bool, typer.Option(help="Also score every subset of the modalities.")] = False,
    baseline: Annotated[
        str | None, typer.Option(help="What the others are compared with. [joint, else the first]")
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(help="The one comparison that is tested alone, declared now: a strategy as in --strategies."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Of --primary: by how much it may be worse, such as 0.003 of Dice. [it has to be better]"),
    ] = None,
    parallel: Parallel = None,
    launcher: Launcher = "local",
    sbatch: Sbatch = None,
    dry_run: DryRun = False,
    epochs: Epochs = None,
    device: TrainDevice = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as tiny. [what suits the data]")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; the same one again goes on. [comparisons/TASK]")
    ] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Compare strategies over seeds under one budget: train what is missing, then one table with statistics."""
    if bool(folders) == bool(strategies):
        raise typer.BadParameter("give either finished runs, or --strategies to train, such as joint,uniform,cggm")
    training = {"--data": data, "--seeds": seeds, "--grid": grid, "--folds": folds, "--tune": tune, "--trials": trials}
    training |= {
        "--subsets": subsets,
        "--parallel": parallel,
        "--launcher": launcher == "slurm",
        "--preset": preset,
        "--config": config,
        "--epochs": epochs,
        "--device": device,
        "--set": settings,
    }
    if folders and (ignored := [name for name, value in training.items() if value]):
        raise typer.BadParameter(f"{', '.join(ignored)} cannot go with finished runs; they go with --strategies")
    if trials is not None and not tune:
        raise typer.BadParameter("--trials goes with --tune KEY=VALUE,VALUE")
    if margin is not None and primary is None:
        raise typer.BadParameter("--margin goes with --primary NAME")
    from cggm_med.cli import early
    from cggm_med.comparison.variants import parse_seeds, refuse_strategies, table_name
    from cggm_med.config import read_file

    folder = out or Path("comparisons") / ("runs" if folders else task)
    words = with_short_options(settings, {"train.epochs": epochs, "train.device": device})
    overrides = overrides_of(words, data)
    early.refuse_names(task)
    early.refuse_settings([*([read_file(config)] if config is not None else []), overrides])
    early.refuse_without_run(folders or ())
    parse_seeds(seeds or "3")
    refuse_strategies(strategies or "")
    require_json(json, "compare")
    train = trainer(launcher, folder / "slurm", "compare", sbatch=sbatch, parallel=parallel, dry_run=dry_run)
    from cggm_med.comparison.commands import compare_runs, train_and_compare
    from cggm_med.comparison.experiment import Plan
    from cggm_med.comparison.primary import Question

    console = make_console()
    question = None if primary is None else Question(table_name(primary), margin)
    baseline = None if baseline is None else table_name(baseline)
    if folders:
        compare_runs(dict.fromkeys(folders), baseline, folder, console, question)
    else:
        plan = Plan(folder, task, preset, config, overrides, tuple(words), subsets)
        with goes_on_when_repeated():
            train_and_compare(
                plan,
                str(strategies),
                grid or [],
                seeds or "3",
                folds,
                tune or [],
                trials,
                baseline,
                train,
                console,
                question,
            )
    write_shown(json, "compare", folder / COMPARISON)


def rank(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that 'cggm-med compare' wrote.", metavar="COMPARISON...")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the table as Markdown.")] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Rank strategies over several tasks, by the mean of each comparison."""
    from cggm_med.cli import early

    early.refuse_absent(folders, "a folder that 'cggm-med compare' wrote")
    require_json(json, "rank", folders)
    from cggm_med.comparison.commands import rank_tasks

    write_shown(json, "rank", rank_tasks(folders, out, make_console()))


def probe(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    data: OtherData = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test of the run, or all.")] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table and picture. [RUN/probe/NAME]")] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Score each modality by a linear read-out of its frozen encoder: how well each encoder was trained."""
    overrides = overrides_of(settings, data)
    from cggm_med.cli import early

    early.refuse_runs([folder])
    early.refuse_settings([overrides])
    early.refuse_split(split)
    require_json(json, "probe")
    from cggm_med.evaluation.ask import ask
    from cggm_med.evaluation.probe.question import ProbeQuestion

    console = make_console()
    scored = ask(ProbeQuestion(), folder, overrides, console, split=split, out=out)
    write_shown(json, "probe", scored.to_json())


def view(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN [CASE]] [--NAME FILE]...", help="A case of a run; or images, --truth, --prediction."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", callback=html, help="HTML file. [a temporary one, opened at once]"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or datalist with the case. [the data of the run]")] = None,
    split: Annotated[str | None, typer.Option(help="Look in train, validation or test of the run only.")] = None,
    task: Annotated[str | None, typer.Option(help="Whose label conventions --labels means. [brats2021]")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Convention of the masks, such as brats2023, or a declared list.")
    ] = None,
    trust_names: Annotated[bool, typer.Option(help="Do not refuse modalities that seem to be exchanged.")] = False,
    accept: Accept = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    all_cases: Annotated[
        bool, typer.Option("--all", help="Of RUN, write a page for each held-out case, or of --split. [RUN/viewer]")
    ] = False,
    probabilities: Annotated[bool, typer.Option(help="Also show the probability of each region, to 0.02.")] = False,
    debug: Debug = False,
) -> None:
    """Look at a case in the browser: scans, true and predicted regions, in planes and in 3-D.

    view RUN CASE segments a case of the run's data, or of --data; view RUN --all every held-out one. view RUN --flair
    FILE --t1 FILE... [--truth FILE] segments these files. view --ANY_NAME FILE... [--truth FILE] [--prediction FILE]
    shows files as they are.
    """
    files, rest = files_by_modality(words)
    truth, prediction = files.pop("truth", None), files.pop("prediction", None)
    if len(rest) > 2 or (files and len(rest) > 1) or not (files or rest):
        raise typer.BadParameter(
            "give a run and a case, a run and files, or files such as --flair a.nii.gz --truth b.nii.gz"
        )
    if files and (data or split):
        raise typer.BadParameter("--data and --split find a case of a run; leave them out, or the files")
    if rest and prediction:
        raise typer.BadParameter("a run makes its own prediction; leave out the run, or --prediction")
    if rest and not files and truth:
        raise typer.BadParameter("the truth of a case lies beside it; --truth goes with files")
    if probabilities and not rest:
        raise typer.BadParameter("--probabilities are those of a run; name one")
    if all_cases and (len(rest) != 1 or files or out or data):
        raise typer.BadParameter("--all goes with RUN alone, and perhaps --split; its pages are in RUN/viewer")
    from cggm_med.cli import early
    from cggm_med.device_name import require_device

    require_device(device, "device")
    if rest:
        early.refuse_modalities(Path(rest[0]), files, inspect.signature(view).parameters)
    read = [*files.values(), *(path for path in (truth, prediction, data) if path is not None)]
    early.refuse_absent(read, "an image" if files else "a folder or file with the data")
    from cggm_med.files import require_writable, write_text
    from cggm_med.viewer import case as cases
    from cggm_med.viewer.page import is_page, open_in_browser, page_html, temporary_file

    if out is not None:
        given = [path for path in (*files.values(), truth, prediction) if path is not None]
        require_writable([out], inputs=given, ours=is_page)
    options: dict[str, Any] = {"labels": labels, "device": device, "trust_names": trust_names, "say": typer.echo}
    options |= {"accept": kinds_of(accept), "probabilities": probabilities}
    if all_cases:
        from cggm_med.viewer.run_pages import write_run_pages

        pages = write_run_pages(Path(rest[0]), split, **options)
        size = sum(page.stat().st_size for page in pages) / 1e6
        typer.echo(f"written: {len(pages)} pages ({size:.1f} MB) with links from one to the next, first {pages[0]}")
        return
    if not rest:
        case = cases.view_files(files, truth, prediction, task=task, labels=labels)
    elif files:
        case = cases.view_files_with_run(Path(rest[0]), files, truth, **options)
    else:
        of_run = cases.RunCases(Path(rest[0]), data=data, split=split, **options)
        case = of_run.view(rest[1] if len(rest) > 1 else None)
    path = out or temporary_file(case.name)
    write_text(path, page_html(case))
    typer.echo(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), one file that needs no network")
    if out is None and not open_in_browser(path):
        typer.echo("no browser here; open the file in one with WebGL 2, on any machine")


def calibrate(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    subsets: Annotated[str, typer.Option(help="Of the modalities: all, or such as flair+t1,t2.")] = "all",
    settings: Settings = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Measure on the validation cases what to expect of masks from each subset of the modalities; predict then says it.

    Dice, a temperature for probabilities, and how well the agreement of subsets predicts Dice.
    """
    overrides = overrides_of(settings, None)
    from cggm_med.cli import early

    early.refuse_runs([folder])
    require_json(json, "calibrate")
    from dataclasses import asdict

    from cggm_med.evaluation.expectations import calibrate_run

    found = calibrate_run(folder, overrides, make_console(), wanted=subsets)
    write_shown(json, "calibrate", asdict(found))
