"""How much of folders as people have them is read as it should be, against what a correct reader finds.

    python benchmarks/read_layouts.py FOLDER [--show NAME] [--tiny]

FOLDER holds a folder for each layout and ``expected.json``: by layout, what to point at, and the kind, modalities,
cases, labels, splits, files to leave out, questions and refusals that a correct reader reports. For each layout the
table says in which points the proposal agrees; ``--show`` prints where that of one layout does not.

Names are matched through files: a modality is that whose images are the same files, a case that whose files are the
same. Questions and refusals are matched by what they are about (grids, names of modalities, meanings, copies, ...): a
question about something that nobody expects to be asked counts against the reader as well. Expected are those that
``ask`` lists, and what follows from the other facts: a grid to resample to where the images of a case differ in it, and
the meaning of labels that nobody confirms. Where it must be asked which release cases are of, meanings and regions are
not compared unless they are proposed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cggm_med.data.cases import LABEL, Case
from cggm_med.data.folders.declared import declared_in
from cggm_med.data.folders.inspection import Inspection, inspect_proposal
from cggm_med.data.folders.proposal import Proposal
from cggm_med.data.folders.propose import propose
from cggm_med.errors import CggmMedError
from cggm_med.results.tables import Table, print_table

NORMALISATIONS = {"z-score": "z_score", "clip": "training_statistics", "scale": "keep_scale"}
SPLITS = {"training": "training", "test": "test", "validation": "validation", "validation without labels": "test"}
# What questions are about, told by their words, whoever asks.
TOPICS = {
    "grid": r"\bgrid\b|resampl|other shapes|shape than",
    "names": r"names? (for|of) the|names for|what the (channel|images?)|what \w+ is|which modality|which file is which"
    r"|what .* shows?\b",
    "meaning": r"\bmean\b|\bmeans\b|class or to be ignored|is a class",
    "release": r"\b20\d\d or 20\d\d\b|which release|numbers of|release",
    "copy": r"\braw\b|\borig\b|preproc|bias correction|CTres|\bSUV\b|cop(y|ies)",
    "rater": r"\braters?\b|\breaders?\b|consensus|\bmachine",
    "label": r"which label|\btwice\b|the label,? (where its|whose) name|is its label|which of the two|corrected",
    "visits": r"visits?|two cases|patients and the dates|time points?",
    "choice": r"which of the \w+ modalities|which modalities",
    "value": r"\b\d+ in \S*\d|label value|holds \d",
    "mask": r"which (of the two )?masks?\b",
    "split": r"\bis the split\b",
    "unlabelled": r"without (a )?labels?|no labels?",
    "pictures": r"PNG|slices",
}
# Spellings and abbreviations that stand for one another in declarations of releases.
WORDS = {
    "edema": "oedema", "ed": "oedema", "snfh": "oedema", "netc": "necrotic", "ncr": "necrotic", "necrosis": "necrotic",
    "et": "enhancing", "rc": "cavity", "pz": "peripheral", "tz": "transition", "tumor": "tumour", "gtv": "tumour",
    "infarct": "infarct", "node": "nodes", "lymph": "nodes", "lymph_node": "nodes",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """A proposal beside what was expected.

    Attributes:
        root: folder of the layout, to which the expected paths are relative.
        expected: what a correct reader finds.
        found: what was proposed, after its files were inspected.
        pairs: expected case and proposed case that share most of their files.
        names: proposed name of each expected modality, by their files.
    """

    root: Path
    expected: Mapping[str, Any]
    found: Inspection
    pairs: Mapping[str, Case]
    names: Mapping[str, str]

    @property
    def proposal(self) -> Proposal:
        """What was proposed."""
        return self.found.proposal

    def files(self, case: Mapping[str, Any]) -> dict[str, tuple[str, int | None]]:
        """Path and channel of each image that an expected case has."""
        return {name: (self.path(of["file"]), of.get("channel")) for name, of in case["images"].items()}

    def path(self, file: str) -> str:
        """A path that can be compared."""
        return os.path.realpath(self.root / file)


def main() -> None:
    """Print the table, and the share of what is read as expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="with a folder for each layout and expected.json")
    parser.add_argument("--show", help="a layout of which to print what does not agree")
    parser.add_argument("--tiny", action="store_true", help="one layout that is written here, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            write_tiny(Path(folder))
            print_share(Path(folder), options.show)
        return
    if options.folder is None:
        parser.error("give the folder of layouts, or --tiny")
    print_share(options.folder, options.show)


def print_share(folder: Path, show: str | None) -> None:
    """Compare every layout of a folder, and print the table."""
    results = compare_all(folder, show)
    points = list(POINTS)
    header = ("layout", *points)
    marks = {None: ".", True: "+", False: "-"}
    rows = [(name, *(marks[found[point]] for point in points)) for name, found in results.items()]
    console = Console(soft_wrap=True, highlight=False, markup=False, width=max(200, Console().width))
    print_table(Table("agrees (+), does not (-), nothing to compare (.)", header, tuple(rows)), console)
    for point in points:
        met, all_ = counted(found[point] for found in results.values())
        console.print(f"{point:11} {met} of {all_}")
    met, all_ = share(results)
    whole = sum(all(value is not False for value in found.values()) for found in results.values())
    console.print(f"{met} of {all_} points agree: {met / all_:.1%}; {whole} of {len(results)} layouts in every point")


def share(results: Mapping[str, Mapping[str, bool | None]]) -> tuple[int, int]:
    """Points that agree, and points that could be compared."""
    return counted(value for found in results.values() for value in found.values())


def counted(values: Any) -> tuple[int, int]:
    """How many are true, and how many are true or false."""
    known = [value for value in values if value is not None]
    return sum(known), len(known)


def compare_all(folder: Path, show: str | None = None) -> dict[str, dict[str, bool | None]]:
    """Whether the proposal of each layout agrees in each point; None where there is nothing to compare."""
    expected = json.loads((folder / "expected.json").read_text())
    results = {}
    for name, facts in expected.items():
        if not (folder / name).is_dir() or (show is not None and show != name):
            continue
        told = (lambda text: print(text, file=sys.stderr)) if show else (lambda text: None)
        results[name] = compare(folder / name, facts, told)
    return results


def compare(root: Path, facts: Mapping[str, Any], say: Callable[[str], None]) -> dict[str, bool | None]:
    """Whether the proposal of one layout agrees in each point."""
    try:
        found = inspect_proposal(propose(root / facts["point_at"]))
    except CggmMedError as error:
        say(f"no proposal: {error}")
        refused = bool(facts.get("refuse")) and bool(topics(str(error)) & topics(" ".join(facts["refuse"])))
        nothing = {"left out"} if not facts["leave_out"] else set()
        return {point: None if point in nothing else point == "refusals" and refused for point in POINTS}
    comparison = Comparison(root, facts, found, *matched(root, facts, found.proposal))
    results: dict[str, bool | None] = {}
    for point, agrees in POINTS.items():
        results[point] = agrees(comparison)
        if results[point] is False:
            say(f"{point}:\n  {_said(point, comparison)}")
    return results


def matched(root: Path, facts: Mapping[str, Any], proposal: Proposal) -> tuple[dict[str, Case], dict[str, str]]:
    """Proposed cases of the expected ones and proposed names of the expected modalities, by their files."""
    owner: dict[tuple[str, int | None], tuple[Case, str]] = {}
    for case in proposal.cases:
        for name, image in case.images.items():
            owner[os.path.realpath(image.path), image.channel] = (case, name)
    pairs: dict[str, Case] = {}
    votes: dict[str, dict[str, int]] = {}
    for id, case in facts["cases"].items():
        held: dict[str, int] = {}
        by_id = {}
        for name, of in case["images"].items():
            if (found := owner.get((os.path.realpath(root / of["file"]), of.get("channel")))) is not None:
                held[found[0].id] = held.get(found[0].id, 0) + 1
                by_id[found[0].id] = found[0]
                of_name = votes.setdefault(name, {})
                of_name[found[1]] = of_name.get(found[1], 0) + 1
        if held:
            pairs[id] = by_id[max(held, key=lambda key: held[key])]
    return pairs, {name: max(of, key=lambda key: of[key]) for name, of in votes.items()}


def kind(of: Comparison) -> bool:
    """The family of the layout."""
    return bool(of.proposal.kind == of.expected["kind"])


def modalities(of: Comparison) -> bool:
    """One proposed modality for each expected one, of its kind; a question about one leaves its kind open."""
    expected = of.expected["modalities"]
    if set(of.names) != set(expected) or len(set(of.names.values())) != len(expected):
        return False
    if set(of.names.values()) != set(of.proposal.modalities):
        return False
    asked = " ".join(q for q in of.proposal.questions if "names" in topics(q))
    for name, facts in expected.items():
        modality = of.proposal.modalities[of.names[name]]
        normalisation = next(ours for word, ours in NORMALISATIONS.items() if facts["normalisation"].startswith(word))
        same = (modality.kind, modality.normalisation) == (facts["kind"], normalisation)
        shows = same_image(modality.shows or of.names[name], facts["is"])
        if not (same and shows) and of.names[name].split(" ")[0] not in asked:
            return False
    return True


def same_image(shown: str, is_: str) -> bool:
    """Whether a modality shows what it should: the word itself, or a more general one."""
    return shown.lower() == is_ or is_.split(" ")[0] == shown.lower().split(" ")[0]


def cases(of: Comparison) -> bool:
    """As many cases, each with the files of an expected one."""
    return len(of.pairs) == len(of.expected["cases"]) == len({id(case) for case in of.pairs.values()}) and len(
        of.proposal.cases
    ) == len(of.expected["cases"])


def images(of: Comparison) -> bool:
    """Each case has the expected files and channels, and no others."""
    for id, case in of.expected["cases"].items():
        if id not in of.pairs:
            return False
        own = {(os.path.realpath(i.path), i.channel) for i in of.pairs[id].images.values()}
        if own != set(of.files(case).values()):
            return False
    return True


def lacking(of: Comparison) -> bool:
    """Who lacks what."""
    for id, case in of.expected["cases"].items():
        if id not in of.pairs:
            return False
        absent = {of.names.get(name) for name in case.get("lacks", ())}
        if absent != set(of.proposal.modalities) - set(of.pairs[id].images):
            return False
    return True


def patients(of: Comparison) -> bool:
    """The same cases belong to one patient."""
    if set(of.pairs) != set(of.expected["cases"]):
        return False
    whose = [(case["patient"], of.pairs[id].patient) for id, case in of.expected["cases"].items()]
    return len(set(whose)) == len({a for a, _ in whose}) == len({b for _, b in whose})


def labels(of: Comparison) -> bool:
    """The expected label files."""
    for id, case in of.expected["cases"].items():
        if id not in of.pairs:
            return False
        own = of.pairs[id].label
        wanted = case["label"] and of.path(case["label"]["file"])
        if wanted != (None if own is None else os.path.realpath(own)):
            return False
    return True


def voxels(of: Comparison) -> bool:
    """How often each label value occurs."""
    for id, case in of.expected["cases"].items():
        if case["label"] is not None:
            own = of.found.voxels.get(of.pairs[id].id) if id in of.pairs else None
            if own != {int(value): count for value, count in case["label"]["voxels"].items()}:
                return False
    return True


def grids(of: Comparison) -> bool:
    """Shape, voxel size and axes of each image."""
    for id, case in of.expected["cases"].items():
        own = of.found.grids.get(of.pairs[id].id, {}) if id in of.pairs else {}
        common = case.get("grid") or of.expected.get("grid")
        for name, image in case["images"].items():
            wanted, grid = image.get("grid") or common, own.get(of.names.get(name, ""))
            if grid is None or list(grid.shape) != wanted["shape"] or grid.axes != wanted["axes"]:
                return False
            if any(abs(a - b) > 1e-3 for a, b in zip(grid.spacing, wanted["voxel_mm"], strict=True)):
                return False
    return True


def meanings(of: Comparison) -> bool | None:
    """The same numbers have a meaning; where two publications say it, of the same tissue; else none is claimed."""
    facts = of.expected["labels"]
    if left_to_the_user(of):
        return None
    known = {number: text for held in of.proposal.labels.values() for number, text in held.meanings.items()}
    ignored = {held.ignore for held in of.proposal.labels.values()} - {None}
    expected = {int(number): text for number, text in facts["meaning"].items()}
    if isinstance(facts.get("ignore"), int):
        if ignored != {facts["ignore"]}:
            return False
        expected.pop(facts["ignore"], None)
    if set(known) - {int(n) for n in facts.get("without_meaning", {})} != set(expected):
        return False
    if facts["status"] == "unconfirmed":
        return all(text == "?" for text in known.values())
    if any(known[number] == "?" for number in expected):
        return False
    return facts["status"] == "declared" or all(alike(known[n], text) for n, text in expected.items())


def left_to_the_user(of: Comparison) -> bool:
    """Whether no meaning is proposed, because only the user knows the release, as expected."""
    asked = any("release" in topics(text) for text in of.expected.get("ask", ()))
    return asked and all(text == "?" for held in of.proposal.labels.values() for text in held.meanings.values())


def alike(one: str, other: str) -> bool:
    """Whether two meanings share a word that tells."""
    sets = [{WORDS.get(word, word) for word in re.findall(r"[a-z_]+", text.lower())} for text in (one, other)]
    return bool(sets[0] & sets[1])


def regions(of: Comparison) -> bool | None:
    """Regions as sets of numbers, whether they exclude one another, and how they are painted."""
    facts = of.expected["labels"]
    if left_to_the_user(of):
        return None
    wanted = {name: set(held) for name, held in facts["regions"].items()}
    own: dict[str, set[int]] = {}
    for held in of.proposal.labels.values():
        for name, numbers in (held.regions or {text: (number,) for number, text in held.meanings.items()}).items():
            own.setdefault(name, set()).update(numbers)
    single = {frozenset({int(number)}) for number in facts["meaning"] if int(number) != facts.get("ignore")}
    expected = {frozenset(numbers) for numbers in wanted.values()} or single
    if facts["status"] == "unconfirmed":
        return True
    painted = [held.paint for held in of.proposal.labels.values() if held.paint]
    return (
        {frozenset(numbers) for numbers in own.values()} == expected
        and all(held.exclusive == facts["exclusive"] for held in of.proposal.labels.values())
        and ("paint" not in facts or painted == [facts["paint"]])
    )


def split(of: Comparison) -> bool | None:
    """Sections and folds."""
    facts = of.expected["cases"].values()
    sections = of.proposal.sections or {}
    if not any("split" in case or "fold" in case for case in facts) and "folds" not in of.expected.get("split", {}):
        bare = {case.id for case in of.proposal.cases if case.label is None}  # of no use but to be predicted
        return all(section == "training" or set(ids) <= bare for section, ids in sections.items())
    listed = of.expected.get("split", {}).get("folds", ())
    folds = {}
    if isinstance(listed, list):
        folds = {id: str(number) for number, fold in enumerate(listed) for id in fold["val"]}
    where = {id: section for section, ids in sections.items() for id in ids}
    for id, case in of.expected["cases"].items():
        own = of.pairs.get(id)
        if own is None or own.fold != case.get("fold", folds.get(id)):
            return False
        if "split" in case and where.get(own.id, "training") != SPLITS[case["split"]]:
            return False
    return True


def left_out(of: Comparison) -> bool | None:
    """Files that are no case's: all of them are told, and none is taken in."""
    wanted = {of.path(file) for files in of.expected["leave_out"].values() for file in files}
    told = {os.path.realpath(file) for files in of.proposal.left_out.values() for file in files}
    told |= {os.path.realpath(file) for case in of.proposal.cases for file in case.raters.values()}
    used = {os.path.realpath(i.path) for case in of.proposal.cases for i in case.images.values()}
    used |= {os.path.realpath(case.label) for case in of.proposal.cases if case.label is not None}
    meant = {file for case in of.expected["cases"].values() for file, _ in of.files(case).values()}
    return wanted <= told and not wanted & used and not meant & told if wanted or meant & told else None


def questions(of: Comparison) -> bool | None:
    """All that must be asked is asked, and nothing else."""
    wanted = [topics(text) for text in of.expected.get("ask", ()) if applies(text, of)]
    if of.expected["labels"]["status"] == "unconfirmed" and not any("meaning" in topic for topic in wanted):
        wanted.append({"meaning"})
    if any("grid" in image for case in of.expected["cases"].values() for image in case["images"].values()):
        wanted.append({"grid"})
    refused = topics(" ".join(of.expected.get("refuse", ())))
    asked = [topics(text) for text in of.proposal.questions]
    if not wanted and not asked:
        return True
    every = set().union(*wanted, refused)
    return all(any(topic & own for own in asked) for topic in wanted) and all(own & every for own in asked)


def applies(text: str, of: Comparison) -> bool:
    """Whether a question must be asked here: some name the label number in whose absence they must."""
    absent = re.search(r"where no case at hand has an? (\d+)", text)
    held = {number for case in of.expected["cases"].values() for number in (case["label"] or {}).get("voxels", ())}
    return absent is None or absent[1] not in held


def refusals(of: Comparison) -> bool | None:
    """What must be refused is refused, asked about or said, and nothing else is refused."""
    wanted = of.expected.get("refuse", ())
    if not wanted:
        return not of.proposal.refusals or None
    said = [*of.proposal.refusals, *of.proposal.questions, *of.proposal.notes]
    known = {number for held in of.proposal.labels.values() for number in held.meanings}
    for text in wanted:
        reading = re.match(r"reading (\d+) as (\w+)", text)
        if reading is not None:  # that it is not read so can be seen, whether or not it is said
            meaning = next((m[int(reading[1])] for held in of.proposal.labels.values() for m in [held.meanings]), "")
            if int(reading[1]) not in known or reading[2] in meaning:
                return False
        elif not any(topics(text) & topics(own) for own in said):
            return False
    return True


def read_back(of: Comparison) -> bool:
    """The list that would be written is read, after its questions were settled, with all cases and images."""
    content = {**of.proposal.to_json(of.root), "questions": []}
    for convention in [content, *content.get("conventions", {}).values()]:
        named = convention.get("labels", {}).items()
        convention["labels"] = {number: f"label {number}" if text == "?" else text for number, text in named}
    try:
        _, found = declared_in(content, of.root, str(of.root), need_labels=False)
    except CggmMedError:
        return False
    images = sorted((case.id, len(case.images)) for case in found.cases)
    return images == sorted((case.id, len(case.images)) for case in of.proposal.cases)


def topics(text: str) -> set[str]:
    """What a question or refusal is about."""
    found = {topic for topic, pattern in TOPICS.items() if re.search(pattern, text, re.IGNORECASE)}
    return found or {text}


POINTS: Mapping[str, Callable[[Comparison], bool | None]] = {
    "kind": kind,
    "modalities": modalities,
    "cases": cases,
    "images": images,
    "lacking": lacking,
    "patients": patients,
    "labels": labels,
    "voxels": voxels,
    "grids": grids,
    "meanings": meanings,
    "regions": regions,
    "split": split,
    "left out": left_out,
    "questions": questions,
    "refusals": refusals,
    "read back": read_back,
}


def _said(point: str, of: Comparison) -> str:
    """What was proposed and what was expected, as far as the point is about it."""
    proposal, facts = of.proposal, of.expected
    shown: dict[str, tuple[Any, Any]] = {
        "kind": (proposal.kind, facts["kind"]),
        "modalities": (proposal.modalities, (of.names, facts["modalities"])),
        "meanings": ({n: held.meanings for n, held in proposal.labels.items()}, facts["labels"]),
        "regions": (proposal.labels, facts["labels"]),
        "left out": (proposal.left_out, facts["leave_out"]),
        "questions": (proposal.questions, (facts.get("ask"), facts.get("refuse"))),
        "refusals": ((proposal.refusals, proposal.questions), facts.get("refuse")),
    }
    found = [f"{c.id} {c.patient} {c.fold} {c.label} {sorted(c.images)}" for c in proposal.cases]
    default = (found, [f"{id} {case}" for id, case in facts["cases"].items()])
    own, wanted = shown.get(point, default)
    return "\n  ".join(["found:", *lines_of(own), "expected:", *lines_of(wanted)])


def lines_of(value: Any) -> Iterator[str]:
    """A value in lines."""
    yield from (str(one) for one in value) if isinstance(value, list | tuple) else [str(value)]


def write_tiny(folder: Path) -> None:
    """One layout with what a correct reader finds in it."""
    import numpy as np

    from cggm_med.data.volumes.io import write_volume

    volume = np.zeros((3, 3, 2), np.uint8)
    volume[0, 0, 0] = 1
    files = {"imagesTr/a_0000.nii.gz": "T2", "labelsTr/a.nii.gz": LABEL}
    for file in files:
        write_volume(folder / "tiny" / file, volume, np.eye(4))
    (folder / "tiny/dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T2"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"})
    )
    image, label = files
    facts = {
        "kind": "nnunet_v2",
        "point_at": ".",
        "modalities": {"T2": {"is": "t2", "kind": "mri", "normalisation": "z-score of each image inside the body"}},
        "grid": {"shape": [3, 3, 2], "voxel_mm": [1.0, 1.0, 1.0], "axes": "RAS"},
        "labels": {"meaning": {"1": "lesion"}, "status": "declared", "exclusive": True, "regions": {}},
        "cases": {
            "a": {
                "patient": "a",
                "images": {"T2": {"file": image}},
                "label": {"file": label, "voxels": {"1": 1}},
            }
        },
        "leave_out": {},
    }
    (folder / "expected.json").write_text(json.dumps({"tiny": facts}))


if __name__ == "__main__":
    main()
