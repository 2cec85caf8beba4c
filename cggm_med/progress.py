"""What a person sees while a run goes on: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunProgress:
    """Shows the records of a training run; a context manager around it.

    Args:
        console: where to write.
        first_step: steps that are done already.
        steps: all steps.
    """

    def __init__(self, console: Console, first_step: int, steps: int) -> None:
        self.console, self.steps = console, steps
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=console)
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
            scores = " ".join(f"{name} {value:.3f}" for name, value in record["dice"].items())
            self.console.print(f"step {record['step']}: validation Dice {scores}, mean {record['mean_dice']:.3f}")
            return
        text = f"loss {record['loss']:.3f}"
        if "factor" in record:
            text += "  factors " + " ".join(f"{m} {value:.2f}" for m, value in record["factor"].items())
        if self.bar is not None:
            self.bar.update(self.row, completed=record["step"], description=text)
        else:
            left = (self.steps - record["step"]) * record["seconds_per_step"]
            self.console.print(f"step {record['step']}/{self.steps}  {text}  {_clock(left)} left")


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss.

    Example:
        >>> _clock(3725)
        '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
