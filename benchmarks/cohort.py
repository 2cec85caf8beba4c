"""Whether cohorts in shards take linear time and flat memory: a million simulated cases, and 10,000 small scans.

    python benchmarks/cohort.py [--simulated 1000000] [--cases 10000] [--shards 8] [--folder DISK] [--tiny]

Simulated cases are rows of a table, and their masks empty files, so that what is timed is all but reading, network and
writing of volumes: listing the cohort, the shards' locks and manifests, going on where all is done, status and merging.
Each is given in microseconds of processor time a case, for cohorts of growing size; if it is linear, that does not
grow. Every shard lists the whole cohort, which "list" is one pass of.

The small scans are predicted by a trained network in one process, and its memory is noted on the way.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from cggm_med.data.folders.streamed import Listed, Shard, cases_of, folder_of
from cggm_med.inference import cohort as cohorts
from cggm_med.inference.shards import ShardedCohort

MODALITIES = ("flair", "t1", "t1ce", "t2")


class EmptyMasks:
    """A fake network: the mask of a case is an empty file."""

    columns = ("case", "present", "absent", "failed", "volume_ml WT", "mask", "sha256")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, cases: Iterable[Listed]) -> Iterator[dict[str, Any]]:
        """Write the masks."""
        for case in cases:
            mask = self.folder / folder_of(case.name) / f"{case.name}.nii.gz"
            mask.parent.mkdir(exist_ok=True)
            mask.touch()
            place = mask.relative_to(self.folder).as_posix()
            yield {
                "case": case.name,
                "present": "+".join(case.images),
                "failed": "",
                "volume_ml WT": 12.345,
                "mask": place,
                "sha256": "0" * 64,
            }

    def there(self, case: Listed) -> None:
        """No mask is there."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulated", type=int, default=1_000_000)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's folder for temporary files")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.simulated, options.cases, options.shards = 200, 6, 2
    if options.simulated:
        print(f"{'cases':>9}{'list':>8}{'predict':>9}{'go on':>8}{'status':>8}{'merge':>8}{'memory':>9}")
        print(f"{'':9}{'us':>8}{'us':>9}{'us':>8}{'us':>8}{'us':>8}{'MB':>9}")
        for cases in (options.simulated // 100, options.simulated // 10, options.simulated):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                print(simulate(Path(folder), cases, options.shards), flush=True)
    if options.cases:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            predict(Path(folder), options.cases)


def simulate(folder: Path, cases: int, shards: int) -> str:
    """One row of the table: microseconds a case."""
    table, out = folder / "cohort.csv", folder / "out"
    with table.open("w") as file:
        file.write(f"id,{','.join(MODALITIES)}\n")
        for number in range(cases):
            name = f"case-{number:07d}"
            file.write(",".join([name, *(f"scans/{name}/{name}_{m}.nii.gz" for m in MODALITIES)]) + "\n")
    cohort = ShardedCohort(out, table, MODALITIES, shards, {})
    cohort.require_same()

    def go_through() -> None:
        for number in range(1, shards + 1):
            cohort.predict(Shard(number, shards), EmptyMasks(out), lambda line: None)

    def listed() -> None:
        assert sum(1 for _ in cases_of(table, MODALITIES)) == cases

    def merged() -> None:
        assert cohorts.merge(out, folder / "merged.csv") == cases

    def counted() -> None:
        assert sum(each.done for each in cohorts.status(out)) == cases

    steps: list[Callable[[], None]] = [listed, go_through, go_through, counted, merged]
    us = [1e6 * seconds_of(step) / cases for step in steps]
    return f"{cases:9}{us[0]:8.1f}{us[1]:9.1f}{us[2]:8.1f}{us[3]:8.1f}{us[4]:8.1f}{memory():9.0f}"


def predict(folder: Path, cases: int) -> None:
    """Memory of this process while it predicts small scans, of which the folders of all cases are links to a few."""
    from cggm_med.config import parse_overrides
    from cggm_med.data.volumes.phantom.cases import write_phantom
    from cggm_med.inference.predictor import Predictor
    from cggm_med.inference.shard_work import ShardWork
    from cggm_med.runs import train as run
    from cggm_med.runs.settings import make_config

    write_phantom(folder / "scans", cases=3, seed=0, shape=(32, 32, 24), spacing_mm=8.0)
    settings = {
        "data.path": folder / "scans",
        "data.cache": folder / "cache",
        "data.workers": 0,
        "data.validation": 0,
        "data.patch_size": [16, 16, 16],
        "data.window_size": "null",
        "task.component_filter": "none",
        "model.channels": [4, 8],
        "train.epochs": 1,
        "train.steps_per_epoch": 1,
        "train.device": "cpu",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    config = make_config("brats2021", [parse_overrides(words)], preset="tiny", strategy="joint")
    run.start(config, folder / "run", Console(quiet=True))
    scans = sorted((folder / "scans").iterdir())
    cohort, out = folder / "cohort", folder / "out"
    cohort.mkdir()
    for number in range(cases):
        (cohort / f"case-{number:07d}").symlink_to(scans[number % len(scans)])

    predictor = Predictor(folder / "run", "cpu", trust_names=True)
    done, begun = 0, time.perf_counter()

    def note(line: str) -> None:
        nonlocal done
        written = line.startswith("  written")
        done += written
        if written and done in (cases // 10, cases // 4, cases // 2, cases):
            print(f"{done:9} scans predicted: the process takes {memory(peak=False):.0f} MB", flush=True)

    sharded = ShardedCohort(out, cohort, MODALITIES, 1, {})
    sharded.require_same()
    failed = sharded.predict(Shard(1, 1), ShardWork(predictor, out, say=note), lambda line: None)
    assert (failed, done) == (0, cases), (failed, done)
    largest = max(len(list(place.iterdir())) for place in out.iterdir() if place.is_dir())
    print(f"{(time.perf_counter() - begun) / cases * 1e3:.0f} ms a scan; the longest folder holds {largest} files")


def seconds_of(step: Callable[[], None]) -> float:
    """Processor time that a step takes."""
    begun = time.process_time()
    step()
    return time.process_time() - begun


def memory(*, peak: bool = True) -> float:
    """Main memory of this process in MB: the most so far, or now."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:" if peak else "VmRSS:"))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
