"""No malformed file makes a command end with a traceback, or take seconds or memory that the file does not imply."""

import gzip
import json
import pickle
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from helpers.command_line import set_options
from helpers.declared_cohort import SMALL, cohort
from helpers.dicom_phantom import write_scan
from helpers.pictures import without_pictures

from campaign import spoiled
from campaign.child import SLACK_BYTES, command, run_in_child, shared
from campaign.tries import campaign

KINDS = ("nifti", "dicom", "json", "yaml", "pickle", "checkpoint", "run folder")
CHANGES = {
    ".json": spoiled.json_changed,
    ".jsonl": spoiled.bytes_changed,
    ".yaml": spoiled.yaml_changed,
    ".pt": spoiled.checkpoint_changed,
    ".pkl": spoiled.pickle_changed,
    ".dcm": spoiled.dicom_changed,
    ".nii": spoiled.nifti_changed,
}


class Files:
    """Sound files of each kind in a folder, and the commands that read them."""

    def __init__(self, folder: Path):
        self.folder, self.list, self.run = folder, cohort(folder), folder / "run"
        self.scans = {name: folder / name / "p0.nii.gz" for name in ("flair", "t1")}
        for number, (name, path) in enumerate(self.scans.items(), 3):
            write_scan(folder / "study", nib.load(path), number=number, description=name)
        (folder / "mosi.pkl").write_bytes(pickle.dumps(sentences(), 4))
        self.set = set_options({**SMALL, "data.cache": str(folder / "cache")})
        ended = self.ended("train", "--task", "segmentation", "--data", self.list, "--out", self.run, *self.set)
        assert ended.code == 0, ended.said
        self.peaks: dict[tuple[str, int], int] = {}

    def ended(self, *words: object):
        """How a command ended, in a process of its own."""
        with without_pictures():  # which read no file
            return run_in_child(command(*words), self.folder / "said")

    def commands(self, kind: str, place: Path, rng) -> tuple[Path, list[list[object]]]:
        """A sound file in the folder ``place``, and the commands that read it."""
        listed, out, mask = place / "list.json", place / "out", place / "mask.nii.gz"
        on_list = [
            ["check", listed, *self.set],
            ["init", listed, "-o", place / "new.json"],
            ["evaluate", self.run, "--data", listed, "--split", "all", "--out", out],
        ]
        if kind == "nifti":
            data = json.loads(self.list.read_text())
            case, role = data["training"][0], spoiled.pick(rng, ("flair", "t1", "label"))
            file = place / f"p0{spoiled.pick(rng, ('.nii', '.nii.gz'))}"
            content = Path(case[role]).read_bytes()
            file.write_bytes(content if file.suffix == ".gz" else gzip.decompress(content))
            case[role] = str(file)
            listed.write_text(json.dumps(data))
            return file, [*on_list, ["predict", self.run, "--flair", file, "-o", mask]]
        if kind == "dicom":
            study = Path(shutil.copytree(self.folder / "study", place / "study"))
            commands = [["predict", self.run, study, "-o", path] for path in (mask, place / "mask.dcm")]
            return spoiled.pick(rng, sorted(study.iterdir())), commands
        if kind == "json":
            return Path(shutil.copy(self.list, listed)), on_list
        if kind == "yaml":
            settings = Path(shutil.copy(self.run / "config.yaml", place / "settings.yaml"))
            return settings, [["check", self.list, "--config", settings], ["init", settings]]
        if kind == "pickle":
            file = Path(shutil.copy(self.folder / "mosi.pkl", place / "mosi.pkl"))
            return file, [["check", file, "--task", "mosi", "--set", f"data.cache={place / 'cache'}"]]
        run = Path(shutil.copytree(self.run, place / "run"))
        inside = [path for path in sorted(run.rglob("*")) if path.is_file() and path.suffix in CHANGES]
        return spoiled.pick(rng, [path for path in inside if (path.suffix == ".pt") == (kind == "checkpoint")]), [
            ["predict", run, "--flair", self.scans["flair"], "-o", mask],
            ["train", "--resume", run],
            ["evaluate", run, "--out", out],
            ["report", run, "-o", place / "report.html"],
            ["compare", run, self.run, "-o", out],
            ["share", run, "-o", out],
            ["ensemble", run, self.run, "-o", out],
            ["calibrate", run],
        ]

    def sound_peak(self, kind: str, number: int) -> int:
        """The memory that a command takes with a sound file."""
        if (kind, number) not in self.peaks:
            with tempfile.TemporaryDirectory(dir=self.folder) as place:
                _, commands = self.commands(kind, Path(place), np.random.default_rng(0))
                self.peaks[kind, number] = self.ended(*commands[number]).peak
        return self.peaks[kind, number]

    def attempt(self, rng, kind: str = "") -> tuple[str, list[str]]:
        """One malformed file, of any kind unless one is named, before one command."""
        kind = kind or spoiled.pick(rng, KINDS)
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            file, commands = self.commands(kind, Path(place), rng)
            number = int(rng.integers(len(commands)))
            self.spoil(kind, file, rng)
            size = file.stat().st_size if file.is_file() else 0
            ended = self.ended(*commands[number])
        faults = ended.faults(self.sound_peak(kind, number) + 2 * size + SLACK_BYTES)
        return kind, [f"{commands[number][0]} of {file.name}: {fault}" for fault in faults]

    def spoil(self, kind: str, file: Path, rng) -> None:
        """Change the file into a malformed one; of a run folder, also remove it, or put a folder in its place."""
        content = file.read_bytes()
        if kind == "run folder" and rng.random() < 0.15:
            file.unlink()
            if rng.random() < 0.5:
                file.mkdir()
        elif kind == "nifti" and file.suffix == ".gz":
            file.write_bytes(spoiled.gzip_changed(content, rng, spoiled.nifti_changed))
        else:
            file.write_bytes(CHANGES[file.suffix](content, rng))


def sentences():
    """Features as the files of MOSI and MOSEI hold them."""
    random = np.random.default_rng(0)
    sizes = {"text": 6, "audio": 5, "vision": 4}
    return {
        section: {
            **{name: random.random((count, 7, size), np.float32) for name, size in sizes.items()},
            "labels": random.uniform(-3, 3, (count, 1, 1)).astype(np.float32),
            "id": np.array([f"{section}{row // 2}$_${row % 2}" for row in range(count)]),
        }
        for section, count in (("train", 6), ("valid", 3), ("test", 4))
    }


def sound_files(folder: Path) -> Files:
    """See ``child.shared``."""
    return shared(folder, Files)


if __name__ == "__main__":
    campaign("malformed", 10000, lambda folder: sound_files(folder).attempt)
