"""nnU-Net's prediction, also of cases that lack modalities: what there is is checked first, and the network told."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from cggm_med.errors import ConfigError, DataError, UnknownName, counted
from cggm_med.nnunet.preprocessing import DIGITS, IncompleteConfiguration
from cggm_med.nnunet.trainer import KEY
from cggm_med.training.checkpoint import read_tensors
from cggm_med.trees import parse_json


@dataclass(frozen=True)
class Asked:
    """What the user says of a prediction.

    Attributes:
        absent: modalities that no case is to be predicted from, whether there are files or not.
        allow_missing: whether a case may lack other modalities too.
        say: told what is absent.
    """

    absent: Sequence[str]
    allow_missing: bool
    say: Callable[[str], None]


class IncompletePredictor(nnUNetPredictor):
    """nnU-Net's predictor; with models of our trainers it refuses cases that lack a channel nobody said is absent.

    Attributes:
        asked: what the user says, of a subclass, since nnU-Net makes the predictor itself.
    """

    asked: ClassVar[Asked]
    network: Any
    configuration_manager: Any

    def initialize_from_trained_model_folder(
        self, model_training_output_dir: str, use_folds: Any, checkpoint_name: str = "checkpoint_final.pth"
    ) -> None:
        """Load the model, and prepare it for what may be absent.

        Raises:
            CheckpointError: if a checkpoint of our trainers holds more than tensors and numbers.
            ConfigError: if there is no model, or one that cannot do without a modality, and for all that are absent.
            UnknownName: for a modality that the model does not have.
        """
        folder = Path(model_training_output_dir)
        trainer = folder.name.split("__")[0]
        try:
            plans = parse_json((folder / "plans.json").read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"no model is in {folder}; name the -d, -tr, -p and -c of a training that has finished"
            ) from None
        self.modalities: list[str] = plans.get(KEY, {}).get("modalities", [])
        incomplete = bool(self.asked.absent) or self.asked.allow_missing
        if incomplete:
            self._require_fusion(trainer)
        files = {fold: folder / f"fold_{fold}" / checkpoint_name for fold in use_folds}
        if lacking := [str(fold) for fold, file in files.items() if not file.is_file()]:
            raise ConfigError(
                f"{folder} has no {checkpoint_name} of fold {', '.join(lacking)}; name the folds that were trained, "
                "such as -f 0"
            )
        # nnU-Net itself would execute what a checkpoint says; of our trainers' nothing but tensors and numbers gets by.
        checkpoints = (read_tensors(file, torch.device("cpu")) for file in files.values() if self.modalities)
        trained = [checkpoint[KEY]["settings"]["train"] for checkpoint in checkpoints]
        super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        if incomplete:
            self.network.may_lack = True
            self.configuration_manager = IncompleteConfiguration(self.configuration_manager.configuration)
            if not (trained[0].get("subset_view") or trained[0].get("modality_dropout")):
                self.asked.say(
                    f"{trainer} was trained without subsets of the modalities, so masks without one may be poor; "
                    "nnUNetTrainerSubsets trains for that"
                )

    def _require_fusion(self, trainer: str) -> None:
        """Refuse models that need every channel, and wrong names."""
        if not self.modalities:
            raise ConfigError(
                f"a network of {trainer} needs every channel, so none can be absent; predict with a model of "
                "nnUNetTrainerSubsets, or leave out --absent and --allow-missing"
            )
        for name in self.asked.absent:
            if name not in self.modalities:
                raise UnknownName("modality in this model", name, self.modalities)
        if set(self.asked.absent) == set(self.modalities):
            raise ConfigError(f"--absent names all of {', '.join(self.modalities)}; leave one to predict from")

    @functools.wraps(nnUNetPredictor.predict_from_files)
    def predict_from_files(self, source: str, *rest: Any, **more: Any) -> Any:
        """The same from the files that are to be used; nnU-Net writes their names beside the masks."""
        return super().predict_from_files(self._files(source), *rest, **more)

    @functools.wraps(nnUNetPredictor.predict_from_files_sequential)
    def predict_from_files_sequential(self, source: str, *rest: Any, **more: Any) -> Any:
        """See ``predict_from_files``."""
        return super().predict_from_files_sequential(self._files(source), *rest, **more)

    def _files(self, source: str) -> str | list[list[str]]:
        """The files of each case that are to be used; of other trainers' models the folder, for nnU-Net to read."""
        if not self.modalities:
            return source
        cases = self._cases(Path(source))
        if problems := [problem for case, files in cases.items() for problem in self._problems(case, files)]:
            raise DataError(
                f"these cases do not fit the model, which has {', '.join(self.modalities)}; say with --absent what all "
                "lack, or with --allow-missing that each may lack something:",
                problems,
            )
        used = [[f for m, f in files.items() if m not in self.asked.absent] for files in cases.values()]
        for modality in self.modalities:
            count = sum(modality in self.asked.absent or modality not in files for files in cases.values())
            if count:
                self.asked.say(f"{modality} is absent in {count} of {counted(len(cases), 'case')}")
        return used

    def _cases(self, folder: Path) -> dict[str, dict[str, str]]:
        """The file of each modality, or of a channel that the model does not have, by case."""
        ending = self.dataset_json["file_ending"]
        name = re.compile(rf"(.+)_(\d{{{DIGITS}}}){re.escape(ending)}")
        cases: dict[str, dict[str, str]] = defaultdict(dict)
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if match := name.fullmatch(file.name):
                channel = dict(enumerate(self.modalities)).get(int(match[2]), f"channel {match[2]}")
                cases[match[1]][channel] = str(file)
        if not cases:
            raise DataError(f"{folder} holds no image of a channel, such as case_0000{ending}; name another with -i")
        return dict(sorted(cases.items()))

    def _problems(self, case: str, files: dict[str, str]) -> list[str]:
        if strange := [channel for channel in files if channel not in self.modalities]:
            return [f"{case}: {', '.join(strange)}, and the model has {len(self.modalities)}, from 0000"]
        wanted = [m for m in self.modalities if m not in self.asked.absent]
        if lacks := [m for m in wanted if m not in files]:
            if lacks == wanted:
                return [f"{case}: nothing of {', '.join(wanted)}"]
            return [] if self.asked.allow_missing else [f"{case}: no {', '.join(lacks)}"]
        return []
