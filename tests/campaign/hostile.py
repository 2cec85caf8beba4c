"""Nothing is run that a hostile pickle, checkpoint, array, settings file or name in a bundle would run: 200 files."""

import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from helpers.hostile_pickles import live
from monai.bundle import ConfigParser

from campaign.child import run_in_child
from campaign.malformed import Files, sound_files
from campaign.spoiled import pick
from campaign.tries import campaign

CARRIERS = ("pickle", "checkpoint", "shared weights", "array", "settings", "option", "yaml list", "bundle")


class Attacks:
    """Sound files, of which one is made hostile at a time."""

    def __init__(self, files: Files):
        self.files = files
        self.shared = files.folder / "shared"
        assert not files.ended("share", files.run, "-o", self.shared).code

    def attempt(self, rng, carrier: str = "") -> tuple[str, list[str]]:
        """One hostile file, of any kind unless one is named, before one command; MONAI builds what a bundle says."""
        carrier = carrier or pick(rng, CARRIERS)
        with tempfile.TemporaryDirectory(dir=self.files.folder) as name:
            place = Path(name)
            marker = place / "marker"
            payload = pick(rng, list(live(str(marker)).values()))[1]
            words = getattr(self, carrier.replace(" ", "_"))(place, payload, marker, rng)
            ended = self.files.ended(*words)
            if carrier == "bundle" and not ended.code:
                run_in_child(lambda: built(place / "bundle"), place / "said")
            executed = [f"{words[0]}: {ended.said[-300:]}"] if list(place.glob("marker*")) else []
        return carrier, executed

    def pickle(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        file = place / "mosi.pkl"
        file.write_bytes(b"\x80\x04" + payload + b".")
        return ["check", file, "--task", "mosi", "--set", f"data.cache={place / 'cache'}"]

    def checkpoint(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        file, commands = self.files.commands("checkpoint", place, rng)
        file.write_bytes(hostile_weights(file.read_bytes(), payload, rng))
        return pick(rng, commands)

    def shared_weights(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        run = Path(shutil.copytree(self.shared, place / "run"))
        sound = (self.files.run / "checkpoints" / "last.pt").read_bytes()
        (run / "model.safetensors").write_bytes(hostile_weights(sound, payload, rng))
        return ["predict", run, "--flair", self.files.scans["flair"], "-o", place / "mask.nii.gz"]

    def array(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        cache = Path(shutil.copytree(self.files.folder / "cache", place / "cache"))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
        for file in cache.rglob("*.npy"):
            file.write_bytes(header.getvalue() + b"\x80\x04" + payload + b".")
        data = ["--task", "segmentation", "--data", self.files.list, "--out", place / "run"]
        return ["train", *data, *self.files.set, "--set", f"data.cache={cache}"]

    def settings(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        file, commands = self.files.commands("yaml", place, rng)
        if rng.random() < 0.5:
            run = Path(shutil.copytree(self.files.run, place / "run"))
            file, commands = run / "config.yaml", [["evaluate", run], ["train", "--resume", run]]
        file.write_text(f"{file.read_text()}\n{pick(rng, ('a', 'optim', 'task'))}: {tagged(marker, rng)}\n")
        return pick(rng, commands)

    def option(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        return ["check", self.files.list, "--set", f"task.name={tagged(marker, rng)}"]

    def yaml_list(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        (place / "list.yaml").write_text(f"datalist: list.json\nmodality: {tagged(marker, rng)}\n")
        return ["init", place / "list.yaml"]

    def bundle(self, place: Path, payload: bytes, marker: Path, rng) -> list[object]:
        code = f"$open({str(marker)!r}, 'w').close()"
        declared = json.loads(self.files.list.read_text())
        where = pick(rng, ("name", "label", "region", "shows"))
        if where == "name":
            declared["name"] = code
        elif where == "shows":
            declared["modalities"]["t1"] = {"kind": "mri", "shows": code}
        elif where == "label":
            declared["labels"]["1"] = code
        else:
            declared["regions"] = {code: [1], "whole": [1, 2]}
        listed = place / "list.json"
        listed.write_text(json.dumps(declared))
        data = ["--task", "segmentation", "--data", listed, "--out", place / "run"]
        if self.files.ended("train", *data, *self.files.set).code:
            return ["check", listed, *self.files.set]
        return ["bundle", "export", place / "run", "-o", place / "bundle"]


def hostile_weights(sound: bytes, payload: bytes, rng) -> bytes:
    """The payload as a checkpoint: a plain pickle, or in a torch archive, alone or before what is sound."""
    plain = b"\x80\x02" + payload + b"."
    kind = int(rng.integers(3))
    if kind == 0:
        return plain
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as archive, zipfile.ZipFile(file, "w") as changed:
        for name in archive.namelist():
            data = archive.read(name)
            if name.endswith("data.pkl"):
                data = plain if kind == 1 else data[:2] + payload + b"0" + data[2:]
            changed.writestr(name, data)
    return file.getvalue()


def tagged(marker: Path, rng) -> str:
    """A tag of YAML at which PyYAML's unsafe loaders touch a file."""
    return pick(
        rng,
        (
            f"!!python/object/apply:os.system ['touch {marker}']",
            f"!!python/object/apply:builtins.open ['{marker}', 'w']",
            f"!!python/object/new:subprocess.Popen [[touch, '{marker}']]",
            f"!!python/object/apply:builtins.eval [\"open('{marker}', 'w').close()\"]",
        ),
    )


def built(bundle: Path) -> None:
    """Let MONAI build whatever the configurations of a bundle say, as ``python -m monai.bundle run`` would."""
    for file in sorted(bundle.glob("configs/*.json")):
        parser = ConfigParser()
        parser.read_meta(bundle / "configs" / "metadata.json")
        parser.read_config(file)
        for name in parser.config:
            for part in (name, *(f"{name}#{key}" for key in _keys(parser[name]))):
                try:
                    parser.get_parsed_content(part)
                except Exception as error:  # what needs a run, a GPU or data
                    print(part, type(error).__name__, str(error)[:200])  # noqa: T201  into the file of the child


def _keys(config) -> list[object]:
    return list(config) if isinstance(config, dict) else []


def prepare(folder: Path):
    """What the tries share: sound files and a run."""
    return Attacks(sound_files(folder)).attempt


if __name__ == "__main__":
    campaign("hostile", 200, prepare)
