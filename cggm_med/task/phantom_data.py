"""The embedded phantom as the data of a task: its settings, its patients in a comparison, its folder in the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cggm_med.config import Tree, require
from cggm_med.data.volumes.phantom import MAX_CASES, VERSION
from cggm_med.files import atomic_folder
from cggm_med.task.segmentation import SegmentationDataConfig


@dataclass(frozen=True)
class PhantomDataConfig(SegmentationDataConfig):
    """Settings of the data of a task that has the phantom where no path is given.

    Attributes:
        phantom_cases: patients of the embedded phantom.
        phantom_seed: draws them; patients of another seed are others, and have other ids.
    """

    phantom_cases: int = 24
    phantom_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(3 <= self.phantom_cases <= MAX_CASES, "data.phantom_cases", self.phantom_cases, f"3 to {MAX_CASES}")
        require(self.phantom_seed >= 0, "data.phantom_seed", self.phantom_seed, "at least 0")


def fresh_patients(seed: int) -> Tree:
    """Settings of a comparison's runs of one seed: patients of their own, 24 to train, 6 to choose by, 30 to test.

    Where the seeds of a comparison draw from one pool, they share patients, and no number of seeds tells what other
    patients would have shown (ADR 0038).
    """
    return {"data": {"phantom_seed": seed, "phantom_cases": 60, "validation": 0.1, "test": 0.5}}


def phantom_folder(
    task: str, data: PhantomDataConfig, write: Callable[[Path], None], cache: Path, say: Callable[[str], None]
) -> Path:
    """The folder of the phantom of these settings, made if it is not there yet.

    Args:
        task: registered name.
        data: the settings.
        write: writes the cases into an empty folder.
        cache: in which the folder lies.
        say: told that these are no real patients.
    """
    folder = cache / "phantom" / f"{task}-v{VERSION}-seed{data.phantom_seed}-{data.phantom_cases}cases"
    say(f"no --data given: using {data.phantom_cases} synthetic phantom cases in {folder} (not real patients)")
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            write(temporary)
    return folder
