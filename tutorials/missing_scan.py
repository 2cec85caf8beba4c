"""
Masks with and without a scan
=============================

Trains a small network on FLAIR and T1ce of a phantom, takes one of the two away, and looks at what is left of the mask.
What happens here in a few lines, without files, is what ``cggm-med train``, ``cggm-med predict`` and ``cggm-med
evaluate --subsets all`` do with real scans.

The phantom shows that everything works, and nothing about patients; nor is a network good that trains for seconds.
"""

# %%
# Patients
# --------
# Each patient of the phantom follows from a seed and a number: its scans and the labels of a glioma, here in voxels of
# 5 mm. Intensities are brought to mean 0 and deviation 1 within the brain, and labels to the three regions that are
# scored, which overlap: whole tumour, tumour core, enhancing tumour.

import matplotlib.pyplot as plt
import numpy as np
import torch

from cggm_med import (
    Batch,
    OptimConfig,
    RegionLoss,
    SegmentationModel,
    Step,
    TrainConfig,
    UnimodalHeads,
    VoxelwiseHead,
    make_optimizer,
    soft_dice_sums,
    train_step,
)
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.data.volumes.phantom.scanner import Scanner
from cggm_med.metrics.overlap import dice
from cggm_med.strategies.uniform import Uniform

torch.manual_seed(0)
MODALITIES = ("flair", "t1ce")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
HEAD = (slice(10, 38), slice(6, 42), slice(0, 30))  # where it lies in the field of view
QUIET = {m: Scanner(noise=0.5, contrast=1.3) for m in MODALITIES}  # so that seconds of training suffice


def normalised(image: np.ndarray) -> torch.Tensor:
    image = image[HEAD]
    brain = image[image > 0]
    return torch.from_numpy(np.where(image > 0, (image - brain.mean()) / brain.std(), 0)).float()


def batch_of(numbers: list[int]) -> Batch:
    cases = [make_case(0, n, shape=(48, 48, 32), spacing_mm=5.0, scanners=QUIET) for n in numbers]
    scans = {m: torch.stack([normalised(case.images[m]) for case in cases])[:, None] for m in MODALITIES}
    regions = [[np.isin(case.labels[HEAD], labels) for labels in REGIONS.values()] for case in cases]
    return Batch(scans, torch.from_numpy(np.array(regions)).float(), tuple(map(str, numbers)))


def one_of(patients: Batch, i: int) -> Batch:
    one = slice(i, i + 1)
    return Batch({m: x[one] for m, x in patients.inputs.items()}, patients.target[one], patients.ids[one])


training, held_out = batch_of(list(range(10))), batch_of(list(range(10, 14)))
print(f"{len(training.ids)} patients to train on, {len(held_out.ids)} to look at")

# %%
# A network that copes
# --------------------
# Each modality has its own encoder, and the fusion is a mean over those that are there. The setting ``subset_view``
# lets every step predict a second time, from a random part of the scans, so that the network learns to do without.

model = SegmentationModel(MODALITIES, regions=len(REGIONS), channels=(8, 16))
model.predict_at_first(torch.full((len(REGIONS),), -4.0))
strategy = Uniform(Uniform.Config("uniform"))
strategy.setup(
    model,
    lambda: UnimodalHeads({m: VoxelwiseHead(model.channels, len(REGIONS)) for m in MODALITIES}),
    soft_dice_sums,
    steps_per_epoch=10,
)
STEPS = 60
optimizer = make_optimizer(model, strategy, OptimConfig(), torch.device("cpu"))
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-2, total_steps=STEPS)
settings = TrainConfig(subset_view=0.5)

order = np.random.default_rng(0)
history = []
for number in range(STEPS):
    part = one_of(training, int(order.integers(len(training.ids))))
    losses = train_step(
        model,
        strategy,
        optimizer,
        RegionLoss(batch_dice=True),
        part,
        Step(number, STEPS),
        clip_norm=1.0,
        settings=settings,
    )
    scheduler.step()
    history.append({name: float(loss) for name, loss in losses.items()})

figure, ax = plt.subplots(figsize=(7, 3), layout="constrained")
for name, label in (("task", "all scans"), ("subset", "a random part, weight 0.5")):
    ax.plot([losses[name] for losses in history], label=label)
ax.set(xlabel="step", ylabel="loss")
ax.legend(frameon=False)

# %%
# One scan less
# -------------
# Nothing takes the place of an absent scan: it is left out of the call.

model.eval()


@torch.no_grad()
def masks(without: tuple[str, ...] = ()) -> torch.Tensor:
    return model({m: x for m, x in held_out.inputs.items() if m not in without}) > 0


ways = {"both": (), **{f"without {m}": (m,) for m in MODALITIES}}
found = {name: masks(without) for name, without in ways.items()}
print(f"{'Dice':14}" + "".join(f"{region:>8}" for region in REGIONS))
for name, mask in found.items():
    means = [np.mean([dice(m[i], t[i] > 0) for m, t in zip(mask, held_out.target, strict=True)]) for i in range(3)]
    print(f"{name:14}" + "".join(f"{mean:8.2f}" for mean in means))

# %%
# One slice of one patient: the true whole tumour and its enhancing part, outlined in blue and red, and what was found
# of them, filled.

case = int(held_out.target[:, 2].sum(dim=(1, 2, 3)).argmax())
z = int(held_out.target[case, 2].sum(dim=(0, 1)).argmax())
figure, axes = plt.subplots(1, 5, figsize=(10, 2.6), layout="constrained")
panels = [("FLAIR", "flair", None), ("T1ce", "t1ce", None), *((name, "flair", mask) for name, mask in found.items())]
for ax, (name, shown, mask) in zip(axes, panels, strict=True):
    ax.set_title(name, fontsize=10)
    ax.axis("off")
    ax.imshow(held_out.inputs[shown][case, 0, :, :, z].T, cmap="gray", origin="lower")
    for region, colour in ((0, "tab:blue"), (2, "tab:red")):
        ax.contour(held_out.target[case, region, :, :, z].T, [0.5], colors=[colour], linewidths=1)
        if mask is not None:
            ax.contourf(mask[case, region, :, :, z].T.float(), [0.5, 1.5], colors=[colour], alpha=0.4)

# %%
# What next: :doc:`/docs/how-to/missing-modalities` trains, predicts and scores real scans with what each patient has.
