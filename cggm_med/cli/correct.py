"""``cggm-med correct``: masks that were corrected by hand, back into the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cggm_med.cli.json_output import JsonFile, require_json, write_shown
from cggm_med.cli.options import Debug, make_console


def correct(
    folder: Annotated[
        Path, typer.Argument(help="Folder that 'evaluate --masks ... --worst N' wrote, with corrected masks.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder: dataset.json, labels, changes.csv.")],
    data: Annotated[Path | None, typer.Option(help="Where the data lie now. [where they lay]")] = None,
    json: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Take masks back that were corrected in 3D Slicer or ITK-SNAP: check them, and list the data with them as labels.

    Nothing of the old data is changed; the new list names their images where they lie.
    """
    from cggm_med.cli import early

    early.refuse_absent([folder], "a folder that 'cggm-med evaluate --masks ... --worst N' wrote")
    require_json(json, "correct", [folder])
    from cggm_med.evaluation.corrections.take_back import take_back
    from cggm_med.results.tables import print_table

    found = take_back(folder, out, data)
    console = make_console()
    print_table(found.table, console)
    if found.unchanged:
        console.print(f"not changed, and not taken back: {', '.join(found.unchanged)}")
    for number, question in enumerate(found.questions, start=1):
        console.print(f"  {number}. {question}")
    first = "settle the questions in it, then" if found.questions else "then"
    console.print(f"wrote {out / 'dataset.json'}; {first}: cggm-med train --task segmentation --data {out}")
    changes = [{"case": of.id, **row} for of in found.corrections for row in of.rows]
    write_shown(
        json, "correct", {"changes": changes, "unchanged": list(found.unchanged), "open": list(found.questions)}
    )
