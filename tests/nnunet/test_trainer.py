"""The trainers inside nnU-Net: its loss and learning rate, our strategies, and checkpoints that continue exactly."""

import copy
import itertools
import json

import numpy as np
import pytest
import torch
from helpers.plans import PATCH, RESIDUAL, plans, residual

from cggm_med.errors import CheckpointError, ConfigError, DataError, NonFiniteLoss, UnknownName
from cggm_med.nnunet.settings import VARIABLE
from cggm_med.training.monitor import coverage

trainers = pytest.importorskip("cggm_med.nnunet.trainer")

REGIONS = {
    "channel_names": {"0": "FLAIR", "1": "T1"},
    "labels": {"background": 0, "WT": [1, 2], "ET": [2]},
    "regions_class_order": [1, 2],
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
CLASSES = {**REGIONS, "labels": {"background": 0, "a": 1, "b": 2}, "regions_class_order": None}
IGNORED = 3
IGNORING = [{**dataset, "labels": {**dataset["labels"], "ignore": IGNORED}} for dataset in (REGIONS, CLASSES)]
ALL = [getattr(trainers, f"nnUNetTrainer{name}") for name in ("CGGM", "Joint", "OGMGE", "MMPareto", "Subsets")]
SHORT = {"train": {"epochs": 2, "steps_per_epoch": 4}}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A trainer on the CPU, initialised unless it shall load a checkpoint."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    prepared = tmp_path / "preprocessed" / "Dataset900_x" / "nnUNetPlans_3d_fullres"
    prepared.mkdir(parents=True)
    (prepared / "case.b2nd").touch()

    def create(kind=trainers.nnUNetTrainerCGGM, dataset=REGIONS, settings=SHORT, initialise=True, **changes):
        monkeypatch.setenv(VARIABLE, json.dumps(settings))
        torch.manual_seed(0)
        trainer = kind(plans(**changes), "3d_fullres", 0, copy.deepcopy(dataset), torch.device("cpu"))
        if initialise:
            trainer.initialize()
            trainer.network.train()
        return trainer

    return create


def batch(trainer, seed):
    """One of nnU-Net's batches: an image, and a target for each of its grids."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(2, 2, *(n // 4 for n in PATCH), generator=generator)  # what a coarse output can see as well
    data = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
    labels = (data[:, :1] > 0.5).int() + (data[:, :1] > 1).int()
    ignores = trainer.label_manager.has_ignore_label
    if ignores:
        labels[..., : PATCH[2] // 2] = IGNORED
    if trainer.label_manager.has_regions:
        regions = [(labels > 0) & (labels < IGNORED), labels == 2, *([labels == IGNORED] if ignores else [])]
        target = torch.cat(regions, 1)
    else:
        target = labels
    transforms = trainer.get_validation_transforms(trainer._get_deep_supervision_scales())
    downsampled = [transforms(segmentation=x.float())["segmentation"] for x in target]
    targets = [torch.stack(x).to(target.dtype) for x in zip(*downsampled, strict=True)]
    return {"data": data, "target": targets, "keys": np.array(["a", "b"])}


@pytest.mark.parametrize(
    ("kind", "dataset"), [*itertools.product(ALL, (REGIONS, CLASSES)), *itertools.product(ALL[:1], IGNORING)]
)
def test_the_loss_is_that_of_nnunet(kind, dataset, make):
    """nnU-Net's wrapper around its loss, with its weights of the scales, is the authority."""
    trainer = make(kind, dataset)
    for seed in range(2):
        sample = batch(trainer, seed)
        with torch.no_grad():
            expected = trainer.loss(trainer.network(sample["data"]), sample["target"])
        before = copy.deepcopy(trainer.planned.state_dict())
        assert trainer.train_step(sample)["loss"] == pytest.approx(expected.item(), abs=1e-6)
        changed = {n for n, value in trainer.planned.state_dict().items() if not torch.equal(value, before[n])}
        assert changed == set(before)  # the heads of all scales that count, the encoders, everything
    assert trainer.steps_done == 2
    trainer.network.eval()
    with torch.no_grad():
        found = trainer.validation_step(batch(trainer, 3))
    assert found["tp_hard"].shape == (2,)
    assert np.isfinite(found["loss"])


@pytest.mark.parametrize("dataset", IGNORING, ids=["regions", "classes"])
def test_nobody_sees_the_voxels_to_ignore(dataset, make):
    """Neither the loss nor the scores, of the fused prediction and of the classifier heads, on each grid."""
    trainer = make(dataset=dataset)
    sample = batch(trainer, 0)
    trainer.train_step(sample)
    outputs = trainer.label_manager.num_segmentation_heads
    for target in sample["target"][:2]:  # of the fused prediction, and of the heads
        logits = torch.randn(2, outputs, *target.shape[2:], requires_grad=True)
        ignored = target[:, -1:] == (1 if trainer.label_manager.has_regions else IGNORED)
        assert 0 < ignored.sum() < ignored.numel()
        trainer._criterion(logits, target).backward()
        seen = logits.grad != 0
        assert not (seen & ignored).any()
        assert (seen | ignored).all()
        other = torch.where(ignored, 5.0, logits.detach())
        assert torch.equal(trainer._score_sums(other, target), trainer._score_sums(logits, target))
        if trainer.label_manager.has_regions:
            assert torch.equal(trainer._hard_score_sums(other, target), trainer._hard_score_sums(logits, target))
    seen = trainer._annotated(sample["target"][0])
    assert seen.shape[1] == (2 if trainer.label_manager.has_regions else 1)


def test_the_subset_view_adds_its_weight_in_gradient(make, monkeypatch):
    """Without the second loss the trainer is the joint one, bit for bit; the rest grows in proportion to the weight."""
    monkeypatch.setattr(trainers, "CLIP_NORM", 1e9)

    def gradient(kind, **train):
        trainer = make(kind, settings={"train": {**SHORT["train"], **train}})
        trainer.train_step(batch(trainer, 0))
        return torch.cat([p.grad.flatten() for p in trainer.planned.parameters()])

    joint = gradient(trainers.nnUNetTrainerJoint)
    assert torch.equal(gradient(trainers.nnUNetTrainerSubsets, subset_view=0), joint)
    half = gradient(trainers.nnUNetTrainerSubsets)  # 0.5, which comes with the strategy
    assert (half - joint).norm() > 0.1 * joint.norm()
    torch.testing.assert_close(gradient(trainers.nnUNetTrainerJoint, subset_view=1) - joint, 2 * (half - joint))


def test_a_residual_plan_trains(make):
    """Down to a classifier head on the residual encoders."""
    trainer = make(architecture={"network_class_name": RESIDUAL, "arch_kwargs": residual()})
    first, *_, last = (trainer.train_step(batch(trainer, 0))["loss"] for _ in range(4))
    assert np.isfinite(last)
    assert last < first


def test_the_strategy_scales_the_encoders_and_nothing_else(make):
    gradients = {}
    for rho in (1.0, 1.3):
        trainer = make(settings={**SHORT, "strategy": {"rho": rho, "warmup_steps": 0}})
        trainer.train_step(batch(trainer, 0))
        gradients[rho] = {n: p.grad for n, p in trainer.planned.model.named_parameters()}
    covered = coverage(trainer.planned.model, trainer.strategy)
    modulated = {n for names in covered["modalities"].values() for n in names}
    assert set(covered["modalities"]) == {"FLAIR", "T1"}
    assert modulated | set(covered["shared"]) == set(gradients[1.0])
    assert {n for n in modulated if n.startswith("encoders.FLAIR")}
    for name, gradient in gradients[1.0].items():
        factor = 1.3 if name in modulated else 1.0
        torch.testing.assert_close(gradients[1.3][name], factor * gradient)


def test_it_learns(make):
    trainer = make(settings={"train": {"epochs": 1, "steps_per_epoch": 60}})
    first, *_, last = (trainer.train_step(batch(trainer, 0))["loss"] for _ in range(60))
    assert first > 0.4
    assert last < 0  # only a mask that overlaps gets there; -1 is the best there is


def test_the_optimizer_is_that_of_nnunet(make):
    trainer = make()
    (group, *_) = trainer.optimizer.param_groups
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (group["momentum"], group["nesterov"], group["weight_decay"], group["lr"]) == (0.99, True, 3e-5, 1e-2)
    assert [g["modality"] for g in trainer.optimizer.param_groups] == ["FLAIR", "T1", None, None]
    trainer.train_step(batch(trainer, 0))
    trainer.lr_scheduler.step(1)
    for group in trainer.optimizer.param_groups:
        assert group["lr"] == pytest.approx(1e-2 * 0.5**0.9)  # poly, second of two epochs


@pytest.mark.parametrize("kind", ALL)
def test_a_resumed_training_continues_with_the_same_bits(kind, make, tmp_path):
    """For the same batches; nnU-Net itself does not repeat its random patches."""
    settings = {**SHORT, "strategy": {"warmup_steps": 1}} if kind is trainers.nnUNetTrainerCGGM else SHORT
    straight = make(kind, settings=settings)
    for seed in range(2):
        straight.train_step(batch(straight, seed))
    straight._best_ema = np.float32(0.5)
    straight.logger.log("mean_fg_dice", np.float64(0.5), 0)
    straight.save_checkpoint(str(tmp_path / "c.pth"))
    for seed in range(2, 4):
        straight.train_step(batch(straight, seed))

    resumed = make(kind, settings={}, initialise=False)  # the checkpoint knows its settings
    resumed.load_checkpoint(str(tmp_path / "c.pth"))
    resumed.network.train()
    assert resumed.settings == straight.settings
    assert (resumed.current_epoch, resumed._best_ema, resumed.num_epochs) == (1, 0.5, 2)
    for seed in range(2, 4):
        resumed.train_step(batch(resumed, seed))
    assert resumed.steps_done == straight.steps_done == 4
    for a, b in ((straight.planned, resumed.planned), (straight.strategy, resumed.strategy)):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name
    for x, y in zip(*(t.optimizer.state_dict()["state"].values() for t in (straight, resumed)), strict=True):
        assert torch.equal(x["momentum_buffer"], y["momentum_buffer"])


@pytest.mark.filterwarnings("ignore:cggm mode=released is for comparison")
def test_a_checkpoint_of_an_earlier_rule_continues_with_it(make, tmp_path):
    """From before the scores of mode released could be hard, when they were soft."""
    file = tmp_path / "c.pth"
    make(settings={**SHORT, "strategy": {"mode": "released", "score": "soft"}}).save_checkpoint(str(file))
    content = torch.load(file, weights_only=True)
    del content["cggm_med"]["settings"]["strategy"]["score"]
    torch.save(content, file)
    trainer = make(settings={}, initialise=False)
    trainer.load_checkpoint(str(file))
    assert trainer.settings.strategy.score == "soft"
    with pytest.raises(CheckpointError, match="strategy.score: soft != hard"):
        make(settings={"strategy": {"score": "hard"}}, initialise=False).load_checkpoint(str(file))


def test_a_checkpoint_holds_tensors_and_plain_values_and_nnunet_can_predict_from_it(make, tmp_path):
    trainer = make()
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    content = torch.load(tmp_path / "c.pth", weights_only=True)
    # What nnU-Net's predictor does with it, and with the plans that it stored beside the results.
    assert content["trainer_name"] == "nnUNetTrainerCGGM"
    assert content["init_args"]["configuration"] == "3d_fullres"
    stored = json.loads(json.dumps(trainer.plans_manager.plans))
    manager = type(trainer.plans_manager)(stored)
    network = type(trainer).build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    )
    network.load_state_dict(content["network_weights"])
    image = torch.randn(1, 2, *PATCH)
    trainer.set_deep_supervision_enabled(False)
    assert torch.equal(network(image), trainer.network(image))
    trainer.set_deep_supervision_enabled(True)
    assert isinstance(trainer.network(image), list)


