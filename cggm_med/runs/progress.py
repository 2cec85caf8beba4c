"""Show the progress of a run: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from cggm_med import distributed


class RunProgress:
    """Shows the records of a training run; a context manager.

    Args:
        console: where to write.
        first_step: number of steps already done.
        steps: number of all steps.
        note: receives each line as well, also where a bar is shown.
        hours: after which the run ends at the latest.
    """

    def __init__(
        self,
        console: Console,
        first_step: int,
        steps: int,
        note: Callable[[str], object] = lambda line: None,
        *,
        hours: float | None = None,
    ) -> None:
        self.console, self.steps, self.note, self.hours = console, steps, note, hours
        self.bar: Progress | None = None
        if console.is_terminal:
            # The text takes the width that the bar leaves, and wraps in a narrow terminal so that no factor is cut off.
            text = TextColumn("{task.description}", table_column=Column(ratio=1), markup=False)
            self.bar = Progress(BarColumn(12), MofNCompleteColumn(), text, console=console, expand=True)
            self.row = self.bar.add_task("starting", total=steps, completed=first_step)

    def __enter__(self) -> RunProgress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Show one record of ``metrics.jsonl``."""
        if record["kind"] == "validation":
            known = {name: "-" if value is None else f"{value:.3f}" for name, value in record["scores"].items()}
            scores = ", ".join(f"{name} {value}" for name, value in known.items())
            self._say(f"step {record['step']}: validation {scores}")
            return
        # Not the bar's own estimate, which forgets after 30 s; slow runs log less often than that.
        text = f"{clock(seconds_left(record, self.steps, self.hours))} left  loss {record['loss']:.3f}"
        if "factor" in record:
            text += "  factors " + " ".join(f"{m}={value:.2f}" for m, value in record["factor"].items())
        if skipped := record.get("skipped_steps"):
            text += f"  {skipped:.0f} steps left out: gradient not finite"
        line = f"step {record['step']}/{self.steps}  {text}"
        if self.bar is not None:
            self.bar.update(self.row, completed=record["step"], description=text)
            self.note(line)
        else:
            self._say(line)

    def _say(self, line: str) -> None:
        self.note(line)
        # In a log file a record stays on one line, however wide; names in brackets are not markup.
        self.console.print(line, soft_wrap=True, markup=False)


def speaker(console: Console) -> Callable[[str], Any]:
    """A function that prints lines in the first process and nothing in the others."""
    return console.print if distributed.rank() == 0 else lambda text: None


def seconds_left(record: Mapping[str, Any], steps: int, hours: float | None) -> float:
    """Of a training, by its pace so far.

    Args:
        record: of a step, see ``RunFolder.metrics``.
        steps: of the whole run.
        hours: after which it ends at the latest.

    Example:
        >>> record = {"step": 40, "seconds_per_step": 60.0, "seconds": 2400.0}
        >>> seconds_left(record, 100, None), seconds_left(record, 100, 1.0)
        (3600.0, 1200.0)
    """
    left = float((steps - record["step"]) * record["seconds_per_step"])
    return left if hours is None else max(0.0, min(left, 3600 * hours - record["seconds"]))


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    Example:
        >>> clock(3725)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
