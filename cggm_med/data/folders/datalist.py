"""MONAI's datalists, and tasks of Auto3DSeg: a YAML file beside such a list that names modality and classes.

Formats: https://github.com/Project-MONAI/tutorials, auto3dseg/README.md and auto3dseg/tasks; MONAI's
``load_decathlon_datalist`` for the sections, ``datafold_read`` of its tutorials for ``fold``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.declaration import Modality
from cggm_med.data.folders.channels import Channels, channels_of, name_of
from cggm_med.data.folders.label_lists import labels_of, labels_of_groups
from cggm_med.data.folders.listed import SECTION_OF, Entry, Listed, ListedFiles, base_name, entries_of, proposal_of_list
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError
from cggm_med.trees import parse_yaml


def is_datalist(content: Any) -> bool:
    """Whether the content of a JSON file is a datalist: sections with entries that name images.

    Example:
        >>> entries = [{"image": "a.nii", "label": "b.nii"}]
        >>> is_datalist({"training": entries}), is_datalist(entries), is_datalist({"training": 3})
        (True, True, False)
    """
    content = _with_sections(content)
    if not isinstance(content, dict):
        return False
    sections = [given for key, given in content.items() if SECTION_OF.get(key.lower())]
    return any(isinstance(given, list) and any(isinstance(e, dict) for e in given) for given in sections)


def is_auto3dseg(content: Any) -> bool:
    """Whether the content of a YAML file is the input of Auto3DSeg.

    Example:
        >>> is_auto3dseg({"modality": "CT", "datalist": "folds.json", "dataroot": "."})
        True
    """
    return isinstance(content, dict) and isinstance(content.get("datalist"), str)


def read_yaml(file: Path) -> Any:
    """Content of a YAML file.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{file} is not YAML: {error}") from error


def read_datalist(file: Path, content: Any, kind: str = "monai_datalist") -> Proposal:
    """What a datalist declares and holds.

    It names images by the keys of its entries; where one key holds a list, nothing says what each image is, and the
    names of the files are proposed.

    Args:
        file: the list.
        content: of that file.
        kind: family of the layout.

    Raises:
        DataError: if it lists no case.
    """
    content = _with_sections(content)
    listed = Listed(file, content, [file.parent, file.absolute().parent.parent])
    names, questions = _proposed_names(listed.entries, listed.keys, listed.ids)
    channels = channels_of(list(names.values()), file.name)
    channels = replace(channels, questions=(*questions, *channels.questions))
    cases = _cases(listed, dict(zip(listed.keys, channels.modalities, strict=True)))
    labels = labels_of(content["labels"], file.name) if content.get("labels") else Labels({})
    name = content.get("name") or file.stem
    return proposal_of_list(
        kind, file, name, channels, labels, cases, listed.sections, listed.files, refusals=listed.problems
    )


def read_auto3dseg(file: Path, content: Mapping[str, Any]) -> Proposal:
    """What a task of Auto3DSeg declares and holds.

    Args:
        file: its YAML file.
        content: of that file.

    Raises:
        DataError: if its list cannot be found or lists no case.
    """
    root = content.get("dataroot")
    folders = [file.parent / root, file.parent] if isinstance(root, str) else [file.parent]
    listing = ListedFiles(file, folders[::-1]).look(content["datalist"])
    if listing is None:
        raise DataError(f'{file}: its datalist {content["datalist"]} does not exist; correct "datalist"')
    listed = Listed(listing, _with_sections(read_json(listing)), [*folders, listing.parent])
    channels, names_of = _told_channels(content, listed, file)
    classes = content.get("class_names")
    labels = Labels({})
    if classes is not None:
        labels = labels_of_groups(classes, file.name, overlapping=content.get("sigmoid") is True)
    name, cases = content.get("name") or listing.stem, _cases(listed, names_of)
    return proposal_of_list(
        "auto3dseg", file, name, channels, labels, cases, listed.sections, listed.files, refusals=listed.problems
    )


def _told_channels(content: Mapping[str, Any], listed: Listed, file: Path) -> tuple[Channels, dict[str, str]]:
    """Modalities, and their names by key of the list's entries, as ``modality`` of a task tells them.

    A key that holds several images is told by one word, which says of which kind they are and no more.
    """
    extra = content.get("extra_modalities")
    told = {"image": content.get("modality"), **(extra if isinstance(extra, dict) else {})}
    told = {key: word for key, word in told.items() if isinstance(word, str)}
    unsaid = [key for key in listed.keys if key not in told]
    suggested, questions = _proposed_names(listed.entries, unsaid, listed.ids)
    modalities: dict[str, Modality] = {}
    names: dict[str, str] = {}
    for key in listed.keys:
        word = told.get(key) or suggested[key]
        found = channels_of([word], file.name)
        if key not in told and found.notes:  # nothing but the kind, if the word for all images of the list tells it
            found = channels_of([told.get(re.sub(r" \d+$", "", key), key)], file.name)
            if not questions:
                questions = [f"what the images under {key!r} show: {file.name} names no modality for them"]
        (modality,) = found.modalities.values()
        names[key] = name_of(key if key in told else word) or name_of(key)
        modalities[names[key]] = replace(modality, shows=modality.shows or (word.lower() if key in told else ""))
    return Channels(modalities, tuple(questions)), names


def _with_sections(content: Any) -> Any:
    """A bare list of entries as the section of training cases; anything else as it is."""
    bare = isinstance(content, list) and any(isinstance(of, Entry) for of in entries_of({"training": content}))
    return {"training": content} if bare else content


def _cases(listed: Listed, names: Mapping[str, str]) -> list[Case]:
    """Cases whose images bear these names of modalities, by the keys of the entries."""
    cases = []
    for id, entry in zip(listed.ids, listed.entries, strict=True):
        found = {names[key]: listed.files.find(given, entry.where) for key, given in entry.images.items()}
        images = {name: ImageFile(path) for name in names.values() if (path := found.get(name)) is not None}
        label = None if entry.label is None else listed.files.find(entry.label, entry.where)
        cases.append(Case(id, entry.patient or "", images, label, fold=entry.fold))
    return cases


def _proposed_names(
    entries: Sequence[Entry], keys: Sequence[str], ids: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """A name for the images under each key, and a question where the list does not give one."""
    names: dict[str, str] = {}
    open_keys = [key for key in keys if re.fullmatch(r"images?( \d+)?|img|data", key, re.IGNORECASE)]
    for key in keys:
        having = [(entry, id) for entry, id in zip(entries, ids, strict=True) if key in entry.images]
        rests = {_rest(base_name(entry.images[key]), id) for entry, id in having}
        own = next(iter(rests)) if len(rests) == 1 else ""
        names[key] = own if key in open_keys and name_of(own) else key
    if not open_keys:
        return names, []
    suggested = ", ".join(names[key] for key in open_keys)
    return names, [
        f"the names of the {len(open_keys)} images of a case: the list gives none; the names of the files suggest "
        f"{suggested}"
        if any(names[key] != key for key in open_keys)
        else f"what the images under {', '.join(open_keys)} show: neither the list nor the names of the files say it"
    ]


def _rest(name: str, id: str) -> str:
    """A file's name without the case's id."""
    return name[len(id) :].strip("-_. ") if name.startswith(id) else name
