"""Label cases with a finished run: classes with their probabilities, or values, as the rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cggm_med import distributed
from cggm_med.device import precision, select_device
from cggm_med.errors import ConfigError, DataError, UnknownName, first_of
from cggm_med.files import did_you_mean
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.types import Padded

Row = dict[str, Any]


class Labeller:
    """A trained run, ready to label.

    Args:
        run: folder of a finished run of a task that reads cases without labels, see ``Task.unlabelled_samples``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Attributes:
        run: its files.
        task: of the run.

    Raises:
        CheckpointError: if the folder is not such a run.
        ConfigError: if its task reads no cases without labels.
    """

    def __init__(self, run: Path, device: str = "auto") -> None:
        self.run = FinishedRun(run)
        task = self.run.make_task({"train": {"device": device}})
        samples = task.unlabelled_samples()
        if samples is None:
            raise ConfigError(
                f"{run} is a run of task '{self.run.task}', which neither segments nor reads cases without labels; "
                f"score labelled ones with 'cggm-med evaluate {run} --data PATH', or write its read_unlabelled"
            )
        self.task, self.samples = task, samples
        self.device = select_device(task.config.train.device)
        self.model = self.run.network(task, self.device).eval()
        self.autocast = precision(task.config.train.precision, self.device)

    def find(
        self,
        path: Path,
        modalities: Sequence[str] | None = None,
        required: Sequence[str] = (),
        say: Callable[[str], Any] = print,
    ) -> dict[str, tuple[str, ...]]:
        """The modalities that each case of a folder or file has.

        Args:
            path: in the task's layout; labels may be absent.
            modalities: to use; default: all of the run's.
            required: that every case must have.
            say: receives lines of progress.

        Raises:
            UnknownName: for a modality that the run was not trained on, or one that is required and not used.
            DataError: if nothing is found, or cases lack what is required; names some of them.
        """
        known = self.task.modalities
        for modality in modalities or ():
            if modality not in known:
                raise UnknownName("modality in this run", modality, known)
        wanted = tuple(m for m in known if m in (modalities or known))
        for modality in required:
            if modality not in wanted:
                raise UnknownName("modality to require", modality, wanted)
        if not path.exists():
            near = did_you_mean(path)
            raise DataError(f"no data at {path}{near}; name a folder or file in the layout of task '{self.run.task}'")
        cases = dict(self.samples.find(path, wanted, say))
        if empty := [case for case, has in cases.items() if not has]:
            raise DataError(
                f"{path}: {len(empty)} cases have none of {', '.join(wanted)}: {first_of(empty)}; leave them out"
            )
        if not cases:
            raise DataError(f"{path} holds nothing of {', '.join(wanted)} in the layout of task '{self.run.task}'")
        if lacking := [f"{case}: no {m}" for case, has in cases.items() for m in required if m not in has]:
            raise DataError(f"{path}: {len(lacking)} required modalities are missing:", lacking, listed=20)
        return cases

    def label(self, cases: Mapping[str, Sequence[str]]) -> list[Row]:
        """What the run predicts for cases, in their order; several processes (torchrun) share them.

        A case that cannot be read does not stop the others.

        Args:
            cases: from ``find``.

        Returns:
            Rows with ``case``, ``present`` and ``absent`` (names joined by ``+``), what the task says of its labels,
            and ``failed``, the reason why nothing is said.
        """
        mine = list(cases)[distributed.rank() :: distributed.world_size()]
        rows: dict[str, list[Row]] = {}
        for subset in dict.fromkeys(tuple(cases[case]) for case in mine):
            of_subset = [case for case in mine if tuple(cases[case]) == subset]
            absent = [m for m in self.task.modalities if m not in subset]
            start = {"present": "+".join(subset), "absent": "+".join(absent)}
            size = self.task.config.train.batch_size
            for first in range(0, len(of_subset), size):
                for case, said, reason in self._labelled(of_subset[first : first + size]):
                    rows[case] = [{"case": case, **start, **row, "failed": reason} for row in said]
        together: dict[str, list[Row]] = {}
        for part in distributed.gather_json(rows, self.device):
            together |= part
        return [row for case in cases for row in together[case]]

    def _labelled(self, cases: Sequence[str]) -> list[tuple[str, Sequence[Mapping[str, Any]], str]]:
        """Of each case, what is said of it, or an empty row and the reason."""
        found: list[tuple[str, Sequence[Mapping[str, Any]], str]] = []
        loaded: dict[str, Mapping[str, Tensor]] = {}
        for case in cases:
            try:
                loaded[case] = self.samples.load(case)
            except DataError as error:
                found.append((case, [{}], str(error)))
        if not loaded:
            return found
        inputs = {m: _to(x, self.device) for m, x in self.samples.stack(list(loaded.values())).items()}
        with torch.no_grad(), self.autocast():
            logits = self.model(inputs)
        lengths = [x.valid.sum(1).tolist() for x in inputs.values() if isinstance(x, Padded)]
        for i, (case, one) in enumerate(zip(loaded, logits.float().cpu(), strict=True)):
            whole = one[:, : lengths[0][i]] if one.ndim > 1 and lengths else one
            if torch.isfinite(whole).all():
                found.append((case, self.samples.rows(whole), ""))
            else:
                found.append((case, [{}], "the prediction is NaN or infinite; look at this case"))
        return found


def _to(x: Tensor | Padded, device: torch.device) -> Tensor | Padded:
    return Padded(x.values.to(device), x.valid.to(device)) if isinstance(x, Padded) else x.to(device)
