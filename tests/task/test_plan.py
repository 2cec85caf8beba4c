"""Plans of segmentation runs: what holds for all of them, one by hand, and nnU-Net's own choice of strides."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from cggm_med.data.volumes.geometry import Geometry
from cggm_med.errors import ConfigError
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.task import plan as plans
from cggm_med.task.footprint import Footprint, Network, footprint
from cggm_med.task.plan import Given, cpu_budget, gpu_budget, make_plan, patches_of, topology

ONE = Network(1, 1, exclusive=True)
CPU = cpu_budget(cores=2)
GRIDS = {
    **{f"{n} slices": Geometry((320, 300, n), (0.6, 0.6, 4.0)) for n in (2, 3, 5, 8, 20, 40)},
    "coronal stack": Geometry((320, 12, 300), (0.6, 5.0, 0.6)),
    "smaller than a patch": Geometry((7, 6, 5), (1.0, 1.0, 1.0)),
    "one slice": Geometry((60, 60, 1), (1.0, 1.0, 8.0)),
    "cord": Geometry((40, 40, 5), (0.84, 0.84, 17.0)),
    "0.3 mm": Geometry((700, 700, 500), (0.3, 0.3, 0.3)),
    "6 mm": Geometry((60, 60, 40), (6.0, 6.0, 6.0)),
    "huge": Geometry((4000, 4000, 3000), (0.1, 0.1, 0.1)),
}


def quick(network, patch_size, batch_size, *, low_precision):
    """A footprint that grows as a real one does, in no time."""
    parameters = network.modalities * 27 * sum(a * b for a, b in itertools.pairwise(network.channels))
    voxels = batch_size * math.prod(patch_size)
    work = voxels * network.modalities * network.channels[0] * 40 // (1 + low_precision)
    return Footprint(parameters, 16 * parameters, work, voxels * network.modalities * network.channels[0] ** 2 * 300)


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(plans, "footprint", quick)


@pytest.mark.parametrize("budget", [CPU, gpu_budget(8e9, cores=4)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("modalities", [1, 8])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_plan(quickly, grid, modalities, budget):
    plan = make_plan([grid] * 40, replace(ONE, modalities=modalities), budget)
    assert plan.footprint.memory <= budget.memory
    assert plan.footprint.operations <= budget.operations
    steps = np.prod(plan.network.strides, axis=0)
    patch, median = np.array(plan.patch_size), np.maximum(grid.shape, 2)
    assert (patch % steps == 0).all()
    assert (patch <= -(-median // steps) * steps).all(), "no larger than the scan, up to whole strides"
    assert (patch[median < 8] == median[median < 8]).all()
    assert (steps[median < 8] == 1).all(), "nothing is pooled along an axis that has nothing to pool"
    assert (patch // steps >= np.minimum(median, 2)).all()
    depth = len(plan.network.channels)
    assert len(plan.network.strides) == len(plan.network.kernels) == depth >= 2
    assert plan.network.strides[0] == (1, 1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_more_memory_never_gives_less(quickly, seed):
    random = np.random.default_rng(seed)
    grid = Geometry(tuple(map(int, random.integers(2, 400, 3))), tuple(random.uniform(0.3, 6, 3)))
    network = replace(ONE, modalities=int(random.integers(1, 9)))
    sizes = []
    for memory in np.geomspace(0.2e9, 200e9, 25):
        try:
            plan = make_plan([grid] * 30, network, gpu_budget(memory, cores=4))
        except ConfigError:
            sizes.append(0)
            continue
        assert plan == make_plan([grid] * 30, network, gpu_budget(memory, cores=4))
        sizes.append(math.prod(plan.patch_size) * plan.batch_size)
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 5.0), (3.0, 1.0, 1.0)])
def test_patches_become_smaller_and_strides_are_nnunets(spacing):
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    patches = list(patches_of(spacing, (200, 180, 30)))
    voxels = [math.prod(patch) for patch in patches]
    assert voxels == sorted(set(voxels), reverse=True)
    for patch in patches:
        strides, kernels, padded = topology(spacing, patch)
        assert padded == patch
        _, theirs, widths, _, _ = get_pool_and_conv_props(spacing, patch, 4, 999999)
        if len(theirs) > 1:
            assert (strides, kernels) == (theirs, widths)


def test_brats_on_8_gb_by_hand():
    """240 x 240 x 155 voxels of 1 mm, four encoders, three regions, a GPU of 8 GB.

    CUDA takes 0.5 GB, of the rest four fifths are planned: 6 GB. Counted by hand for the finest scale alone: an encoder
    keeps the outputs of two convolutions and of two normalisations, each also after its activation or in place, 4 maps
    at least of 32 channels and 2 bytes; the patch of 128 x 112 x 80 has 1.15 M voxels, the batch 2, so four encoders
    keep at least 4 x 4 x 32 x 2 x 2 x 1.15 M = 2.3 GB there.
    """
    network = Network(4, 3, exclusive=False, deep_supervision=True)
    budget = gpu_budget(7.5e9, cores=8)
    plan = make_plan([Geometry((240, 240, 155), (1.0, 1.0, 1.0))] * 100, network, budget)
    assert (plan.patch_size, plan.batch_size) == ((128, 112, 80), 2)
    assert plan.network.channels == (32, 64, 128, 256, 320)
    assert plan.network.strides == ((1, 1, 1), *[(2, 2, 2)] * 4)
    assert 4 * 4 * 32 * 2 * 2 * 128 * 112 * 80 < plan.footprint.activations < budget.memory == 6e9
    settings = plan.settings(budget, processes=2)
    assert settings["train"]["batch_size"] == 4
    assert settings["data"]["patch_size"] == [128, 112, 80]


def test_a_footprint_counts_what_a_real_step_makes():
    """On tensors with content, by torch's own allocations: all that a step makes, from the first to the last."""
    network = Network(2, 2, False, (4, 8), ((1, 1, 1), (2, 2, 1)), ((3, 3, 1), (3, 3, 3)))
    found = footprint(network, (16, 16, 6), 2, low_precision=False)
    model = SegmentationModel(
        ["a", "b"],
        2,
        (4, 8),
        encoder=lambda channels: UNetEncoder(channels, network.kernels, network.strides),
        decoder_kernels=network.kernels,
    )
    heads = 2 * (8 * 4 + 4 + 4 * 2 + 2)  # of each modality: 8 to 4 channels, then 4 to 2 regions, with biases
    assert found.parameters == sum(p.numel() for p in model.parameters()) + heads
    assert found.state == 12 * found.parameters
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = {m: torch.randn(2, 1, 16, 16, 6) for m in "ab"}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(inputs)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = sum(size for key, size in kept.items() if key not in weights)
    assert logits.requires_grad
    assert saved < found.activations < 3 * saved
    half = footprint(network, (16, 16, 6), 2, low_precision=True)
    assert 0.4 < half.activations / found.activations < 0.8


