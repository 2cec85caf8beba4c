"""``cggm-med plan``: what a run on some data would train, and what that takes, without training it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import ConfigFile, Debug, Settings, TaskName, make_console, overrides_of


def plan(
    data: Annotated[Path, typer.Argument(help="Folder or file in the layout of the task.", metavar="DATA")],
    task: TaskName = "segmentation",
    gpu_memory: Annotated[
        float | None, typer.Option(help="Plan for a GPU with this memory, in GB. [the device at hand]", min=0)
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="How to balance; see 'cggm-med strategies'. [cggm]")] = None,
    preset: Annotated[str | None, typer.Option(help="Of the task, such as tiny. [what suits the data]")] = None,
    config: ConfigFile = None,
    settings: Settings = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Show the voxel size, patch, network, batch, memory and hours of a training on these data.

    With the same options 'train' does the same. Settings: defaults < plan < preset < --config < --set.
    """
    overrides = overrides_of(settings, data)
    if gpu_memory is not None:
        overrides["task"] = {**overrides.get("task", {}), "memory_gb": gpu_memory}
    from cggm_med.cli import early
    from cggm_med.config import read_file

    layers: list[dict[str, Any]] = [*([read_file(config)] if config is not None else []), overrides]
    early.refuse_names(task, strategy)
    early.refuse_settings(layers)
    require_json(json, "plan", [path for path in (data, config) if path is not None])
    from cggm_med.results.tables import plain_table, print_table
    from cggm_med.runs.outlook import outlook, require_plannable
    from cggm_med.runs.settings import instantiate, make_config

    made, _ = instantiate(make_config(task, layers, preset=preset, strategy=strategy))
    planned = require_plannable(made)  # before its data are looked for
    console = make_console()
    planned.find(console.print)
    tables = outlook(planned, at_hand=gpu_memory is None)
    for table in tables:
        print_table(table, console)
    write_shown(json, "plan", {"tables": [plain_table(table) for table in tables]})