def test_foreign_and_damaged_checkpoints_are_refused(make, tmp_path):
    file = str(tmp_path / "c.pth")
    make().save_checkpoint(file)
    with pytest.raises(CheckpointError, match="strategy.rho: 1.0 != 2.0; train.epochs: 2 != 3"):
        other = {"strategy": {"rho": 2}, "train": {"epochs": 3}}
        make(settings=other, initialise=False).load_checkpoint(file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of nnUNetTrainerJoint"):
        make(trainers.nnUNetTrainerJoint, settings={}, initialise=False).load_checkpoint(file)
    with open(file, "r+b") as damaged:
        damaged.seek(2000)
        damaged.write(b"????")
    with pytest.raises(CheckpointError, match="is damaged"):
        make(settings={}, initialise=False).load_checkpoint(file)
    torch.save({"trainer_name": "nnUNetTrainer", "network_weights": {}}, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of nnUNetTrainerCGGM"):
        make(settings={}, initialise=False).load_checkpoint(file)


def test_an_old_checkpoint_stays_when_a_new_one_cannot_be_written(make, tmp_path, monkeypatch):
    trainer, file = make(), tmp_path / "c.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()

    def full(content, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(Exception, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before


def test_wrong_settings_are_refused_in_one_line(make, monkeypatch):
    for settings, error, text in [
        ({"strategy": {"rho": -1}}, ConfigError, "strategy.rho is -1.0, expected more than 0"),
        ({"strategy": {"gamma": 1}}, UnknownName, "no configuration key 'strategy.gamma'"),
        ({"strategy": {"name": "joint"}}, UnknownName, "Choose another trainer with -tr"),
        ({"train": {"epochs": 0}}, ConfigError, "train.epochs is 0, expected at least 1"),
        ({"train": {"subset_view": -1}}, ConfigError, "train.subset_view is -1.0, expected at least 0"),
        ({"optim": {"lr": 1}}, UnknownName, "no section of settings inside nnU-Net 'optim'"),
    ]:
        with pytest.raises(error, match=text):
            make(settings=settings)
    monkeypatch.setenv(VARIABLE, "rho=1")
    with pytest.raises(ConfigError, match="expected JSON"):
        trainers.given()


def test_what_cannot_be_trained_is_refused(make):
    with pytest.raises(ConfigError, match="cannot train with a cascade"):
        make(previous_stage="3d_lowres")
    trainer = make()
    del trainer.plans_manager.plans["cggm_med"]
    with pytest.raises(DataError, match="the plans name 0 modalities for an image of 2 channels"):
        trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 2, 2)


def test_an_epoch_without_a_finite_loss_stops_training(make):
    trainer = make()
    with pytest.raises(NonFiniteLoss, match="no loss of epoch 0 was finite"):
        trainer.on_train_epoch_end([{"loss": np.array(np.nan)}] * 2)
