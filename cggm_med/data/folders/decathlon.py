"""Data sets of the Medical Segmentation Decathlon (http://medicaldecathlon.com), and others listed in its manner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.declaration import Modality
from cggm_med.data.folders.channels import Channels, channels_of
from cggm_med.data.folders.label_lists import labels_of
from cggm_med.data.folders.listed import SECTION_OF, Entry, Listed, proposal_of_list
from cggm_med.data.folders.proposal import Proposal
from cggm_med.errors import DataError


def is_decathlon(content: Mapping[str, Any]) -> bool:
    """Whether the content of a ``dataset.json`` is in the manner of the Decathlon."""
    return "modality" in content and any(SECTION_OF.get(key.lower()) for key in content)


def read_decathlon(file: Path, content: Mapping[str, Any]) -> Proposal:
    """What a data set of the Decathlon declares and holds.

    An image of several modalities is one 4-D file with a channel for each; one of one modality is a 3-D file; others
    list a file for each modality.

    Args:
        file: its ``dataset.json``.
        content: of that file.

    Raises:
        DataError: if it contradicts itself or lists no case.
    """
    listed = Listed(file, content, [file.parent])
    entries, files, problems = listed.entries, listed.files, listed.problems
    named = channel_names(content["modality"], file)
    channels = channels_of(named, file.name)
    most = max(len(entry.images) for entry in entries)
    if most > 1 and len(named) == 1:
        channels = _as_many(channels, most, entries[0], file)
    names = tuple(channels.modalities)
    cases: list[Case] = []
    for id, entry in zip(listed.ids, entries, strict=True):
        found = [files.find(path, entry.where) for path in entry.images.values()]
        if len(found) == 1 and len(names) > 1:
            images = {} if found[0] is None else {name: ImageFile(found[0], k) for k, name in enumerate(names)}
        elif len(found) == len(names):
            images = {name: ImageFile(path) for name, path in zip(names, found, strict=True) if path is not None}
        else:
            problems.append(f"{entry.where} lists {len(found)} images; expected {len(names)}: {', '.join(names)}")
            continue
        label = None if entry.label is None else files.find(entry.label, entry.where)
        cases.append(Case(id, entry.patient or "", images, label, fold=entry.fold))
    read = {case.id for case in cases}
    sections = {section: [id for id in ids if id in read] for section, ids in listed.sections.items()}
    labels = labels_of(content.get("labels"), file.name)
    return proposal_of_list(
        "decathlon", file, content.get("name"), channels, labels, cases, sections, files, refusals=problems
    )


def channel_names(given: Any, file: Path) -> list[str]:
    """Names of the channels in order, from an object by number, a list, or one name.

    Raises:
        DataError: if it is something else.

    Example:
        >>> channel_names({"1": "ADC", "0": "T2"}, Path("dataset.json"))
        ['T2', 'ADC']
    """
    given = [given] if isinstance(given, str) else given
    if isinstance(given, list):
        given = {str(channel): name for channel, name in enumerate(given)}
    by_text = {str(key): str(name) for key, name in given.items()} if isinstance(given, dict) else {}
    if not by_text or set(by_text) != {str(channel) for channel in range(len(by_text))}:
        raise DataError(f'{file}: channels are {given!r}; expected names by number from 0, such as {{"0": "FLAIR"}}')
    return [by_text[str(channel)] for channel in range(len(by_text))]


def _as_many(channels: Channels, count: int, example: Entry, file: Path) -> Channels:
    """Names for several images of which the list declares but one modality."""
    ((name, modality),) = channels.modalities.items()
    numbered: dict[str, Modality] = {f"{name} {k}": modality for k in range(1, count + 1)}
    question = (
        f"names for the {count} images of a case: {file.name} declares one modality, {name}; proposed are "
        f"{', '.join(numbered)} in the order of {', '.join(example.images.values())}"
    )
    return Channels(numbered, (*channels.questions, question), channels.notes)
