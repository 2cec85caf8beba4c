"""The command line: parses and delegates. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.errors import CggmMedError
from cggm_med.nnunet.commands import app as nnunet

app = typer.Typer(
    name="cggm-med",
    help="Multimodal learning, medical image segmentation first, whose modalities are balanced while they train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(nnunet)

bundles = typer.Typer(no_args_is_help=True, help="MONAI bundles.")
app.add_typer(bundles, name="bundle")

TaskName = Annotated[str, typer.Option("--task", help="What to learn; see 'cggm-med tasks'.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder or file in the layout of the task. [generated data]")]
OtherData = Annotated[Path | None, typer.Option("--data", help="Folder or file with other cases. [the run's own]")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="One setting, such as optim.lr=1e-3; may be repeated. All keys stand in the config.yaml of any run.",
        metavar="KEY=VALUE",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML or JSON file with settings.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


def _html(path: Path | None) -> Path | None:
    """A browser would show another file as text."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{path} is no name of a page; expected one that ends in .html, such as {path}.html")
    return path


@app.command()
def train(
    task: TaskName = "brats2021",
    data: Data = None,
    strategy: Annotated[str | None, typer.Option(help="How to balance; see 'cggm-med strategies'. [cggm]")] = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as tiny. [what suits the data]")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="New run folder. [runs/DATE-TASK-STRATEGY]")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder instead of starting one.")] = None,
    debug: Debug = False,
) -> None:
    """Train, then score the held-out cases.

    Without --data the task's embedded data are used. Settings: defaults < preset < --config < --set.
    """
    overrides = _overrides(settings, data)
    from rich.console import Console

    from cggm_med import distributed
    from cggm_med.config import read_file
    from cggm_med.device import select_device
    from cggm_med.runs import train as run
    from cggm_med.runs.folder import RunFolder
    from cggm_med.runs.settings import make_config

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if resume is not None:
        ignored = [name for name, value in [("--config", config), ("--out", out), ("--preset", preset)] if value]
        if ignored:
            raise typer.BadParameter(f"{', '.join(ignored)} cannot go with --resume: the run keeps its settings")
        if strategy is not None:
            overrides["strategy"] = {**overrides.get("strategy", {}), "name": strategy}
        device = select_device(RunFolder(resume).device_setting(overrides))
        with distributed.processes(device), _interruptible(resume):
            run.resume(resume, overrides, console)
        return
    layers = [read_file(config)] if config is not None else []
    resolved = make_config(task, [*layers, overrides], preset=preset, strategy=strategy)
    device = select_device(resolved.train.device)
    with distributed.processes(device):
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        stamp = distributed.gather_json(stamp, device)[0]
        folder = out or Path("runs") / f"{stamp}-{resolved.task.name}-{resolved.strategy.name}"
        with _interruptible(folder):
            run.start(resolved, folder, console)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    data: OtherData = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test of the run, or all.")] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table and pictures. [RUN/evaluations/NAME]")] = None,
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
    debug: Debug = False,
) -> None:
    """Score a finished run on its held-out cases or on other data: as they are, with artefacts, or in part."""
    overrides = _overrides(settings, data)
    if severity is not None and corrupt is None:
        raise typer.BadParameter("--severity goes with --corrupt ARTEFACTS")
    if sum((subsets is not None, corrupt is not None, calibration)) > 1:
        raise typer.BadParameter("--subsets, --corrupt and --calibration are three questions; ask one at a time")
    from rich.console import Console

    from cggm_med.evaluation import ask
    from cggm_med.evaluation.calibration.measure import CalibrationQuestion
    from cggm_med.evaluation.robustness.measure import RobustnessQuestion
    from cggm_med.evaluation.subsets.measure import SubsetQuestion

    console = Console(soft_wrap=True, highlight=False, markup=False)
    question: ask.Question | None = None
    if calibration:
        question = CalibrationQuestion()
    elif subsets is not None:
        question = SubsetQuestion(subsets)
    elif corrupt is not None:
        question = RobustnessQuestion(corrupt, severity or "1..5")
    if question is None:
        ask.evaluate(folder, overrides, console, split=split, out=out)
    else:
        ask.ask(question, folder, overrides, console, split=split, out=out)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished runs of one task.", metavar="RUN...")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", callback=_html, help="New HTML file. [report.html]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page about finished runs: scores, training, cases, cost; figures and numbers lie beside it."""
    from cggm_med.report import write_report

    target = write_report(folders, out, lambda line: typer.echo(line, err=True))
    typer.echo(f"written: {target}, figures and numbers in {target.with_name(target.stem + '_files')}")


