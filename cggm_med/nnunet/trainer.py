"""nnU-Net trainers with one encoder for each modality and a balancing strategy in the training step.

nnU-Net decides everything else: plan, patches, augmentation, loss, learning rate, validation and prediction. The one
module that imports nnU-Net; nnU-Net finds it through the folder ``external`` (ADR 0016).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from cggm_med import distributed, registry
from cggm_med.config import OptimConfig, Tree, differences
from cggm_med.device import number_format, precision
from cggm_med.errors import CheckpointError, ConfigError, DataError, NonFiniteLoss
from cggm_med.files import atomic_file
from cggm_med.models.heads import UnimodalHeads, VoxelwiseHead
from cggm_med.nnunet.network import PlannedNetwork, channel_modalities, initialise, network_from_plan
from cggm_med.nnunet.settings import Settings, given, resolve
from cggm_med.objectives.balance_scores import hard_dice_sums, soft_dice_sums, softmax_dice_sums
from cggm_med.objectives.targets import UNKNOWN, subsample
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.runs.settings import as_trained
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.training.checkpoint import read_tensors
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.step import train_step
from cggm_med.types import Batch

KEY = "cggm_med"  # of what we add to nnU-Net's plans and checkpoints
MOMENTUM, CLIP_NORM = 0.99, 12.0  # nnU-Net's


class BalancedTrainer(nnUNetTrainer):
    """Base of the trainers; a subclass names its strategy.

    The names of the modalities are those of the channels in ``dataset.json``. They are added to the plans, which
    nnU-Net stores beside the results and hands to ``build_network_architecture``, also when it predicts.

    Attributes:
        strategy_name: registered name of the strategy.
        settings: of the training; from the environment, or from the checkpoint that it continues.
    """

    strategy_name: ClassVar[str]

    def __init__(
        self,
        plans: Tree,
        configuration: str,
        fold: int | str,
        dataset_json: Tree,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        self.settings = resolve(self.strategy_name, given())
        plans[KEY] = {"modalities": list(channel_modalities(dataset_json))}
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.is_cascaded:
            raise ConfigError(f"{type(self).__name__} cannot train with a cascade; use one of nnU-Net's own trainers")
        # Strategies read gradients as they are: theirs would come in another unit from nnU-Net's scaler (ADR 0002).
        self.grad_scaler = None
        self.steps_done = 0

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network, for training and for prediction."""
        modalities = plans_manager.plans.get(KEY, {}).get("modalities", ())
        if len(modalities) != num_input_channels:
            raise DataError(
                f"the plans name {len(modalities)} modalities for an image of {num_input_channels} channels; expected "
                f"the plans.json that this trainer wrote beside its results, with the key '{KEY}'"
            )
        network = network_from_plan(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            modalities,
            num_output_channels,
        )
        network.deep_supervision = enable_deep_supervision
        return network

    def initialize(self) -> None:
        """Create network, strategy and optimizer, as long a training as the settings say."""
        length = self.settings.train
        self.num_epochs, self.num_iterations_per_epoch = length.epochs, length.steps_per_epoch
        self.num_val_iterations_per_epoch, self.save_every = length.validation_steps, length.checkpoint_every
        super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """nnU-Net's optimizer and schedule, with a group of parameters for each modality and one for the heads."""
        model, outputs = self.planned.model, self.label_manager.num_segmentation_heads
        strategy = registry.load(registry.STRATEGIES, self.strategy_name)(self.settings.strategy)
        self.strategy: BalancingStrategy = strategy
        self.strategy.setup(
            model,
            lambda: UnimodalHeads({m: VoxelwiseHead(model.channels, outputs) for m in model.modalities}),
            self._score_sums,
            self.num_iterations_per_epoch,
            self._hard_score_sums if self.label_manager.has_regions else None,
        )
        self.strategy.apply(initialise).to(self.device)
        # nnU-Net shares out the network's weights; the heads stand outside it.
        if distributed.active():
            for tensor in self.strategy.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        number = number_format("auto", self.device)
        self.gradient_scale = GradientScale(number, model, self.strategy).to(self.device)
        config = OptimConfig("sgd", lr=self.initial_lr, weight_decay=self.weight_decay, momentum=MOMENTUM)
        optimizer = make_optimizer(model, self.strategy, config, self.device)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    @property
    def planned(self) -> PlannedNetwork:
        """The network, without what nnU-Net wraps around it."""
        return self.network.module if self.is_ddp and hasattr(self.network, "module") else self.network

    def _do_i_compile(self) -> bool:
        """Never: a step takes the network apart, which a compiled whole does not allow."""
        return False

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Whether the network answers with a list of logits."""
        self.planned.deep_supervision = enabled

    def train_step(self, batch: Tree) -> Tree:
        """The engine's step on one of nnU-Net's batches; ``loss`` is that of the prediction from all modalities."""
        image, target = batch["data"].to(self.device, non_blocking=True), batch["target"]
        targets = [t.to(self.device, non_blocking=True) for t in (target if isinstance(target, list) else [target])]
        self._targets = {t.shape[2:]: t for t in targets}
        losses = train_step(
            self.planned.model,
            self.strategy,
            self.optimizer,
            self._criterion,
            Batch(self.planned.split(image), self._annotated(targets[0]), tuple(batch["keys"])),
            Step(self.steps_done, self.settings.train.steps),
            clip_norm=CLIP_NORM,
            settings=self.settings.train.subsets,
            autocast=precision("auto", self.device),
            scale=self.gradient_scale,
        )
        self.steps_done += 1
        return {"loss": losses["task"].detach().cpu().numpy()}

    def on_train_epoch_start(self) -> None:
        """Also let the strategy look back."""
        super().on_train_epoch_start()
        self.strategy.start_epoch(self.planned.model, self.current_epoch, self._no_losses)

    def on_train_epoch_end(self, train_outputs: list[Tree]) -> None:
        """Also write how the modalities fared in the last step.

        Raises:
            NonFiniteLoss: if no loss of the epoch was finite, so that nothing was learned.
        """
        if not any(np.isfinite(output["loss"]) for output in train_outputs):
            raise NonFiniteLoss(f"no loss of epoch {self.current_epoch} was finite; look at the images' intensities")
        super().on_train_epoch_end(train_outputs)
        for name, values in self.strategy.diagnostics().items():
            if values.ndim:
                found = [f"{m} {v:.3f}" for m, v in zip(self.planned.modalities, values.tolist(), strict=True)]
                self.print_to_log_file(f"{name}: {', '.join(found)}")

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint and the strategy's state: tensors and plain values only, whole or not at all."""
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        checkpoint = {
            "network_weights": self.planned.state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": type(self).__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            KEY: {
                "settings": asdict(self.settings),
                "steps_done": self.steps_done,
                "strategy": self.strategy.state_dict(),
                "gradient_scale": self.gradient_scale.state_dict(),
            },
        }
        with atomic_file(Path(filename)) as file:
            torch.save(_plain(checkpoint), file)

    def load_checkpoint(self, filename_or_checkpoint: Tree | str) -> None:
        """Continue from a checkpoint of this trainer; nothing in the file is executed.

        Raises:
            CheckpointError: if it is damaged, of another trainer, or made with other settings.
        """
        path = Path(str(filename_or_checkpoint))
        checkpoint = read_tensors(path, self.device)
        own = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
        if own is None or checkpoint["trainer_name"] != type(self).__name__:
            raise CheckpointError(f"{path} is not a checkpoint of {type(self).__name__}; name its trainer with -tr")
        self._take_settings(own["settings"], path)
        if not self.was_initialized:
            self.initialize()
        try:
            self.planned.load_state_dict(checkpoint["network_weights"])
            self.strategy.load_state_dict(own["strategy"])
            self.optimizer.load_state_dict(checkpoint["optimizer_state"])
            self.gradient_scale.continue_from(own["gradient_scale"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path} does not fit this plan, keep the plan of its training: {reason}") from error
        self.steps_done = own["steps_done"]
        self.current_epoch = checkpoint["current_epoch"]
        self.logger.load_checkpoint(checkpoint["logging"])
        self._best_ema = checkpoint["_best_ema"]
        self.inference_allowed_mirroring_axes = checkpoint["inference_allowed_mirroring_axes"]

    def _take_settings(self, recorded: Tree, path: Path) -> None:
        """Go on with the settings of a checkpoint; what is given anew must agree with them."""
        asked = given()
        recorded = asdict(resolve(self.strategy_name, as_trained(recorded)))
        merged = {section: {**values, **asked.get(section, {})} for section, values in recorded.items()}
        settings: Settings = resolve(self.strategy_name, merged)
        if changed := differences(recorded, asdict(settings)):
            raise CheckpointError(
                f"{path} was made with other settings (checkpoint != now): {'; '.join(changed)}; leave them as they "
                "were, or train anew without --c"
            )
        self.settings = settings

    def _criterion(self, logits: Tensor, target: Tensor) -> Tensor:
        """nnU-Net's loss of one prediction; the strategies weigh coarser ones as nnU-Net does."""
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        return loss(logits.float(), self._on_grid(logits))

    def _no_losses(self, split: str) -> Tree:
        raise ConfigError(
            f"strategy '{self.strategy_name}' measures losses of {split} cases, which nnU-Net's training does not "
            "offer; train with cggm-med train, or with another trainer"
        )

    def _score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        sums = soft_dice_sums if self.label_manager.has_regions else softmax_dice_sums
        return sums(logits, self._annotated(self._on_grid(logits)))

    def _hard_score_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        return hard_dice_sums(logits, self._annotated(self._on_grid(logits)))

    def _on_grid(self, logits: Tensor) -> Tensor:
        """The target that nnU-Net made for this grid; without deep supervision it made but the finest."""
        found = self._targets.get(logits.shape[2:])
        return subsample(next(iter(self._targets.values())), logits) if found is None else found

    def _annotated(self, target: Tensor) -> Tensor:
        """A target as strategies know it: nnU-Net marks what to ignore in a channel behind those of the regions."""
        if not (self.label_manager.has_regions and self.label_manager.has_ignore_label):
            return target
        return torch.where(target[:, -1:].bool(), UNKNOWN, target[:, :-1].to(torch.uint8))


class nnUNetTrainerCGGM(BalancedTrainer):  # noqa: N801 - nnU-Net's way to name trainers
    """Classifier-guided gradient modulation."""

    strategy_name = "cggm"


class nnUNetTrainerJoint(BalancedTrainer):  # noqa: N801
    """The same network without balancing: what the other trainers are to be compared with."""

    strategy_name = "joint"


class nnUNetTrainerOGMGE(BalancedTrainer):  # noqa: N801
    """On-the-fly gradient modulation with generalisation enhancement."""

    strategy_name = "ogm_ge"


class nnUNetTrainerMMPareto(BalancedTrainer):  # noqa: N801
    """Each encoder's own gradient and the fused one, combined without conflict."""

    strategy_name = "mmpareto"


class nnUNetTrainerSubsets(BalancedTrainer):  # noqa: N801
    """Without balancing, with a second loss on a random subset of the modalities: for patients who lack some."""

    strategy_name = "subset_view"


def _plain(value: Any) -> Any:
    """Tensors, and otherwise Python's own values, which can be read without executing anything."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value) if isinstance(value, torch.device) else value
