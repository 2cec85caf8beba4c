"""Memory and handles stay flat while one process segments small cases, some damaged: 10,000 of them."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from campaign.malformed import Files, sound_files
from campaign.spoiled import nifti_changed, pick
from campaign.tries import campaign
from cggm_med.inference.batch import segment_each
from cggm_med.inference.predictor import Predictor

WARM = 50  # cases after which caches are full
AHEAD = 4  # files of the next case, which may be open at any moment
SLACK_BYTES = 24 * 2**20  # that allocators take and give back


class Cohort:
    """A cohort without end, of which each try segments the next case."""

    def __init__(self, files: Files):
        self.files, self.rng = files, np.random.default_rng(0)
        self.predictor = Predictor(files.run, "cpu")
        self.out = files.folder / "masks"
        self.segmented = segment_each(
            self.predictor, self.cases(), lambda case: self.out / "mask.nii.gz", say=lambda line: None
        )
        self.number = 0
        self.first: dict[str, int] = {}

    def cases(self) -> Iterator[tuple[str, object]]:
        """Cases with one or two modalities; of each tenth a file is malformed."""
        while True:
            case = f"p{int(self.rng.integers(6))}"
            chosen = pick(self.rng, (("flair",), ("t1",), ("flair", "t1")))
            images = {name: self.files.folder / name / f"{case}.nii.gz" for name in chosen}
            if self.rng.random() < 0.1:
                content = nib.load(images[chosen[0]]).to_bytes()
                images[chosen[0]] = self.files.folder / "malformed.nii"
                images[chosen[0]].write_bytes(nifti_changed(content, self.rng))
            yield case, lambda case=case, images=images: self.predictor.read(case, images)

    def attempt(self, rng) -> tuple[str, list[str]]:
        """Segment a case, and hold what the process has against what it had after the first ones."""
        _, reason, _ = next(self.segmented)
        self.number += 1
        held = {
            "bytes": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            "handles": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
        }
        if self.number <= WARM:
            self.first = {name: max(value, self.first.get(name, 0)) for name, value in held.items()}
        slack = {"bytes": SLACK_BYTES, "handles": AHEAD, "threads": 0}
        allowed = {name: value + slack[name] for name, value in self.first.items()}
        grown = [f"{value - allowed[name]} {name} too many" for name, value in held.items() if value > allowed[name]]
        return "refused" if reason else "segmented", grown


def prepare(folder: Path):
    """What the tries share: sound files, a run and the process."""
    return Cohort(sound_files(folder)).attempt


if __name__ == "__main__":
    campaign("flat memory", 10000, prepare)
