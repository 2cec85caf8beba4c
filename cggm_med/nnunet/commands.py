"""nnU-Net's own commands in an environment that is set for them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from cggm_med.config import Tree
from cggm_med.errors import ConfigError

EXTERNAL = "nnUNet_extTrainer"  # folders in which nnU-Net looks for trainers
FOLDERS = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}


def folders_of(folder: Path | None) -> dict[str, str]:
    """Where nnU-Net's environment variables shall point; ``folder`` as in ``run``."""
    default = Path("nnunet") if folder is None else folder
    chosen = {variable: str((default / name).absolute()) for variable, name in FOLDERS.items()}
    if folder is None:
        chosen |= {variable: os.environ[variable] for variable in FOLDERS if variable in os.environ}
    return chosen


def run(command: str, words: list[str], folder: Path | None, settings: Tree | None = None) -> None:
    """Run one of nnU-Net's own commands.

    Args:
        command: such as ``nnUNetv2_train``.
        words: its arguments.
        folder: holds raw, preprocessed and results; default: those of the environment, else ``./nnunet``.
        settings: of our trainers, sections ``strategy`` and ``train``.

    Raises:
        ConfigError: for settings that the trainer does not have, and for a plan of no data set.
    """
    from cggm_med.nnunet.settings import VARIABLE, resolve

    if command == "nnUNetv2_plan_and_preprocess" and not {"-d", "-h", "--help"} & set(words):
        raise ConfigError("no data set is named; say which with -d, such as -d 900")
    (script,) = entry_points(group="console_scripts", name=command)
    with _nnunet(command, words, folder):
        if settings:
            resolve(_strategy_of(words), settings)
            os.environ[VARIABLE] = json.dumps(settings)
        script.load()()


def predict(
    words: list[str], folder: Path | None, absent: Sequence[str], allow_missing: bool, say: Callable[[str], None]
) -> None:
    """Run nnU-Net's prediction, also of cases that lack modalities.

    Args:
        words: arguments of ``nnUNetv2_predict``.
        folder: see ``run``.
        absent: modalities that no case is to be predicted from.
        allow_missing: whether a case may lack other modalities too.
        say: told what is absent.

    Raises:
        ConfigError: if the model cannot do without a modality.
        UnknownName: for a modality that it does not have.
        DataError: if cases lack a modality that is not said to be absent; names every one.
    """
    with _nnunet("nnUNetv2_predict", words, folder):
        from nnunetv2.inference import predict_from_raw_data as theirs

        from cggm_med.nnunet.prediction import Asked, IncompletePredictor

        predictor = type("Predictor", (IncompletePredictor,), {"asked": Asked(absent, allow_missing, say)})
        before, theirs.nnUNetPredictor = theirs.nnUNetPredictor, predictor  # which the command makes itself
        try:
            theirs.predict_entry_point()
        finally:
            theirs.nnUNetPredictor = before


@contextlib.contextmanager
def _nnunet(command: str, words: list[str], folder: Path | None) -> Iterator[None]:
    """nnU-Net as its command would find it: folders, our trainers, an importable torchvision, and its arguments."""
    from cggm_med.torchvision_repair import repair_torchvision

    os.environ.update(folders_of(folder))
    ours = str(Path(__file__).parent / "external")
    others = [path for path in os.environ.get(EXTERNAL, "").split(os.pathsep) if path and path != ours]
    os.environ[EXTERNAL] = os.pathsep.join([*others, ours])
    repair_torchvision()
    _load_lazy_modules()
    before, sys.argv = sys.argv, [command, *words]
    try:
        yield
    finally:
        sys.argv = before


def _load_lazy_modules() -> None:
    """Have modules that load others when they are looked at do so now; transformers 5 has some.

    nnU-Net 2.8 asks every module where it comes from while it walks through ``sys.modules``, which must not grow.
    """
    known = 0
    while known < len(sys.modules):
        known = len(sys.modules)
        for module in list(sys.modules.values()):
            _ = getattr(module, "__file__", None) or getattr(module, "__path__", None)


def _strategy_of(words: list[str]) -> str:
    """Registered name of the strategy of the trainer that nnU-Net's arguments name."""
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    name = words[words.index("-tr") + 1] if "-tr" in words[:-1] else "nnUNetTrainer"
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells again where it searches when it trains
        try:
            trainer = recursive_find_trainer_class_by_name(name)
        except RuntimeError:  # nnU-Net found none of this name
            trainer = None
    strategy = getattr(trainer, "strategy_name", None)
    if strategy is None:
        raise ConfigError(
            f"no trainer {name} that takes settings; leave out --set, or name one such as -tr nnUNetTrainerCGGM"
        )
    return str(strategy)