@app.command()
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
    folds: Annotated[int, typer.Option(help="Cross-validation by patient; as many as patients leaves one out.")] = 0,
    tune: Annotated[
        list[str] | None,
        typer.Option(help="Choose among these values by validation first; may be repeated.", metavar="KEY=VALUE,VALUE"),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Of --tune, for each strategy. [all combinations]")] = None,
    subsets: Annotated[bool, typer.Option(help="Also score every subset of the modalities.")] = False,
    baseline: Annotated[
        str | None, typer.Option(help="What the others are compared with. [joint, else the first]")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Runs at once. [one a GPU; on a CPU one a core, at most 4]", min=1)
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as tiny. [what suits the data]")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; the same one again goes on. [comparisons/TASK]")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compare strategies over seeds under one budget: train what is missing, then one table with statistics."""
    if bool(folders) == bool(strategies):
        raise typer.BadParameter("give either finished runs, or --strategies to train, such as joint,uniform,cggm")
    training = {"--data": data, "--seeds": seeds, "--grid": grid, "--folds": folds, "--tune": tune, "--trials": trials}
    training |= {
        "--subsets": subsets,
        "--parallel": parallel,
        "--preset": preset,
        "--config": config,
        "--set": settings,
    }
    if folders and (ignored := [name for name, value in training.items() if value]):
        raise typer.BadParameter(f"{', '.join(ignored)} cannot go with finished runs; they go with --strategies")
    if trials is not None and not tune:
        raise typer.BadParameter("--trials goes with --tune KEY=VALUE,VALUE")
    from rich.console import Console

    from cggm_med.comparison.commands import compare_runs, train_and_compare
    from cggm_med.comparison.experiment import Plan

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if folders:
        compare_runs(dict.fromkeys(folders), baseline, out or Path("comparisons") / "runs", console)
        return
    overrides = _overrides(settings, data)
    plan = Plan(out or Path("comparisons") / task, task, preset, config, overrides, tuple(settings or ()), subsets)
    try:
        train_and_compare(
            plan, str(strategies), grid or [], seeds or "3", folds, tune or [], trials, baseline, parallel, console
        )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(130) from None


@app.command()
def rank(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders that 'cggm-med compare' wrote.", metavar="COMPARISON...")
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the table as Markdown.")] = None,
    debug: Debug = False,
) -> None:
    """Rank strategies over several tasks, by the mean of each comparison."""
    from rich.console import Console

    from cggm_med.comparison.commands import rank_tasks

    rank_tasks(folders, out, Console(soft_wrap=True, highlight=False, markup=False))


@app.command()
def probe(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    data: OtherData = None,
    split: Annotated[str | None, typer.Option(help="train, validation or test of the run, or all.")] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table and picture. [RUN/probe/NAME]")] = None,
    debug: Debug = False,
) -> None:
    """Score each modality by a linear read-out of its frozen encoder: how well each encoder was trained."""
    overrides = _overrides(settings, data)
    from rich.console import Console

    from cggm_med.evaluation.ask import ask
    from cggm_med.evaluation.probe.measure import ProbeQuestion

    console = Console(soft_wrap=True, highlight=False, markup=False)
    ask(ProbeQuestion(), folder, overrides, console, split=split, out=out)


@app.command(context_settings={"ignore_unknown_options": True})
def predict(
    words: Annotated[
        list[str], typer.Argument(metavar="RUN [FOLDER] [--MODALITY FILE]...", help="A run, and a folder or files.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Mask (.nii.gz; .dcm of DICOM); a folder for a folder.")],
    modalities: Annotated[str | None, typer.Option(help="Of a folder, use these only, such as flair,t1ce.")] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a DICOM folder: number, UID or part of the description of a modality's series, such as flair=5.",
            metavar="MODALITY=SERIES",
        ),
    ] = None,
    skip_existing: Annotated[bool, typer.Option(help="Leave out cases whose mask is there.")] = False,
    flips: Annotated[bool, typer.Option(help="Average over mirrored scans; eight times slower.")] = False,
    trust_names: Annotated[bool, typer.Option(help="Do not refuse modalities that seem to be exchanged.")] = False,
    resample_to: Annotated[
        str | None, typer.Option(help="Bring images on other grids onto that of this one.", metavar="MODALITY")
    ] = None,
    extra: Annotated[list[str] | None, typer.Option(help="Also write probabilities or uncertainty.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    debug: Debug = False,
) -> None:
    """Segment scans with a finished run: a folder as for training, a study in DICOM, or a file for each modality.

    Any of the run's modalities may be absent.
    """
    run, *rest = words
    images, folders = _files_by_modality(rest)
    if bool(images) == bool(folders) or len(folders) > 1:
        raise typer.BadParameter("give either one folder, or files such as --flair a.nii.gz --t1ce b.nii.gz")
    chosen = _series_by_modality(series or [])
    if chosen and images:
        raise typer.BadParameter("--series chooses among the series of a DICOM folder; give one instead of files")
    if modalities and images:
        raise typer.BadParameter("--modalities chooses among those of a folder; of files, leave out what is not wanted")
    from cggm_med import distributed
    from cggm_med.data.dicom.series import holds_dicom
    from cggm_med.device import select_device
    from cggm_med.inference.batch import case_of, find_images, predict_cases
    from cggm_med.inference.dicom_study import predict_study
    from cggm_med.inference.predictor import Predictor

    with distributed.processes(select_device(device)):
        predictor = Predictor(Path(run), device, flips=flips, trust_names=trust_names, resample_to=resample_to)
        wanted = modalities.split(",") if modalities else None
        how: dict[str, Any] = {"skip_existing": skip_existing, "extras": extra or [], "say": typer.echo}
        cases: Mapping[str, Any] = {case_of(out): images}
        if images:
            failed = predict_cases(predictor, cases, {case_of(out): out}, **how)
        elif chosen or holds_dicom(Path(folders[0])):
            failed = predict_study(predictor, Path(folders[0]), out, chosen=chosen, modalities=wanted, **how)
        else:
            cases = find_images(predictor, Path(folders[0]), wanted)
            failed = predict_cases(predictor, cases, {case: out / f"{case}.nii.gz" for case in cases}, **how)
    if failed:
        typer.echo(f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


@app.command(context_settings={"ignore_unknown_options": True})
def view(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN [CASE]] [--NAME FILE]...", help="A case of a run; or images, --truth, --prediction."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", callback=_html, help="HTML file. [a temporary one, opened at once]")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or datalist with the case. [the data of the run]")] = None,
    split: Annotated[str | None, typer.Option(help="Look in train, validation or test of the run only.")] = None,
    task: Annotated[str | None, typer.Option(help="Whose label conventions --labels means. [brats2021]")] = None,
    labels: Annotated[str | None, typer.Option(help="Convention of the masks, such as brats2023.")] = None,
    trust_names: Annotated[bool, typer.Option(help="Do not refuse modalities that seem to be exchanged.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    debug: Debug = False,
) -> None:
    """Look at a case in the browser: scans, true and predicted regions, in planes and in 3-D.

    view RUN CASE segments a case of the run's data, or of --data. view RUN --flair FILE --t1 FILE... [--truth FILE]
    segments these files. view --ANY_NAME FILE... [--truth FILE] [--prediction FILE] shows files as they are.
    """
    files, rest = _files_by_modality(words)
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
    from cggm_med.files import write_text
    from cggm_med.viewer import case as cases
    from cggm_med.viewer.page import open_in_browser, page, temporary_file

    how: dict[str, Any] = {"labels": labels, "device": device, "trust_names": trust_names, "say": typer.echo}
    if not rest:
        case = cases.of_files(files, truth, prediction, task=task, labels=labels)
    elif files:
        case = cases.of_run_on_files(Path(rest[0]), files, truth, **how)
    else:
        case = cases.of_run(Path(rest[0]), rest[1] if len(rest) > 1 else None, data=data, split=split, **how)
    path = out or temporary_file(case.name)
    write_text(path, page(case))
    typer.echo(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), one file that needs no network")
    if out is None and not open_in_browser(path):
        typer.echo("no browser here; open the file in one with WebGL 2, on any machine")


@bundles.command("export")
def bundle_export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder of the bundle.")],
    modalities: Annotated[str | None, typer.Option(help="Its channels, such as flair,t1ce. [all of the run]")] = None,
    debug: Debug = False,
) -> None:
    """Write a finished run as a MONAI bundle that runs without this package."""
    from cggm_med.bundle.export import export

    export(run, out, modalities.split(",") if modalities else None)
    typer.echo(f"wrote {out}; next, in that folder:")
    typer.echo(
        "  python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir MASKS"
    )


@app.command()
def tasks() -> None:
    """List the installed tasks, with the names of their modalities."""
    from cggm_med.registry import TASKS

    _list(TASKS, lambda task: f"{task.description}  [{','.join(task.known_modalities)}]")


@app.command()
def strategies() -> None:
    """List the installed balancing strategies."""
    from cggm_med.registry import STRATEGIES

    _list(STRATEGIES, lambda strategy: f"{strategy.description}  {strategy.url}")


@app.command()
def new_task(
    name: Annotated[str, typer.Argument(help="Of the task, such as spoken_digits.", metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help="New folder. [NAME]")] = None,
    debug: Debug = False,
) -> None:
    """Write a package with a small task that trains at once, to be changed into yours."""
    from cggm_med.scaffold.new_task import write_task

    folder = out or Path(name)
    write_task(name, folder)
    typer.echo(f"wrote {folder}; next:")
    typer.echo(f"  pip install -e {shlex.quote(os.path.join(os.curdir, folder))}")
    typer.echo(f"  cggm-med train --task {name}")


@app.command()
def doctor() -> None:
    """Show versions, devices, and how to mend what is missing."""
    from cggm_med.cli.doctor import examine

    healthy = True
    for finding in examine():
        healthy = healthy and finding.ok
        typer.echo(f"{'ok     ' if finding.ok else 'MISSING'} {finding.name}: {finding.found}")
        if finding.mend:
            typer.echo(f"        {finding.mend}")
    if not healthy:
        raise typer.Exit(1)


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr and exit code 1; 2 for wrong usage."""
    # One line, without the place in the source that issued it.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        app()
    except CggmMedError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise SystemExit(1) from None


@contextlib.contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Answer Ctrl-C with the command that continues the run."""
    try:
        yield
    except KeyboardInterrupt:
        started = (folder / "config.yaml").exists()
        typer.echo(f"stopped; continue with: cggm-med train --resume {folder}" if started else "stopped", err=True)
        raise typer.Exit(130) from None


def _overrides(settings: list[str] | None, data: Path | None) -> dict[str, Any]:
    """The command line's settings as a nested dictionary."""
    from cggm_med.config import parse_overrides

    overrides = parse_overrides(settings or [])
    if data is not None:
        overrides["data"] = {**overrides.get("data", {}), "path": str(data)}
    if isinstance(overrides.get("data"), dict) and isinstance(overrides["data"].get("path"), str):
        # A run is resumed from any folder.
        overrides["data"]["path"] = os.path.abspath(overrides["data"]["path"])
    return overrides


def _files_by_modality(words: list[str]) -> tuple[dict[str, Path], list[str]]:
    """Files that were given as ``--MODALITY FILE``, and the other words."""
    images: dict[str, Path] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            others.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        file = value if equals else next(rest, "")
        if not file or name in images:
            raise typer.BadParameter(f"{word}: expected one file for each modality, such as --flair a.nii.gz")
        images[name] = Path(file)
    return images, others


def _series_by_modality(words: list[str]) -> dict[str, str]:
    """Choices that were given as ``MODALITY=SERIES``, without repeating them, since they may hold a patient's name."""
    pairs = [word.partition("=") for word in words]
    chosen = {name: which for name, _, which in pairs if name and which}
    if len(chosen) < len(words):
        raise typer.BadParameter("--series: expected MODALITY=SERIES, such as flair=5, for each modality once")
    return chosen


def _list(group: str, about: Callable[[Any], str]) -> None:
    """One line a plug-in; one that cannot be used is listed with its error and harms no other."""
    from cggm_med import registry

    names = registry.names(group)
    width = max(map(len, names), default=0)
    for name in names:
        try:
            # What a package prints while it is imported does not belong to the list.
            with contextlib.redirect_stdout(sys.stderr):
                line = about(registry.load(group, name))
            package = registry.package(group, name)
            origin = "" if package.startswith("cggm-med ") else f"  ({package})"
            typer.echo(f"{name:{width}} {line.rstrip()}{origin}")
        except Exception as error:  # a third-party package may fail in any way
            typer.echo(f"{name:{width}} cannot be used: {error}")


if __name__ == "__main__":
    main()
