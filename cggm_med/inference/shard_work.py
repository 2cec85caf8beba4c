"""Segment the cases of a shard with a finished run: masks in sub-folders, and a row of the manifest for each."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.cases import ImageFile
from cggm_med.data.dicom.series import holds_dicom
from cggm_med.data.folders.streamed import Listed, folder_of
from cggm_med.data.volumes.io import require_image_name
from cggm_med.errors import DataError, UnknownName, counted, first_of
from cggm_med.files import pieces
from cggm_med.inference.batch import cohort_rows, find_images, require_extras, require_outputs, segment_each
from cggm_med.inference.predictor import Predictor, PreprocessedCase
from cggm_med.inference.side_car import cohort_cells, read_side_car
from cggm_med.results.results import Record


@dataclass
class ShardWork:
    """What ``predict`` does with each case of a shard; see ``shards.Work``.

    Attributes:
        predictor: the run.
        folder: of the masks.
        ending: of each mask.
        modalities: to use; default: all of the run's.
        required: that every case must have.
        extras: further outputs, see `predict_cases`.
        review_below: see `cohort_rows`.
        say: receives lines of progress.
    """

    predictor: Predictor
    folder: Path
    ending: str = ".nii.gz"
    modalities: Sequence[str] | None = None
    required: Sequence[str] = ()
    extras: Sequence[str] = ()
    review_below: float | None = None
    say: Callable[[str], None] = print
    _given: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no case could satisfy.

        Raises:
            UnknownName: for a modality that the run does not have, a required one that is not used, or an extra.
            CheckpointError, ConfigError: see `predict_cases`.
        """
        known = self.predictor.task.modalities
        for modality in self.modalities or ():
            if modality not in known:
                raise UnknownName("modality in this run", modality, known)
        for modality in self.required:
            if modality not in self._wanted:
                raise UnknownName("modality to require", modality, self._wanted)
        require_extras(self.predictor, self.extras)
        require_image_name(self.mask_of("case"))

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Those of ``cohort.csv`` in their order, with all that any case may have; then of the mask's file."""
        known, regions = self.predictor.task.modalities, self.predictor.task.targets
        cells = cohort_cells(
            {
                "case": "",
                "weights": "",
                "device": "",
                "seconds": dict.fromkeys(("reading", "segmenting")),
                "modalities": (),
                "absent": (),
                "inputs": dict.fromkeys(known),
                "volume_ml": dict.fromkeys(regions),
                "lesion_count": dict.fromkeys(regions),
                "findings": (),
            }
        )
        judged = () if self.review_below is None else ("quality", "review")
        return tuple(dict.fromkeys(("case", "present", "absent", "failed", *cells, *judged, "mask", "sha256")))

    def mask_of(self, case: str) -> Path:
        """Where the mask of a case lies, or will lie."""
        return self.folder / folder_of(case) / f"{case}{self.ending}"

    def there(self, case: Listed) -> Record | None:
        """The row of a mask that this very run wrote, as the file beside it tells; else None."""
        facts = read_side_car(self.mask_of(case.name)) if self.mask_of(case.name).is_file() else None
        return self._row(case.name, None) if facts and facts.get("weights") == self.predictor.digest else None

    def __call__(self, cases: Iterable[Listed]) -> Iterator[Record]:
        """Segment cases as they come; the row of each follows its mask."""
        readings = ((case.name, functools.partial(self._read, case)) for case in cases)
        odd: Counter[str] = Counter()
        segmented = segment_each(self.predictor, readings, self.mask_of, extras=self.extras, say=self.say)
        for case, reason, findings in segmented:
            odd.update({finding.kind.name for finding in findings})
            yield self._row(case, reason)
        if odd:
            counts = ", ".join(f"{kind} in {counted(n, 'case')}" for kind, n in odd.most_common())
            self.say(f"found: {counts}; the files beside the masks say more")

    @property
    def _wanted(self) -> tuple[str, ...]:
        return tuple(self.modalities or self.predictor.task.modalities)

    def _read(self, case: Listed) -> PreprocessedCase:
        images = self._images(case)
        self._given[case.name] = tuple(images)
        require_outputs([self.mask_of(case.name)], self.extras, [image.path for image in images.values()])
        return self.predictor.read(case.name, images)

    def _images(self, case: Listed) -> dict[str, ImageFile]:
        if case.folder is None:
            if lacking := [modality for modality in self.required if modality not in case.images]:
                raise DataError(f"{case.name}: no {', '.join(lacking)} in its row; add the files, or leave out the row")
            return {m: ImageFile(file) for m, file in case.images.items() if m in self._wanted}
        try:
            found = find_images(self.predictor, case.folder, self.modalities, self.required)
        except DataError:
            if holds_dicom(case.folder):
                raise DataError(f"{case.folder} holds DICOM, which --shard does not read; convert it first") from None
            raise
        if len(found) != 1:
            raise DataError(
                f"{case.folder} holds {len(found)} cases ({first_of([*found], 3)}); expected one, named as its folder; "
                "or give a table with a row for each"
            )
        return next(iter(found.values()))

    def _row(self, case: str, reason: str | None) -> Record:
        """The row of ``cohort.csv``, and where the mask lies."""
        mask, given = self.mask_of(case), self._given.pop(case, ())
        failed = {} if reason is None else {case: reason}
        (row,) = cohort_rows(self.predictor, {case: given}, {case: mask}, failed, self.review_below)
        if reason is not None:
            # Of a case whose files were not even found, nobody knows what is absent.
            return row if given else {"case": case, "failed": reason}
        digest = hashlib.sha256()
        for piece in pieces(mask):
            digest.update(piece)
        return {**row, "mask": mask.relative_to(self.folder).as_posix(), "sha256": digest.hexdigest()}
