"""
Two strategies side by side
===========================

Trains one network jointly and one with CGGM, from the same weights and on the same patches, and looks at what balancing
did to each modality. ``cggm-med compare`` does this with real scans, and with what is missing here: many seeds,
intervals, and tests.
"""

# %%
# Patients whose modalities differ
# --------------------------------
# In the phantom called *imbalanced*, T1ce has little noise and much contrast, FLAIR much noise and little contrast. A
# network then tends to rely on T1ce, and to train the encoder of FLAIR less than it could.

import matplotlib.pyplot as plt
import numpy as np
import torch

from cggm_med import (
    CGGM,
    BalancingStrategy,
    Batch,
    CGGMConfig,
    Joint,
    OptimConfig,
    RegionLoss,
    SegmentationModel,
    Step,
    UnimodalHeads,
    VoxelwiseHead,
    make_optimizer,
    soft_dice_sums,
    train_step,
)
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.data.volumes.phantom.scanner import PRESETS
from cggm_med.metrics.overlap import dice

MODALITIES = ("flair", "t1ce")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
HEAD = (slice(10, 38), slice(6, 42), slice(0, 30))  # where it lies in the field of view


def normalised(image: np.ndarray) -> torch.Tensor:
    image = image[HEAD]
    brain = image[image > 0]
    return torch.from_numpy(np.where(image > 0, (image - brain.mean()) / brain.std(), 0)).float()


def batch_of(numbers: list[int]) -> Batch:
    cases = [make_case(0, n, shape=(48, 48, 32), spacing_mm=5.0, scanners=PRESETS["imbalanced"]) for n in numbers]
    scans = {m: torch.stack([normalised(case.images[m]) for case in cases])[:, None] for m in MODALITIES}
    regions = [[np.isin(case.labels[HEAD], labels) for labels in REGIONS.values()] for case in cases]
    return Batch(scans, torch.from_numpy(np.array(regions)).float(), tuple(map(str, numbers)))


def one_of(patients: Batch, i: int) -> Batch:
    one = slice(i, i + 1)
    return Batch({m: x[one] for m, x in patients.inputs.items()}, patients.target[one], patients.ids[one])


training, held_out = batch_of(list(range(8))), batch_of(list(range(8, 12)))

# %%
# The same training, but for the strategy
# ---------------------------------------
# A strategy is an object with hooks that the training step calls. Everything else is equal: weights, patients in each
# step, optimizer.

STEPS = 50


def trained(strategy: BalancingStrategy) -> tuple[SegmentationModel, list[dict[str, torch.Tensor]]]:
    torch.manual_seed(0)
    model = SegmentationModel(MODALITIES, regions=len(REGIONS), channels=(8, 16))
    model.predict_at_first(torch.full((len(REGIONS),), -4.0))
    strategy.setup(
        model,
        lambda: UnimodalHeads({m: VoxelwiseHead(model.channels, len(REGIONS)) for m in MODALITIES}),
        soft_dice_sums,
        steps_per_epoch=10,
    )
    optimizer = make_optimizer(model, strategy, OptimConfig(), torch.device("cpu"))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=STEPS)
    order, history = np.random.default_rng(0), []
    for number in range(STEPS):
        part = one_of(training, int(order.integers(len(training.ids))))
        train_step(model, strategy, optimizer, RegionLoss(batch_dice=True), part, Step(number, STEPS), clip_norm=1.0)
        scheduler.step()
        history.append(strategy.diagnostics())
    return model.eval(), history


strategies = {"joint": Joint(Joint.Config("joint")), "cggm": CGGM(CGGMConfig("cggm", warmup_steps=10))}
runs = {name: trained(strategy) for name, strategy in strategies.items()}

# %%
# What balancing did
# ------------------
# Each modality has a small classifier head, whose soft Dice is its *balance score*. CGGM compares how the scores
# improve and multiplies the update of each encoder by a *factor*: above 1 for the one that falls behind.

figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for i, (modality, colour) in enumerate(zip(MODALITIES, ("tab:blue", "tab:orange"), strict=True)):
    for name, line in (("joint", ":"), ("cggm", "-")):
        scores = [float(logged["score"][i]) for logged in runs[name][1]]
        axes[0].plot(scores, color=colour, linestyle=line, label=f"{modality}, {name}")
    axes[1].plot([float(logged["factor"][i]) for logged in runs["cggm"][1]], color=colour, label=modality)
axes[0].set(title="balance score", xlabel="step")
axes[1].set(title="factor of CGGM", xlabel="step")
for ax in axes:
    ax.legend(frameon=False, fontsize=8)

# %%
# What came of it
# ---------------
# Mean Dice over the held-out patients and the three regions, from both scans and from each alone.


@torch.no_grad()
def mean_dice(model: SegmentationModel, modalities: tuple[str, ...]) -> float:
    masks = model({m: held_out.inputs[m] for m in modalities}) > 0
    pairs = zip(masks.flatten(0, 1), held_out.target.flatten(0, 1) > 0, strict=True)
    return float(np.mean([dice(mask, truth) for mask, truth in pairs]))


print(f"{'':8}{'both':>8}" + "".join(f"{modality:>8}" for modality in MODALITIES))
for name, (model, _) in runs.items():
    values = [mean_dice(model, subset) for subset in (MODALITIES, *((m,) for m in MODALITIES))]
    print(f"{name:8}" + "".join(f"{value:8.3f}" for value in values))

# %%
# One seed, four patients and seconds of training say nothing about which strategy is better.
# :doc:`/docs/how-to/compare` shows how to find out, and :doc:`/docs/results` what was found.