def test_what_is_given_is_kept_and_the_rest_planned_around_it(quickly):
    grid = [Geometry((200, 200, 24), (1.0, 1.0, 3.0))] * 20
    plan = make_plan(grid, ONE, CPU, Given(patch_size=(64, 64, 16)))
    assert plan.patch_size == (64, 64, 16)
    assert (np.array(plan.patch_size) % np.prod(plan.network.strides, axis=0) == 0).all()
    plan = make_plan(grid, ONE, CPU, Given(channels=(8, 16), batch_size=3))
    assert plan.network.channels == (8, 16)
    assert len(plan.network.strides) == len(plan.network.kernels) == 2
    assert plan.batch_size == 3
    plan = make_plan(grid, ONE, CPU, Given(spacing=(3.0, 3.0, 3.0)))
    assert (plan.spacing, plan.median) == ((3.0, 3.0, 3.0), (67, 67, 24))


def test_a_header_of_impossible_voxels_does_not_keep_it_busy(quickly):
    sound = Geometry((40, 40, 20), (1.0, 1.0, 1.0))
    plan = make_plan([sound] * 9 + [Geometry((40, 40, 20), (1e30, 1.0, 1.0))], ONE, CPU)
    assert plan.patch_size == make_plan([sound] * 10, ONE, CPU).patch_size


def test_too_little_memory_is_said(quickly):
    with pytest.raises(ConfigError, match=r"even patches of .* voxels need .* GB to train 8 encoders, and 0\.00 GB"):
        make_plan([GRIDS["0.3 mm"]], replace(ONE, modalities=8), gpu_budget(1e5, cores=1))


@pytest.mark.parametrize("name", ["2 slices", "smaller than a patch", "one slice", "cord", "coronal stack"])
def test_the_planned_network_computes(quickly, name):
    """Trained on one batch: thin stacks, and scans that are smaller than any patch."""
    plan = make_plan([GRIDS[name]] * 3, replace(ONE, modalities=2), replace(CPU, widths=(2,), operations=1e8))
    strides, kernels = plan.network.strides, plan.network.kernels
    model = SegmentationModel(
        ["a", "b"],
        1,
        plan.network.channels,
        encoder=lambda channels: UNetEncoder(channels, kernels, strides),
        decoder_kernels=kernels,
    )
    logits = model({m: torch.randn(1, 1, *plan.patch_size) for m in "ab"})
    assert logits.shape == (1, 1, *plan.patch_size)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
