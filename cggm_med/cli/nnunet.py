"""``cggm-med nnunet``: a data set for nnU-Net, and nnU-Net's own commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.options import Debug, overrides_of
from cggm_med.cli.unknown_option import App

app = App(name="nnunet", no_args_is_help=True, rich_markup_mode=None)

PASS_ON = {"ignore_unknown_options": True, "help_option_names": ["--help"]}  # -h is nnU-Net's
Words = Annotated[
    list[str] | None, typer.Argument(metavar="[NNUNET OPTIONS]...", help="Passed on to nnU-Net; -h shows them.")
]
Folder = Annotated[
    Path | None,
    typer.Option(help="Holds raw, preprocessed and results. [nnUNet_raw etc. of the environment, else ./nnunet]"),
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be repeated.")]


@app.callback()
def nnunet() -> None:
    """nnU-Net: as the baseline, with balanced modalities (trainers nnUNetTrainerCGGM, ...Joint, ...OGMGE,
    ...MMPareto), and for patients who lack some (...Subsets).
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
    from cggm_med.cli import early

    overrides = overrides_of(settings, data)
    early.refuse_names(task)
    early.refuse_settings([overrides])
    from cggm_med import registry
    from cggm_med.nnunet.commands import folders_of
    from cggm_med.nnunet.export import export_dataset
    from cggm_med.runs.settings import make_config

    made = registry.load(registry.TASKS, task)(make_config(task, [overrides]))
    written = export_dataset(made, Path(folders_of(folder)["nnUNet_raw"]), number, name or task, say=typer.echo)
    option = "" if folder is None else f"--folder {folder} "
    typer.echo(f"wrote {written}; next: cggm-med nnunet plan {option}-d {number} -c 3d_fullres")


@app.command(context_settings=PASS_ON)
def plan(words: Words = None, folder: Folder = None, debug: Debug = False) -> None:
    """nnUNetv2_plan_and_preprocess; it takes over the splits of an exported data set."""
    from cggm_med.nnunet import commands

    commands.run("nnUNetv2_plan_and_preprocess", words or [], folder)


@app.command(context_settings=PASS_ON)
def train(words: Words = None, folder: Folder = None, settings: Settings = None, debug: Debug = False) -> None:
    """nnUNetv2_train, with nnU-Net's own trainers or ours, such as -tr nnUNetTrainerCGGM.

    --set strategy.KEY and train.KEY (epochs, steps_per_epoch, validation_steps, checkpoint_every) are for ours.
    """
    from cggm_med.config import parse_overrides
    from cggm_med.nnunet import commands

    commands.run("nnUNetv2_train", words or [], folder, parse_overrides(settings or []))


@app.command(context_settings=PASS_ON)
def predict(
    words: Words = None,
    folder: Folder = None,
    absent: Annotated[
        str | None, typer.Option(help="Predict without these, such as t1ce,t2; their files need not exist.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Predict each case from the channels that it has.")
    ] = False,
    debug: Debug = False,
) -> None:
    """nnUNetv2_predict, for models of any trainer.

    Models of our trainers can do without a modality, such as those of nnUNetTrainerSubsets, which learn to.
    """
    from cggm_med.nnunet import commands

    commands.predict(words or [], folder, absent.split(",") if absent else (), allow_missing, typer.echo)
