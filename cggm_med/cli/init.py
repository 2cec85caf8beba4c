"""``cggm-med init``: look at a folder of scans, and write what was understood as a list to check and edit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Debug, make_console


def init(
    path: Annotated[Path, typer.Argument(help="Folder of scans, or a list of them (.json, .yaml).", metavar="PATH")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The list to write, such as dataset.json. [only shown]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the data set. [that of the list or folder]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a list of this command.")] = False,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Propose which files are which modality, label and case, and list what only you know.

    The meaning of a label is never guessed: it stands in the folder, in a publication that is named, or is asked for.
    """
    import dataclasses

    from cggm_med.data.folders.inspection import inspect_proposal
    from cggm_med.data.folders.overview import lines, tables
    from cggm_med.data.folders.propose import open_points, propose
    from cggm_med.errors import ConfigError, DataError, OutputError
    from cggm_med.files import require_writable, write_json
    from cggm_med.results.tables import plain_table, print_table

    if out is not None and out.suffix.lower() != ".json":
        raise ConfigError(f"--out is {out}; expected a name that ends in .json, such as dataset.json")
    if out is not None:
        require_writable([out], inputs=[path], ours=_is_list)
    if out is not None and out.exists() and not force:
        raise OutputError(f"{out} exists; choose another name, or overwrite it with --force")
    require_json(json, "init", [path])
    proposal = propose(path)
    if name:
        proposal = dataclasses.replace(proposal, name=name)
    found = inspect_proposal(proposal, say=typer.echo)
    proposal = found.proposal
    console = make_console()
    for line in lines(found):
        console.print(line)
    shown = list(tables(found))
    for table in shown:
        print_table(table, console)
    asked = open_points(proposal)
    content = {"notes": list(lines(found)), "tables": [plain_table(table) for table in shown], "open": list(asked)}
    write_shown(json, "init", {**content, "refusals": list(proposal.refusals)})
    if proposal.refusals:
        raise DataError(f"{path} cannot be used as it is: {'; '.join(proposal.refusals)}")
    if asked:
        console.print(f"{len(asked)} open, which only you can settle:")
    for number, question in enumerate(asked, start=1):
        console.print(f"  {number}. {question}")
    if out is None:
        console.print("nothing was written; add -o dataset.json for a list to check and edit")
        return
    write_json(out, dataclasses.replace(proposal, questions=tuple(asked)).to_json(out.parent))
    to_settle = 'write what you know in the place of each "?", delete each settled line of its "questions"'
    settle = to_settle if asked else "check it"
    quoted = shlex.quote(str(out))
    labelled = any(case.labels for case in proposal.cases)
    then = f"train --task segmentation --data {quoted}" if labelled else f"predict RUN {quoted}"
    console.print(f"wrote {out}; {settle}, then: cggm-med {then}")


def _is_list(path: Path) -> bool:
    """Whether a file is a declared list, which nothing but this command and its user writes."""
    from cggm_med.data.folders.declared import is_declared
    from cggm_med.data.layouts import read_json
    from cggm_med.errors import DataError

    try:
        return is_declared(read_json(path))
    except DataError:
        return False
