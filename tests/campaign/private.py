"""No token that is planted in headers, names and paths leaks into what is said or written: 300 drawn plants.

DICOM: any element, damaged or not, names of files and folders. NIfTI: free texts of the header and extensions. Cases of
a training: ids, names of files and folders, which ``share`` must not pass on. A DICOM output says whose it is, as it
must, and is not asked for.
"""

import gzip
import json
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import pydicom
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from campaign.malformed import Files, sound_files
from campaign.spoiled import bytes_changed, pick
from campaign.tries import campaign

PLACES = ("dicom element", "dicom path", "nifti header", "passed on")
TEXTS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE", "CS", "DS", "IS"}
NUMBERS = {"DA", "TM", "DT", "UI"}
# Elements that choose how a file is read at all, and those that hold no text.
ELEMENTS = [tag for tag, (vr, _, _, retired, _) in DicomDictionary.items() if vr in TEXTS | NUMBERS and not retired]
READ = [0x00080008, 0x00080060, 0x0008103E, 0x00100010, 0x00100020, 0x00100030, 0x00180010, 0x00180015, 0x00180050]
READ += [0x00181030, 0x0020000D, 0x0020000E, 0x00200011, 0x00200013, 0x00200032, 0x00200037, 0x00280004, 0x00280030]


class Plants:
    """Sound files, in which tokens are planted."""

    def __init__(self, files: Files):
        self.files = files

    def attempt(self, rng, where: str = "") -> tuple[str, list[str]]:
        """One token in one place, and whether a command says or writes it."""
        where = where or pick(rng, PLACES)
        token = f"zz{rng.bytes(5).hex()}" if rng.random() < 0.7 or where != "dicom element" else digits(rng)
        with tempfile.TemporaryDirectory(dir=self.files.folder) as name:
            place = Path(name)
            out = place / "out"
            words = getattr(self, where.replace(" ", "_"))(place, token, out, rng)
            ended = self.files.ended(*words)
            found = [f"said: {line}" for line in ended.said.splitlines() if token in line.lower()]
            found += [f"written: {path.relative_to(place)}" for path in sorted(out.rglob("*")) if holds(path, token)]
        return f"{where} {'refused' if ended.code else 'read'}", [f"{words[0]} {leak}" for leak in found]

    def dicom_element(self, place: Path, token: str, out: Path, rng) -> list[object]:
        study = Path(shutil.copytree(self.files.folder / "study", place / "study"))
        tag = pick(rng, READ if rng.random() < 0.4 else ELEMENTS)
        everywhere, nested = rng.random() < 0.5, rng.random() < 0.2
        for path in sorted(study.iterdir())[: None if everywhere else 1]:
            plant(path, tag, token, nested)
        return self._on_study(study, out, rng)

    def dicom_path(self, place: Path, token: str, out: Path, rng) -> list[object]:
        study = Path(shutil.copytree(self.files.folder / "study", place / token / f"{token}_study"))
        for number, path in enumerate(sorted(study.iterdir())):
            path.rename(path.with_name(f"{token.upper()}_{number}"))
        (study / f"{token}.txt").write_text(token)
        return self._on_study(pick(rng, (study, study.parent)), out, rng)

    def _on_study(self, study: Path, out: Path, rng) -> list[object]:
        if rng.random() < 0.3:
            damaged = pick(rng, sorted(path for path in study.rglob("*") if path.is_file()))
            damaged.write_bytes(bytes_changed(damaged.read_bytes(), rng))
        words = ["predict", self.files.run, study, "-o", pick(rng, (out, out / "mask.nii.gz"))]
        return [*words, "--modalities", "flair,t1"] if rng.random() < 0.2 else words

    def nifti_header(self, place: Path, token: str, out: Path, rng) -> list[object]:
        image = nib.load(self.files.scans["flair"])
        field = pick(rng, ("descrip", "aux_file", "intent_name", "db_name", "data_type", "extension"))
        if field == "extension":
            image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", token.encode()))
        else:
            image.header[field] = token.encode()[: image.header[field].itemsize]
        nib.save(image, place / "flair.nii.gz")
        return ["predict", self.files.run, "--flair", place / "flair.nii.gz", "-o", out / "mask.nii.gz"]

    def passed_on(self, place: Path, token: str, out: Path, rng) -> list[object]:
        data = json.loads(self.files.list.read_text())
        for number, case in enumerate(data["training"]):
            case["id"] = f"{token}-{number}"
            for role in ("flair", "t1", "label"):
                file = place / f"{token}_clinic" / f"{token}_{number}_{role}.nii.gz"
                file.parent.mkdir(exist_ok=True)
                case[role] = str(shutil.copy(case[role], file))
        listed = place / f"{token}.json"
        listed.write_text(json.dumps(data))
        words = ["train", "--task", "segmentation", "--data", listed, "--out", place / "run", *self.files.set]
        assert not self.files.ended(*words).code
        return [*pick(rng, (("share",), ("bundle", "export"))), place / "run", "-o", out]


def digits(rng) -> str:
    """A token that a date, a time or a UID may hold."""
    return "1977" + "".join(str(digit) for digit in rng.integers(0, 10, 8))


def plant(path: Path, tag: int, token: str, nested: bool) -> None:
    """Put the token into an element of a DICOM file, or into the same element of an item of a sequence."""
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    ds = pydicom.dcmread(path)
    inner = Dataset() if nested else ds
    inner[tag] = pydicom.DataElement(tag, "LO", token, validation_mode=pydicom.config.IGNORE)
    if nested:
        ds.ReferencedImageSequence = [inner]
    ds.private_block(0x0009, "zz", create=True).add_new(0x01, "LO", token)
    ds.save_as(path)


def holds(path: Path, token: str) -> bool:
    """Whether the token stands in the name of a file or in its content, unpacked if it is compressed."""
    if token in path.name.lower():
        return True
    if not path.is_file():
        return False
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return any(word.encode(coding) in content for word in (token, token.upper()) for coding in ("ascii", "utf-16-le"))


def prepare(folder: Path):
    """What the tries share: sound files and a run."""
    return Plants(sound_files(folder)).attempt


if __name__ == "__main__":
    campaign("private tokens", 300, prepare)
