"""Which reader understands a folder or a list, told by what lies there; what it proposes, or the cases themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cggm_med.data.cases import MAX_ID, CaseList
from cggm_med.data.declaration import UNKNOWN, Declaration, Modality
from cggm_med.data.folders.any_names import read_names
from cggm_med.data.folders.bids import read_bids
from cggm_med.data.folders.case_table import TABLE_ENDINGS, read_table
from cggm_med.data.folders.datalist import is_auto3dseg, is_datalist, read_auto3dseg, read_datalist, read_yaml
from cggm_med.data.folders.decathlon import is_decathlon, read_decathlon
from cggm_med.data.folders.declared import NAME, declared_in, is_declared, read_declared
from cggm_med.data.folders.inspection import asks_for_meanings, inspect_proposal, they_mean
from cggm_med.data.folders.listed import looks_like_image
from cggm_med.data.folders.nnunet import (
    is_version_1,
    is_version_2,
    read_images_of_version_2,
    read_version_1,
    read_version_2,
)
from cggm_med.data.folders.proposal import Proposal
from cggm_med.data.layouts import files_under, read_json
from cggm_med.errors import DataError, first_of
from cggm_med.files import did_you_mean

MAX_DEPTH = 3  # folders below the given one in which a list is looked for, such as those of "nnUNet_raw"
_YAML = (".yaml", ".yml")


def propose(path: Path) -> Proposal:
    """What a folder of scans, or a list of them, declares and holds, as far as its files say it.

    Args:
        path: a folder, or the file that lists its cases.

    Raises:
        DataError: if it does not exist, holds several data sets, or nothing that is known.
    """
    if not path.exists():
        near = did_you_mean(path)
        raise DataError(
            f"{path} does not exist{near}; expected a folder of scans, or a list of them (.json, .yaml or .csv)"
        )
    if path.is_file() and path.suffix.lower() not in (".json", *_YAML, *TABLE_ENDINGS):
        raise DataError(f"{path} is one file; expected a folder of scans, or a list of them (.json, .yaml or .csv)")
    lists = [path] if path.is_file() else _lists_in(path)
    if len(lists) > 1:
        raise DataError(f"{path} holds several lists of cases; give one of them:", [str(file) for file in lists])
    if lists:
        return _with_tests(_with_ids(_of_list(lists[0])))
    proposal = read_bids(path)
    if proposal is None and (below := _only_list_below(path)):
        proposal = _of_list(below)
    if proposal is None:
        proposal = read_images_of_version_2(path) or read_names(path)
    if proposal is None:
        raise DataError(f"{path} holds no volume; expected images such as .nii.gz, .nrrd or .mha, or a list of them")
    return _with_tests(_with_ids(proposal))


def read_any(
    path: Path, *, need_labels: bool = True, reference: Sequence[str] = (), run: Declaration | None = None
) -> tuple[Declaration, CaseList]:
    """The declaration and the cases of a data set in any layout that leaves nothing open.

    Args:
        path: a declared list (see ``read_declared``) or its folder; or a folder or list of another layout.
        need_labels: whether a case without label is an error; cases of the section ``test`` never need one.
        reference: names of a modality to whose grid the others are resampled, or what it shows; the first that is one
            of these data settles this for a layout that leaves it open.
        run: see ``declared_in``.

    Raises:
        UnknownName: for a key, modality, region or section of a declared list that does not exist.
        DataError: for what is missing, contradictory, or left open by the layout.
    """
    listing = path / NAME if path.is_dir() else path
    if listing.suffix.lower() == ".json" and listing.is_file() and is_declared(read_json(listing)):
        declaration, found = read_declared(path, need_labels=need_labels, run=run)
        named = _called(reference, declaration.modalities)
        return (declaration if named is None else replace(declaration, reference=named)), found
    proposed = propose(path)
    named = _called(reference, proposed.modalities)
    proposal = inspect_proposal(replace(proposed, reference=named), labels=False).proposal
    if still := open_points(proposal):
        raise DataError(
            f"{path} ({proposal.kind}) leaves open what only you know; write a list with "
            f"'cggm-med init {path} -o {NAME}', settle them in it and use it as the data:",
            still,
        )
    folder = path if path.is_dir() else path.parent
    content = proposal.to_json(folder)
    source = f"{path} ({proposal.kind})"
    declaration, found = declared_in(content, folder, source, need_labels=need_labels, run=run)
    return declaration, replace(found, layout=proposal.kind)


def _called(names: Sequence[str], modalities: Mapping[str, Modality]) -> str | None:
    """The modality of one of these names, or else the only one that shows one of these; None if there is none."""
    for name in names:
        alike = [known for known, modality in modalities.items() if modality.shows == name]
        found = [name] if name in modalities else alike
        if len(found) == 1:
            return found[0]
    return None


def open_points(proposal: Proposal) -> list[str]:
    """What must be settled before a proposal can be trained on.

    Example:
        >>> from cggm_med.data.cases import Case
        >>> from cggm_med.data.folders.proposal import Labels
        >>> labelled, scan = Case("1", "1", {}, Path("label.nii")), Case("1", "1", {}, None)
        >>> open_points(Proposal("bids", Path(), "", {}, {"": Labels({1: "?"})}, (labelled,)))
        ['what 1 means']
        >>> open_points(Proposal("bids", Path(), "", {}, {}, (labelled,), questions=("which grid",)))
        ['which grid', 'what the numbers of the labels mean']
        >>> open_points(Proposal("bids", Path(), "", {}, {}, (scan,)))
        []
    """
    unknown = [label for labels in proposal.labels.values() for label, m in labels.meanings.items() if m == UNKNOWN]
    labelled = any(case.labels for case in proposal.cases)
    nothing = labelled and not any(labels.meanings for labels in proposal.labels.values())
    asked = [f"what {they_mean(list(map(str, unknown)))}"] if unknown else []
    asked += ["what the numbers of the labels mean"] if nothing else []
    return [
        *proposal.refusals,
        *proposal.questions,
        *([] if any(map(asks_for_meanings, proposal.questions)) else asked),
    ]


def _with_ids(proposal: Proposal) -> Proposal:
    """The proposal with ids that can be names of files: results are written under them."""
    ids: dict[str, str] = {}
    for case in proposal.cases:
        id = re.sub(r"[/\\\x00-\x1f]+", "_", case.id).strip(". ")[-MAX_ID:] or "case"
        while id in ids.values():
            id += "_"
        ids[case.id] = id
    if all(old == new for old, new in ids.items()):
        return proposal

    def renamed(lines: tuple[str, ...]) -> tuple[str, ...]:
        changed = sorted((old for old in ids if old != ids[old]), key=len, reverse=True)
        pattern = "|".join(map(re.escape, changed))
        return tuple(re.sub(pattern, lambda found: ids[found[0]], line) for line in lines)

    return replace(
        proposal,
        cases=tuple(replace(case, id=ids[case.id]) for case in proposal.cases),
        sections=proposal.sections and {name: tuple(ids[id] for id in of) for name, of in proposal.sections.items()},
        questions=renamed(proposal.questions),
        notes=renamed(proposal.notes),
    )


def _with_tests(proposal: Proposal) -> Proposal:
    """The proposal with cases that have no label, though others have one, as test cases: they teach nothing."""
    sections = proposal.sections or {"training": tuple(case.id for case in proposal.cases)}
    divided = {id for section, ids in sections.items() if section == "test" for id in ids}
    bare = [case.id for case in proposal.cases if case.label is None and case.id not in divided]
    if not bare or len(bare) == len(proposal.cases):
        return proposal
    left = {section: tuple(id for id in ids if id not in bare) for section, ids in sections.items()}
    kept = {section: ids for section, ids in left.items() if ids}
    note = f"{len(bare)} cases without label are taken for test cases, to be predicted: {first_of(bare)}"
    return replace(
        proposal,
        sections={**kept, "test": (*kept.get("test", ()), *bare)},
        notes=(*proposal.notes, note),
    )


def _lists_in(folder: Path) -> list[Path]:
    """Files directly in a folder that list cases; a task of Auto3DSeg stands for the datalist that it names."""
    listing = folder / NAME
    if listing.is_file():
        return [listing]
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    tasks = [file for file in files if file.suffix.lower() in _YAML and is_auto3dseg(_content(file))]
    if tasks:
        return tasks
    return [file for file in files if file.suffix.lower() == ".json" and is_datalist(_content(file))]


def _only_list_below(folder: Path) -> Path | None:
    """The list in a folder below this folder, if all volumes belong to it.

    Raises:
        DataError: if there are several.
    """
    below: dict[Path, list[Path]] = {}
    outer = [folder]
    for _ in range(MAX_DEPTH):
        outer = [place for around in outer for place in _folders_in(around) if around not in below]
        below |= {place: found for place in outer if (found := _lists_in(place))}
    files = [file for found in below.values() for file in found]
    if not below or _holds_volumes(folder, beside=set(below)):
        return None
    if len(files) > 1:
        raise DataError(f"{folder} holds several data sets; give one of them:", [str(file) for file in files])
    return files[0]


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    except OSError:
        return []


def _holds_volumes(folder: Path, beside: set[Path]) -> bool:
    """Whether volumes lie below a folder, but for some of its own folders."""
    files = files_under(folder, skip_unreadable=True)
    return any(looks_like_image(file.name) and beside.isdisjoint(file.parents) for file in files)


def _content(file: Path) -> Any:
    """Content of a file beside the scans; None if it is something else than its name says."""
    try:
        return read_yaml(file) if file.suffix.lower() in _YAML else read_json(file)
    except DataError:
        return None


def _of_list(file: Path) -> Proposal:
    """What a list proposes."""
    if file.suffix.lower() in TABLE_ENDINGS:
        return read_datalist(file, read_table(file), kind="table")
    if file.suffix.lower() in _YAML:
        content = read_yaml(file)
        if is_auto3dseg(content):
            return read_auto3dseg(file, content)
        raise DataError(f"{file} is no task of Auto3DSeg; expected the key 'datalist'")
    content = read_json(file)
    if is_declared(content):
        raise DataError(
            f"{file} is a declared list already; check it with 'cggm-med check {file}', "
            "or move it away to have its folder read anew"
        )
    if isinstance(content, dict) and is_version_2(content):
        return read_version_2(file, content)
    if isinstance(content, dict) and is_decathlon(content):
        return (read_version_1 if is_version_1(file, content) else read_decathlon)(file, content)
    if is_datalist(content):
        return read_datalist(file, content)
    raise DataError(
        f"{file} lists no cases in a way that is known; expected a list of nnU-Net, the Decathlon or MONAI, or a "
        "declared list"
    )
