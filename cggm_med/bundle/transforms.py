"""What ``predict`` checks of a scan and says of its mask, as MONAI transforms: for bundles."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from cggm_med.data.cases import stem
from cggm_med.data.checks.finding import Finding, decide, merged, require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.known import Known, findings_of_scan, require_usable
from cggm_med.data.volumes.background import background_of
from cggm_med.data.volumes.components import Kept
from cggm_med.data.volumes.io import digest_of_image
from cggm_med.data.volumes.monai_reader import ACCEPT
from cggm_med.data.volumes.transforms import HELD, READ, PrepareScand, SameGridWriter, convention_of
from cggm_med.files import digest_of, write_json
from cggm_med.inference.mask_record import mask_record

EXCHANGED = "exchanged_modalities"
SCAN, RECORD = "scan", "mask_record"  # where metadata keep what is said of a scan, and of its mask, as JSON


def read_run() -> dict[str, Any]:
    """What this bundle knows of its run, see ``run_facts``; less where its weights are others than were exported."""
    models = Path(__file__).resolve().parents[2] / "models"
    facts: dict[str, Any] = json.loads((models / "run.json").read_text(encoding="utf-8"))
    weights = digest_of((models / "model.pt").read_bytes())
    if weights != facts["model"]:
        measured_on = "nothing: the weights are not those that were exported"
        nothing = {"expected_dice": None, "temperature": None, "measured_on": measured_on}
        facts |= {"weights": weights, "ensemble": None, "expected": {}, "expected_otherwise": nothing}
    return facts


class PrepareCheckedScand(MapTransform):
    """``PrepareScand`` that refuses scans, and tells what is odd about them, as ``predict`` does.

    Args:
        keys: of images ``(modality, x, y, z)``.
        modalities: what the channels show, in order.
        run: what is known of the run, see ``run_facts``.
        spacing: see ``PrepareScand``.
        rescaling: see there.
        accept: kinds of findings that do not speak against the use of a scan: one, or several.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        modalities: Sequence[str],
        run: Mapping[str, Any],
        spacing: Sequence[float] | None = None,
        rescaling: Mapping[str, Mapping[str, float]] | None = None,
        accept: str | Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        self.prepare = PrepareScand(keys, modalities, spacing, rescaling)
        self.accept = ensure_tuple(accept)
        require_known(self.accept, KINDS.values())
        self.order, self.known = run["modalities"], Known.from_facts(run["facts"])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its images prepared; what is known of the scan travels in their metadata.

        Raises:
            DataError: see ``PrepareScand``; and for a scan whose images clearly fit other names better, or show another
                fault that nobody accepted.
        """
        started = time.perf_counter()
        prepared = self.prepare(data)
        held = data[HELD].split("+") if HELD in data else list(self.prepare.modalities)
        for key in self.key_iterator(prepared):
            image = data[key]
            unread = {"started": started, "files": [], "findings": [], "resampled": [], "resampled_to": None}
            read = json.loads(image.meta[READ]) if READ in image.meta else unread
            name = Path(str(image.meta.get("filename_or_obj", key))).name
            scan = self._checked(str(data.get("case", stem(name) or name)), image, held, read)
            scan["prepared"] = time.perf_counter()
            prepared[key].meta[SCAN] = json.dumps(scan)
        return prepared

    def _checked(self, case: str, image: MetaTensor, held: Sequence[str], read: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of a scan, if it may be used."""
        given = [m for m in self.order if m in held]
        volumes = image.as_tensor().float().numpy()
        images = {m: volumes[held.index(m)] for m in given}
        backgrounds = {m: background_of(of, self.prepare.rescalings.get(m)) for m, of in images.items()}
        # One file for each modality, or one with all of them.
        roles = [(m,) for m in held] if len(read["files"]) == len(held) else [tuple(held)]
        of_files = merged(
            replace(finding, case=case, roles=finding.roles or of)
            for of, found in zip(roles, read["findings"], strict=False)
            for finding in (Finding.of_record(record, KINDS) for record in found)
        )
        affine = image.affine.numpy().astype(np.float64)
        odd = findings_of_scan(case, images, affine, backgrounds, self.known)
        trust = ACCEPT.replace("KIND", EXCHANGED)
        require_usable(case, odd, of_files, self.accept, accept=ACCEPT, trust_names=trust)
        # Those of the files were told when they were read.
        decide(odd, self.accept, lambda line: warnings.warn(line, stacklevel=4), accept=ACCEPT)
        digests = {file: digest_of_image(Path(file)) for file in dict.fromkeys(read["files"])}
        by_role = {m: digests[file] for of, file in zip(roles, read["files"], strict=False) for m in of}
        return {
            "case": case,
            "modalities": given,
            "inputs": {m: by_role[m] for m in given if m in by_role},
            "resampled": read["resampled"],
            "resampled_to": read["resampled_to"],
            "findings": [finding.record(self.accept) for finding in (*of_files, *odd)],
            "trust_names": EXCHANGED in self.accept,
            "started": read["started"],
        }


class DescribeMaskd(MapTransform):
    """Say of a mask what ``predict`` says in the file beside it; it travels in the mask's metadata.

    Args:
        keys: of masks ``(1, x, y, z)`` on the grid of their files, of a scan that ``PrepareCheckedScand`` prepared.
        convention: see ``RegionsToLabelsd``.
        run: see ``PrepareCheckedScand``.
        device: that segmented.
        components: see ``RegionsToLabelsd``.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        convention: Mapping[str, Any],
        run: Mapping[str, Any],
        device: str | torch.device,
        components: Mapping[str, Kept] | None = None,
    ) -> None:
        super().__init__(keys)
        self.convention, self.run, self.device = convention_of(convention), run, torch.device(device)
        self.components = dict(components or {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample, its masks described."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            mask = changed[key]
            scan = json.loads(mask.meta[SCAN])
            times = {
                "reading": scan["prepared"] - scan["started"],
                "segmenting": time.perf_counter() - scan["prepared"],
            }
            record = mask_record(
                mask.as_tensor().numpy()[0],
                mask.affine.numpy().astype(np.float64),
                self.convention,
                run=self.run,
                scan=scan,
                device=self.device,
                seconds=times,
                components=self.components,
                expected=self.run["expected"].get("+".join(scan["modalities"]), self.run["expected_otherwise"]),
            )
            changed[key] = MetaTensor(mask.as_tensor(), meta={**mask.meta, RECORD: json.dumps(record)})
        return changed


class DescribedMaskWriter(SameGridWriter):
    """Writes a mask and, before it, a JSON file of the same name with what ``DescribeMaskd`` said of it."""

    record: str | None = None

    def set_metadata(self, meta_dict: Mapping[str, Any] | None = None, resample: bool = True, **options: Any) -> None:
        """Takes what is said of the mask beside what MONAI takes."""
        self.record = (meta_dict or {}).get(RECORD)
        super().set_metadata(meta_dict=meta_dict, resample=resample, **options)

    def write(self, filename: str | Path, verbose: bool = False, **options: Any) -> None:
        """Both files, or none.

        Raises:
            OutputError: if the JSON file cannot be written.
        """
        mask = Path(filename)
        beside = mask.with_name(f"{stem(mask.name)}.json")
        if self.record is not None:
            write_json(beside, json.loads(self.record))
        try:
            super().write(filename, verbose=verbose, **options)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
