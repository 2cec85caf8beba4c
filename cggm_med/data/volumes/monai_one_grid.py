"""Loading a case whose images lie on different grids onto one of them, as a MONAI transform: for bundles."""

from __future__ import annotations

import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.checks.finding import lines, objections, require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.volumes.monai_reader import ACCEPT, how_read
from cggm_med.data.volumes.resample import no_reference, read_on_one_grid
from cggm_med.data.volumes.transforms import HELD, READ
from cggm_med.errors import DataError


class LoadOnOneGridd(MapTransform):
    """Load the files of an item of ``case_items``; where their grids differ, onto that of the reference modality.

    A sample that lacks this modality is brought onto the grid of its first image, with a warning, as prediction does.

    Args:
        keys: of the files: one for each modality, or one whose channels are the modalities.
        modalities: in order; an item that lacks some names those that it has under ``HELD``.
        reference: modality to whose grid the others are resampled.
        accept: kinds of findings that do not speak against the use of a file: one, or several.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        modalities: Sequence[str],
        reference: str,
        accept: str | Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        self.modalities, self.reference, self.accept = tuple(modalities), reference, ensure_tuple(accept)
        require_known(self.accept, KINDS.values())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its images ``(modality, x, y, z)`` loaded.

        Raises:
            DataError: if a file cannot be used, or an image covers less than half of the grid.
        """
        changed = dict(data)
        held = changed[HELD].split("+") if HELD in changed else self.modalities
        for key in self.key_iterator(changed):
            started = time.perf_counter()
            files = [Path(file) for file in ensure_tuple(changed[key])]
            stacked = len(files) == 1 < len(held)
            paths = files * len(held) if stacked else files
            channels = range(len(held)) if stacked else [None] * len(held)
            images = {m: ImageFile(*of) for m, of in zip(held, zip(paths, channels, strict=True), strict=True)}
            name = str(changed.get("case", files[0].name))
            found, scan = read_on_one_grid(Case(name, name, images, None), None, self.reference)
            objecting = objections(found.findings, self.accept, accept=ACCEPT)
            if scan is None or objecting:
                problems = [*(found.problems if scan is None else ()), *objecting]
                raise DataError(f"{name} cannot be segmented; expected finite voxels:", problems)
            findings = (*found.findings, *scan.findings, *no_reference(name, scan, self.reference))
            for line in lines(findings):
                warnings.warn(line, stacklevel=2)
            volumes = torch.from_numpy(np.stack([scan.volumes[m] for m in images]))
            affine = torch.from_numpy(scan.affines[scan.role if scan.resampled else next(iter(images))])
            file = str(images[scan.role].path)
            records = [finding.record(self.accept) for finding in findings]
            onto = scan.role if scan.resampled else None
            read = how_read(started, files, [records], scan.resampled, onto)
            changed[key] = MetaTensor(volumes, affine=affine, meta={"filename_or_obj": file, READ: read})
        return changed
