"""Published meanings of label numbers, recognised by how a challenge or data set names its cases and label files.

A number has a meaning only through such a publication or through a file that declares it; never through the values that
occur. Each entry names two public sources. The root folder does not count, for people rename it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cggm_med.data.declaration import UNKNOWN
from cggm_med.data.folders.proposal import Labels
from cggm_med.metrics.lesion_areas import LesionRules

NOTHING_SAYS = (
    "what the numbers in the labels mean: no file says it, and the names are those of no published data set known here"
)
MAX_CHECKED = 5  # cases whose numbers are compared with those of the one release that the names fit


@dataclass(frozen=True)
class Published:
    """One release of a public data set.

    Attributes:
        name: of the release.
        case: pattern of all of a case's id.
        labels: its numbers, their regions and where both were read.
        label: pattern that the label file's path must hold, below the folder that was given; without the case's id.
        image: pattern of all of a name that at least one modality of the cohort must have.
        patient: pattern whose group 1, at the start of a case's id, is the patient.
        question: what the publication leaves to its user.
        note: what a reader of its lesion rules should know.
        shows: what its images show, where their names do not tell.
        kept: a number, and another one: what the second means here, the first meant in older releases. Where the first
            occurs and the second does not, the cases may bear new names and old numbers.
        alone: pattern of all of an id that no other release has, by which this is ruled out.
    """

    name: str
    case: str
    labels: Labels
    label: str = ""
    image: str = ""
    patient: str = ""
    question: str = ""
    note: str = ""
    shows: str = ""
    kept: tuple[int, int] | None = None
    alone: str = ""


@dataclass(frozen=True)
class LabelledCase:
    """What conventions are recognised by.

    Attributes:
        id: of the case.
        label: the label file's path below the folder that was given, with ``/``.
        values: reads the numbers that occur in it, but 0.
    """

    id: str
    label: str
    values: Callable[[], frozenset[int]]


@dataclass(frozen=True)
class Told:
    """What is known of the numbers of a cohort.

    Attributes:
        labels: by name of the release; under ``""`` if all cases share one; without meanings where nothing is known.
        convention: of each case, where there are several.
        patients: by case id, where the publication says which part of an id it is.
        questions: what the user must decide.
        notes: what a reader should know.
        recognised: whether the names are those of published data sets, even if their release is open.
        shows: what the images show, if the publication tells it and their names do not.
    """

    labels: Mapping[str, Labels]
    convention: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recognised: bool = False
    shows: str = ""


def conventions_of(
    cases: Sequence[LabelledCase], modalities: Iterable[str] = (), unlabelled: Iterable[str] = ()
) -> Told:
    """The meanings of the numbers of a cohort.

    Where names fit several releases, the values of all their cases together decide if they can: a number that only one
    release has, or none that they read differently. Else the meanings stay open and the user is asked. Where they fit
    one, some cases are read: whoever has other numbers is another data set.

    Args:
        cases: those that have a label.
        modalities: names of the images' modalities.
        unlabelled: ids of cases without a label, whose patients are asked for.

    Example:
        >>> told = conventions_of([LabelledCase("BraTS-GLI-00005-100", "seg.nii", lambda: frozenset({1, 2, 3, 4}))])
        >>> told.labels[""].meanings[4], told.questions
        ('resection cavity', ())
        >>> conventions_of([LabelledCase("patient 7", "mask.nii", lambda: frozenset({1}))]).recognised
        False
    """
    found: dict[str, Labels] = {}
    of_case: dict[str, str] = {}
    patients: dict[str, str] = {}
    questions: list[str] = []
    notes: list[str] = []
    others = list(unlabelled)
    groups = _by_fitting(cases, modalities)
    for fitting, held in groups:
        release, asked = _release(fitting, held)
        questions += asked
        name = release.name if release is not None else UNKNOWN
        found[name] = release.labels if release is not None else Labels({})
        of_case |= {case.id: name for case in held}
        notes += [release.note] if release is not None and release.note else []
        if release is not None and release.patient:
            ids = [*(case.id for case in held), *(id for id in others if re.fullmatch(release.case, id, re.IGNORECASE))]
            whose = {id: re.match(release.patient, id, re.IGNORECASE) for id in ids}
            patients |= {id: of[1] for id, of in whose.items() if of is not None}
    if len(found) == 1:
        ((name, labels),) = found.items()
        shows = RELEASES[name].shows if name in RELEASES else ""
        known = all(fitting for fitting, _ in groups)
        return Told({"": labels}, {}, patients, tuple(questions), tuple(notes), known, shows)
    if not found:
        return Told({"": Labels({})})
    if UNKNOWN in found:
        return Told({"": Labels({})}, {}, patients, (*questions, *_some_unknown(found, of_case)), ())
    alike, about = _alike(found, of_case)
    rules = {name: labels.lesion_rules for name, labels in found.items() if labels.lesion_rules is not None}
    if len(set(rules.values())) > 1:
        told = "; ".join(f"in {name}, {of.describe()}" for name, of in rules.items())
        questions.append(f'which lesion rules hold for all: {told}; write one of them into "lesion_rules"')
    again = repeated_patients({id: patients.get(id, id) for id in of_case})
    if again:
        about = (*about, f"patients of BraTS 2021 that are also in BraTS 2023 GLI, by their number: {len(again)}")
    patients |= again
    return Told(alike, of_case, patients, tuple(questions), (*about, *notes), True)


def releases_of(cases: Sequence[LabelledCase]) -> tuple[dict[str, Published | None], list[str]]:
    """The release of each case that is named as in one, by id; None where it is open which, and what to ask then.

    Example:
        >>> found, asked = releases_of([LabelledCase("BraTS2021_00000", "seg.nii", lambda: frozenset({4}))])
        >>> [(id, of and of.name) for id, of in found.items()], asked
        ([('BraTS2021_00000', 'BraTS 2017 to 2021')], [])
    """
    found: dict[str, Published | None] = {}
    questions: list[str] = []
    for fitting, held in _by_fitting(cases, ()):
        if fitting:
            release, asked = _release(fitting, held)
            found |= {case.id: release for case in held}
            questions += asked
    return found, questions


def published_patients(ids: Iterable[str]) -> dict[str, str]:
    """The patients of cases that are named as in a release whose publication says which part of an id they are.

    Example:
        >>> published_patients(["10005_1000005", "patient001_frame12", "case_7"])
        {'10005_1000005': '10005', 'patient001_frame12': 'patient001'}
    """
    found: dict[str, str] = {}
    for id in ids:
        for of in PUBLISHED:
            if of.patient and re.fullmatch(of.case, id, re.IGNORECASE):
                whose = re.match(of.patient, id, re.IGNORECASE)
                found |= {id: whose[1]} if whose is not None else {}
    return found | repeated_patients(found)


def repeated_patients(patients: Mapping[str, str]) -> dict[str, str]:
    """The patients of cases of BraTS 2021 that are also there as patients of BraTS 2023 GLI, by case id.

    The later release holds the patients of the earlier one, with the same numbers and the same gaps between them
    (public listings of both: huggingface.co rocky93/BraTS_segmentation and obi77/brats23-first-10-examples). Unless
    both are known to be one patient, one could be trained on and the other tested.

    Args:
        patients: of all cases, by case id.

    Example:
        >>> repeated_patients({"BraTS2021_00005": "BraTS2021_00005", "BraTS-GLI-00005-000": "BraTS-GLI-00005"})
        {'BraTS2021_00005': 'BraTS-GLI-00005'}
    """
    known = {patient.lower(): patient for patient in patients.values()}
    numbers = {id: found[1] for id in patients if (found := re.fullmatch(r"BraTS2021_(\d{5})", id, re.IGNORECASE))}
    later = {id: known.get(f"brats-gli-{number}") for id, number in numbers.items()}
    return {id: patient for id, patient in later.items() if patient is not None}


def _by_fitting(
    cases: Iterable[LabelledCase], modalities: Iterable[str]
) -> list[tuple[list[Published], list[LabelledCase]]]:
    """The cases by the releases that their names fit."""
    names = list(modalities)
    groups: dict[tuple[str, ...], list[LabelledCase]] = {}
    for case in cases:
        groups.setdefault(tuple(of.name for of in PUBLISHED if _fits(of, case, names)), []).append(case)
    return [([RELEASES[name] for name in fitting], held) for fitting, held in groups.items()]


def _fits(of: Published, case: LabelledCase, modalities: Sequence[str]) -> bool:
    path = case.label.replace(case.id, "")
    return (
        re.fullmatch(of.case, case.id, re.IGNORECASE) is not None
        and re.search(of.label, path, re.IGNORECASE) is not None
        and (not of.image or any(re.fullmatch(of.image, name, re.IGNORECASE) for name in modalities))
    )


def _release(candidates: Sequence[Published], cases: Sequence[LabelledCase]) -> tuple[Published | None, list[str]]:
    """The release that the cases are of, and what to ask."""
    if not candidates:
        return None, [NOTHING_SAYS]
    read = cases if len(candidates) > 1 else cases[:MAX_CHECKED]
    held = Counter(value for case in read for value in case.values())
    holding = [of for of in candidates if set(held) <= set(of.labels.meanings)]
    if not holding:
        # A strange number in some cases is an error of theirs; where most have one, they are another data set.
        best = max(candidates, key=lambda of: sum(held[value] for value in of.labels.meanings))
        if all(count <= len(read) / 2 for value, count in held.items() if value not in best.labels.meanings):
            return best, _question(best)
        return None, [
            f"what {_listed(sorted(held))} in the labels {'means' if len(held) == 1 else 'mean'}: the names are those "
            f"of {best.name}, which has {_listed(sorted(best.labels.meanings))} alone"
        ]
    smallest = min(holding, key=lambda of: len(of.labels.meanings))
    if len({tuple(of.labels.meanings[value] for value in sorted(held)) for of in holding}) == 1:
        if smallest.kept is not None and held[smallest.kept[0]] and not held[smallest.kept[1]]:
            number, now = smallest.kept
            if not any(re.fullmatch(smallest.alone, case.id, re.IGNORECASE) for case in cases):
                meanings = smallest.labels.meanings
                return None, [
                    f"what {number} means: {meanings[number]} in {smallest.name}, but no case has {now}, "
                    f"{meanings[now]}, which was {number} until 2021"
                ]
        return smallest, _question(smallest)
    options = "; ".join(f"{of.name}: {_described(of.labels, held)}" for of in holding)
    return None, [f"what the numbers in the labels mean: names and numbers fit several releases: {options}"]


def _question(of: Published) -> list[str]:
    return [of.question] if of.question else []


def _some_unknown(found: Mapping[str, Labels], of_case: Mapping[str, str]) -> list[str]:
    """A question where some cases are of a known data set and others are not."""
    known = [name for name in found if name != UNKNOWN]
    others = [id for id, name in of_case.items() if name == UNKNOWN]
    if not known:
        return []
    return [
        f"what the numbers in the labels mean: {len(of_case) - len(others)} cases are of {', '.join(known)}, "
        f"{len(others)} others, such as {others[0]}, are of no published data set that is known"
    ]


def _alike(found: Mapping[str, Labels], of_case: Mapping[str, str]) -> tuple[dict[str, Labels], tuple[str, ...]]:
    """Several conventions with the same regions, and a note that says who follows which."""
    common = [name for name in next(iter(found.values())).regions if all(name in of.regions for of in found.values())]
    alike = dict(found)
    notes = [
        "the cases follow several label conventions: "
        + "; ".join(
            f"{name}: {sum(of == name for of in of_case.values())} cases ({_described(labels, labels.meanings)})"
            for name, labels in found.items()
        )
    ]
    if common:
        alike = {
            name: replace(of, regions={region: of.regions[region] for region in common}, paint={})
            for name, of in found.items()
        }
        dropped = sorted({region for of in found.values() for region in of.regions} - set(common))
        if dropped:
            notes.append(f"regions that not all of the conventions have are left out: {', '.join(dropped)}")
    return alike, tuple(notes)


def _described(labels: Labels, values: Iterable[int]) -> str:
    return ", ".join(f"{value} {labels.meanings.get(value, UNKNOWN)}" for value in sorted(values))


def _listed(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + f" and {shown[-1]}"


# What a lesion is to the challenges: rachitsaluja/BraTS-2023-Metrics@43c9052 metrics.py; for children and after
# treatment rachitsaluja/BraTS-2024-Metrics@f1131e3 metrics_PED.py and metrics_GLI.py. Releases before 2023 counted no
# lesions, and have the rules for the same tumours.
_ADULT_GLIOMA = LesionRules(dilations=3, min_mm3=50.0)
_TREATED_GLIOMA = LesionRules(dilations=3, min_mm3=20.0)
_CHILDREN = LesionRules(dilations=5, min_mm3=10.0)
_MENINGIOMA = LesionRules(dilations=1, min_mm3=50.0)
_METASTASES = LesionRules(dilations=1, min_mm3=2.0)


def _nested(meanings: Mapping[int, str], wt: Sequence[int], tc: Sequence[int], et: Sequence[int], lesions: LesionRules,
            source: str, **others: int) -> Labels:  # fmt: skip
    """Tumour labels with the regions that BraTS scores, which lie within one another, and others beside them."""
    single = {name: (label,) for name, label in others.items()}
    regions = {"WT": tuple(wt), "TC": tuple(tc), "ET": tuple(et), **single}
    return Labels(meanings, regions, exclusive=False, source=source, lesion_rules=lesions)


_UNTIL_2021 = _nested(
    {1: "necrotic tumour core", 2: "oedema", 4: "enhancing tumour"},
    (1, 2, 4), (1, 4), (4,), _ADULT_GLIOMA,
    "BraTS 2017 to 2021: MIC-DKFZ/nnUNet@0e49508 dataset_conversion/Dataset137_BraTS21.py; FeTS-AI/Challenge@1c12265 "
    "Task_1/fets_challenge/spec_sens_code.py",
)  # fmt: skip
_SINCE_2023 = {
    1: "necrotic or non-enhancing tumour core",
    2: "oedema or surrounding FLAIR hyperintensity",
    3: "enhancing tumour",
}
_METRICS_2023 = "rachitsaluja/BraTS-2023-Metrics@43c9052 metrics.py"
_METRICS_2024 = "rachitsaluja/BraTS-2024-Metrics"
_BRATS_ID = r"BraTS-{}-\d{{5}}-\d{{3}}"
_BRATS_PATIENT = r"(BraTS-[A-Z]+-\d{5})-\d{3}"


def _since_2023(
    name: str,
    place: str,
    lesions: LesionRules,
    source: str,
    *,
    cavity: bool = False,
    alone: str = "",
    note: str = "",
) -> Published:
    meanings = _SINCE_2023 | ({4: "resection cavity"} if cavity else {})
    others = {"RC": 4} if cavity else {}
    labels = _nested(meanings, (1, 2, 3), (1, 3), (3,), lesions, f"{name}: {source}", **others)
    kept = (4, 3) if cavity else None
    return Published(name, _BRATS_ID.format(place), labels, patient=_BRATS_PATIENT, kept=kept, alone=alone, note=note)


def _lesion(meaning: str, source: str, lesions: LesionRules | None = None) -> Labels:
    return Labels({1: meaning}, source=source, lesion_rules=lesions)


PUBLISHED: tuple[Published, ...] = (
    Published(
        "BraTS 2013",
        r"brats_2013_\w+|BRATS_[HL]G\d{4}|([HL]G/)?\d{4}",
        _nested(
            {1: "necrosis", 2: "oedema", 3: "non-enhancing tumour", 4: "enhancing tumour"},
            (1, 2, 3, 4),
            (1, 3, 4),
            (4,),
            _ADULT_GLIOMA,
            "BraTS 2013: blog.smir.ch/BRATS/Start2014 (the organisers' page); mdpi.com/1424-8220/25/6/1838, "
            "section 4.1",
        ),
        label=r"OTMultiClass|VSD\.Brain(_3more)?\.XX\.(XX|O)\.OT",
        patient=r"(brats_2013_pat\d+)_\d+",
    ),
    Published(
        "BraTS 2017 to 2021", r"Brats1[789]_\w+|BraTS20_(Training|Validation)_\d{3}|BraTS2021_\d{5}", _UNTIL_2021
    ),
    Published(
        "FeTS 2021 and 2022",
        r"FeTS(20)?2[12]_(Training_)?\d+",
        replace(
            _UNTIL_2021,
            source="FeTS: FeTS-AI/Challenge@1c12265 Task_1/fets_challenge/spec_sens_code.py; MIC-DKFZ/nnUNet@0e49508 "
            "dataset_conversion/Dataset137_BraTS21.py",
        ),
    ),
    Published(
        "UCSF-PDGM",
        r"UCSF-PDGM-\d+(_FU\d+d)?",
        replace(
            _UNTIL_2021,
            source=(
                "UCSF-PDGM: data-nih/tcia release ucsf-pdgm (aligned to BraTS); data set card "
                "determined-ai/3d-brain-mri"
            ),
        ),
        label=r"tumor_segmentation",
        patient=r"(UCSF-PDGM-\d+)",
    ),
    # UPENN-GBM is not here: public loaders disagree whether its enhancing tumour is 3 or 4.
    _since_2023(
        "BraTS 2023 GLI",
        "GLI",
        _ADULT_GLIOMA,
        f"{_METRICS_2023}; MIC-DKFZ/nnUNet@0e49508 Dataset226_BraTS2024-BraTS-GLI.py",
    ),
    _since_2023(
        "BraTS 2024 GLI, after treatment",
        "GLI",
        _TREATED_GLIOMA,
        f"{_METRICS_2024}@f1131e3 metrics_GLI.py; MIC-DKFZ/nnUNet@0e49508 Dataset226_BraTS2024-BraTS-GLI.py",
        cavity=True,
        alone=r"BraTS-GLI-\d{5}-1\d\d",  # the listing of flwrlabs/fed-brats: time points count from 100
        note="BraTS 2024 counts enhancing tumour from 10 mm3 on and other regions from 20; proposed is 20 for all",
    ),
    _since_2023("BraTS-SSA", "SSA", _ADULT_GLIOMA, f"{_METRICS_2023}; {_METRICS_2024}@f1131e3 metrics_SSA.py"),
    _since_2023("BraTS-MEN", "MEN", _MENINGIOMA, f"{_METRICS_2023}; {_METRICS_2024}@f1131e3 metrics_MEN.py"),
    _since_2023(
        "BraTS-MET 2023 and 2024", "MET", _METASTASES, f"{_METRICS_2023}; {_METRICS_2024}@f1131e3 metrics_MET.py"
    ),
    _since_2023(
        "BraTS-MET 2025",
        "MET",
        _METASTASES,
        f"{_METRICS_2024}@f1131e3 metrics_MET.py; public scoring code for 2025 (1 NETC, 2 SNFH, 3 ET, 4 RC)",
        cavity=True,
    ),
    Published(
        "BraTS-PED 2023",
        _BRATS_ID.format("PED"),
        _nested(
            {1: "non-enhancing component", 2: "oedema", 3: "enhancing tumour"},
            (1, 2, 3),
            (1, 3),
            (3,),
            _ADULT_GLIOMA,
            f"BraTS-PED 2023: {_METRICS_2023} (one rule for all of 2023); Kazerooni et al., arXiv 2305.17033",
        ),
        patient=_BRATS_PATIENT,
    ),
    Published(
        "BraTS-PED since 2024",
        _BRATS_ID.format("PED"),
        _nested(
            {1: "enhancing tumour", 2: "non-enhancing tumour", 3: "cystic component", 4: "oedema"},
            (1, 2, 3, 4),
            (1, 2, 3),
            (1,),
            _CHILDREN,
            f"BraTS-PED since 2024: {_METRICS_2024}@7fa0b9e metrics_PED.py; Kazerooni et al., arXiv 2404.15009",
            # The challenge scores NET and ED too. They are what TC and WT hold beyond the regions inside them; were
            # they regions too, a voxel of WT alone could not be painted without making it ED as well.
            CC=3,
        ),
        patient=_BRATS_PATIENT,
    ),
    Published(
        "BraTS-MEN-RT 2024",
        r"BraTS-MEN-RT-\d{4}-\d+",
        _lesion(
            "gross tumour volume",
            f"BraTS-MEN-RT 2024: {_METRICS_2024}@f1131e3 metrics_MEN_RT.py; README of the challenge's data preparation",
            _MENINGIOMA,
        ),
        label=r"gtv",
        patient=r"(BraTS-MEN-RT-\d{4}-\d+)",
    ),
    Published(
        "Decathlon Task01",
        r"BRATS_\d{3}",
        _nested(
            {1: "oedema", 2: "non-enhancing tumour", 3: "enhancing tumour"},
            (1, 2, 3),
            (2, 3),
            (3,),
            _ADULT_GLIOMA,
            "Decathlon Task01: Project-MONAI/tutorials@b3c6c99 modules/dynunet_pipeline/config/dataset_task01.json; "
            "Sllambias/yucca@8156af7 task_conversion/Task031_MSD_BrainTumour.py",
        ),
    ),
    Published(
        "Decathlon Task05",
        r"prostate_\d\d",
        Labels(
            {1: "peripheral zone", 2: "transition zone"},
            source="Decathlon Task05: Project-MONAI/tutorials@b3c6c99 modules/dynunet_pipeline/config/"
            "dataset_task05.json; Ex-o/mri-segmentation@9435d1a Task05_Prostate/dataset.json",
        ),
    ),
    Published(
        "MSSEG 2016",
        r"(.*/)?Cent(er|re)_\d\d[/_]Patient_\d\d",
        _lesion(
            "MS lesion",
            "MSSEG 2016: Sllambias/yucca@8156af7 task_conversion/Task011_MSSEG1.py; the README delivered with the data "
            "(consensus of seven experts)",
        ),
        label=r"(Consensus|ManualSegmentation_\d)",
    ),
    Published(
        "MSSEG-2",
        r"(.*/)?\d{3}",
        _lesion(
            "new MS lesion",
            "MSSEG-2: ivadomed/ms-challenge-2021@043027a README.md; pashtari/xunet@1a2fbc8 bin/dataset.json",
        ),
        label=r"ground_truth",
        image=r".*time0?[12].*",
    ),
    Published(
        "ISBI 2015 longitudinal MS",
        r"(training|test)\d\d_\d\d",
        _lesion(
            "MS lesion",
            "ISBI 2015: pmc.ncbi.nlm.nih.gov/articles/PMC5344762; smart-stats-tools.org/lesion-challenge-2015",
        ),
        label=r"mask\d",
        patient=r"((?:training|test)\d\d)_\d\d",
    ),
    Published(
        "Ljubljana MS data",
        r"patient\d\d",
        _lesion(
            "MS lesion",
            "Ljubljana MS data: muschellij2/open_ms_data@03f4aa8 README.md; its cross_sectional/README.md (Lesjak"
            " et al., "
            "Neuroinformatics, 2017)",
        ),
        label=r"consensus_gt",
        image=r"T1WKS|T1POST",
    ),
    Published(
        "WMH 2017",
        r"(.*/)?(Utrecht|Singapore|Amsterdam)(/\w+)?/\d+",
        Labels(
            {1: "white matter hyperintensity", 2: "other pathology"},
            source=(
                "WMH 2017: hjkuijf/wmhchallenge@10391cb evaluation.py; Sllambias/yucca@8156af7 "
                "task_conversion/Task008_WMH.py"
            ),
        ),
        label=r"wmh",
        question="whether 2, other pathology, is a class or to be ignored: the challenge leaves it out of its scores "
        '(delete it from "labels" and write "ignore": 2 for that)',
    ),
    Published(
        "ISLES 2015 SISS",
        r"(.*/)?\d+",
        _lesion(
            "sub-acute stroke lesion",
            "ISLES 2015: JakubSmid/MRI-ischemic-stroke-segmentation@28c84e0; AzmHmd/ISLES@3629783 README.md",
        ),
        label=r"VSD\.Brain\.XX\.O\.OT",
        image=r"DWI",
    ),
    Published(
        "ISLES 2018",
        r"(.*/)?case_\d+",
        _lesion(
            "infarct",
            "ISLES 2018: pmc.ncbi.nlm.nih.gov/articles/PMC8240494; tureckova/ISLES2018@af40608",
        ),
        label=r"SMIR\.Brain\.XX\.O\.OT",
        image=r"(CT|MR)_(CBF|CBV|MTT|Tmax)",
    ),
    Published(
        "ISLES 2022",
        r"sub-strokecase\d{4}_ses-\d{4}",
        _lesion(
            "infarct",
            "ISLES 2022: Sllambias/yucca@8156af7 task_conversion/Task005_ISLES22.py; ezequieldlrosa/isles22@31b7c8c "
            "README.md",
        ),
        label=r"msk",
    ),
    Published(
        "MyoPS 2020",
        r"myops_(training|test)_\d{3}",
        Labels(
            {
                200: "normal myocardium",
                500: "left ventricle, blood",
                600: "right ventricle, blood",
                1220: "oedema",
                2221: "scar",
            },
            source=(
                "MyoPS 2020: mathpluscode/CineMA@4e352ac cinema/data/myops2020/__init__.py; values of "
                "Case3001_gd.nii.gz in Tengjia-Kang/MyoPS@be32f33"
            ),
        ),
        label=r"gd",
    ),
    Published(
        "ACDC",
        r"(.*/)?patient\d{3}_frame\d\d",
        Labels(
            {1: "right ventricle, blood", 2: "myocardium", 3: "left ventricle, blood"},
            source="ACDC: MIC-DKFZ/nnUNet@0e49508 dataset_conversion/Dataset027_ACDC.py; mathpluscode/CineMA@4e352ac "
            "cinema/data/acdc/__init__.py",
        ),
        label=r"gt",
        patient=r"(?:.*/)?(patient\d{3})_frame\d\d",
        shows="cine",  # the same two sources
    ),
    Published(
        "PI-CAI lesions",
        r"\d{5}_\d{7}",
        Labels(
            {2: "cancer of ISUP grade 2", 3: "ISUP 3", 4: "ISUP 4", 5: "ISUP 5"},
            {"csPCa": (2, 3, 4, 5)},
            exclusive=False,
            source=(
                "PI-CAI: DIAGNijmegen/picai_labels@0108eaa README.md; its clinical_information/marksheet.csv "
                "beside the "
                "values of 10005_1000005"
            ),
        ),
        label=r"csPCa_lesion_delineations/human_expert",
        patient=r"(\d{5})_\d{7}",
    ),
    Published(
        "PI-CAI lesions, drawn by a machine",
        r"\d{5}_\d{7}",
        _lesion(
            "cancer of ISUP grade 2 or more",
            "PI-CAI: DIAGNijmegen/picai_labels@0108eaa README.md; csPCa_lesion_delineations/AI/Bosma22a/README.md"
            " there",
        ),
        label=r"csPCa_lesion_delineations/AI",
        patient=r"(\d{5})_\d{7}",
    ),
    Published(
        "PI-CAI zones",
        r"\d{5}_\d{7}",
        Labels(
            {1: "peripheral zone", 2: "transition zone"},
            source="PI-CAI: DIAGNijmegen/picai_labels@78b863b anatomical_delineations/zonal_pz_tz/AI/HeviAI23/README.md"
            "; ykl-ucla/prostate_zonal_seg README.md (the same numbers, drawn on images of the same hospital)",
        ),
        label=r"zonal_pz_tz",
        patient=r"(\d{5})_\d{7}",
    ),
    Published(
        "HECKTOR",
        r"(CHGJ|CHMR|CHUM|CHUP|CHUS|CHUV|HGJ|HMR|MDA|USZ)-\d{3}",
        Labels(
            {1: "primary tumour (GTVp)", 2: "lymph nodes (GTVn)"},
            source="HECKTOR 2022: BioMedIA-MBZUAI/HECKTOR2025@1df2259 README.md; Project-MONAI/tutorials@b3c6c99 "
            "auto3dseg/tasks/hecktor22/input.yaml",
        ),
    ),
    Published(
        "autoPET",
        r"PETCT_[0-9a-f]{10}[/_].+",
        _lesion(
            "lesion",
            "autoPET: MIC-DKFZ/nnUNet@0e49508 dataset_conversion/Dataset221_AutoPETII_2023.py; lab-"
            "midas/autoPET@468179b "
            "README.md",
        ),
        label=r"seg",
        patient=r"(PETCT_[0-9a-f]{10})",
    ),
    Published(
        "CHAOS, MR",
        r"(.*/)?\d+[/_](T1DUAL|T2SPIR)",
        Labels(
            {63: "liver", 126: "right kidney", 189: "left kidney", 252: "spleen"},
            source=(
                "CHAOS: seamusbarnes/chaos-challenge@0e57396 build_chaos_dataset.py; a public table of abdominal "
                "data sets"
            ),
        ),
    ),
)
RELEASES: Mapping[str, Published] = {of.name: of for of in PUBLISHED}
