"""Declared data as a run on others knows them: modalities by name or by what they show, regions by their meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cggm_med.data.cases import Case, CaseList, ImageFile
from cggm_med.data.declaration import Declaration, same_meaning
from cggm_med.data.folders.declared import NAME, is_declared
from cggm_med.data.folders.nnunet import is_version_2
from cggm_med.data.layouts import read_json
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import DataError


def declares_labels(path: Path) -> bool:
    """Whether a list says itself what its label numbers mean: a declared list, or one of nnU-Net.

    Args:
        path: the file, or a folder that holds it as ``dataset.json``.

    Raises:
        DataError: if it is no JSON.
    """
    listing = path / NAME if path.is_dir() else path
    if listing.suffix.lower() != ".json" or not listing.is_file():
        return False
    content = read_json(listing)
    return is_declared(content) or (isinstance(content, dict) and is_version_2(content))


def for_run(
    path: Path,
    data: Declaration,
    found: CaseList,
    known: Iterable[LabelConvention],
    shown: Mapping[str, str],
    wanted: Sequence[str],
    demanded: Sequence[str] = (),
) -> tuple[dict[str, LabelConvention], CaseList]:
    """What the labels of declared data mean, with a run's regions, and their cases with the run's modalities.

    Args:
        path: of the data, for messages.
        data: what they declare.
        found: their cases.
        known: conventions of the run, see ``same_meaning``.
        shown: what each of the run's modalities shows, by name.
        wanted: those of them to read.
        demanded: those that every case must have; each must have one of ``wanted`` in any case.

    Raises:
        DataError: if the data mean something else than the run, or a case has none of the modalities; names every such
            case.
    """
    conventions = same_meaning(known, data)
    name_of = {_own_name(data, name, shown): name for name in data.modalities}
    chosen = {own: name_of[own] for own in wanted if own in name_of}
    cases = [replace(case, images=_chosen(case, chosen)) for case in found.cases]
    empty = [f"{case.id}: none of {', '.join(wanted)}" for case in cases if not case.images]
    must = [m for m in dict.fromkeys(demanded) if m in wanted]
    empty += [f"{case.id}: no {m}" for case in cases if case.images for m in must if m not in case.images]
    if empty:
        raise DataError(f"{path} ({found.layout}): add the images, or leave out these cases:", empty)
    return conventions, replace(found, cases=tuple(cases))


def labelled(found: CaseList, say: Callable[[str], None]) -> CaseList:
    """The cases with a label: the others, which a data set keeps for testing, can neither be learned nor scored."""
    cases = tuple(case for case in found.cases if case.labels)
    if len(cases) == len(found.cases):
        return found
    say(f"{len(found.cases) - len(cases)} of {len(found.cases)} cases have no label and are left out; see 'predict'")
    ids = {case.id for case in cases}
    sections = {name: tuple(id for id in kept if id in ids) for name, kept in (found.sections or {}).items()}
    declared = {name for name, kept in sections.items() if kept} - {"training"}
    return replace(found, cases=cases, sections=sections if declared else None)


def _own_name(data: Declaration, name: str, shown: Mapping[str, str]) -> str:
    """The run's name of a modality of other data; the data's own where the run knows none."""
    if name in shown:
        return name
    shows = data.modalities[name].shows
    alike = [own for own, of in shown.items() if of == shows]
    return alike[0] if shows and len(alike) == 1 else name


def _chosen(case: Case, wanted: Mapping[str, str]) -> dict[str, ImageFile]:
    """A case's images under the run's names."""
    return {own: case.images[name] for own, name in wanted.items() if name in case.images}
