"""``cggm-med check``: what is odd about data, without training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import (
    Accept,
    ConfigFile,
    Debug,
    Settings,
    TaskName,
    html,
    kinds_of,
    make_console,
    overrides_of,
)


def check(
    data: Annotated[Path, typer.Argument(help="Folder or file in the layout of the task.", metavar="DATA")],
    task: TaskName = "segmentation",
    json: JsonFile = None,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page with pictures of what was found.", callback=html)
    ] = None,
    accept: Accept = None,
    config: ConfigFile = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Run every check of files, images, labels and patients that 'train' runs, and list what it sees.

    Exit code 1 where something is refused, or asked about and not accepted; else 0.
    """
    overrides: dict[str, Any] = overrides_of(settings, data)
    from cggm_med.cli import early
    from cggm_med.config import read_file

    layers: list[dict[str, Any]] = [*([read_file(config)] if config is not None else []), overrides]
    early.refuse_names(task)
    early.refuse_settings(layers)
    from cggm_med.files import require_writable
    from cggm_med.report.checked import is_page, write_page
    from cggm_med.results.tables import print_table
    from cggm_med.runs.checked import check_data
    from cggm_med.runs.settings import instantiate, make_config

    read = [path for path in (data, config) if path is not None]
    require_json(json, "check", read)
    if page is not None:
        require_writable([page], inputs=read, ours=is_page, option="--html")
    console = make_console()
    made, _ = instantiate(make_config(task, layers))
    checked = check_data(made, kinds_of(accept), lambda line: console.print(line, markup=False))
    if checked.findings:
        print_table(checked.table(), console, fold=True)
    console.print(checked.summary(), markup=False)
    write_shown(json, "check", checked.record())
    if page is not None:
        write_page(page, checked)
    if checked.objecting:
        raise typer.Exit(1)
