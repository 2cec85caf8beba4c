"""The embedded phantom as the data of a task: its settings, its patients in a comparison, its folder in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.config import Tree, require
from cggm_med.data.volumes.phantom.cases import MAX_CASES, VERSION, write_phantom
from cggm_med.data.volumes.phantom.scanner import Scanner, scanners_of
from cggm_med.errors import ConfigError
from cggm_med.files import atomic_folder
from cggm_med.task.segmentation_settings import SegmentationDataConfig


@dataclass(frozen=True)
class PhantomDataConfig(SegmentationDataConfig):
    """Settings of the data of a task that has the phantom where no path is given.

    Attributes:
        phantom_cases: patients of the embedded phantom.
        phantom_seed: draws them; patients of another seed are others, and have other ids.
        phantom: name of the settings of its scanners, see ``data.volumes.phantom.scanner.PRESETS``.
        phantom_scanners: changes to these, by modality: ``noise``, ``contrast``, ``resolution_mm``, ``slice_mm``.
        phantom_version: of the generator; set by a new run without a path. Runs from before it was stored have none.
    """

    phantom_cases: int = 24
    phantom_seed: int = 0
    phantom: str = "balanced"
    phantom_scanners: dict[str, dict[str, float]] = field(default_factory=dict)
    phantom_version: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(3 <= self.phantom_cases <= MAX_CASES, "data.phantom_cases", self.phantom_cases, f"3 to {MAX_CASES}")
        require(self.phantom_seed >= 0, "data.phantom_seed", self.phantom_seed, "at least 0")
        _ = self.scanners

    @property
    def scanners(self) -> Mapping[str, Scanner]:
        """Of each modality of the phantom."""
        return scanners_of(self.phantom, self.phantom_scanners, "data.phantom_scanners")


def phantom_settings(path: Path | None) -> Tree:
    """What a new run stores of the phantom: the version of its generator, unless it has a path (ADR 0038)."""
    return {} if path is not None else {"data": {"phantom_version": VERSION}}


def fresh_patients(seed: int) -> Tree:
    """Settings of a comparison's runs of one seed: patients of their own, 24 to train, 6 to choose by, 30 to test.

    Where the seeds of a comparison draw from one pool, they share patients, and no number of seeds tells what other
    patients would have shown (ADR 0038).
    """
    return {"data": {"phantom_seed": seed, "phantom_cases": 60, "validation": 0.1, "test": 0.5}}


def write_phantom_of(data: PhantomDataConfig, folder: Path) -> None:
    """Write the patients of these settings to a folder."""
    write_phantom(folder, cases=data.phantom_cases, seed=data.phantom_seed, scanners=data.scanners)


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

    Raises:
        ConfigError: for the phantom of an earlier version, unless the cache has it still.
    """
    version = data.phantom_version or 1
    name = f"{task}-v{version}-seed{data.phantom_seed}-{data.phantom_cases}cases"
    if version > 1:
        name += f"-{data.phantom}"
    if data.phantom_scanners:
        name += f"-{hashlib.sha256(json.dumps(data.phantom_scanners, sort_keys=True).encode()).hexdigest()[:8]}"
    folder = cache / "phantom" / name
    if version != VERSION and not folder.exists():
        raise ConfigError(
            f"this run has version {version} of the phantom and {folder} is gone, here version {VERSION} is drawn: "
            "use the cggm-med that trained it, or give scans with --data"
        )
    say(f"no --data given: using {data.phantom_cases} synthetic phantom cases in {folder} (not real patients)")
    if not folder.exists():
        with atomic_folder(folder) as temporary:
            write(temporary)
    return folder
