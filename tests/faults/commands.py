"""What train, predict and evaluate say of one case among sound ones, without training: their own checks, in order.

A network's own numbers play no part in the checks, so that none is trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.checks.cohort import findings_among, findings_beside, learn, usual_among
from cggm_med.data.checks.finding import Finding, standing
from cggm_med.data.checks.known import Known, findings_of_scan
from cggm_med.data.volumes.background import background_value
from cggm_med.data.volumes.io import write_volume
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.data.volumes.preprocess import Preprocessing, prepare
from cggm_med.data.volumes.resample import read_on_one_grid
from cggm_med.errors import DataError
from faults.catalogue import SEG, Scans

BRATS2021 = LabelConvention(
    name="brats2021",
    meanings={1: "necrotic core", 2: "oedema", 4: "enhancing tumour"},
    regions={"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    paint={"WT": 2, "TC": 1, "ET": 4},
)
LESION = LabelConvention("lesion", {1: "lesion"}, {"lesion": (1,)}, {"lesion": 1})


@dataclass(frozen=True)
class Answer:
    """What a command says of a case.

    Attributes:
        outcome: ``stopped``, ``told`` or ``nothing``.
        kinds: of the findings; ``problem`` for what no kind stands for.
    """

    outcome: str
    kinds: tuple[str, ...]

    def record(self) -> dict[str, object]:
        """For a file."""
        return {"outcome": self.outcome, "kinds": list(self.kinds)}

    @classmethod
    def of(cls, findings: Sequence[Finding]) -> Answer:
        kinds = tuple(sorted({finding.kind.name for finding in findings}))
        return cls("stopped" if standing(findings, ()) else "told" if findings else "nothing", kinds)


def write_case(folder: Path, id: str, scans: Scans) -> Case:
    """Write a case's files and describe them."""
    files = {}
    for role, (voxels, affine) in scans.items():
        files[role] = folder / id / f"{id}_{role}.nii.gz"
        write_volume(files[role], np.ascontiguousarray(voxels), affine, units=("mm", "sec"))
    images = {role: ImageFile(path) for role, path in files.items() if role != SEG}
    return Case(id, id, images, files.get(SEG))


@dataclass(frozen=True)
class Cohort:
    """Sound cases that were prepared, beside which others are judged.

    Attributes:
        folder: for files.
        cases: prepared.
        preprocessing: of them.
    """

    folder: Path
    cases: tuple[PreparedCase, ...]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, folder: Path, cases: Mapping[str, Scans], convention: LabelConvention = BRATS2021) -> Cohort:
        """Write and prepare sound cases."""
        modalities = tuple(role for role in next(iter(cases.values())) if role != SEG)
        preprocessing = Preprocessing(modalities, convention)
        written = [write_case(folder, id, scans) for id, scans in cases.items()]
        return cls(folder, tuple(prepare(written, preprocessing, folder / "cache")), preprocessing)

    @functools.cached_property
    def known(self) -> Known:
        """What a run that learned from the cases knows of them."""
        return Known(learn(self.cases, self.preprocessing.modalities), usual_among(self.cases))

    def train(self, id: str, scans: Scans, side: str = "train") -> Answer:
        """Of a case among the others, which are trained on."""

        def judge(case: PreparedCase) -> list[Finding]:
            all_cases = (*self.cases, case)
            sides = {other.id: "train" for other in self.cases} | {case.id: side}
            found = findings_among(all_cases, self.preprocessing.modalities, sides, {})
            return [finding for finding in found if id in finding.case.split(", ")]

        return self._prepared(id, scans, judge)

    def evaluate(self, id: str, scans: Scans) -> Answer:
        """Of a case beside those that a run learned from."""
        return self._prepared(id, scans, lambda case: findings_beside([case], self.known))

    def _prepared(self, id: str, scans: Scans, judge: Callable[[PreparedCase], list[Finding]]) -> Answer:
        case = write_case(self.folder / "faulty", id, scans)
        try:
            (prepared,) = prepare([case], self.preprocessing, self.folder / "cache")
        except DataError:
            return Answer("stopped", ("problem",))
        return Answer.of([*prepared.findings, *judge(prepared)])

    def predict(self, id: str, scans: Scans) -> Answer:
        """Of a case's images beside those that a run learned from."""
        case = write_case(self.folder / "faulty", id, {role: scan for role, scan in scans.items() if role != SEG})
        try:
            found, scan = read_on_one_grid(case, None, None)
        except DataError:
            return Answer("stopped", ("problem",))
        if scan is None or standing(found.findings, ()):
            return Answer("stopped", ("problem",))
        given = self.preprocessing.modalities
        images = {m: scan.volumes[m] for m in given}
        empty = {m: background_value(image) for m, image in images.items()}
        affine = scan.affines[given[0]]
        return Answer.of([*found.findings, *findings_of_scan(id, images, affine, empty, self.known)])
