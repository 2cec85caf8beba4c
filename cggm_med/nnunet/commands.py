"""``cggm-med nnunet``: a data set for nnU-Net, and nnU-Net's own commands in an environment that is set for them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cggm_med.errors import ConfigError

app = typer.Typer(name="nnunet", no_args_is_help=True, rich_markup_mode=None)

EXTERNAL = "nnUNet_extTrainer"  # folders in which nnU-Net looks for trainers
FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
PASS_ON = {"ignore_unknown_options": True}

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[NNUNET OPTIONS]...", help="Passed on to nnU-Net; -h shows them.")
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Holds raw, preprocessed and results. [nnUNet_raw etc. of the environment, else ./nnunet]"),
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@app.callback()
def nnunet() -> None:
    """nnU-Net: as the baseline, and with balanced modalities (trainers nnUNetTrainerCGGM, ...Joint, ...OGMGE,
    ...MMPareto).
    """


@app.command()
def export(
    task: Annotated[str, typer.Option(help="A segmentation task; see 'cggm-med tasks'.")] = "brats2021",
    data: Annotated[Path | None, typer.Option(help="Folder or file in the layout of the task.")] = None,
    folder: Folder = None,
    number: Annotated[int, typer.Option("--id", help="Of the data set in nnU-Net, 1 to 999.")] = 900,
    name: Annotated[str | None, typer.Option(help="Of the data set in nnU-Net. [that of the task]")] = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Write a data set in nnU-Net's format, with the cases and splits of 'cggm-med train'."""
    from cggm_med import registry
    from cggm_med.config import parse_overrides
    from cggm_med.nnunet.export import export_dataset
    from cggm_med.runs.settings import make_config
    from cggm_med.task.segmentation import SegmentationTask

    overrides = parse_overrides(settings or [])
    if data is not None:
        overrides["data"] = {**overrides.get("data", {}), "path": str(data)}
    made = registry.load(registry.TASKS, task)(make_config(task, [overrides]))
    if not isinstance(made, SegmentationTask):
        raise ConfigError(f"task '{task}' does not segment, which is all that nnU-Net does; name another with --task")
    raw = Path(_folders(folder)["nnUNet_raw"])
    written = export_dataset(made, raw, number, name or task, say=typer.echo)
    typer.echo(f"wrote {written}; next: cggm-med nnunet plan {_option(folder)}-d {number} -c 3d_fullres")


@app.command(context_settings=PASS_ON)
def plan(words: Words = None, folder: Folder = None, debug: Debug = False) -> None:
    """nnUNetv2_plan_and_preprocess; it takes over the splits of an exported data set."""
    with _nnunet("nnUNetv2_plan_and_preprocess", words, folder):
        from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry

        plan_and_preprocess_entry()


@app.command(context_settings=PASS_ON)
def train(words: Words = None, folder: Folder = None, settings: Settings = None, debug: Debug = False) -> None:
    """nnUNetv2_train, with nnU-Net's own trainers or ours, such as -tr nnUNetTrainerCGGM.

    --set strategy.KEY and train.KEY (epochs, steps_per_epoch, validation_steps, checkpoint_every) are for ours.
    """
    from cggm_med.config import parse_overrides
    from cggm_med.nnunet.settings import VARIABLE, resolve

    tree = parse_overrides(settings or [])
    with _nnunet("nnUNetv2_train", words, folder):
        if tree:
            resolve(_strategy_of(words or []), tree)
            os.environ[VARIABLE] = json.dumps(tree)
        from nnunetv2.run.run_training import run_training_entry

        run_training_entry()


@app.command(context_settings=PASS_ON)
def predict(words: Words = None, folder: Folder = None, debug: Debug = False) -> None:
    """nnUNetv2_predict, for models of any trainer."""
    with _nnunet("nnUNetv2_predict", words, folder):
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point

        predict_entry_point()


def _folders(folder: Path | None) -> dict[str, str]:
    """Where nnU-Net's environment variables shall point."""
    default = Path("nnunet") if folder is None else folder
    chosen = {variable: str((default / name).absolute()) for variable, name in FOLDERS.items()}
    if folder is None:
        chosen |= {variable: os.environ[variable] for variable in FOLDERS if variable in os.environ}
    return chosen


def _option(folder: Path | None) -> str:
    return "" if folder is None else f"--folder {folder} "


@contextlib.contextmanager
def _nnunet(command: str, words: list[str] | None, folder: Path | None) -> Iterator[None]:
    """nnU-Net as its command would find it: folders, our trainers, an importable torchvision, and its arguments."""
    from cggm_med.torchvision_repair import repair_torchvision

    os.environ.update(_folders(folder))
    ours = str(Path(__file__).parent / "external")
    others = [path for path in os.environ.get(EXTERNAL, "").split(os.pathsep) if path and path != ours]
    os.environ[EXTERNAL] = os.pathsep.join([*others, ours])
    repair_torchvision()
    before, sys.argv = sys.argv, [command, *(words or [])]
    try:
        yield
    finally:
        sys.argv = before


def _strategy_of(words: list[str]) -> str:
    """Registered name of the strategy of the trainer that nnU-Net's arguments name."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    name = words[words.index("-tr") + 1] if "-tr" in words[:-1] else "nnUNetTrainer"
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells again where it searches when it trains
        trainer = recursive_find_trainer_class_by_name(name)
    strategy = getattr(trainer, "strategy_name", None)
    if strategy is None:
        raise ConfigError(
            f"no trainer {name} that takes settings; leave out --set, or name one such as -tr nnUNetTrainerCGGM"
        )
    return str(strategy)
