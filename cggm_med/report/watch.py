"""Follow a run that is still training: a page that is rewritten as it logs, and its progress in the terminal."""

from __future__ import annotations

import base64
import contextlib
import datetime
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cggm_med.files import require_writable, write_text
from cggm_med.plots.curves import learning_figure, modality_figure
from cggm_med.report.render import PAGES
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.journal import ending
from cggm_med.runs.progress import RunProgress, clock, seconds_left

INTERVAL = 5.0  # seconds between two looks at the run
RELOAD = 15  # seconds after which a browser reads the page again
QUIET = 600.0  # seconds without a record that are worth a word
LOG_LINES = 20  # of the log, the last ones
GENERATOR = "cggm-med report --watch"

Record = Mapping[str, Any]


def watch(
    folder: Path, out: Path | None, console: Console, *, pause: Callable[[float], object] = time.sleep
) -> Path | None:
    """Follow a run until it ends, or until Ctrl-C, which leaves the run alone.

    The run is only read. It may be on another machine that shares its folder.

    Args:
        folder: of the run.
        out: HTML file; default: ``progress.html`` in the run's folder. One of an earlier call is replaced.
        console: for the progress.
        pause: waits for some seconds.

    Returns:
        The page; None if nothing was logged.

    Raises:
        CheckpointError: if the folder is not a run.
        OutputError: if the page cannot be written, or the file that is there is not such a page.
    """
    run, page = RunFolder(folder), out or folder / "progress.html"
    if not run.config.exists() and run.held:
        console.print(
            f"{folder} checks and preprocesses its cases; waiting for the training", soft_wrap=True, markup=False
        )
        try:
            while not run.config.exists() and run.held:
                pause(INTERVAL)
        except KeyboardInterrupt:
            return None
    train = run.stored_settings()["train"]
    require_writable([page], ours=is_page)
    where = f"following {folder} every {INTERVAL:g} s, page {page}; Ctrl-C ends this and leaves the run alone"
    console.print(where, soft_wrap=True, markup=False)
    seen: tuple[int, int] | None = None
    shown = 0
    told = False
    # Outermost, so that the bar is gone before Ctrl-C is answered.
    with contextlib.suppress(KeyboardInterrupt), _progress(console, train) as progress:
        while True:
            end = ending(run.log) or ("finished" if run.results.exists() and not run.log.exists() else "")
            now = _stamp(run.metrics)
            if now is not None and (now != seen or end):
                records = [record for record in run.read_metrics() if record["kind"] in ("train", "validation")]
                for record in records[shown:] if 0 < shown <= len(records) else _newest(records):
                    progress(record)
                _write(page, run, train, records, end)
                seen, shown, told = now, len(records), False
            if end:
                console.print(end, soft_wrap=True, markup=False)
                break
            if now is not None and not told and time.time() - now[0] / 1e9 > QUIET:
                told = True
                console.print(
                    f"nothing was logged for {QUIET / 60:g} minutes: the run scores cases, waits, or was killed; after "
                    f"a kill, go on with: cggm-med train --resume {folder}",
                    soft_wrap=True,
                    markup=False,
                )
            pause(INTERVAL)
    return page if seen is not None else None


def is_page(path: Path) -> bool:
    """Whether a file is such a page."""
    return f'content="{GENERATOR}"' in path.read_text(encoding="utf-8", errors="replace")[:100_000]


def facts(records: Sequence[Record], train: Record) -> dict[str, str]:
    """Where a run is.

    Args:
        records: of ``metrics.jsonl``.
        train: the run's settings of section ``train``.

    Example:
        >>> train = {"epochs": 10, "steps_per_epoch": 50}
        >>> record = {"kind": "train", "step": 120, "epoch": 2, "loss": 0.5, "seconds_per_step": 2.0}
        >>> facts([record], train)
        {'step': '120 of 500, epoch 3 of 10', 'left': '0:12:40', 'loss': '0.500'}
    """
    if not records:
        return {}
    last = records[-1]
    found = {"step": f"{last['step']} of {_steps(train)}, epoch {last['epoch'] + 1} of {train['epochs']}"}
    if steps := [record for record in records if record["kind"] == "train"]:
        left = seconds_left({**steps[-1], "step": last["step"]}, _steps(train), train.get("hours"))
        found |= {"left": clock(left), "loss": f"{steps[-1]['loss']:.3f}"}
    if validations := [record for record in records if record["kind"] == "validation"]:
        scores = {k: "-" if v is None else f"{v:.3f}" for k, v in validations[-1]["scores"].items()}
        said = ", ".join(f"{name} {value}" for name, value in scores.items())
        found["validation"] = f"{said} at step {validations[-1]['step']}"
        if best := validations[-1].get("best"):
            found["best validation"] = f"{best['score']:.3f} at step {best['step']}"
    return found


def _progress(console: Console, train: Record) -> RunProgress:
    return RunProgress(console, 0, _steps(train), hours=train.get("hours"))


def _steps(train: Record) -> int:
    return int(train["epochs"] * train["steps_per_epoch"])


def _newest(records: Sequence[Record]) -> list[Record]:
    """The last record of each kind, in their order."""
    return sorted({record["kind"]: record for record in records}.values(), key=lambda record: record["step"])


def _stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written last, in nanoseconds, and its size; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _write(page: Path, run: RunFolder, train: Record, records: Sequence[Record], end: str) -> None:
    log = run.log.read_text(encoding="utf-8").splitlines() if run.log.exists() else []
    content = PAGES.page(
        "progress.html",
        title=f"{run.path.resolve().name}: {'ended' if end else 'training'}",
        date=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        generator=GENERATOR,
        reload=0 if end else RELOAD,
        end=end,
        facts=facts(records, train),
        pictures=_pictures(records, run.stored_settings()["task"]["modalities"]),
        log=log[-LOG_LINES:],
    )
    write_text(page, content)


def _pictures(records: Sequence[Record], modalities: Sequence[str]) -> list[tuple[str, str]]:
    """What is shown, and a data address: the curves so far."""
    drawn = []
    with tempfile.TemporaryDirectory() as temporary:
        learning, by_modality = Path(temporary) / "learning.png", Path(temporary) / "modalities.png"
        learning_figure(learning, records)
        modality_figure(by_modality, records, modalities)
        for file, alt in ((learning, "loss and validation over steps"), (by_modality, "each modality over steps")):
            if file.exists():
                drawn.append((alt, f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"))
    return drawn
